//! The table of plain metrics: one row each, in etcd's order of subsystems.
//!
//! A row is `field: Type = "name" [labels], buckets;` with its help text as the comment.

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, Result, exponential_buckets,
};

/// What a row says.
struct Row {
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    /// First bucket, factor, number of buckets.
    buckets: (f64, f64, usize),
}

impl Row {
    fn options(&self) -> Opts {
        Opts::new(self.name, self.help.trim())
    }

    fn histogram(&self) -> Result<HistogramOpts> {
        let (start, factor, count) = self.buckets;
        let buckets = exponential_buckets(start, factor, count)?;
        Ok(HistogramOpts::new(self.name, self.help.trim()).buckets(buckets))
    }
}

/// A kind of metric that a row can make.
trait Make: Collector + Clone + Sized + 'static {
    fn make(row: &Row) -> Result<Self>;
}

impl Make for IntCounter {
    fn make(row: &Row) -> Result<Self> {
        IntCounter::with_opts(row.options())
    }
}

impl Make for IntGauge {
    fn make(row: &Row) -> Result<Self> {
        IntGauge::with_opts(row.options())
    }
}

impl Make for Histogram {
    fn make(row: &Row) -> Result<Self> {
        Histogram::with_opts(row.histogram()?)
    }
}

impl Make for IntCounterVec {
    fn make(row: &Row) -> Result<Self> {
        IntCounterVec::new(row.options(), row.labels)
    }
}

impl Make for IntGaugeVec {
    fn make(row: &Row) -> Result<Self> {
        IntGaugeVec::new(row.options(), row.labels)
    }
}

impl Make for HistogramVec {
    fn make(row: &Row) -> Result<Self> {
        HistogramVec::new(row.histogram()?, row.labels)
    }
}

fn register<M: Make>(registry: &Registry, row: &Row) -> M {
    // Fails only for a bad row or a name given twice; every test that makes metrics would tell.
    let metric = M::make(row).expect("the row of a metric is well formed");
    registry
        .register(Box::new(metric.clone()))
        .expect("names of metrics are unique");
    metric
}

macro_rules! metrics {
    ($($(#[doc = $help:literal])+ $field:ident: $type:ident = $name:literal
        $([$($label:literal),*])? $(, $buckets:expr)?;)*) => {
        /// The metrics that take one step to count: set or add where it happens.
        pub struct Table {
            $(
                $(#[doc = $help])+
                #[doc = concat!("\n\nMetric `", $name, "`.")]
                pub $field: $type,
            )*
        }

        impl Table {
            /// Makes every metric and registers it.
            pub(super) fn register(registry: &Registry) -> Table {
                Table {
                    $($field: register(registry, &Row {
                        name: $name,
                        help: concat!($($help),+),
                        labels: &[$($($label),*)?],
                        buckets: [$($buckets,)? (1.0, 2.0, 1)][0],
                    }),)*
                }
            }
        }
    };
}

/// A millisecond to 8 seconds: etcd's buckets for the disk.
const DISK: (f64, f64, usize) = (0.001, 2.0, 14);
/// A tenth of a millisecond to 52 seconds.
const WORK: (f64, f64, usize) = (0.0001, 2.0, 20);
/// A tenth of a second to 51 seconds.
const LONG: (f64, f64, usize) = (0.1, 2.0, 10);

metrics! {
    /// The current revision of auth store.
    debugging_auth_revision: IntGauge = "etcd_debugging_auth_revision";
    /// The total number of granted leases.
    lease_granted: IntCounter = "etcd_debugging_lease_granted_total";
    /// The total number of revoked leases.
    lease_revoked: IntCounter = "etcd_debugging_lease_revoked_total";
    /// The number of renewed leases seen by the leader.
    lease_renewed: IntCounter = "etcd_debugging_lease_renewed_total";
    /// Bucketed histogram of lease TTLs.
    lease_ttl: Histogram = "etcd_debugging_lease_ttl_total", (1.0, 2.0, 24);
    /// The total number of expired leases.
    debugging_server_lease_expired: IntCounter = "etcd_debugging_server_lease_expired_total";

    /// Which version is running. 1 for 'cluster_version' label with current cluster version.
    cluster_version: IntGaugeVec = "etcd_cluster_version" ["cluster_version"];

    /// Whether a leader exists. 1 is existence, 0 is not.
    has_leader: IntGauge = "etcd_server_has_leader";
    /// Whether this member is the leader. 1 if it is, 0 otherwise.
    is_leader: IntGauge = "etcd_server_is_leader";
    /// Whether this member is a learner. 1 if it is, 0 otherwise.
    is_learner: IntGauge = "etcd_server_is_learner";
    /// The number of leader changes seen.
    leader_changes_seen: IntCounter = "etcd_server_leader_changes_seen_total";
    /// The index of the last committed entry.
    proposals_committed: IntGauge = "etcd_server_proposals_committed_total";
    /// The index of the last applied entry.
    proposals_applied: IntGauge = "etcd_server_proposals_applied_total";
    /// The number of proposals that wait for their result.
    proposals_pending: IntGauge = "etcd_server_proposals_pending";
    /// The number of failed proposals seen.
    proposals_failed: IntCounter = "etcd_server_proposals_failed_total";
    /// The number of messages to peers, heartbeats among them, that could not be sent.
    heartbeat_send_failures: IntCounter = "etcd_server_heartbeat_send_failures_total";
    /// The number of slow apply requests.
    slow_apply: IntCounter = "etcd_server_slow_apply_total";
    /// The number of read indexes that took longer than a request may.
    slow_read_indexes: IntCounter = "etcd_server_slow_read_indexes_total";
    /// The number of failed read indexes seen.
    read_indexes_failed: IntCounter = "etcd_server_read_indexes_failed_total";
    /// 1 while a snapshot is being installed, 0 otherwise.
    snapshot_apply_in_progress: IntGauge = "etcd_server_snapshot_apply_in_progress_total";
    /// The quota of the store in bytes; negative when there is none.
    quota_backend_bytes: IntGauge = "etcd_server_quota_backend_bytes";
    /// How long requests took from proposal or read to result.
    request_duration: HistogramVec = "etcd_server_request_duration_seconds" ["type", "success"],
        DISK;
    /// How long commands took to apply.
    apply_duration: HistogramVec = "etcd_server_apply_duration_seconds"
        ["version", "op", "success"], WORK;
    /// How long ranges took.
    range_duration: HistogramVec = "etcd_server_range_duration_seconds" ["success"], WORK;
    /// The number of client requests by API version.
    client_requests: IntCounterVec = "etcd_server_client_requests_total"
        ["type", "client_api_version"];
    /// The number of failed promotions of a learner while this member is leader.
    learner_promote_failures: IntCounterVec = "etcd_server_learner_promote_failures" ["Reason"];
    /// The number of successful promotions of a learner while this member is leader.
    learner_promote_successes: IntCounter = "etcd_server_learner_promote_successes";
    /// The number of successful health checks.
    health_success: IntCounter = "etcd_server_health_success";
    /// The number of failed health checks.
    health_failures: IntCounter = "etcd_server_health_failures";
    /// The last result of each kind of health check.
    healthcheck: IntGaugeVec = "etcd_server_healthcheck" ["type", "name"];
    /// The number of each kind of health check.
    healthchecks: IntCounterVec = "etcd_server_healthchecks_total" ["type", "name", "status"];
    /// Which version is running. 1 for 'server_version' label with current version.
    server_version: IntGaugeVec = "etcd_server_version" ["server_version"];
    /// The member ID in hexadecimal. 1 for 'server_id' label with current ID.
    server_id: IntGaugeVec = "etcd_server_id" ["server_id"];
    /// Whether or not a feature is enabled. 1 is enabled, 0 is not.
    feature_enabled: IntGaugeVec = "etcd_server_feature_enabled" ["name", "stage"];
    /// Alarms for every member in the cluster. 1 for 'server_id' label with current ID.
    debugging_server_alarms: IntGaugeVec = "etcd_debugging_server_alarms"
        ["server_id", "alarm_type"];

    /// How long the sync of the write-ahead log took.
    wal_fsync: Histogram = "etcd_disk_wal_fsync_duration_seconds", DISK;
    /// How long the write of the write-ahead log took, without the sync.
    wal_write: Histogram = "etcd_disk_wal_write_duration_seconds", DISK;
    /// The number of bytes written to the write-ahead log.
    wal_write_bytes: IntGauge = "etcd_disk_wal_write_bytes_total";
    /// How long the engine took to make a batch durable.
    backend_commit: Histogram = "etcd_disk_backend_commit_duration_seconds", DISK;
    /// How long a defragmentation took.
    backend_defrag: Histogram = "etcd_disk_backend_defrag_duration_seconds", (0.1, 2.0, 13);
    /// How long it took to write a snapshot of the store.
    backend_snapshot: Histogram = "etcd_disk_backend_snapshot_duration_seconds", (0.01, 2.0, 17);
    /// Whether defragmentation is active on the member. 1 means active, 0 means not.
    defrag_inflight: IntGauge = "etcd_disk_defrag_inflight";

    /// How long the sync of a snapshot file took.
    snap_fsync: Histogram = "etcd_snap_fsync_duration_seconds", DISK;
    /// How long the sync of a received store took.
    snap_db_fsync: Histogram = "etcd_snap_db_fsync_duration_seconds", DISK;
    /// How long it took to save a received store.
    snap_db_save: Histogram = "etcd_snap_db_save_total_duration_seconds", LONG;

    /// The size of the store on disk in bytes.
    mvcc_db_size: IntGauge = "etcd_mvcc_db_total_size_in_bytes";
    /// The size of the store that holds data in bytes.
    mvcc_db_size_in_use: IntGauge = "etcd_mvcc_db_total_size_in_use_in_bytes";
    /// The number of open reads of the store.
    mvcc_db_open_reads: IntGauge = "etcd_mvcc_db_open_read_transactions";
    /// The number of ranges seen by this member.
    mvcc_range: IntCounter = "etcd_mvcc_range_total";
    /// The number of puts seen by this member.
    mvcc_put: IntCounter = "etcd_mvcc_put_total";
    /// The number of deletes seen by this member.
    mvcc_delete: IntCounter = "etcd_mvcc_delete_total";
    /// The number of transactions seen by this member.
    mvcc_txn: IntCounter = "etcd_mvcc_txn_total";
    /// How long the hash of the whole store took.
    mvcc_hash: Histogram = "etcd_mvcc_hash_duration_seconds", (0.01, 2.0, 15);
    /// How long the hash of the store at a revision took.
    mvcc_hash_rev: Histogram = "etcd_mvcc_hash_rev_duration_seconds", (0.01, 2.0, 15);

    /// The number of failed streams by kind and service.
    server_stream_failures: IntCounterVec = "etcd_network_server_stream_failures_total"
        ["Type", "API"];
    /// The number of bytes sent to a peer.
    peer_sent_bytes: IntCounterVec = "etcd_network_peer_sent_bytes_total" ["To"];
    /// The number of bytes received from a peer.
    peer_received_bytes: IntCounterVec = "etcd_network_peer_received_bytes_total" ["From"];
    /// The number of failures to send to a peer.
    peer_sent_failures: IntCounterVec = "etcd_network_peer_sent_failures_total" ["To"];
    /// The number of failures to receive from a peer.
    peer_received_failures: IntCounterVec = "etcd_network_peer_received_failures_total" ["From"];
    /// How long a message to a peer and its answer took.
    peer_round_trip: HistogramVec = "etcd_network_peer_round_trip_time_seconds" ["To"],
        (0.0001, 2.0, 16);
    /// The number of connected peers.
    active_peers: IntGaugeVec = "etcd_network_active_peers" ["Local", "Remote"];
    /// The number of disconnections of a peer.
    disconnected_peers: IntCounterVec = "etcd_network_disconnected_peers_total"
        ["Local", "Remote"];
    /// The number of known peers.
    known_peers: IntGaugeVec = "etcd_network_known_peers" ["Local", "Remote"];
    /// The number of snapshots sent to a peer.
    snapshot_send_success: IntCounterVec = "etcd_network_snapshot_send_success" ["To"];
    /// The number of snapshots that could not be sent to a peer.
    snapshot_send_failures: IntCounterVec = "etcd_network_snapshot_send_failures" ["To"];
    /// The number of snapshots being sent to a peer.
    snapshot_send_inflights: IntGaugeVec = "etcd_network_snapshot_send_inflights_total" ["To"];
    /// How long snapshots took to send.
    snapshot_send_duration: HistogramVec = "etcd_network_snapshot_send_total_duration_seconds"
        ["To"], LONG;
    /// The number of snapshots received from a peer.
    snapshot_receive_success: IntCounterVec = "etcd_network_snapshot_receive_success" ["From"];
    /// The number of snapshots that could not be received from a peer.
    snapshot_receive_failures: IntCounterVec = "etcd_network_snapshot_receive_failures" ["From"];
    /// The number of snapshots being received from a peer.
    snapshot_receive_inflights: IntGaugeVec = "etcd_network_snapshot_receive_inflights_total"
        ["From"];
    /// How long snapshots took to receive.
    snapshot_receive_duration: HistogramVec =
        "etcd_network_snapshot_receive_total_duration_seconds" ["From"], LONG;
    /// The bytes that a peer has been given of the snapshot that is, or was last, sent to it.
    snapshot_send_bytes: IntGaugeVec = "kvd_network_snapshot_send_bytes" ["To"];
    /// About how many bytes that snapshot has in all.
    snapshot_send_size: IntGaugeVec = "kvd_network_snapshot_send_size_bytes" ["To"];
    /// The bytes that have come of the snapshot that is, or was last, received from a peer.
    snapshot_receive_bytes: IntGaugeVec = "kvd_network_snapshot_receive_bytes" ["From"];
    /// About how many bytes that snapshot has in all.
    snapshot_receive_size: IntGaugeVec = "kvd_network_snapshot_receive_size_bytes" ["From"];

    /// The number of keys.
    debugging_mvcc_keys: IntGauge = "etcd_debugging_mvcc_keys_total";
    /// Which build of kvd is running. 1 for 'version' label with the current one.
    build_info: IntGaugeVec = "kvd_build_info" ["version"];
    /// The number of leases.
    leases: IntGauge = "kvd_leases";
    /// Whether this member leads and every member of the cluster is healthy.
    autopilot_healthy: IntGauge = "kvd_autopilot_healthy";
    /// How many more voters may be lost before writes stop; zero on members that do not lead.
    autopilot_failure_tolerance: IntGauge = "kvd_autopilot_failure_tolerance";
    /// What this member has done by itself about the members, by action.
    autopilot_actions: IntCounterVec = "kvd_autopilot_actions_total" ["action"];
    /// The number of watch streams.
    debugging_mvcc_watch_stream: IntGauge = "etcd_debugging_mvcc_watch_stream_total";
    /// The number of watchers.
    debugging_mvcc_watcher: IntGauge = "etcd_debugging_mvcc_watcher_total";
    /// The number of watchers that are behind.
    debugging_mvcc_slow_watcher: IntGauge = "etcd_debugging_mvcc_slow_watcher_total";
    /// The number of revisions that the watcher furthest behind lacks.
    watch_lag_max: IntGauge = "kvd_watch_lag_revisions_max";
    /// The number of watchers whose clients lack at least so many revisions.
    watch_lagging: IntGaugeVec = "kvd_watch_lagging_watchers" ["revisions"];
    /// The number of events that wait to be sent to watchers.
    debugging_mvcc_pending_events: IntGauge = "etcd_debugging_mvcc_pending_events_total";
    /// The number of events sent by this member.
    debugging_mvcc_events: IntCounter = "etcd_debugging_mvcc_events_total";
    /// The size of all puts seen by this member in bytes.
    debugging_mvcc_put_size: IntGauge = "etcd_debugging_mvcc_total_put_size_in_bytes";
    /// The current revision of the store.
    debugging_mvcc_current_revision: IntGauge = "etcd_debugging_mvcc_current_revision";
    /// The revision that was compacted last; -1 before any.
    debugging_mvcc_compact_revision: IntGauge = "etcd_debugging_mvcc_compact_revision";
    /// When the last compaction ended, in seconds since 1970; 0 before any.
    debugging_mvcc_compaction_last: IntGauge = "etcd_debugging_mvcc_db_compaction_last";
    /// The number of records removed by compaction.
    debugging_mvcc_compaction_keys: IntCounter = "etcd_debugging_mvcc_db_compaction_keys_total";
    /// How long compaction held up the index.
    debugging_mvcc_index_compaction_pause: Histogram =
        "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds", (0.5, 2.0, 14);
    /// How long compaction held up the store.
    debugging_mvcc_compaction_pause: Histogram =
        "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds", (1.0, 2.0, 13);
    /// How long compaction took.
    debugging_mvcc_compaction_total: Histogram =
        "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds", (100.0, 2.0, 14);

    /// When the first certificate of a TLS file runs out, in seconds since 1970.
    tls_certificate_expiry: IntGaugeVec = "kvd_tls_certificate_not_after_seconds" ["port", "file"];
    /// The number of times that changed TLS files were read, by result.
    tls_reloads: IntCounterVec = "kvd_tls_reloads_total" ["port", "result"];
    /// Whether the TLS files on disk cannot be used, so that older ones stay in use. 1 if so.
    tls_reload_failing: IntGaugeVec = "kvd_tls_reload_failing" ["port"];
    /// The number of connections that were refused before their first request.
    rejected_connections: IntCounterVec = "kvd_rejected_connections_total" ["port", "reason"];
    /// The number of open connections that were closed for a certificate no longer accepted.
    tls_closed: IntCounterVec = "kvd_tls_closed_connections_total" ["port"];
}
