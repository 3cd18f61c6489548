//! Settings of one member, resolved and validated by the binary.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kvd_raft::Dialer;
use kvd_raft::wal::StallLimits;

use crate::limits;

/// When history is compacted without being asked. etcd: `--auto-compaction-mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    /// Never.
    Off,
    /// Keep what is younger than this.
    Periodic(Duration),
    /// Keep this many revisions.
    Revision(i64),
}

/// What a running cluster says of a member that joins it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// The cluster's ID.
    pub cluster_id: u64,
    /// The ID that the member was added with.
    pub member_id: u64,
    /// The other members' peer URLs at that time.
    pub peers: Vec<String>,
}

/// Everything that a member is started with.
#[derive(Clone, Debug)]
pub struct Config {
    /// The member's name, unique in its cluster.
    pub name: String,
    /// Directory of everything that the member stores.
    pub data_dir: PathBuf,
    /// Directory of the write-ahead log when it is kept apart.
    pub wal_dir: Option<PathBuf>,
    /// URLs that peers reach this member by.
    pub peer_urls: Vec<String>,
    /// URLs that clients reach this member by.
    pub client_urls: Vec<String>,
    /// The first members: name to peer URLs.
    pub initial_cluster: BTreeMap<String, Vec<String>>,
    /// Tells clusters apart that start with the same URLs.
    pub initial_cluster_token: String,
    /// Whether the token was given, rather than left at its default.
    pub token_is_explicit: bool,
    /// Whether changes of the membership that would endanger the quorum are refused.
    pub strict_reconfig_check: bool,
    /// Most learners that the cluster may have.
    pub learners_max: usize,
    /// The running cluster that a member without data joins; `None` when it makes a new one.
    pub join: Option<Join>,
    /// Whether this member acts by itself, and how.
    pub autopilot: crate::autopilot::Settings,
    /// Whether the data is made a cluster of this member alone.
    pub force_new_cluster: bool,
    /// Time between heartbeats of the leader.
    pub heartbeat_interval: Duration,
    /// Time without a heartbeat after which a follower stands for election.
    pub election_timeout: Duration,
    /// Whether a candidate asks first if it could win.
    pub pre_vote: bool,
    /// Applied entries between snapshots.
    pub snapshot_count: u64,
    /// Entries kept in the log for followers that lag.
    pub catchup_entries: u64,
    /// As given: zero is the default of 2 GiB, negative turns the quota off.
    pub quota_backend_bytes: i64,
    /// Largest encoded request, in bytes.
    pub request_bytes_max: usize,
    /// Most operations in a transaction.
    pub txn_ops_max: usize,
    /// When history is compacted without being asked.
    pub auto_compaction: AutoCompaction,
    /// Time between the progress notifications of a watcher.
    pub watch_progress_interval: Duration,
    /// Most watchers of one stream.
    pub watchers_per_stream_max: usize,
    /// Whether to compare this member's data with its peers' before serving.
    pub initial_corrupt_check: bool,
    /// Time between two comparisons of all members' data by the leader, if there are any.
    pub corrupt_check_interval: Option<Duration>,
    /// Time between two comparisons of compactions by the leader, if there are any.
    pub compact_hash_check_interval: Option<Duration>,
    /// Defragment at the start when at least so many bytes would be freed; zero means never.
    pub bootstrap_defrag_bytes: u64,
    /// Tokens, passwords and certificates of users.
    pub auth: crate::auth::Settings,
    /// What is written down of requests.
    pub audit: crate::audit::Settings,
    /// When the disk under the write-ahead log counts as stalled.
    pub wal_stall: StallLimits,
    /// Whether nobody waits for the disk under the write-ahead log: a power cut may then lose what
    /// was acknowledged.
    pub unsafe_no_fsync: bool,
    /// A seam for tests: while this file exists, the disk under the write-ahead log stalls.
    pub wal_stall_switch: Option<PathBuf>,
    /// Whether ranges and watches of the v3 API show the keys of the v2 tree.
    pub v2_keys_visible: bool,
    /// How other members are reached.
    pub dialer: Arc<dyn Dialer>,
    /// Settings of the store.
    pub store: kvd_mvcc::Options,
    /// Version of kvd, for logs and metrics.
    pub version: &'static str,
}

impl Config {
    /// The quota in force, in bytes; negative when there is none.
    pub fn quota(&self) -> i64 {
        match self.quota_backend_bytes {
            0 => limits::QUOTA_BYTES,
            other => other,
        }
    }

    /// Shortest TTL of a lease, in seconds: one and a half election timeouts, rounded up. Source:
    /// etcd `server/etcdserver/server.go`, `minTTL`.
    pub fn lease_ttl_min_seconds(&self) -> i64 {
        let heartbeat = self.heartbeat_interval.as_millis().max(1);
        let election_ticks = self.election_timeout.as_millis() / heartbeat;
        let millis = 3 * election_ticks / 2 * heartbeat;
        i64::try_from(millis.div_ceil(1000)).unwrap_or(i64::MAX)
    }

    /// Where the write-ahead log lies.
    pub fn wal_path(&self) -> PathBuf {
        self.wal_dir
            .clone()
            .unwrap_or_else(|| self.member_dir().join("wal"))
    }

    /// Where everything but a separate write-ahead log lies.
    pub fn member_dir(&self) -> PathBuf {
        self.data_dir.join("member")
    }
}
