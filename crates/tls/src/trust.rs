//! Who vouches for a certificate.
//!
//! The chain is webpki's work. Around it stand two rules of Go's, which etcd's users rely on:
//!
//! - A certificate that is itself among the trusted ones is taken although it may sign others;
//!   `openssl req -x509` makes such.
//! - A name with a star may have one label behind the star ([`names`]).
//!
//! Source: Go's `crypto/x509`, `Certificate.Verify`.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{Error, RootCertStore};

use crate::certificate::Certificate;
use crate::names;

/// The certificates that are trusted as they are.
#[derive(Debug)]
pub struct Roots {
    store: Arc<RootCertStore>,
    certificates: Vec<CertificateDer<'static>>,
}

impl Roots {
    /// Trusts `certificates`.
    ///
    /// Errors: says which certificate cannot be trusted, and why.
    pub fn new(certificates: Vec<CertificateDer<'static>>) -> Result<Roots, String> {
        let mut store = RootCertStore::empty();
        for (at, certificate) in certificates.iter().enumerate() {
            let added = store.add(certificate.clone());
            added.map_err(|error| format!("certificate {}: {error}", at + 1))?;
        }
        Ok(Roots {
            store: Arc::new(store),
            certificates,
        })
    }

    /// The system's certificates.
    ///
    /// Errors: says why there are none.
    pub fn of_system() -> Result<Roots, String> {
        let found = rustls_native_certs::load_native_certs();
        let mut store = RootCertStore::empty();
        let (added, _) = store.add_parsable_certificates(found.certs.iter().cloned());
        if added == 0 {
            let why: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
            return Err(why.join("; "));
        }
        Ok(Roots {
            store: Arc::new(store),
            certificates: found.certs,
        })
    }

    /// Those who may have issued others' certificates.
    pub fn store(&self) -> Arc<RootCertStore> {
        Arc::clone(&self.store)
    }

    /// Whether `leaf` is itself trusted, valid at `now` and meant for this use.
    pub fn has(&self, leaf: &CertificateDer<'_>, now: UnixTime, by_client: bool) -> bool {
        if !self.certificates.iter().any(|root| root == leaf) {
            return false;
        }
        let Ok(certificate) = Certificate::read(leaf) else {
            return false;
        };
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let usable = match by_client {
            true => certificate.usable.by_clients,
            false => certificate.usable.by_servers,
        };
        usable && (certificate.not_before..=certificate.not_after).contains(&now)
    }
}

/// What is asked of a server's certificate.
#[derive(Debug)]
pub struct ServerTrust {
    chain: Arc<WebPkiServerVerifier>,
    roots: Arc<Roots>,
}

impl ServerTrust {
    /// Trusts those for whom `roots` vouch.
    ///
    /// Errors: there is no root.
    pub fn new(roots: Arc<Roots>, provider: Arc<CryptoProvider>) -> Result<ServerTrust, String> {
        let chain = WebPkiServerVerifier::builder_with_provider(roots.store(), provider).build();
        let chain = chain.map_err(|error| error.to_string())?;
        Ok(ServerTrust { chain, roots })
    }

    /// Checks that `leaf`, shown with `others`, is trusted at `now` and is for `name`.
    ///
    /// Errors: rustls' own.
    pub fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<(), Error> {
        match self.chain.verify_server_cert(leaf, others, name, ocsp, now) {
            Ok(_) => Ok(()),
            // The name is looked at last: all else is good.
            Err(error) if names::is_about_names(&error) && names::has_wildcard(leaf, name) => {
                Ok(())
            }
            Err(_) if self.roots.has(leaf, now, false) => names::verify(leaf, name),
            Err(error) => Err(error),
        }
    }
}
