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
/// Most watchers of one stream. etcd has no bound.
pub const WATCHERS_PER_STREAM_MAX: usize = 1_000_000;
/// Time between the progress notifications of a watcher. etcd:
/// `--watch-progress-notify-interval`.
pub const WATCH_PROGRESS_INTERVAL: Duration = Duration::from_secs(600);
/// Least time between them, whatever is asked for.
pub const WATCH_PROGRESS_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Longest time that requests under way may take when the member stops, before their connections
/// are cut.
pub const DRAIN_DEADLINE: Duration = Duration::from_millis(1_500);
