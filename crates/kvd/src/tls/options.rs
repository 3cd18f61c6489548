//! What the flags say about the TLS of one port.

use std::fmt;
use std::path::PathBuf;

use super::error::Error;
use super::protocol::Protocol;

/// The files and rules of one port. Names are those of the client port's flags; the peer port's
/// begin with `peer-`.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `--cert-file`: what this member shows, with the certificates that lead to the trusted one.
    pub cert_file: Option<PathBuf>,
    /// `--key-file`.
    pub key_file: Option<PathBuf>,
    /// `--client-cert-file`: what this member shows where it is the client.
    pub client_cert_file: Option<PathBuf>,
    /// `--client-key-file`.
    pub client_key_file: Option<PathBuf>,
    /// `--trusted-ca-file`: who may have issued the others' certificates.
    pub trusted_ca_file: Option<PathBuf>,
    /// `--client-crl-file`, `--peer-crl-file`.
    pub crl_file: Option<PathBuf>,
    /// `--client-cert-auth`.
    pub client_cert_auth: bool,
    /// `--peer-cert-allowed-cn`; empty means any.
    pub allowed_cns: Vec<String>,
    /// `--client-cert-allowed-hostname`; empty means any.
    pub allowed_hostnames: Vec<String>,
    /// `--peer-skip-client-san-verification`.
    pub skip_client_san_verification: bool,
    /// `--auto-tls`.
    pub auto: bool,
    /// Whether the certificate was generated: then the members cannot verify one another.
    pub is_self_signed: bool,
    /// `--cipher-suites`, `--tls-min-version`, `--tls-max-version`.
    pub protocol: Protocol,
}

impl Options {
    /// Whether neither certificate nor key is given: then the port cannot speak TLS.
    pub fn is_empty(&self) -> bool {
        self.cert_file.is_none() && self.key_file.is_none()
    }

    /// Whether those who connect must show a certificate.
    pub fn wants_client_certificate(&self) -> bool {
        self.trusted_ca_file.is_some() || self.client_cert_auth
    }

    /// Checks what must be given together, and what must not.
    pub fn check(&self) -> Result<(), Error> {
        if self.cert_file.is_none() || self.key_file.is_none() {
            return Err(Error::Pair {
                key: shown(&self.key_file),
                cert: shown(&self.cert_file),
            });
        }
        if self.client_cert_file.is_some() != self.client_key_file.is_some() {
            return Err(Error::ClientPair {
                key: shown(&self.client_key_file),
                cert: shown(&self.client_cert_file),
            });
        }
        if !self.allowed_cns.is_empty() && !self.allowed_hostnames.is_empty() {
            return Err(Error::AllowedBoth {
                cns: quoted(&self.allowed_cns),
                hostnames: quoted(&self.allowed_hostnames),
            });
        }
        Ok(())
    }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cert = {}, key = {}, client-cert={}, client-key={}, trusted-ca = {}, \
             client-cert-auth = {}, crl-file = {}",
            shown(&self.cert_file),
            shown(&self.key_file),
            shown(&self.client_cert_file),
            shown(&self.client_key_file),
            shown(&self.trusted_ca_file),
            self.client_cert_auth,
            shown(&self.crl_file),
        )
    }
}

fn shown(path: &Option<PathBuf>) -> String {
    match path {
        Some(path) => path.display().to_string(),
        None => String::new(),
    }
}

/// A list as Go's `%q` prints it.
fn quoted(names: &[String]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    format!("[{}]", names.join(" "))
}
