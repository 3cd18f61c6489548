//! Every bound of the server, with etcd's default where etcd has one.

use std::time::Duration;

/// Largest encoded request that is replicated, in bytes. etcd: `--max-request-bytes`.
pub const REQUEST_BYTES_MAX: usize = 1_572_864;
/// What a gRPC message may be larger than a request: headers and framing of the message itself.
pub const REQUEST_OVERHEAD_BYTES: usize = 512 * 1024;
/// Most operations in one transaction. etcd: `--max-txn-ops`.
pub const TXN_OPS_MAX: usize = 128;
/// Size of the store above which writes are refused, in bytes. etcd: `--quota-backend-bytes`.
pub const QUOTA_BYTES: i64 = 2 * 1024 * 1024 * 1024;
/// Entries that may be committed and not yet applied before writes are refused with
/// `too many requests`. etcd: `maxGapBetweenApplyAndCommitIndex`.
pub const APPLY_GAP_MAX: u64 = 5_000;
/// Proposals that may wait for the log at this member before writes are refused.
pub const PROPOSALS_MAX: usize = 65_536;
/// Size of one file of the write-ahead log, in bytes.
pub const WAL_SEGMENT_BYTES: u64 = 64 * 1024 * 1024;
/// Most commands in one log entry.
pub const BATCH_COMMANDS_MAX: usize = 1_024;
/// Most bytes of commands in one log entry, unless one command alone is larger.
pub const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// Entries of this member that may be proposed and not yet applied.
pub const INFLIGHT_ENTRIES_MAX: usize = 16;
/// What a request is given before it times out, on top of two election timeouts. etcd: 5 s.
pub const REQUEST_TIMEOUT_BASE: Duration = Duration::from_secs(5);
/// Entries kept in the log for followers after a snapshot. etcd: `--snapshot-catchup-entries`.
pub const CATCHUP_ENTRIES: u64 = 5_000;
/// Applied entries between snapshots. etcd: `--snapshot-count`.
pub const SNAPSHOT_COUNT: u64 = 10_000;
/// Keys that a range answers on the thread that took it; a larger one goes to the blocking pool.
pub const INLINE_RANGE_KEYS: usize = 2_000;
/// Longest TTL of a lease, in seconds. etcd: `MaxLeaseTTL`.
pub const LEASE_TTL_MAX_SECONDS: u64 = 9_000_000_000;
/// How often the leader looks for leases that have run out. etcd: 500 ms.
pub const LEASE_TICK: Duration = Duration::from_millis(500);
/// Most leases revoked each time, because they have run out. etcd: 1,000 a second.
pub const LEASE_EXPIRIES_PER_TICK: usize = 500;
/// Revokes of expired leases under way at once. etcd: `maxPendingRevokes`.
pub const LEASE_EXPIRIES_IN_FLIGHT: usize = 16;
/// After this, an expired lease that is still there is revoked again. etcd: 3 s.
pub const LEASE_EXPIRY_RETRY: Duration = Duration::from_secs(3);
/// Most leases that a new leader lets run out in one second. etcd: three quarters of the rate.
pub const LEASE_EXPIRIES_AFTER_ELECTION: usize = 750;
/// Time between two checkpoints of a lease. etcd: 5 minutes.
pub const LEASE_CHECKPOINT_INTERVAL: Duration = Duration::from_secs(300);
/// Most leases in one checkpoint. etcd: `maxLeaseCheckpointBatchSize`.
pub const LEASE_CHECKPOINT_BATCH: usize = 1_000;
/// Most checkpoints each time that the leader looks.
pub const LEASE_CHECKPOINTS_PER_TICK: usize = 16;
/// How long a request about a lease waits for what is committed to be applied. etcd: 1 s.
pub const LEASE_APPLIED_WAIT: Duration = Duration::from_secs(1);
/// Largest answer of the leader about a lease, in bytes: its keys.
pub const LEASE_REPLY_BYTES_MAX: usize = 1 << 30;
/// How often the connection to the leader is probed, and how long a probe may take.
pub const LEASE_PEER_KEEPALIVE: Duration = Duration::from_secs(1);
/// How long another member may take to say how it is.
pub const STANDING_TIMEOUT: Duration = Duration::from_secs(2);
/// How long what the members said counts for whoever asks next.
pub const STANDING_FRESH: Duration = Duration::from_millis(900);
/// Most learners in the cluster. etcd: `--max-learners`.
pub const LEARNERS_MAX: usize = 1;
/// How long the way to a member must have been open for it to count as healthy when the membership
/// is changed. etcd: `HealthInterval`.
pub const HEALTH_INTERVAL: Duration = Duration::from_secs(5);
/// So much less is enough: a probe notices a way that is open some time after it was opened.
pub const HEALTH_SLACK: Duration = Duration::from_millis(500);
/// Part of the leader's log that a learner must have to be promoted. etcd:
/// `readyPercentThreshold`.
pub const LEARNER_READY: f64 = 0.9;
/// Between two tries of a change of the membership that has to wait.
pub const CHANGE_PAUSE: Duration = Duration::from_millis(20);
/// From when on a unary request is slow. Source: etcd `embed/config.go`,
/// `DefaultWarningUnaryRequestDuration`.
pub const SLOW_REQUEST: Duration = Duration::from_millis(300);
/// From when on a command is applied slowly. Source: etcd `embed/config.go`,
/// `DefaultWarningApplyDuration`.
pub const SLOW_APPLY: Duration = Duration::from_millis(100);
/// Most watchers of one stream (`--max-watches-per-stream`). etcd has no bound.
pub const WATCHERS_PER_STREAM_MAX: usize = 250_000;
/// Time between the progress notifications of a watcher. etcd:
/// `--watch-progress-notify-interval`.
pub const WATCH_PROGRESS_INTERVAL: Duration = Duration::from_secs(600);
/// Least time between them, whatever is asked for.
pub const WATCH_PROGRESS_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// How often tokens are looked through for those whose time is over. etcd: 1 s.
pub const TOKEN_SWEEP: Duration = Duration::from_secs(1);
/// How long a request with a token that this member does not know yet waits for it.
pub const TOKEN_APPLIED_WAIT: Duration = Duration::from_secs(1);
/// Longest time that requests under way may take when the member stops, before their connections
/// are cut.
pub const DRAIN_DEADLINE: Duration = Duration::from_millis(1_500);
