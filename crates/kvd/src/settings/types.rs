//! The settings as types.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use super::discovery::Discovery;
use crate::gates::FeatureGates;
use crate::tls;
use crate::urls::{Members, Url};

use super::autopilot::Autopilot;

/// Everything a member needs to know to start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `--name`.
    pub name: String,
    /// `--data-dir`, with its default filled in.
    pub data_dir: PathBuf,
    /// `--wal-dir`; `None` means inside the data directory.
    pub wal_dir: Option<PathBuf>,
    /// `--listen-peer-urls`.
    pub listen_peer_urls: Vec<Url>,
    /// `--listen-client-urls`.
    pub listen_client_urls: Vec<Url>,
    /// `--listen-client-http-urls`; when there are any, HTTP is not served on the client URLs.
    pub listen_client_http_urls: Vec<Url>,
    /// `--listen-metrics-urls`.
    pub listen_metrics_urls: Vec<Url>,
    /// `--initial-advertise-peer-urls`.
    pub advertise_peer_urls: Vec<Url>,
    /// `--advertise-client-urls`.
    pub advertise_client_urls: Vec<Url>,
    /// `--initial-cluster`.
    pub initial_cluster: Members,
    /// Where the first members are found instead; what `initial_cluster` has then stands for
    /// them until that was done.
    pub discovery: Discovery,
    /// `--initial-cluster-state`.
    pub initial_cluster_state: ClusterState,
    /// `--initial-cluster-token`.
    pub initial_cluster_token: String,
    /// What `--initial-cluster-state auto` needs; there exactly then.
    pub autopilot: Option<Autopilot>,
    /// `--strict-reconfig-check`.
    pub strict_reconfig_check: bool,
    /// `--max-learners`.
    pub max_learners: usize,
    /// `--force-new-cluster`.
    pub force_new_cluster: bool,
    /// `--unsafe-no-fsync`.
    pub unsafe_no_fsync: bool,
    /// `--heartbeat-interval`.
    pub heartbeat_interval: Duration,
    /// `--election-timeout`.
    pub election_timeout: Duration,
    /// `--pre-vote`.
    pub pre_vote: bool,
    /// `--snapshot-count`.
    pub snapshot_count: u64,
    /// `--snapshot-catchup-entries`.
    pub snapshot_catchup_entries: u64,
    /// `--quota-backend-bytes`; `None` means no quota.
    pub quota_bytes: Option<u64>,
    /// `--max-txn-ops`.
    pub max_txn_ops: usize,
    /// `--max-request-bytes`.
    pub max_request_bytes: usize,
    /// `--watch-progress-notify-interval`, with its default and minimum.
    pub watch_progress_notify_interval: Duration,
    /// `--max-watches-per-stream`, at least 1.
    pub watches_per_stream_max: usize,
    /// `--max-concurrent-streams`, at least 1.
    pub max_concurrent_streams: u32,
    /// `--grpc-keepalive-interval`; `None` means no pings.
    pub keepalive_interval: Option<Duration>,
    /// `--grpc-keepalive-timeout`.
    pub keepalive_timeout: Duration,
    /// `--socket-reuse-port`.
    pub socket_reuse_port: bool,
    /// `--enable-grpc-gateway`.
    pub grpc_gateway: bool,
    /// What is told of the process and its requests.
    pub monitoring: Monitoring,
    /// `--enable-v2`.
    pub v2: bool,
    /// `--v2-keys-visible-in-v3`.
    pub v2_keys_visible: bool,
    /// `--cors`.
    pub cors: BTreeSet<String>,
    /// `--host-whitelist`.
    pub host_whitelist: BTreeSet<String>,
    /// TLS of the client port and the metrics.
    pub client_tls: tls::Options,
    /// TLS of the peer port.
    pub peer_tls: tls::Options,
    /// `--self-signed-cert-validity`.
    pub self_signed_years: u64,
    /// `--tls-recheck-interval`.
    pub tls_recheck_interval: Duration,
    /// `--auto-compaction-mode` and `--auto-compaction-retention`.
    pub auto_compaction: AutoCompaction,
    /// `--compaction-batch-limit`; `None` means the store's default.
    pub compaction_batch_limit: Option<usize>,
    /// `--compaction-sleep-interval`; `None` means the store's default.
    pub compaction_sleep_interval: Option<Duration>,
    /// Tokens, passwords and certificates of users.
    pub auth: kvd_server::auth::Settings,
    /// `--audit-log-level` and `--audit-log-path`.
    pub audit: kvd_server::audit::Settings,
    /// `--storage-engine`.
    pub storage_engine: StorageEngine,
    /// `--storage-cache-bytes`; `None` means the store's default.
    pub storage_cache_bytes: Option<usize>,
    /// `--storage-stall-timeout`; zero means that no disk ever counts as stalled.
    pub storage_stall_timeout: Duration,
    /// `--storage-stall-recovery`.
    pub storage_stall_recovery: Duration,
    /// `--worker-threads`; `None` means one for each core.
    pub worker_threads: Option<usize>,
    /// `--corrupt-check-time`; `None` means no checks.
    pub corrupt_check_time: Option<Duration>,
    /// `--compact-hash-check-time`.
    pub compact_hash_check_time: Duration,
    /// `--bootstrap-defrag-threshold-megabytes`; zero means never.
    pub bootstrap_defrag_megabytes: u64,
    /// `--feature-gates`.
    pub feature_gates: FeatureGates,
    /// `--log-*`.
    pub log: LogSettings,
}

impl Settings {
    /// Whether a URL for clients, or for metrics, wants TLS.
    pub fn serves_clients_with_tls(&self) -> bool {
        let clients = self.listen_client_urls.iter();
        let others = self.listen_client_http_urls.iter();
        let mut urls = clients.chain(others).chain(&self.listen_metrics_urls);
        urls.any(|url| url.scheme().is_tls())
    }
}

/// `--initial-cluster-state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterState {
    /// All initial members start together.
    New,
    /// This member joins members that run.
    Existing,
    /// It finds out.
    Auto,
}

/// What automatic compaction keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    /// It does not run.
    Off,
    /// History of this length.
    Periodic(Duration),
    /// This many revisions.
    Revision(i64),
}

/// Which engine stores the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageEngine {
    /// sled.
    Sled,
    /// redb, the default.
    Redb,
    /// Memory alone; for tests.
    Memory,
}

/// Where and how logs are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// Lowest level written.
    pub level: LogLevel,
    /// How a line looks.
    pub format: LogFormat,
    /// Where lines go; never empty.
    pub outputs: Vec<LogOutput>,
}

impl Default for LogSettings {
    fn default() -> Self {
        LogSettings {
            level: LogLevel::Info,
            format: LogFormat::Json,
            outputs: vec![LogOutput::Stderr],
        }
    }
}

/// What is told of the process and its requests.
#[derive(Clone, Debug)]
pub struct Monitoring {
    /// `--enable-ui`.
    pub ui: bool,
    /// `--enable-pprof`.
    pub pprof: bool,
    /// `--metrics=extensive`.
    pub is_extensive: bool,
    /// `--warning-unary-request-duration`.
    pub slow_request: Duration,
    /// `--warning-apply-duration`.
    pub slow_apply: Duration,
}

/// `--log-level`. `Panic` and `Fatal` write only the line that ends the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Everything, of the libraries too.
    Debug,
    /// Changes of state and above.
    Info,
    /// Oddities and above.
    Warn,
    /// Failures and above.
    Error,
    /// Only what ends the process.
    Fatal,
}

/// `--log-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line, as etcd's zap writes it.
    Json,
    /// Columns split by tabs.
    Console,
}

/// One of `--log-outputs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogOutput {
    /// Standard error.
    Stderr,
    /// Standard output.
    Stdout,
    /// A file, appended to.
    File(PathBuf),
}
