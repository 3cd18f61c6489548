//! Who is at the other end of a connection, as far as the connection itself says.

use std::net::SocketAddr;
use std::sync::Arc;

/// What is known of a client from its connection alone. `kvd` puts one into the extensions of every
/// HTTP request that it accepts; services look there for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerInfo {
    /// Where the client is; `None` on a Unix socket.
    pub address: Option<SocketAddr>,
    /// The subject common name of the client's certificate, if it showed one that was verified.
    pub common_name: Option<Arc<str>>,
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// Whether the request came through the JSON gateway, where etcd does not take the certificate
    /// for a user.
    pub gateway: bool,
}
