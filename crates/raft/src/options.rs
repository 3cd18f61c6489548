//! How a node is set up.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::events::Events;
use crate::membership::Member;
use crate::transport::Dialer;
use crate::wal::StallLimits;

/// Everything a node is told when it starts.
#[derive(Clone)]
pub struct Options {
    /// This member's id, never reused.
    pub member_id: u64,
    /// The cluster's id: traffic of any other cluster is refused.
    pub cluster_id: u64,
    /// Where the write-ahead log lives.
    pub wal_dir: PathBuf,
    /// Where received snapshots land until they are installed. Emptied of leftovers at start.
    pub snapshot_dir: PathBuf,
    /// Between two heartbeats of a leader.
    pub heartbeat: Duration,
    /// A follower that hears nothing for this long, or up to twice as long, asks to be elected.
    pub election: Duration,
    /// Ask whether an election could be won before starting one, so that a member that comes back
    /// from a partition does not depose the leader.
    pub pre_vote: bool,
    /// Entries between two snapshots, which is how often the log is purged.
    pub snapshot_count: u64,
    /// Applied entries kept in the log for followers that lag.
    pub catchup_entries: u64,
    /// Size of one file of the log.
    pub segment_bytes: u64,
    /// Most commands in one entry.
    pub batch_commands_max: usize,
    /// Most bytes in one entry, unless a single command is larger.
    pub batch_bytes_max: usize,
    /// Most entries of this member that are proposed but not yet applied.
    pub inflight_max: usize,
    /// Most proposals that wait to be put into an entry.
    pub queue_max: usize,
    /// Told about proposals that cannot be answered by applying them.
    pub on_failed: OnFailed,
    /// Up to which index the application has made its state durable. The log is never purged
    /// above it.
    pub purgeable_index: Arc<AtomicU64>,
    /// Makes a cluster of this member alone out of the data of an old one: it, with its URLs in
    /// case the data does not have them.
    pub force_new_cluster: Option<Member>,
    /// Whether a member was removed from the cluster: it is told so, and not listened to.
    pub is_removed: IsRemoved,
    /// When the disk under the log counts as stalled: this member hands the lead over then, and
    /// does not ask for it.
    pub stall: StallLimits,
    /// Hooks for metrics.
    pub events: Arc<dyn Events>,
    /// The disk under the log.
    pub disk: Arc<dyn Disk>,
    /// How peers are reached.
    pub dialer: Arc<dyn Dialer>,
}

/// Called with the request ids of proposals that failed, and why. Must not block. An id may be
/// reported although its command was applied before, or will be.
pub type OnFailed = Arc<dyn Fn(&[u64], ProposeFailure) + Send + Sync>;

/// See [`Options::is_removed`]. Must not block.
pub type IsRemoved = Arc<dyn Fn(u64) -> bool + Send + Sync>;

/// Why a proposal will not be answered by being applied on this member soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProposeFailure {
    /// There was no leader to take it; it was not appended. The node itself does not say so: what
    /// finds no leader waits until its deadline.
    NoLeader,
    /// It was appended by a leader that was deposed: it may be applied, now or never.
    LeaderChanged,
    /// The connection broke while the leader had it: it may be applied, now or never.
    ConnectionLost,
    /// The node has stopped: it may be applied, now or never.
    Stopped,
    /// It was not appended, and will not be.
    Dropped,
}

impl Options {
    /// Refuses values that cannot work.
    pub(crate) fn validate(&self) -> Result<()> {
        let refuse = |name, why: &str| {
            Err(Error::Option {
                name,
                why: why.to_owned(),
            })
        };
        if self.member_id == 0 {
            return refuse("member_id", "zero is not an id");
        }
        if self.heartbeat.as_millis() == 0 {
            return refuse("heartbeat", "must be at least a millisecond");
        }
        if self.election <= self.heartbeat {
            return refuse("election", "must be longer than the heartbeat");
        }
        for (name, value) in [
            ("batch_commands_max", self.batch_commands_max),
            ("batch_bytes_max", self.batch_bytes_max),
            ("inflight_max", self.inflight_max),
            ("queue_max", self.queue_max),
        ] {
            if value == 0 {
                return refuse(name, "must not be zero");
            }
        }
        if self.snapshot_count == 0 {
            return refuse("snapshot_count", "must not be zero");
        }
        Ok(())
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("member_id", &self.member_id)
            .field("cluster_id", &self.cluster_id)
            .field("wal_dir", &self.wal_dir)
            .finish_non_exhaustive()
    }
}
