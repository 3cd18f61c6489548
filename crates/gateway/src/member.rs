//! What the gateway asks of the member besides its gRPC services.

use std::time::Duration;

use futures_util::future::BoxFuture;
use kvd_api::pb::etcdserverpb::{AlarmType, StatusResponse};

/// The versions that `/version` reports, each as `major.minor.patch`.
#[derive(Clone, Debug, Default)]
pub struct Versions {
    /// The etcd release whose API this member speaks.
    pub server: String,
    /// The version that the cluster agreed on, once it has.
    pub cluster: Option<String>,
    /// The version of the stored data, once known.
    pub storage: Option<String>,
}

/// One member as `/members` on the peer port lists it.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct MemberInfo {
    /// Its member ID.
    pub id: u64,
    /// Where its peers reach it.
    #[serde(rename = "peerURLs")]
    pub peer_urls: Vec<String>,
    /// Whether it has no vote.
    #[serde(rename = "isLearner", skip_serializing_if = "std::ops::Not::not")]
    pub is_learner: bool,
    /// Its name; empty until it has started once.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Where clients reach it; empty until it has started once.
    #[serde(rename = "clientURLs", skip_serializing_if = "Vec::is_empty")]
    pub client_urls: Vec<String>,
}

/// One member as `/v1/members` shows it.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Its member ID.
    pub id: u64,
    /// Its name; empty until it has started once.
    pub name: String,
    /// Whether it has no vote.
    pub is_learner: bool,
    /// What it says of itself, or why it says nothing.
    pub answer: Result<Answer, String>,
}

/// What a member says of itself.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// As `Maintenance.Status` answers.
    pub status: StatusResponse,
    /// kvd's own version.
    pub kvd_version: String,
}

/// The hash of a member's data at a revision, as `/members/hashkv` on the peer port tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DataHash {
    /// The hash of everything from the compacted revision to [`DataHash::revision`].
    pub hash: u32,
    /// The compacted revision; -1 before the first compaction.
    pub compact_revision: i64,
    /// The revision that was hashed.
    pub revision: i64,
    /// The store's revision.
    pub current_revision: i64,
}

/// What the operating system says about this process, for `/debug/vars`.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessStats {
    /// Most file descriptors the process may hold.
    pub fd_limit: u64,
    /// Resident memory in bytes.
    pub resident_bytes: u64,
    /// Resident memory that belongs to no file, in bytes: heap and stacks.
    pub private_bytes: u64,
}

/// A probe: which family of checks was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Probe {
    /// Should the process be restarted?
    Livez,
    /// Should it get traffic?
    Readyz,
}

impl Probe {
    /// The name in paths and metric labels.
    pub fn name(self) -> &'static str {
        match self {
            Probe::Livez => "livez",
            Probe::Readyz => "readyz",
        }
    }
}

/// One check of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Check {
    /// No CORRUPT alarm is raised.
    DataCorruption,
    /// A read of local state answers.
    SerializableRead,
    /// A read confirmed by a quorum answers.
    LinearizableRead,
    /// The member has a vote.
    NonLearner,
}

impl Check {
    /// The name in paths, output and metric labels.
    pub fn name(self) -> &'static str {
        match self {
            Check::DataCorruption => "data_corruption",
            Check::SerializableRead => "serializable_read",
            Check::LinearizableRead => "linearizable_read",
            Check::NonLearner => "non_learner",
        }
    }
}

/// The member behind the HTTP endpoints.
///
/// Every method that returns no future must return at once: they are called on the threads that
/// serve requests. The others may wait; the gateway gives up after [`Member::request_timeout`].
pub trait Member: Send + Sync + 'static {
    /// The versions for `/version`.
    fn versions(&self) -> Versions;

    /// The alarms raised in the cluster, one entry per member and kind.
    fn alarms(&self) -> Vec<AlarmType>;

    /// This member's ID.
    fn id(&self) -> u64;

    /// The leader's member ID; zero while there is none.
    fn leader(&self) -> u64;

    /// Whether this member has no vote.
    fn is_learner(&self) -> bool;

    /// Reads one key as root, confirmed by a quorum. The error is the text for the probe's output.
    fn linearizable_read(&self) -> BoxFuture<'_, Result<(), String>>;

    /// Reads one key of local state as root. The error is the text for the probe's output.
    fn serializable_read(&self) -> BoxFuture<'_, Result<(), String>>;

    /// Every metric in Prometheus' text format.
    fn metrics_text(&self) -> String;

    /// Counts one answer of `/health` (etcd_server_health_success, etcd_server_health_failures).
    fn count_health(&self, healthy: bool);

    /// Counts one run of a check (etcd_server_healthcheck, etcd_server_healthchecks_total).
    fn count_check(&self, probe: Probe, check: Check, ok: bool);

    /// The members of the cluster, in order of ID.
    fn members(&self) -> Vec<MemberInfo>;

    /// How every member is, in order of ID, each asked for it. The error is a text for the client.
    fn standings(&self) -> BoxFuture<'_, Result<Vec<Standing>, String>>;

    /// The cluster's ID.
    fn cluster_id(&self) -> u64;

    /// Whether a member with this ID was removed from the cluster.
    fn is_removed(&self, id: u64) -> bool;

    /// The hash of this member's own data at `revision` (zero: the current one). The error is
    /// etcd's text.
    fn hash_kv(&self, revision: i64) -> BoxFuture<'_, Result<DataHash, String>>;

    /// Whether a downgrade job is under way, confirmed by a quorum. The error is a text.
    fn downgrade_enabled(&self) -> BoxFuture<'_, Result<bool, String>>;

    /// What the operating system says about this process.
    fn process_stats(&self) -> ProcessStats;

    /// Raft's state for `/debug/vars`, when the member wants to show it.
    fn raft_status(&self) -> Option<serde_json::Value> {
        None
    }

    /// The JSON of `/v1/autopilot`: how the members are and what is done about them. May ask the
    /// leader, and answers in any case.
    fn autopilot(&self) -> BoxFuture<'_, String> {
        Box::pin(async { r#"{"enabled":false}"#.to_owned() })
    }

    /// Whether users and roles are in force. Decides if a client certificate with a common name
    /// may use the JSON gateway: a certificate's common name would be taken for a user.
    fn auth_enabled(&self) -> bool {
        false
    }

    /// How long a probe may take before it counts as failed; etcd's request timeout.
    fn request_timeout(&self) -> Duration {
        Duration::from_secs(7)
    }
}
