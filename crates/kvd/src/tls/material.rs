//! From the bytes of the files to rustls' configurations.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use kvd_tls::{Certificate, Roots, read_revoked};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::{ClientConfig, ServerConfig};

use super::error::Error;
use super::files::{self, Contents};
use super::options::Options;
use super::verify::{ClientVerifier, Rules, ServerVerifier};

/// What a port is served and dialled with, all of one reading of the files.
pub(super) struct Material {
    /// `None` without a certificate: then nobody can connect with TLS.
    pub(super) server: Option<Arc<ServerConfig>>,
    /// `None` when those who connect need not show a certificate.
    pub(super) client_verifier: Option<Arc<ClientVerifier>>,
    dialling: OnceLock<Result<Dialling, String>>,
    parts: Parts,
    /// When the certificates of each file run out: the flag's name, seconds since 1970.
    pub(super) expiries: Vec<(&'static str, i64)>,
}

/// How this member connects to others.
#[derive(Clone)]
pub(super) struct Dialling {
    pub(super) config: Arc<ClientConfig>,
    pub(super) verifier: Arc<ServerVerifier>,
}

/// What is kept for the dialling side, which is made when it is first needed.
struct Parts {
    provider: Arc<CryptoProvider>,
    options: Options,
    rules: Arc<Rules>,
    roots: Option<Arc<Roots>>,
    shown: Option<Shown>,
}

/// A certificate with those that lead to a trusted one, and its key.
struct Shown {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    cert_path: PathBuf,
    key_path: PathBuf,
}

impl Shown {
    fn read(
        cert: (&Option<PathBuf>, &Option<Vec<u8>>),
        key: (&Option<PathBuf>, &Option<Vec<u8>>),
    ) -> Result<Option<Shown>, Error> {
        let (Some(cert_path), Some(cert)) = cert else {
            return Ok(None);
        };
        let (Some(key_path), Some(key)) = key else {
            return Ok(None);
        };
        Ok(Some(Shown {
            chain: files::certificates(cert_path, cert)?,
            key: files::key(key_path, key)?,
            cert_path: cert_path.clone(),
            key_path: key_path.clone(),
        }))
    }

    fn not_after(&self) -> Result<i64, Error> {
        earliest(&self.cert_path, self.chain.iter().take(1))
    }

    fn unusable(&self, source: rustls::Error) -> Error {
        let (cert, key) = (self.cert_path.clone(), self.key_path.clone());
        match source {
            rustls::Error::InconsistentKeys(_) => Error::KeyMismatch { cert, key },
            source => Error::Unusable { cert, key, source },
        }
    }
}

/// When the first of `certificates` runs out.
fn earliest<'a>(
    path: &Path,
    certificates: impl Iterator<Item = &'a CertificateDer<'static>>,
) -> Result<i64, Error> {
    let mut earliest = i64::MAX;
    for certificate in certificates {
        let read = Certificate::read(certificate).map_err(|why| Error::Certificate {
            path: path.to_owned(),
            why,
        })?;
        earliest = earliest.min(read.not_after);
    }
    Ok(earliest)
}

impl Material {
    /// Makes the configurations of `contents`, which `options` name.
    ///
    /// Errors: says which file cannot be used, and why.
    pub(super) fn build(options: &Options, contents: &Contents) -> Result<Material, Error> {
        let provider = options.protocol.provider();
        let shown = Shown::read(
            (&options.cert_file, &contents.cert),
            (&options.key_file, &contents.key),
        )?;
        let as_client = Shown::read(
            (&options.client_cert_file, &contents.client_cert),
            (&options.client_key_file, &contents.client_key),
        )?;
        let mut expiries = Vec::new();
        for (flag, shown) in [("cert-file", &shown), ("client-cert-file", &as_client)] {
            if let Some(shown) = shown {
                expiries.push((flag, shown.not_after()?));
            }
        }
        let roots = match (&options.trusted_ca_file, &contents.trusted_ca) {
            (Some(path), Some(pem)) => {
                let certificates = files::certificates(path, pem)?;
                expiries.push(("trusted-ca-file", earliest(path, certificates.iter())?));
                let roots = Roots::new(certificates).map_err(|why| Error::Roots {
                    path: path.clone(),
                    why,
                })?;
                Some(Arc::new(roots))
            }
            _ => None,
        };
        let rules = Arc::new(rules(options, contents)?);
        let (server, client_verifier) = match &shown {
            None => (None, None),
            Some(shown) => accepting(options, shown, roots.as_ref(), &rules, &provider)?,
        };
        let parts = Parts {
            provider,
            options: options.clone(),
            rules,
            roots,
            shown: as_client.or(shown),
        };
        let material = Material {
            server,
            client_verifier,
            dialling: OnceLock::new(),
            parts,
            expiries,
        };
        if material.parts.roots.is_some() || options.is_self_signed {
            // What is shown to other members must work, too.
            let (config, verifier) = material.parts.dialling()?;
            let dialling = Dialling { config, verifier };
            // Nobody else has it yet.
            let _first = material.dialling.set(Ok(dialling));
        }
        Ok(material)
    }

    /// How to connect to other members. May read the system's certificates, once.
    ///
    /// Errors: says why that cannot be set up.
    pub(super) fn dialling(&self) -> Result<Dialling, String> {
        let make = || match self.parts.dialling() {
            Ok((config, verifier)) => Ok(Dialling { config, verifier }),
            Err(error) => Err(error.to_string()),
        };
        self.dialling.get_or_init(make).clone()
    }

    /// The same, as far as it was needed before.
    pub(super) fn dialling_in_use(&self) -> Option<&Dialling> {
        self.dialling.get()?.as_ref().ok()
    }
}

/// The system's trusted certificates, read when first needed.
fn system_roots() -> Result<Arc<Roots>, Error> {
    static SYSTEM: OnceLock<Result<Arc<Roots>, String>> = OnceLock::new();
    let roots = SYSTEM.get_or_init(|| Roots::of_system().map(Arc::new));
    roots.clone().map_err(|why| {
        let why = if why.is_empty() {
            why
        } else {
            format!(" ({why})")
        };
        Error::NoSystemRoots(why)
    })
}

fn rules(options: &Options, contents: &Contents) -> Result<Rules, Error> {
    let mut revoked = HashSet::new();
    if let (Some(path), Some(bytes)) = (&options.crl_file, &contents.crl) {
        for list in files::revocation_lists(path, bytes)? {
            read_revoked(&list, &mut revoked).map_err(|why| Error::Crl {
                path: path.clone(),
                why,
            })?;
        }
    }
    Ok(Rules {
        revoked,
        allowed_cns: options.allowed_cns.clone(),
        allowed_hostnames: options.allowed_hostnames.clone(),
    })
}

type Accepting = (Option<Arc<ServerConfig>>, Option<Arc<ClientVerifier>>);

fn accepting(
    options: &Options,
    shown: &Shown,
    roots: Option<&Arc<Roots>>,
    rules: &Arc<Rules>,
    provider: &Arc<CryptoProvider>,
) -> Result<Accepting, Error> {
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&options.protocol.versions())
        .map_err(|error| Error::Setup(error.to_string()))?;
    let verifier = match options.wants_client_certificate() {
        false => None,
        true => {
            let roots = match roots {
                Some(roots) => Arc::clone(roots),
                None => system_roots()?,
            };
            let made = ClientVerifier::new(roots, Arc::clone(rules), Arc::clone(provider));
            Some(Arc::new(made.map_err(Error::Setup)?))
        }
    };
    let builder = match &verifier {
        None => builder.with_no_client_auth(),
        Some(verifier) => {
            let verifier = Arc::clone(verifier);
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder
        .with_single_cert(shown.chain.clone(), shown.key.clone_key())
        .map_err(|error| shown.unusable(error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    if verifier.is_some() {
        // A resumed session would skip the verification of the certificate.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok((Some(Arc::new(config)), verifier))
}

impl Parts {
    fn dialling(&self) -> Result<(Arc<ClientConfig>, Arc<ServerVerifier>), Error> {
        let roots = match &self.roots {
            _ if self.options.is_self_signed => None,
            Some(roots) => Some(Arc::clone(roots)),
            None => Some(system_roots()?),
        };
        let verifier = ServerVerifier::new(roots, Arc::clone(&self.rules), &self.provider);
        let verifier = Arc::new(verifier.map_err(Error::Setup)?);
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&self.options.protocol.versions())
            .map_err(|error| Error::Setup(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&verifier) as _);
        let mut config = match &self.shown {
            None => builder.with_no_client_auth(),
            Some(shown) => builder
                .with_client_auth_cert(shown.chain.clone(), shown.key.clone_key())
                .map_err(|error| shown.unusable(error))?,
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        Ok((Arc::new(config), verifier))
    }
}
