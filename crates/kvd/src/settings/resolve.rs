//! From checked texts to settings: etcd's rules on how flags depend on one another.
//!
//! Source: etcd `server/etcdmain/config.go`, `server/embed/config.go` (`Validate`,
//! `UpdateDefaultClusterFromName`).

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use kvd_server::limits;

use super::default_host::default_host;
use super::discovery::Discovery;
use super::security::Security;
use super::types::{
    AutoCompaction, ClusterState, LogFormat, LogLevel, LogOutput, LogSettings, Monitoring,
    Settings, StorageEngine,
};
use crate::error::{Result, Setting};
use crate::flags::parse::Assignments;
use crate::flags::value;
use crate::gates::FeatureGates;
use crate::notes::Note;
use crate::urls::{self, Members, Url};

const DEFAULT_QUOTA_BYTES: u64 = 2 * 1024 * 1024 * 1024;
const ELECTION_MS_MAX: u64 = 50_000;
/// Nothing larger is replicated (etcd: what fits into one gRPC message).
const REQUEST_BYTES_MAX: u64 = 512 << 20;

/// Resolves what was given into settings, or says what does not fit.
///
/// `from_file` says that the values come from a config file, where etcd does not ask for
/// `--advertise-client-urls`.
pub fn resolve(given: &mut Assignments, from_file: bool) -> Result<Settings> {
    given.check_built()?;
    let log = log_settings(given)?;
    let read = Reader { given };
    let addresses = Addresses::read(&read, from_file)?;
    let (heartbeat_interval, election_timeout) = timing(&read)?;
    let (security, notes) = Security::read(&read, &addresses, from_file)?;
    let mut settings = Settings {
        name: read.text("name"),
        data_dir: PathBuf::from(read.text("data-dir")),
        wal_dir: non_empty(read.text("wal-dir")).map(PathBuf::from),
        listen_peer_urls: addresses.listen_peer,
        listen_client_urls: addresses.listen_client,
        listen_client_http_urls: addresses.listen_http,
        listen_metrics_urls: addresses.listen_metrics,
        advertise_peer_urls: addresses.advertise_peer,
        advertise_client_urls: addresses.advertise_client,
        initial_cluster: Members::new(),
        discovery: Discovery::read(given)?,
        initial_cluster_state: cluster_state(&read),
        initial_cluster_token: read.text("initial-cluster-token"),
        autopilot: None,
        strict_reconfig_check: read.bool("strict-reconfig-check"),
        max_learners: usize::try_from(read.int("max-learners")).unwrap_or(0),
        force_new_cluster: read.bool("force-new-cluster"),
        unsafe_no_fsync: read.bool("unsafe-no-fsync"),
        heartbeat_interval,
        election_timeout,
        pre_vote: read.bool("pre-vote"),
        snapshot_count: or_default(read.uint("snapshot-count"), 10_000),
        snapshot_catchup_entries: or_default(read.uint("snapshot-catchup-entries"), 5_000),
        quota_bytes: quota(read.int("quota-backend-bytes")),
        max_txn_ops: read.size("max-txn-ops"),
        max_request_bytes: request_bytes(read.uint("max-request-bytes"))?,
        watch_progress_notify_interval: watch_progress(&read)?,
        watches_per_stream_max: read.size("max-watches-per-stream").max(1),
        max_concurrent_streams: streams(read.uint("max-concurrent-streams")),
        keepalive_interval: keepalive(&read)?,
        keepalive_timeout: read.duration("grpc-keepalive-timeout")?,
        socket_reuse_port: read.bool("socket-reuse-port"),
        grpc_gateway: read.bool("enable-grpc-gateway"),
        monitoring: monitoring(&read)?,
        v2: read.bool("enable-v2"),
        v2_keys_visible: read.bool("v2-keys-visible-in-v3"),
        cors: read.set("cors"),
        host_whitelist: read.set("host-whitelist"),
        client_tls: security.client,
        peer_tls: security.peer,
        self_signed_years: security.self_signed_years,
        tls_recheck_interval: security.recheck_interval,
        auto_compaction: auto_compaction(&read)?,
        compaction_batch_limit: batch_limit(&read),
        compaction_sleep_interval: positive(read.duration("compaction-sleep-interval")?),
        auth: auth_settings(&read)?,
        audit: kvd_server::audit::Settings::Off,
        storage_engine: storage_engine(&read),
        storage_cache_bytes: Some(read.size("storage-cache-bytes")).filter(|bytes| *bytes > 0),
        storage_stall_timeout: read.duration("storage-stall-timeout")?,
        storage_stall_recovery: read.duration("storage-stall-recovery")?,
        worker_threads: Some(read.size("worker-threads")).filter(|count| *count > 0),
        corrupt_check_time: positive(read.duration("corrupt-check-time")?),
        compact_hash_check_time: above_zero(&read, "compact-hash-check-time")?,
        bootstrap_defrag_megabytes: read.uint("bootstrap-defrag-threshold-megabytes"),
        feature_gates: feature_gates(&read)?,
        log,
    };
    notes.into_iter().for_each(|note| given.note(note));
    finish(&mut settings, given)?;
    Ok(settings)
}

/// No pings go out when either of the two times is zero.
fn keepalive(read: &Reader<'_>) -> Result<Option<Duration>> {
    let interval = positive(read.duration("grpc-keepalive-interval")?);
    Ok(interval.filter(|_| read.int_duration("grpc-keepalive-timeout") > 0))
}

fn watch_progress(read: &Reader<'_>) -> Result<Duration> {
    let interval = positive(read.duration("watch-progress-notify-interval")?);
    Ok(
        interval.map_or(limits::WATCH_PROGRESS_INTERVAL, |interval| {
            interval.max(limits::WATCH_PROGRESS_INTERVAL_MIN)
        }),
    )
}

fn monitoring(read: &Reader<'_>) -> Result<Monitoring> {
    Ok(Monitoring {
        ui: read.bool("enable-ui"),
        pprof: read.bool("enable-pprof"),
        is_extensive: read.given.get("metrics") == "extensive",
        slow_request: read.duration("warning-unary-request-duration")?,
        slow_apply: read.duration("warning-apply-duration")?,
    })
}

fn cluster_state(read: &Reader<'_>) -> ClusterState {
    match read.given.get("initial-cluster-state") {
        "existing" => ClusterState::Existing,
        "auto" => ClusterState::Auto,
        _ => ClusterState::New,
    }
}

fn batch_limit(read: &Reader<'_>) -> Option<usize> {
    let limit = usize::try_from(read.int("compaction-batch-limit")).ok();
    limit.filter(|limit| *limit > 0)
}

fn storage_engine(read: &Reader<'_>) -> StorageEngine {
    match read.given.get("storage-engine") {
        "redb" => StorageEngine::Redb,
        "memory" => StorageEngine::Memory,
        _ => StorageEngine::Sled,
    }
}

/// What depends on several flags at once.
fn finish(settings: &mut Settings, given: &mut Assignments) -> Result<()> {
    let name = settings.name.clone();
    if name.is_empty() || name.contains([',', '=']) {
        return Err(Setting::Name(name).into());
    }
    if name == "default" {
        given.note(Note::DefaultName);
    }
    if settings.data_dir.as_os_str().is_empty() {
        settings.data_dir = PathBuf::from(format!("{name}.etcd"));
        given.note(Note::DefaultDataDir {
            path: settings.data_dir.clone(),
        });
    }
    if settings.monitoring.pprof {
        given.note(Note::Pprof);
    }
    let gates = settings.feature_gates.changed();
    if !gates.is_empty() {
        given.note(Note::Gates { names: gates });
    }
    if given.get("audit-log-level") == "metadata" {
        let path = non_empty(given.get("audit-log-path").to_owned());
        let path = path.map_or_else(|| settings.data_dir.join("audit.log"), PathBuf::from);
        settings.audit = kvd_server::audit::Settings::Metadata(path);
    }
    advertise_default_host(settings, given);
    settings.autopilot = super::autopilot::read(&Reader { given }, &settings.advertise_peer_urls)?;
    settings.initial_cluster = match given.given("initial-cluster") {
        // Differs from etcd: a member called `default` too gets its own advertised URLs here.
        // etcd keeps `default=http://localhost:2380` for it and then fails to start.
        None => Members::from([(name, settings.advertise_peer_urls.clone())]),
        Some(text) => urls::parse_members(text).map_err(Setting::InitialCluster)?,
    };
    let discovery = settings.discovery.clone();
    discovery.prepare(settings, given)
}

/// Replaces `localhost` in what is advertised by default when the member listens everywhere.
fn advertise_default_host(settings: &mut Settings, given: &mut Assignments) {
    let everywhere = |urls: &[Url]| {
        let (host, port) = urls.first()?.host_and_port()?;
        (host == "0.0.0.0").then(|| port.to_owned())
    };
    let open = |name| !given.is_set(name);
    let peer = everywhere(&settings.listen_peer_urls)
        .filter(|_| open("initial-advertise-peer-urls") && open("initial-cluster"));
    let client = everywhere(&settings.listen_client_urls).filter(|_| open("advertise-client-urls"));
    if peer.is_none() && client.is_none() {
        return;
    }
    let Some(host) = default_host() else {
        return;
    };
    let url = |port: String| Url::parse(&format!("http://{host}:{port}")).ok();
    if let Some(url) = peer.and_then(url) {
        settings.advertise_peer_urls = vec![url];
    }
    if let Some(url) = client.and_then(url) {
        settings.advertise_client_urls = vec![url];
    }
    given.note(Note::DefaultHost {
        host: host.to_string(),
    });
}

/// Typed access to texts that were checked when they were given.
pub(super) struct Reader<'a> {
    pub(super) given: &'a Assignments,
}

impl Reader<'_> {
    pub(super) fn text(&self, name: &str) -> String {
        self.given.get(name).to_owned()
    }

    pub(super) fn bool(&self, name: &str) -> bool {
        value::bool(self.given.get(name)).unwrap_or(false)
    }

    pub(super) fn uint(&self, name: &str) -> u64 {
        value::uint(self.given.get(name)).unwrap_or(0)
    }

    fn int(&self, name: &str) -> i64 {
        value::int(self.given.get(name)).unwrap_or(0)
    }

    fn set(&self, name: &str) -> BTreeSet<String> {
        value::list(self.given.get(name)).into_iter().collect()
    }

    fn size(&self, name: &str) -> usize {
        usize::try_from(self.uint(name)).unwrap_or(usize::MAX)
    }

    fn int_duration(&self, name: &str) -> i64 {
        value::duration(self.given.get(name)).unwrap_or(0)
    }

    pub(super) fn duration(&self, name: &'static str) -> Result<Duration> {
        let nanos = self.int_duration(name);
        if nanos < 0 {
            return Err(Setting::Negative {
                flag: name,
                value: self.text(name),
            }
            .into());
        }
        Ok(value::to_duration(nanos))
    }

    /// Empty text stands for the default, as with etcd's `UniqueURLs`.
    fn urls(&self, name: &str) -> Result<Vec<Url>> {
        let text = match self.given.given(name) {
            Some("") | None => crate::flags::table::find(name).map_or("", |flag| flag.default),
            Some(text) => text,
        };
        Ok(urls::parse_list(text).map_err(Setting::InitialCluster)?)
    }
}

/// Where the member listens and what it advertises.
pub(super) struct Addresses {
    pub(super) listen_peer: Vec<Url>,
    pub(super) listen_client: Vec<Url>,
    pub(super) listen_http: Vec<Url>,
    pub(super) listen_metrics: Vec<Url>,
    advertise_peer: Vec<Url>,
    advertise_client: Vec<Url>,
}

impl Addresses {
    fn read(read: &Reader<'_>, from_file: bool) -> Result<Addresses> {
        let listen = |flag| -> Result<Vec<Url>> {
            let urls = read.urls(flag)?;
            check_bind(&urls)?;
            Ok(urls)
        };
        let addresses = Addresses {
            listen_peer: listen("listen-peer-urls")?,
            listen_client: listen("listen-client-urls")?,
            listen_http: listen("listen-client-http-urls")?,
            listen_metrics: listen("listen-metrics-urls")?,
            advertise_peer: read.urls("initial-advertise-peer-urls")?,
            advertise_client: read.urls("advertise-client-urls")?,
        };
        addresses.check(read, from_file)?;
        Ok(addresses)
    }

    fn check(&self, read: &Reader<'_>, from_file: bool) -> Result<()> {
        if let Some(url) = without_host(&self.advertise_peer) {
            let urls = urls::join(&self.advertise_peer);
            return Err(Setting::AdvertisePeer { urls, url }.into());
        }
        if let Some(url) = without_host(&self.advertise_client) {
            let urls = urls::join(&self.advertise_client);
            return Err(Setting::AdvertiseClient { urls, url }.into());
        }
        if !from_file
            && read.given.is_set("listen-client-urls")
            && !read.given.is_set("advertise-client-urls")
        {
            return Err(Setting::AdvertiseClientMissing.into());
        }
        match self.listen_http.iter().find(|url| {
            self.listen_client
                .iter()
                .any(|other| other.is_same_place(url))
        }) {
            Some(url) => Err(Setting::SharedListener(url.to_string()).into()),
            None => Ok(()),
        }
    }
}

/// A listener wants an address of this host: an IP, `localhost` or a unix socket.
fn check_bind(urls: &[Url]) -> Result<()> {
    for url in urls {
        let Some((host, _)) = url.host_and_port() else {
            continue;
        };
        if host != "localhost" && host.parse::<std::net::IpAddr>().is_err() {
            return Err(Setting::BindName(url.to_string()).into());
        }
    }
    Ok(())
}

fn without_host(urls: &[Url]) -> Option<String> {
    let empty = |url: &&Url| url.host_and_port().is_some_and(|(host, _)| host.is_empty());
    urls.iter().find(empty).map(Url::to_string)
}

fn timing(read: &Reader<'_>) -> Result<(Duration, Duration)> {
    let (heartbeat_ms, election_ms) = (
        read.uint("heartbeat-interval"),
        read.uint("election-timeout"),
    );
    for (flag, ms) in [
        ("heartbeat-interval", heartbeat_ms),
        ("election-timeout", election_ms),
    ] {
        if ms == 0 {
            return Err(Setting::NotPositive {
                flag,
                value: "0ms".into(),
            }
            .into());
        }
    }
    if heartbeat_ms.saturating_mul(5) > election_ms {
        return Err(Setting::ElectionTooShort {
            election_ms,
            heartbeat_ms,
        }
        .into());
    }
    if election_ms > ELECTION_MS_MAX {
        return Err(Setting::ElectionTooLong(election_ms).into());
    }
    Ok((
        Duration::from_millis(heartbeat_ms),
        Duration::from_millis(election_ms),
    ))
}

/// Source: etcd `embed/etcd.go`, `parseCompactionRetention`.
fn auto_compaction(read: &Reader<'_>) -> Result<AutoCompaction> {
    let mode = read.text("auto-compaction-mode");
    let retention = match read.text("auto-compaction-retention") {
        empty if empty.is_empty() => "0".to_owned(),
        text => text,
    };
    let complain = || Setting::CompactionRetention(retention.clone());
    let number: Option<i64> = retention.parse().ok().filter(|number| *number >= 0);
    match mode.as_str() {
        "periodic" => {
            let hour = 3_600_000_000_000;
            let nanos = match number {
                Some(hours) => hours.checked_mul(hour).ok_or_else(complain)?,
                None => value::duration(&retention).ok_or_else(complain)?,
            };
            match nanos {
                0 => Ok(AutoCompaction::Off),
                1.. => Ok(AutoCompaction::Periodic(value::to_duration(nanos))),
                _ => Err(complain().into()),
            }
        }
        "revision" => match number.ok_or_else(complain)? {
            0 => Ok(AutoCompaction::Off),
            revisions => Ok(AutoCompaction::Revision(revisions)),
        },
        "" => Err(Setting::CompactionModeMissing.into()),
        _ => Err(Setting::CompactionMode(mode).into()),
    }
}

fn above_zero(read: &Reader<'_>, flag: &'static str) -> Result<Duration> {
    let value = read.given.get(flag).to_owned();
    let time = positive(read.duration(flag)?);
    time.ok_or_else(|| Setting::NotPositive { flag, value }.into())
}

fn feature_gates(read: &Reader<'_>) -> Result<FeatureGates> {
    let mut gates = FeatureGates::default();
    gates.set(&read.given.old_gates()).map_err(Setting::Gates)?;
    gates
        .set(read.given.get("feature-gates"))
        .map_err(Setting::Gates)?;
    if gates.is_enabled("LeaseCheckpointPersist") && !gates.is_enabled("LeaseCheckpoint") {
        return Err(Setting::GateNeedsLeaseCheckpoint.into());
    }
    Ok(gates)
}

/// Source: etcd `embed/config_logging.go`, `setupLogging`.
fn log_settings(given: &mut Assignments) -> Result<LogSettings> {
    let logger = given.get("logger");
    if logger != "zap" {
        return Err(Setting::Logger(logger.to_owned()).into());
    }
    let level = match given.get("log-level").to_ascii_lowercase().as_str() {
        "debug" => LogLevel::Debug,
        "info" | "" => LogLevel::Info,
        "warn" | "warning" => LogLevel::Warn,
        "error" => LogLevel::Error,
        "dpanic" | "panic" | "fatal" => LogLevel::Fatal,
        _ => return Err(Setting::LogLevel(given.get("log-level").to_owned()).into()),
    };
    let format = match given.get("log-format") {
        "json" | "" => LogFormat::Json,
        "console" => LogFormat::Console,
        other => return Err(Setting::LogFormat(other.to_owned()).into()),
    };
    let names = value::list(given.get("log-outputs"));
    if names.len() > 1 && names.iter().any(|name| name == "default") {
        return Err(Setting::LogOutputs.into());
    }
    let mut outputs: Vec<LogOutput> = Vec::new();
    for name in names {
        let output = match name.as_str() {
            "default" | "stderr" => LogOutput::Stderr,
            "stdout" => LogOutput::Stdout,
            "systemd/journal" => {
                given.note(Note::JournalToStderr);
                LogOutput::Stderr
            }
            path => LogOutput::File(PathBuf::from(path)),
        };
        if !outputs.contains(&output) {
            outputs.push(output);
        }
    }
    if outputs.is_empty() {
        outputs.push(LogOutput::Stderr);
    }
    Ok(LogSettings {
        level,
        format,
        outputs,
    })
}

fn quota(bytes: i64) -> Option<u64> {
    match bytes {
        0 => Some(DEFAULT_QUOTA_BYTES),
        _ => u64::try_from(bytes).ok(),
    }
}

fn request_bytes(value: u64) -> Result<usize> {
    let large = Setting::TooLarge {
        flag: "max-request-bytes",
        value,
        most: REQUEST_BYTES_MAX,
    };
    match usize::try_from(value) {
        Ok(bytes) if value <= REQUEST_BYTES_MAX => Ok(bytes),
        _ => Err(large.into()),
    }
}

fn auth_settings(read: &Reader<'_>) -> Result<kvd_server::auth::Settings> {
    Ok(kvd_server::auth::Settings {
        tokens: super::auth::tokens(read.given.get("auth-token"))?,
        token_lifetime: token_lifetime(read.uint("auth-token-ttl")),
        bcrypt_cost: u32::try_from(read.uint("bcrypt-cost")).unwrap_or(u32::MAX),
        by_certificate: read.bool("client-cert-auth"),
    })
}

/// As in etcd, zero stands for the default.
fn token_lifetime(seconds: u64) -> Duration {
    // Longer than any process lives, and no moment that a clock cannot name.
    const MOST: u64 = 100 * 365 * 24 * 3600;
    Duration::from_secs(or_default(seconds, 300).min(MOST))
}

/// Zero means no bound, as in grpc-go.
fn streams(value: u64) -> u32 {
    u32::try_from(value)
        .ok()
        .filter(|count| *count > 0)
        .unwrap_or(u32::MAX)
}

fn positive(duration: Duration) -> Option<Duration> {
    (!duration.is_zero()).then_some(duration)
}

fn or_default(value: u64, default: u64) -> u64 {
    if value == 0 { default } else { value }
}

pub(super) fn non_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}
