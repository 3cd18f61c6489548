//! The cryptography: rustls' own choice of algorithms over AWS-LC.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

pub use rustls::crypto::aws_lc_rs::cipher_suite as suites;

/// All algorithms that are built in.
pub fn all() -> CryptoProvider {
    rustls::crypto::aws_lc_rs::default_provider()
}

/// The same, to be shared.
pub fn shared() -> Arc<CryptoProvider> {
    Arc::new(all())
}
