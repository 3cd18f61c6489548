//! Hooks for metrics: what the log and the transport see, told as it happens.

use std::time::Duration;

/// Receives events. Every method does nothing unless implemented; implementations must be quick,
/// since they run on the threads that write the log and talk to peers.
pub trait Events: Send + Sync + 'static {
    /// A batch was written to the log: how long the write took, and how many bytes it has.
    fn wal_write(&self, _took: Duration, _bytes: usize) {}
    /// The batch was made durable: how long the sync took.
    fn wal_fsync(&self, _took: Duration) {}
    /// The log cannot be written any more; the node stops.
    fn wal_failed(&self, _why: &str) {}
    /// A message left for a peer.
    fn peer_sent(&self, _to: u64, _bytes: u64) {}
    /// A message came from a peer.
    fn peer_received(&self, _from: u64, _bytes: u64) {}
    /// A peer answered an append or a heartbeat.
    fn peer_round_trip(&self, _to: u64, _took: Duration) {}
    /// A peer could not be reached, or a message to it failed.
    fn peer_failed(&self, _to: u64) {}
    /// The way to a peer is open, from now on.
    fn peer_connected(&self, _to: u64) {}
    /// The way to a peer is not open any more.
    fn peer_disconnected(&self, _to: u64) {}
    /// A peer is no member any more.
    fn peer_gone(&self, _to: u64) {}
    /// A snapshot is being sent to a peer.
    fn snapshot_sending(&self, _to: u64) {}
    /// A snapshot was sent to a peer, or failed to be.
    fn snapshot_sent(&self, _to: u64, _took: Duration, _ok: bool) {}
    /// How many bytes of the snapshot that is being sent a peer has been given, of about how many.
    fn snapshot_sent_bytes(&self, _to: u64, _bytes: u64, _of_about: u64) {}
    /// How many bytes of the snapshot that is being received have come, of about how many.
    fn snapshot_received_bytes(&self, _from: u64, _bytes: u64, _of_about: u64) {}
    /// A snapshot is being received from a peer.
    fn snapshot_receiving(&self, _from: u64) {}
    /// A snapshot was received, or failed to be.
    fn snapshot_received(&self, _from: u64, _took: Duration, _ok: bool) {}
    /// A received snapshot is being installed, or that has ended.
    fn snapshot_installing(&self, _begins: bool) {}
    /// Another member leads now, or none does.
    fn leader_changed(&self, _leader: Option<u64>) {}
    /// Proposals whose fate this member could not learn, or that were never appended.
    fn proposals_failed(&self, _count: u64) {}
}

/// Ignores every event.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoEvents;

impl Events for NoEvents {}
