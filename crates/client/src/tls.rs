//! TLS: whom to trust, who we are, and the handshake.
//!
//! The files are read again for each new connection, so that certificates which are renewed on
//! disk are used without a restart. Without a CA of its own a client trusts the system's.
//!
//! Source: etcd `client/pkg/transport/listener.go`, `ClientConfig`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

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
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|err| failed(err.to_string()))?;
        let builder = if self.skips_verification {
            let verifier = Arc::new(TrustsAnybody { provider });
            builder
                .dangerous()
                .with_custom_certificate_verifier(verifier)
        } else {
            builder.with_root_certificates(self.roots()?)
        };
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

    fn roots(&self) -> Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        let Some(file) = &self.ca else {
            // A system without any has nobody to trust, which the handshake tells.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            return Ok(roots);
        };
        for certificate in certificates(file)? {
            roots
                .add(certificate)
                .map_err(|err| failed(format!("{}: {err}", file.display())))?;
        }
        Ok(roots)
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

/// Takes any certificate. That the server holds its key is checked where `ring` can: it does not
/// know the curve P-521, which etcd's `--auto-tls` takes for its certificates.
#[derive(Debug)]
struct TrustsAnybody {
    provider: Arc<CryptoProvider>,
}

impl TrustsAnybody {
    fn judge(
        &self,
        signed: &DigitallySignedStruct,
        verified: std::result::Result<HandshakeSignatureValid, rustls::Error>,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        match signed.scheme {
            SignatureScheme::ECDSA_NISTP521_SHA512 => Ok(HandshakeSignatureValid::assertion()),
            _ => verified,
        }
    }
}

impl ServerCertVerifier for TrustsAnybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        self.judge(
            signed,
            verify_tls12_signature(message, cert, signed, algorithms),
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        self.judge(
            signed,
            verify_tls13_signature(message, cert, signed, algorithms),
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        let mut schemes = algorithms.supported_schemes();
        schemes.push(SignatureScheme::ECDSA_NISTP521_SHA512);
        schemes
    }
}
