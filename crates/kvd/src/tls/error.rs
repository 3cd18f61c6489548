//! Why TLS files cannot be used.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why TLS files or flags cannot be used. Texts are etcd's and Go's where they have one.
#[derive(Debug, Error)]
pub enum Error {
    /// A certificate without a key, or the other way round.
    #[error("KeyFile and CertFile must both be present[key: {key}, cert: {cert}]")]
    Pair {
        /// The key's file, or nothing.
        key: String,
        /// The certificate's file, or nothing.
        cert: String,
    },
    /// The same of what is shown to other members.
    #[error(
        "ClientKeyFile and ClientCertFile must both be present or both absent: key: {key}, cert: \
         {cert}]"
    )]
    ClientPair {
        /// The key's file, or nothing.
        key: String,
        /// The certificate's file, or nothing.
        cert: String,
    },
    /// Both lists of allowed names.
    #[error(
        "AllowedCNs and AllowedHostnames are mutually exclusive (cns={cns}, hostnames={hostnames})"
    )]
    AllowedBoth {
        /// The common names.
        cns: String,
        /// The host names.
        hostnames: String,
    },
    /// A file cannot be read.
    #[error("open {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file without a certificate.
    #[error("{}: tls: failed to find any PEM data in certificate input", .0.display())]
    NoCertificate(PathBuf),
    /// A file without a key.
    #[error("{}: tls: failed to find any PEM data in key input", .0.display())]
    NoKey(PathBuf),
    /// PEM that is damaged.
    #[error("{}: damaged PEM: {why}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A certificate that cannot be read.
    #[error("{}: x509: malformed certificate: {why}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The key is another certificate's.
    #[error("tls: private key does not match public key (cert: {}, key: {})", cert.display(), key.display())]
    KeyMismatch {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// A certificate or key of a kind that cannot be used.
    #[error("{}, {}: {source}", cert.display(), key.display())]
    Unusable {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// No certificate to trust.
    #[error("{}: no certificate to trust: {why}", path.display())]
    Roots {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The system has no trusted certificates.
    #[error(
        "the system has no trusted certificates, and no file names others: set --trusted-ca-file \
         or --peer-trusted-ca-file{0}"
    )]
    NoSystemRoots(String),
    /// A revocation list that cannot be read.
    #[error("{}: malformed crl: {why}", path.display())]
    Crl {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A combination that rustls refuses.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
    /// A certificate could not be generated.
    #[error("cannot generate a certificate: {0}")]
    Generate(String),
    /// A file could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Zero years.
    #[error("selfSignedCertValidity is invalid,it should be greater than 0")]
    Validity,
}
