//! File descriptors: how many connections may be open at once.

use std::sync::Arc;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use thiserror::Error;
use tokio::sync::Semaphore;

/// Connections that peers may open. Clients cannot keep them out.
const PEERS: usize = 64;
/// Connections of one kind of port that may be shaking hands or have said nothing yet; the oldest
/// goes when there are more.
pub const PENDING: usize = 1024;
/// The same of the peer port, where one that has not asked for anything yet counts, too. The others
/// of its places are for members.
pub const PEERS_PENDING: usize = PEERS / 2;
/// Descriptors kept for logs, the store (etcd: `reservedInternalFDNum`, 150) and peers.
const RESERVED: u64 = 150 + PEERS as u64;

/// Too few descriptors to serve at all.
#[derive(Debug, Error)]
#[error(
    "file descriptor limit of {limit} is too low: more than {RESERVED} are needed; \
     raise it (ulimit -n, LimitNOFILE)"
)]
pub struct TooLow {
    limit: u64,
}

/// One permit for each connection that may be open.
pub type Connections = Arc<Semaphore>;

/// Raises the soft limit of descriptors to the hard one and returns what is left for connections.
///
/// Errors: the limit leaves nothing for connections.
pub fn connections() -> Result<Connections, TooLow> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let raised = setrlimit(Resource::Nofile, raised).is_ok();
    // No limit at all reads as none.
    let limit = if raised { limit.maximum } else { limit.current }.unwrap_or(u64::MAX);
    let left = limit
        .checked_sub(RESERVED)
        .filter(|left| *left > 0)
        .ok_or(TooLow { limit })?;
    let permits = usize::try_from(left)
        .unwrap_or(usize::MAX)
        .min(Semaphore::MAX_PERMITS);
    Ok(Arc::new(Semaphore::new(permits)))
}

/// The permits of the peers' connections.
pub fn peer_connections() -> Connections {
    Arc::new(Semaphore::new(PEERS))
}
