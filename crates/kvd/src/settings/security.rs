//! The flags of TLS: what belongs together, and what does not.
//!
//! Source: etcd `server/embed/etcd.go` (`configurePeerListeners`, `configureClientListeners`,
//! `createMetricsListener`), `server/embed/config.go` (`Validate`, `ClientSelfCert`).

use std::path::PathBuf;
use std::time::Duration;

use super::resolve::{Addresses, Reader, non_empty};
use crate::error::{Result, Setting};
use crate::flags::value;
use crate::notes::Note;
use crate::tls::{Options, Protocol};
use crate::urls::Url;

/// TLS of both ports.
pub(super) struct Security {
    pub(super) client: Options,
    pub(super) peer: Options,
    pub(super) self_signed_years: u64,
    pub(super) recheck_interval: Duration,
}

impl Security {
    /// Reads the flags, with what is to be said about them.
    ///
    /// Errors: what etcd refuses, in its words.
    pub(super) fn read(
        read: &Reader<'_>,
        addresses: &Addresses,
        from_file: bool,
    ) -> Result<(Security, Vec<Note>)> {
        let mut notes = Vec::new();
        let names = value::list(read.given.get("cipher-suites"));
        let (protocol, left_out) = Protocol::parse(
            read.given.get("tls-min-version"),
            read.given.get("tls-max-version"),
            &names,
        )
        .map_err(Setting::TlsProtocol)?;
        if !left_out.is_empty() {
            notes.push(Note::SuitesLeftOut { names: left_out });
        }
        let recheck_interval = read.duration("tls-recheck-interval")?;
        if recheck_interval.is_zero() {
            return Err(Setting::NotPositive {
                flag: "tls-recheck-interval",
                value: "0s".to_owned(),
            }
            .into());
        }
        let years = match read.uint("self-signed-cert-validity") {
            // A config file cannot say zero.
            0 if from_file => 1,
            years => years,
        };
        let security = Security {
            client: client(read, &protocol),
            peer: peer(read, &protocol),
            self_signed_years: years,
            recheck_interval,
        };
        security.check_client(addresses, &mut notes)?;
        security.check_peer(addresses, &mut notes)?;
        Ok((security, notes))
    }

    fn check_client(&self, addresses: &Addresses, notes: &mut Vec<Note>) -> Result<()> {
        let options = &self.client;
        let urls = || addresses.listen_client.iter().chain(&addresses.listen_http);
        unused("client", "client-cert-auth", options, urls(), notes);
        let can = !options.is_empty() || options.auto;
        if let Some(url) = urls().find(|url| url.scheme().is_tls())
            && !can
        {
            return Err(Setting::ClientTls(url.to_string()).into());
        }
        let metrics = &addresses.listen_metrics;
        if metrics.iter().any(|url| url.scheme().is_tls()) && !can {
            return Err(Setting::MetricsTls.into());
        }
        let is_used = urls().chain(metrics).any(|url| url.scheme().is_tls());
        if is_used && !options.is_empty() {
            options
                .check()
                .map_err(|error| Setting::TlsFiles(error.to_string()))?;
        }
        Ok(())
    }

    fn check_peer(&self, addresses: &Addresses, notes: &mut Vec<Note>) -> Result<()> {
        let options = &self.peer;
        let urls = &addresses.listen_peer;
        unused("peer", "peer-client-cert-auth", options, urls.iter(), notes);
        if let Some(url) = urls.iter().find(|url| url.scheme().is_tls())
            && options.is_empty()
            && !options.auto
        {
            let place = match url.scheme().is_unix() {
                true => url.socket_path(),
                false => url.authority().to_owned(),
            };
            return Err(Setting::PeerTls(place).into());
        }
        if !options.is_empty() {
            options
                .check()
                .map_err(|error| Setting::TlsFiles(error.to_string()))?;
        }
        Ok(())
    }
}

/// Notes what has no effect on URLs without TLS, and generated certificates that are not needed.
fn unused<'a>(
    port: &'static str,
    flag: &'static str,
    options: &Options,
    urls: impl Iterator<Item = &'a Url>,
    notes: &mut Vec<Note>,
) {
    for url in urls.filter(|url| !url.scheme().is_tls()) {
        if !options.is_empty() {
            let url = url.to_string();
            notes.push(Note::TlsUnused { port, url });
        }
        if options.client_cert_auth {
            let url = url.to_string();
            notes.push(Note::CertAuthUnused { flag, url });
        }
    }
    if options.auto && !options.is_empty() {
        notes.push(Note::AutoTlsUnused { port });
    }
}

fn path(read: &Reader<'_>, flag: &str) -> Option<PathBuf> {
    non_empty(read.text(flag)).map(PathBuf::from)
}

fn client(read: &Reader<'_>, protocol: &Protocol) -> Options {
    Options {
        cert_file: path(read, "cert-file"),
        key_file: path(read, "key-file"),
        client_cert_file: path(read, "client-cert-file"),
        client_key_file: path(read, "client-key-file"),
        trusted_ca_file: path(read, "trusted-ca-file"),
        crl_file: path(read, "client-crl-file"),
        client_cert_auth: read.bool("client-cert-auth"),
        allowed_cns: value::list(read.given.get("client-cert-allowed-cn")),
        allowed_hostnames: value::list(read.given.get("client-cert-allowed-hostname")),
        skip_client_san_verification: read.bool("skip-client-san-verification"),
        auto: read.bool("auto-tls"),
        is_self_signed: false,
        protocol: protocol.clone(),
    }
}

fn peer(read: &Reader<'_>, protocol: &Protocol) -> Options {
    Options {
        cert_file: path(read, "peer-cert-file"),
        key_file: path(read, "peer-key-file"),
        client_cert_file: path(read, "peer-client-cert-file"),
        client_key_file: path(read, "peer-client-key-file"),
        trusted_ca_file: path(read, "peer-trusted-ca-file"),
        crl_file: path(read, "peer-crl-file"),
        client_cert_auth: read.bool("peer-client-cert-auth"),
        allowed_cns: value::list(read.given.get("peer-cert-allowed-cn")),
        allowed_hostnames: value::list(read.given.get("peer-cert-allowed-hostname")),
        skip_client_san_verification: read.bool("peer-skip-client-san-verification"),
        auto: read.bool("peer-auto-tls"),
        is_self_signed: false,
        protocol: protocol.clone(),
    }
}
