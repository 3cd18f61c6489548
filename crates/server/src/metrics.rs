//! Every metric of a member, under etcd's names, types, labels and buckets.
//!
//! The table is in [`table`]: one row a metric. Here is what counts with more than one step, and
//! [`Metrics::render`], which writes all of it as Prometheus' text. [`grpc`] counts RPCs around the
//! services, [`process`] asks the operating system.
//!
//! Counting is cheap on the way of a request: a plain metric is one atomic addition. Metrics with
//! labels are looked up once and kept ([`Outcomes`], the handles of a peer).
//!
//! Names that end in `_total` and are gauges are etcd's, and on purpose: dashboards ask for them.
//! Left out: what belongs to parts that kvd does not have (etcd's v2 store, its proxy, Go's
//! runtime).
//!
//! Source: etcd `server/**/metrics*.go`.

mod grpc;
mod process;
mod slow;
mod table;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use kvd_api::pb::etcdserverpb::{AlarmMember, AlarmType};
use kvd_mvcc::CompactionStep;
use parking_lot::RwLock;
use prometheus::{Histogram, HistogramVec, IntCounter, IntGaugeVec, Registry, TextEncoder};

pub use grpc::{GrpcMetrics, GrpcMetricsLayer, GrpcMetricsService};
pub use process::ProcessStats;
pub use slow::Slow;
pub use table::Table;

use crate::limits;
use crate::v2::Counters;
use process::ProcessMetrics;

/// Most distinct client API versions that are counted apart. Clients name them freely, and each
/// costs memory for ever; those beyond count as `unknown`.
const API_VERSIONS_MAX: usize = 64;
/// Longest client API version that is counted apart, in bytes.
const API_VERSION_BYTES_MAX: usize = 32;

/// How much is measured (`--metrics`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    /// Counters of RPCs.
    #[default]
    Basic,
    /// And how long each RPC took: `grpc_server_handling_seconds`.
    Extensive,
}

/// The metrics of one member.
pub struct Metrics {
    table: Table,
    registry: Registry,
    grpc: Arc<GrpcMetrics>,
    process: ProcessMetrics,
    peers: RwLock<HashMap<u64, Arc<Peer>>>,
    api_versions: RwLock<HashMap<String, ApiVersion>>,
    local_id: OnceLock<String>,
    /// What `/v2/stats` shows.
    pub v2: Counters,
    /// Which unary requests are slow (`--warning-unary-request-duration`).
    pub slow_request: Arc<Slow>,
    /// Which commands are applied slowly (`--warning-apply-duration`).
    pub slow_apply: Slow,
}

/// The plain metrics are read and set through the table.
impl std::ops::Deref for Metrics {
    type Target = Table;

    fn deref(&self) -> &Table {
        &self.table
    }
}

/// What is counted for one peer.
struct Peer {
    sent_bytes: IntCounter,
    received_bytes: IntCounter,
    round_trip: Histogram,
}

/// Requests by clients of one API version.
struct ApiVersion {
    unary: IntCounter,
    stream: IntCounter,
}

impl ApiVersion {
    fn count(&self, is_stream: bool) {
        if is_stream { &self.stream } else { &self.unary }.inc();
    }
}

impl Metrics {
    /// All metrics at zero. `version`: what `etcd_server_version` reports.
    pub fn new(level: Level, version: &str) -> Metrics {
        let registry = Registry::new();
        let table = Table::register(&registry);
        table.server_version.with_label_values(&[version]).set(1);
        let build = env!("CARGO_PKG_VERSION");
        table.build_info.with_label_values(&[build]).set(1);
        table.debugging_mvcc_compact_revision.set(-1);
        let slow_request = Arc::new(Slow::new(limits::SLOW_REQUEST));
        let extensive = level == Level::Extensive;
        let grpc = GrpcMetrics::register(&registry, extensive, Arc::clone(&slow_request));
        let process = ProcessMetrics::register(&registry);
        Metrics {
            table,
            registry,
            grpc: Arc::new(grpc),
            process,
            peers: RwLock::default(),
            api_versions: RwLock::default(),
            local_id: OnceLock::new(),
            v2: Counters::default(),
            slow_request,
            slow_apply: Slow::new(limits::SLOW_APPLY),
        }
    }

    /// Notes how long the command `name` at a log index took to apply.
    pub fn applied(&self, name: &str, log_index: u64, took: Duration) {
        if self.slow_apply.is(took) {
            self.table.slow_apply.inc();
            self.slow_apply.apply(name, log_index, took);
        }
    }

    /// The layer that counts RPCs; put it around the services that clients call.
    pub fn grpc_layer(&self) -> GrpcMetricsLayer {
        GrpcMetricsLayer::new(Arc::clone(&self.grpc))
    }

    /// Every metric in Prometheus' text format, with fresh numbers of the process.
    pub fn render(&self) -> String {
        self.process.refresh();
        let mut text = String::new();
        // A family that cannot be written would be a fault of the table, which a test rules out.
        if let Err(error) = TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "the metrics could not be written");
        }
        text
    }

    /// What the operating system says about this process now.
    pub fn process_stats(&self) -> ProcessStats {
        ProcessStats::read()
    }

    /// Counts a client's request by its kind and the client's API version.
    pub fn client_request(&self, path: &str, version: &str) {
        let is_stream = self.grpc.is_stream(path);
        let known = self.api_versions.read();
        if let Some(counters) = known.get(version) {
            return counters.count(is_stream);
        }
        let is_fit = (1..=API_VERSION_BYTES_MAX).contains(&version.len());
        let has_room = known.len() < API_VERSIONS_MAX;
        drop(known);
        let version = if is_fit && has_room {
            version
        } else {
            "unknown"
        };
        let requests = &self.table.client_requests;
        let counters = ApiVersion {
            unary: requests.with_label_values(&["unary", version]),
            stream: requests.with_label_values(&["stream", version]),
        };
        counters.count(is_stream);
        self.api_versions
            .write()
            .insert(version.to_owned(), counters);
    }

    /// Counts a proposal as pending until the returned value is dropped.
    pub fn proposal_started(&self) -> PendingProposal<'_> {
        self.table.proposals_pending.inc();
        PendingProposal(&self.table)
    }

    /// Counts a proposal whose caller got no result.
    pub fn proposal_failed(&self) {
        self.table.proposals_failed.inc();
    }

    /// Takes over Raft's view of this member, `member_id`.
    pub fn raft_status(&self, status: &kvd_raft::Status, member_id: u64) {
        let local = self.local_id.get_or_init(|| {
            let id = format!("{member_id:x}");
            self.table.server_id.with_label_values(&[&id]).set(1);
            id
        });
        self.table
            .has_leader
            .set(i64::from(status.leader.is_some()));
        self.table
            .is_leader
            .set(i64::from(status.leader == Some(member_id)));
        self.table
            .is_learner
            .set(i64::from(status.learners.contains(&member_id)));
        self.table
            .proposals_committed
            .set(clamped(status.commit_index));
        self.table
            .proposals_applied
            .set(clamped(status.applied_index));
        for peer in status.voters.iter().chain(&status.learners) {
            let peer = format!("{peer:x}");
            self.table
                .known_peers
                .with_label_values(&[local, &peer])
                .set(1);
        }
    }

    fn set_active(&self, peer: u64, active: i64) {
        if let Some(local) = self.local_id.get() {
            self.table
                .active_peers
                .with_label_values(&[local, &format!("{peer:x}")])
                .set(active);
        }
    }

    /// Counts a learner that this member promoted.
    pub fn learner_promoted(&self) {
        self.table.learner_promote_successes.inc();
    }

    /// Counts a learner that this member refused to promote.
    pub fn learner_not_promoted(&self, reason: &str) {
        self.table
            .learner_promote_failures
            .with_label_values(&[reason])
            .inc();
    }

    /// Sets the version that the cluster agreed on, as `major.minor`.
    pub fn set_cluster_version(&self, version: &str) {
        // etcd's label has no patch level.
        let minor = version
            .rmatch_indices('.')
            .next()
            .map_or(version, |(at, _)| &version[..at]);
        self.table.cluster_version.reset();
        self.table
            .cluster_version
            .with_label_values(&[minor])
            .set(1);
    }

    /// Counts one run of a health check: `probe` is `livez` or `readyz`.
    pub fn health_check(&self, probe: &str, check: &str, ok: bool) {
        self.table
            .healthcheck
            .with_label_values(&[probe, check])
            .set(i64::from(ok));
        let status = if ok { "success" } else { "error" };
        self.table
            .healthchecks
            .with_label_values(&[probe, check, status])
            .inc();
    }

    /// Counts a step of a compaction.
    pub fn compacted(&self, step: CompactionStep) {
        let millis = |took: Duration| took.as_secs_f64() * 1000.0;
        let table = &self.table;
        match step {
            CompactionStep::Index(took) => table
                .debugging_mvcc_index_compaction_pause
                .observe(millis(took)),
            CompactionStep::Batch(took) => {
                table.debugging_mvcc_compaction_pause.observe(millis(took));
            }
            CompactionStep::Finished { took, removed } => {
                table.debugging_mvcc_compaction_total.observe(millis(took));
                table.debugging_mvcc_compaction_keys.inc_by(removed as u64);
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                let now = now.unwrap_or_default().as_secs();
                table.debugging_mvcc_compaction_last.set(clamped(now));
            }
        }
    }

    /// Sets the alarms that are active, by member and kind.
    pub fn set_alarms(&self, active: &[AlarmMember]) {
        let alarms = &self.table.debugging_server_alarms;
        alarms.reset();
        for alarm in active {
            let kind = match AlarmType::try_from(alarm.alarm) {
                Ok(kind) => kind.as_str_name().to_owned(),
                Err(_) => alarm.alarm.to_string(),
            };
            alarms
                .with_label_values(&[&format!("{:x}", alarm.member_id), &kind])
                .set(1);
        }
    }

    /// Counts one answer of `/health`.
    pub fn health(&self, healthy: bool) {
        if healthy {
            &self.table.health_success
        } else {
            &self.table.health_failures
        }
        .inc();
    }

    /// Durations of applying `op`, etcd's name of a command. Keep the handle.
    pub fn apply_outcomes(&self, op: &'static str) -> Outcomes {
        Outcomes::new(&self.table.apply_duration, vec!["v3", op])
    }

    /// Durations of requests of `kind`, etcd's name of a command. Keep the handle.
    pub fn request_outcomes(&self, kind: &'static str) -> Outcomes {
        Outcomes::new(&self.table.request_duration, vec![kind])
    }

    /// Durations of ranges. Keep the handle.
    pub fn range_outcomes(&self) -> Outcomes {
        Outcomes::new(&self.table.range_duration, Vec::new())
    }

    fn peer(&self, id: u64) -> Arc<Peer> {
        if let Some(peer) = self.peers.read().get(&id) {
            return Arc::clone(peer);
        }
        let name = format!("{id:x}");
        let peer = Arc::new(Peer {
            sent_bytes: self.table.peer_sent_bytes.with_label_values(&[&name]),
            received_bytes: self.table.peer_received_bytes.with_label_values(&[&name]),
            round_trip: self.table.peer_round_trip.with_label_values(&[&name]),
        });
        Arc::clone(self.peers.write().entry(id).or_insert(peer))
    }
}

/// Failed proposals are not counted here: whoever waits for one does so, once.
impl kvd_raft::Events for Metrics {
    fn wal_write(&self, took: Duration, bytes: usize) {
        self.table.wal_write.observe(took.as_secs_f64());
        self.table.wal_write_bytes.add(clamped(bytes as u64));
    }

    fn wal_fsync(&self, took: Duration) {
        self.table.wal_fsync.observe(took.as_secs_f64());
    }

    fn peer_sent(&self, to: u64, bytes: u64) {
        self.peer(to).sent_bytes.inc_by(bytes);
        self.v2.sent();
    }

    fn peer_received(&self, from: u64, bytes: u64) {
        self.peer(from).received_bytes.inc_by(bytes);
        self.v2.received();
    }

    fn peer_round_trip(&self, to: u64, took: Duration) {
        self.peer(to).round_trip.observe(took.as_secs_f64());
        self.v2.answered(to, took);
    }

    fn peer_failed(&self, to: u64) {
        self.v2.failed(to);
        self.table
            .peer_sent_failures
            .with_label_values(&[&format!("{to:x}")])
            .inc();
        self.table.heartbeat_send_failures.inc();
    }

    fn peer_connected(&self, to: u64) {
        self.set_active(to, 1);
    }

    fn peer_disconnected(&self, to: u64) {
        self.set_active(to, 0);
        if let Some(local) = self.local_id.get() {
            self.table
                .disconnected_peers
                .with_label_values(&[local, &format!("{to:x}")])
                .inc();
        }
    }

    fn peer_gone(&self, to: u64) {
        if let Some(local) = self.local_id.get() {
            let to = format!("{to:x}");
            // What was never counted cannot be removed, and need not.
            drop(self.table.known_peers.remove_label_values(&[local, &to]));
            drop(self.table.active_peers.remove_label_values(&[local, &to]));
        }
    }

    fn snapshot_sending(&self, to: u64) {
        self.table
            .snapshot_send_inflights
            .with_label_values(&[&format!("{to:x}")])
            .inc();
    }

    fn snapshot_sent_bytes(&self, to: u64, bytes: u64, of_about: u64) {
        let to = format!("{to:x}");
        set(&self.table.snapshot_send_bytes, &to, bytes);
        set(&self.table.snapshot_send_size, &to, of_about);
    }

    fn snapshot_received_bytes(&self, from: u64, bytes: u64, of_about: u64) {
        let from = format!("{from:x}");
        set(&self.table.snapshot_receive_bytes, &from, bytes);
        set(&self.table.snapshot_receive_size, &from, of_about);
    }

    fn snapshot_receiving(&self, from: u64) {
        self.table
            .snapshot_receive_inflights
            .with_label_values(&[&format!("{from:x}")])
            .inc();
    }

    fn snapshot_installing(&self, begins: bool) {
        self.table.snapshot_apply_in_progress.set(i64::from(begins));
    }

    fn snapshot_sent(&self, to: u64, took: Duration, ok: bool) {
        let to = format!("{to:x}");
        self.table
            .snapshot_send_inflights
            .with_label_values(&[&to])
            .dec();
        if ok {
            self.table
                .snapshot_send_success
                .with_label_values(&[&to])
                .inc();
            self.table
                .snapshot_send_duration
                .with_label_values(&[&to])
                .observe(took.as_secs_f64());
        } else {
            self.table
                .snapshot_send_failures
                .with_label_values(&[&to])
                .inc();
        }
    }

    fn snapshot_received(&self, from: u64, took: Duration, ok: bool) {
        let from = format!("{from:x}");
        self.table
            .snapshot_receive_inflights
            .with_label_values(&[&from])
            .dec();
        if !ok {
            self.table
                .snapshot_receive_failures
                .with_label_values(&[&from])
                .inc();
            return;
        }
        self.table
            .snapshot_receive_success
            .with_label_values(&[&from])
            .inc();
        let duration = self
            .table
            .snapshot_receive_duration
            .with_label_values(&[&from]);
        duration.observe(took.as_secs_f64());
    }

    fn leader_changed(&self, leader: Option<u64>) {
        if leader.is_some() {
            self.table.leader_changes_seen.inc();
        }
    }
}

/// Sets a gauge of a peer.
fn set(gauge: &IntGaugeVec, peer: &str, value: u64) {
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    gauge.with_label_values(&[peer]).set(value);
}

/// Counts one pending proposal for as long as it lives.
pub struct PendingProposal<'a>(&'a Table);

impl Drop for PendingProposal<'_> {
    fn drop(&mut self) {
        self.0.proposals_pending.dec();
    }
}

/// Durations of one kind of work, apart for success and failure.
///
/// Each of the two appears in the output when it is first observed, as in etcd.
pub struct Outcomes {
    durations: HistogramVec,
    /// The labels before `success`, which is always the last.
    labels: Vec<&'static str>,
    success: OnceLock<Histogram>,
    failure: OnceLock<Histogram>,
}

impl Outcomes {
    fn new(durations: &HistogramVec, labels: Vec<&'static str>) -> Outcomes {
        let durations = durations.clone();
        Outcomes {
            durations,
            labels,
            success: OnceLock::new(),
            failure: OnceLock::new(),
        }
    }

    /// Counts one piece of work that took `took`.
    pub fn observe(&self, ok: bool, took: Duration) {
        let (slot, label) = match ok {
            true => (&self.success, "true"),
            false => (&self.failure, "false"),
        };
        let histogram = slot.get_or_init(|| {
            let mut labels = self.labels.clone();
            labels.push(label);
            self.durations.with_label_values(&labels)
        });
        histogram.observe(took.as_secs_f64());
    }
}

/// `value` as a gauge holds it; what is beyond its range is cut off there.
fn clamped(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
