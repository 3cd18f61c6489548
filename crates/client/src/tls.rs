//! TLS: whom to trust, who we are, and the handshake.
//!
//! The files are read again for each new connection, so that certificates which are renewed on
//! disk are used without a restart. Without a CA of its own a client trusts the system's.
//!
//! Source: etcd `client/pkg/transport/listener.go`, `ClientConfig`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvd_tls::{Roots, ServerTrust, provider};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};

use crate::error::{Error, Result};

/// How a client secures its connections.
#[derive(Clone, Debug, Default)]
pub struct TlsOptions {
    ca: Option<PathBuf>,
    identity: Option<(PathBuf, PathBuf)>,
    server_name: Option<String>,
    skips_verification: bool,
}

impl TlsOptions {
    /// Trusts the system's CAs, and names nobody.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts the CAs in this PEM file alone.
    pub fn ca(mut self, file: impl Into<PathBuf>) -> Self {
        self.ca = Some(file.into());
        self
    }

    /// The client's own certificate, with its chain, and its key: PEM files.
    pub fn identity(mut self, cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.identity = Some((cert.into(), key.into()));
        self
    }

    /// The name that the server's certificate must have. Default: the host of the endpoint.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Takes any certificate from a server: whoever sits in between can read and change
    /// everything. For trials only.
    pub fn skip_verification(mut self) -> Self {
        self.skips_verification = true;
        self
    }

    /// Whose certificate is expected from the server at `host`.
    pub(crate) fn expected_name(&self, host: &str) -> Result<ServerName<'static>> {
        let name = self.server_name.as_deref().unwrap_or(host);
        let name = name.trim_start_matches('[').trim_end_matches(']');
        ServerName::try_from(name.to_owned())
            .map_err(|_| failed(format!("{name:?} is no name of a server")))
    }

    /// Reads the files. `protocol`: what is spoken over the connection.
    ///
    /// Errors: [`Error::Tls`].
    pub(crate) fn config(&self, protocol: &[u8]) -> Result<ClientConfig> {
        let provider = provider::shared();
        let trust = match self.skips_verification {
            true => None,
            false => Some(self.trust(&provider)?),
        };
        let verifier = Verifier {
            trust,
            algorithms: provider.signature_verification_algorithms,
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|err| failed(err.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let chain = certificates(cert)?;
                let key = private_key(key)?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|err| failed(format!("{} and its key: {err}", cert.display())))?
            }
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        Ok(config)
    }

    /// Whom to trust.
    ///
    /// Errors: [`Error::Tls`], also when there is nobody.
    fn trust(&self, provider: &Arc<CryptoProvider>) -> Result<ServerTrust> {
        let roots = match &self.ca {
            None => Roots::of_system().map_err(|why| {
                let said =
                    "no file names whom to trust, and the system has no trusted certificates";
                failed([said, &why].join(": ").trim_end_matches(": ").to_owned())
            })?,
            Some(file) => Roots::new(certificates(file)?)
                .map_err(|why| failed(format!("{}: {why}", file.display())))?,
        };
        ServerTrust::new(Arc::new(roots), Arc::clone(provider)).map_err(failed)
    }
}

fn failed(reason: String) -> Error {
    Error::Tls { reason }
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).map_err(|err| failed(format!("open {}: {}", file.display(), plain(&err))))
}

/// The operating system's text without its number.
fn plain(err: &std::io::Error) -> String {
    let text = err.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    text.to_lowercase()
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let text = read(file)?;
    let all: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let all = all.map_err(|err| failed(format!("{}: {err}", file.display())))?;
    if all.is_empty() {
        return Err(failed(format!("{} holds no certificate", file.display())));
    }
    Ok(all)
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(&read(file)?)
        .map_err(|err| failed(format!("{}: {err}", file.display())))
}

/// Judges a server's certificate as Go does, or takes any; that the server holds its key is checked
/// either way.
#[derive(Debug)]
struct Verifier {
    /// `None` takes any certificate.
    trust: Option<ServerTrust>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        if let Some(trust) = &self.trust {
            trust.verify(leaf, others, name, ocsp, now)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
