//! Who is let in: the trusted issuers, the revocation list, the allowed names.
//!
//! The chain is the work of `kvd-tls`. Around it stand etcd's own rules:
//!
//! - A certificate whose serial number is on the revocation list is refused, whoever issued it, and
//!   so is one that was issued through such a one.
//! - Where names are allowed by list, the certificate must have one of them.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use kvd_tls::{Certificate, Roots, ServerTrust, names};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};

/// What must hold beside the chain.
#[derive(Debug, Default)]
pub(super) struct Rules {
    /// Serial numbers without leading zeros.
    pub(super) revoked: HashSet<Vec<u8>>,
    /// Empty means any.
    pub(super) allowed_cns: Vec<String>,
    /// Empty means any.
    pub(super) allowed_hostnames: Vec<String>,
}

/// Why a certificate with a good chain is refused. Texts are etcd's.
#[derive(Debug)]
enum Refusal {
    Revoked(String),
    Names,
    Malformed(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Revoked(serial) => {
                write!(f, "transport: certificate serial {serial} revoked")
            }
            Refusal::Names => f.write_str("client certificate authentication failed"),
            Refusal::Malformed(why) => write!(f, "x509: malformed certificate: {why}"),
        }
    }
}

impl std::error::Error for Refusal {}

/// What is wrong, in the words of whoever refused it: rustls shows an error of others as a value.
pub(super) fn explain(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(why))) => why.to_string(),
        other => other.to_string(),
    }
}

fn refuse(refusal: Refusal) -> Error {
    let other = OtherError(Arc::new(refusal));
    Error::InvalidCertificate(CertificateError::Other(other))
}

impl Rules {
    fn check(&self, leaf: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Result<(), Error> {
        let read = |der: &CertificateDer<'_>| {
            Certificate::read(der).map_err(|why| refuse(Refusal::Malformed(why)))
        };
        let certificate = read(leaf)?;
        if !self.revoked.is_empty() {
            let is_revoked = |certificate: &Certificate| self.revoked.contains(&certificate.serial);
            let mut found = is_revoked(&certificate).then(|| certificate.serial.clone());
            for other in others {
                let other = read(other)?;
                found = found.or_else(|| is_revoked(&other).then_some(other.serial));
            }
            if let Some(serial) = found {
                return Err(refuse(Refusal::Revoked(hexadecimal(&serial))));
            }
        }
        let is_named = |allowed: &String| Some(allowed) == certificate.common_name.as_ref();
        if !self.allowed_cns.is_empty() && !self.allowed_cns.iter().any(is_named) {
            return Err(refuse(Refusal::Names));
        }
        if !self.allowed_hostnames.is_empty() {
            let has = |name: &String| {
                ServerName::try_from(name.as_str())
                    .is_ok_and(|name| names::verify(leaf, &name).is_ok())
            };
            if !self.allowed_hostnames.iter().any(has) {
                return Err(refuse(Refusal::Names));
            }
        }
        Ok(())
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Verifies those who connect.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    roots: Arc<Roots>,
    rules: Arc<Rules>,
}

impl ClientVerifier {
    pub(super) fn new(
        roots: Arc<Roots>,
        rules: Arc<Rules>,
        provider: Arc<CryptoProvider>,
    ) -> Result<ClientVerifier, String> {
        let chain = WebPkiClientVerifier::builder_with_provider(roots.store(), provider).build();
        Ok(ClientVerifier {
            chain: chain.map_err(|error| error.to_string())?,
            roots,
            rules,
        })
    }

    /// Verifies again what an open connection has shown.
    pub(super) fn verify_again(&self, shown: &[CertificateDer<'_>]) -> Result<(), Error> {
        let (leaf, others) = shown.split_first().ok_or(Error::NoCertificatesPresented)?;
        let verified = self.verify_client_cert(leaf, others, now());
        verified.map(drop)
    }
}

/// The time of the system, also where its clock stands before 1970.
fn now() -> UnixTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    UnixTime::since_unix_epoch(since.unwrap_or_default())
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if let Err(error) = self.chain.verify_client_cert(leaf, others, now)
            && !self.roots.has(leaf, now, true)
        {
            return Err(error);
        }
        self.rules.check(leaf, others)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Verifies the members that this one connects to.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    /// `None`: the members have generated certificates, which nobody vouches for.
    trust: Option<ServerTrust>,
    rules: Arc<Rules>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerVerifier {
    pub(super) fn new(
        roots: Option<Arc<Roots>>,
        rules: Arc<Rules>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<ServerVerifier, String> {
        let trust = match roots {
            None => None,
            Some(roots) => Some(ServerTrust::new(roots, Arc::clone(provider))?),
        };
        Ok(ServerVerifier {
            trust,
            rules,
            algorithms: provider.signature_verification_algorithms,
        })
    }

    /// Verifies again what a member has shown, to which this one is connected.
    pub(super) fn verify_again(
        &self,
        shown: &[CertificateDer<'_>],
        name: &ServerName<'_>,
    ) -> Result<(), Error> {
        let (leaf, others) = shown.split_first().ok_or(Error::NoCertificatesPresented)?;
        let verified = self.verify_server_cert(leaf, others, name, &[], now());
        verified.map(drop)
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(trust) = &self.trust else {
            return Ok(ServerCertVerified::assertion());
        };
        trust.verify(leaf, others, name, ocsp, now)?;
        self.rules.check(leaf, others)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
