//! What members, kvctl and the Rust client have in common about TLS, so that all of them take the
//! same certificates.
//!
//! [`provider`] is the one place that names the cryptography. [`Roots`] are the certificates that
//! are trusted, and [`ServerTrust`] asks of a server's certificate what Go's `crypto/x509` asks: a
//! chain to one of them, found by webpki, and the name ([`names`]) that was connected to.
//! [`Certificate`] reads the parts of a certificate that rules and log lines are about.
//!
//! What is left out: files, their renewal while running and etcd's rules about who is let in, which
//! are the member's (`kvd/tls`), and the client's options (`kvd-client`).

mod certificate;
pub mod names;
pub mod provider;
mod trust;

pub use certificate::{Certificate, Usable, read_revoked};
pub use trust::{Roots, ServerTrust};
