//! TLS of the client and the peer port: files, rules, connections, and change while running.
//!
//! ```text
//!   files on disk ─▶ contents ─▶ material ─▶ live ─┬▶ accept: connections of clients and members
//!        ▲                                         ├▶ dialer: connections to other members
//!        └───────────── watch (each 250 ms) ───────┴▶ registry: open connections, checked again
//! ```
//!
//! [`files`] reads what the flags name, [`material`] makes rustls' configurations of it, and
//! [`live`] holds the ones in force, which every new connection takes. [`watch`] looks at the files
//! and exchanges them; what cannot be used is said and leaves the old ones in force. Each open
//! connection whose other end showed a certificate is kept in [`registry`]: when the files change or
//! a certificate runs out it is verified again, and closed when it would not be let in any more.
//!
//! Who is let in is decided in [`verify`]: a chain to the trusted certificates (`kvd-tls`), the
//! revocation list, and the lists of allowed names; [`san`] adds etcd's rule that a member's
//! certificate must fit the address that it calls from.
//!
//! Source: etcd `client/pkg/transport` (`listener.go`, `listener_tls.go`), `client/pkg/tlsutil`.
//! Differs from etcd: it reads the certificate and the list of revoked ones at each handshake, the
//! trusted ones once, and never looks at a connection again.

mod accept;
mod auto;
mod dialer;
mod error;
mod files;
mod live;
mod material;
mod options;
mod protocol;
mod registry;
mod san;
mod verify;
mod watch;

pub use accept::{Accepted, Rejected};
pub use auto::self_signed;
pub use dialer::{Find, PeerDialer, Place};
pub use error::Error;
pub use live::{Live, Port};
pub use options::Options;
pub use protocol::{Protocol, ProtocolError};
pub use registry::Closing;
pub use watch::Watch;
