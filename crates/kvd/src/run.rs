//! Running a member from its settings: binds, starts, serves, and stops in the reverse order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use kvd_gateway::V2;
use kvd_raft::wal::StallLimits;
use kvd_server::autopilot;
use kvd_server::config::Join;
use kvd_server::corruption::IntegrityService;
use kvd_server::lease::LessorService;
use kvd_server::members::{MembersService, StandingService};
use kvd_server::metrics::{GrpcMetricsService, Level, Metrics};
use kvd_server::peer_info::PeerInfo;
use kvd_server::services::admission::{Admission, AdmissionLayer};
use kvd_server::services::routes::ClientRoutes;
use kvd_server::{Config, Ending, Server, config, identity, limits as server_limits};
use tonic::service::Routes;
use tower::ServiceBuilder;
use tower::util::MapRequest;
use tracing::{info, warn};

use crate::auto;
use crate::auto::early::Ports;
use crate::auto::peer::MemberPeer;
use crate::discovery::{registry, srv, srv::SystemRecords};
use crate::join;
use crate::logging;
use crate::member::ServedMember;
use crate::notify;
use crate::ports::{Listeners, Security};
use crate::serve::{self, Cores, Listener, Options, Protocols, Secure, Services, Serving, limits};
use crate::settings::{
    AutoCompaction, ClusterState, Discovery, Settings, StorageEngine, SystemResolver,
};
use crate::signals::Signals;
use crate::urls::{Members, Url};

/// The services of the client port, with what comes before them.
type GrpcService = GrpcMetricsService<Admission<ClientRoutes>>;
/// [`mark_gateway`].
type MarkGateway = fn(http::Request<tonic::body::Body>) -> http::Request<tonic::body::Body>;

/// Threads of consensus, apply and everything that is not a client's connection.
const CORE_THREADS: usize = 2;
/// Threads of the peers' connections. They are not the clients': a large read there must not hold up
/// heartbeats.
const PEER_THREADS: usize = 1;
/// After how much silence a peer's connection is pinged, and how long the answer may take: on a
/// slow network it waits behind the megabytes of a snapshot.
const PEER_KEEPALIVE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(15));
/// Time that background tasks get when the process ends.
const RUNTIME_STOP: Duration = Duration::from_millis(300);

/// Runs a member until a signal stops it.
///
/// Errors: whatever keeps the member from starting or makes it stop by itself.
pub fn run(settings: &Settings) -> anyhow::Result<()> {
    let connections = limits::connections()?;
    let listeners = Listeners::bind(settings)?;
    let monitoring = &settings.monitoring;
    let level = match monitoring.is_extensive {
        true => Level::Extensive,
        false => Level::Basic,
    };
    let metrics = Arc::new(Metrics::new(level, kvd_api::ETCD_VERSION));
    metrics.slow_request.set_limit(monitoring.slow_request);
    metrics.slow_apply.set_limit(monitoring.slow_apply);
    for (name, stage, on) in settings.feature_gates.all() {
        let gate = metrics.feature_enabled.with_label_values(&[name, stage]);
        gate.set(i64::from(on));
    }
    let security = Security::open(settings, &metrics)?;
    let cores = Arc::new(Cores::start(settings.worker_threads).context("starting threads")?);
    let peer_cores = Arc::new(Cores::start(Some(PEER_THREADS)).context("starting threads")?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CORE_THREADS)
        .thread_name("kvd-core")
        .enable_all()
        .build()
        .context("starting threads")?;
    let outcome = runtime.block_on(
        Run {
            settings,
            cores,
            peer_cores,
            connections,
            metrics,
            security,
        }
        .member(listeners),
    );
    runtime.shutdown_timeout(RUNTIME_STOP);
    outcome
}

/// What a first start has found out.
struct First {
    join: Option<Join>,
    cluster: Members,
}

struct Run<'a> {
    settings: &'a Settings,
    cores: Arc<Cores>,
    peer_cores: Arc<Cores>,
    connections: limits::Connections,
    metrics: Arc<Metrics>,
    security: Security,
}

impl Run<'_> {
    async fn member(&self, listeners: Listeners) -> anyhow::Result<()> {
        let mut signals = Signals::catch().context("catching signals")?;
        let mut config = config(self.settings, &self.security);
        let is_new = !config.member_dir().join("identity").exists();
        let settled = async {
            if let Some(auto) = &self.settings.autopilot {
                let ports = Ports {
                    listeners: &listeners,
                    security: &self.security,
                    cores: &self.cores,
                    connections: &self.connections,
                };
                return auto::start::find_out(self.settings, auto, &ports, &mut config).await;
            }
            if is_new || self.was_cut_short(&config) {
                let First { join, cluster } = self.first_start().await?;
                config.join = join;
                config.initial_cluster = members(&cluster);
            }
            Ok(())
        };
        tokio::select! {
            settled = settled => settled?,
            signal = signals.next() => return stopped_early(signal),
        }
        let metrics = Arc::clone(&self.metrics);
        let server = tokio::select! {
            server = Server::start(config, metrics) => server?,
            signal = signals.next() => return stopped_early(signal),
        };
        let peers = self.serve_peers(&server, listeners.peer)?;
        let early = tokio::select! {
            () = server.ready() => None,
            ending = server.ended() => Some(ending),
            ending = self.removed_early(&server) => Some(ending),
            signal = signals.next() => {
                info!(signal, "received signal; stopping before the member was ready");
                logging::stopping();
                server.stop().await?;
                peers.stop(Duration::ZERO).await;
                return Ok(());
            }
        };
        if let Some(ending) = early {
            stop(server, Vec::new(), peers, false).await?;
            return outcome(ending);
        }
        let mut clients = vec![self.serve_clients(&server, listeners.client, false)?];
        if !listeners.client_http.is_empty() {
            clients.push(self.serve_clients(&server, listeners.client_http, true)?);
        }
        clients.push(self.serve_metrics(&server, listeners.metrics)?);
        info!("ready to serve client requests");
        notify::ready().context("telling systemd")?;

        let ending = tokio::select! {
            signal = signals.next() => {
                info!(signal, "received signal; shutting down...");
                None
            }
            ending = server.ended() => Some(ending),
        };
        stop(server, clients, peers, ending.is_none()).await?;
        ending.map_or(Ok(()), outcome)
    }

    /// Returns when the member, which has joined and not heard anything yet, was removed.
    async fn removed_early(&self, server: &Server) -> Ending {
        let config = server.core().config();
        let others = config.initial_cluster.iter();
        let others = others.filter(|(name, _)| **name != config.name);
        let mut urls: BTreeSet<String> = others.flat_map(|(_, urls)| urls.clone()).collect();
        // How the others were found at the first start does not matter, and may not work any more.
        match identity::load(&config.data_dir) {
            Ok(identity) => urls.extend(identity.into_iter().flat_map(|known| known.peers)),
            Err(error) => warn!(%error, "the others of the cluster that was joined are not known"),
        }
        urls.retain(|url| !config.peer_urls.contains(url));
        let ids = (server.core().cluster_id(), server.core().member_id());
        // Who is one of a new cluster's first members knows the others from the beginning.
        let is_blank = || {
            let status = server.core().status();
            status.voters.is_empty() && status.learners.is_empty()
        };
        let dialer = self.security.dialer();
        join::removal::learned(dialer.as_ref(), &urls, ids, is_blank).await;
        server.node().learn_removal();
        server.ended().await
    }

    /// What a member without data has to find out: who it is in a cluster that runs, or that its
    /// new cluster makes sense.
    async fn first_start(&self) -> anyhow::Result<First> {
        let mut settings = self.settings.clone();
        let dialer = self.security.dialer();
        let dialer = dialer.as_ref();
        if let Discovery::Srv(domain) = &self.settings.discovery {
            let found = srv::members(&settings, domain, &SystemRecords, &SystemResolver);
            settings.initial_cluster = found.await?;
        }
        let join = match settings.initial_cluster_state {
            // In auto mode this is found out elsewhere.
            ClusterState::Auto => None,
            ClusterState::New => {
                settings.verify_bootstrap(&SystemResolver).await?;
                join::has_been_bootstrapped(&settings, dialer).await?;
                if let Discovery::Registry(registry) = &self.settings.discovery {
                    settings.initial_cluster = registry::join(&settings, registry).await?;
                }
                None
            }
            ClusterState::Existing => {
                settings.verify_join()?;
                Some(join::verify(&settings, dialer, &SystemResolver).await?)
            }
        };
        let cluster = settings.initial_cluster;
        Ok(First { join, cluster })
    }

    /// Whether a first start ended after it had noted who the member is and before its log began.
    /// Then it needs the first members once more, which are in the log from then on. Who joins gets
    /// its log from the others.
    fn was_cut_short(&self, config: &Config) -> bool {
        let known = identity::load(&config.data_dir);
        // What is wrong with it is said when the member starts.
        let has_joined = matches!(known, Ok(Some(known)) if !known.peers.is_empty());
        // A directory that is a mount point may hold other things.
        let is_log = |file: std::fs::DirEntry| file.path().extension() == Some("wal".as_ref());
        let log = config.wal_path().read_dir();
        self.settings.discovery != Discovery::Off
            && !has_joined
            && log.map_or(true, |files| !files.flatten().any(is_log))
    }

    fn options(&self, protocols: Protocols, tls: Secure) -> Options {
        Options {
            protocols,
            tls: Some(tls),
            max_concurrent_streams: self.settings.max_concurrent_streams,
            keepalive_interval: self.settings.keepalive_interval,
            keepalive_timeout: self.settings.keepalive_timeout,
            ..Options::default()
        }
    }

    fn serve_peers(&self, server: &Server, listeners: Vec<Listener>) -> anyhow::Result<Serving> {
        let member = Arc::new(ServedMember::new(Arc::clone(server.core())));
        let autopilot = Arc::new(MemberPeer::new(Arc::clone(server.core())));
        let services = Services {
            grpc: Routes::new(server.node().peer_service())
                .add_service(MembersService::server(Arc::clone(server.core())))
                .add_service(LessorService::server(Arc::clone(server.core())))
                .add_service(IntegrityService::server(Arc::clone(server.core())))
                .add_service(StandingService::server(Arc::clone(server.core())))
                .prepare(),
            http: kvd_gateway::peer_router(member)
                .merge(kvd_gateway::autopilot_peer_router(autopilot)),
        };
        let options = Options {
            // A peer that vanished in the middle of a snapshot must not hold its part for long.
            keepalive_interval: Some(PEER_KEEPALIVE.0),
            keepalive_timeout: PEER_KEEPALIVE.1,
            pending_max: limits::PEERS_PENDING,
            pending_until_request: true,
            ..self.options(Protocols::Both, self.security.of_peers())
        };
        serve::start(
            listeners,
            &services,
            options,
            &self.peer_cores,
            &limits::peer_connections(),
        )
        .context("serving peers")
    }

    /// `http_only`: the listeners of `--listen-client-http-urls`.
    fn serve_clients(
        &self,
        server: &Server,
        listeners: Vec<Listener>,
        http_only: bool,
    ) -> anyhow::Result<Serving> {
        let core = server.core();
        let grpc = grpc(server);
        let member = Arc::new(ServedMember::new(Arc::clone(core)));
        let gateway = kvd_gateway::Options {
            gateway_enabled: self.settings.grpc_gateway,
            max_request_bytes: self.settings.max_request_bytes,
            cors: self.settings.cors.clone(),
            host_whitelist: self.settings.host_whitelist.clone(),
            client_cert_auth: self.settings.client_tls.client_cert_auth,
            ui_enabled: self.settings.monitoring.ui,
            pprof: self.settings.monitoring.pprof,
        };
        let v2 = self.settings.v2.then(|| member.clone() as Arc<dyn V2>);
        let through_gateway = through_gateway(grpc.clone());
        let http = kvd_gateway::client_router(through_gateway, member, v2, gateway);
        let protocols = match (http_only, self.settings.listen_client_http_urls.is_empty()) {
            (true, _) => Protocols::HttpOnly,
            (false, true) => Protocols::Both,
            (false, false) => Protocols::GrpcOnly,
        };
        let services = Services { grpc, http };
        let options = self.options(protocols, self.security.of_clients());
        let served: Vec<_> = listeners.iter().map(Told::of).collect();
        serve::start(
            listeners,
            &services,
            options,
            &self.cores,
            &self.connections,
        )
        .context("serving clients")
        .inspect(|_| served.iter().for_each(|told| told.emit(protocols)))
    }

    fn serve_metrics(&self, server: &Server, listeners: Vec<Listener>) -> anyhow::Result<Serving> {
        let member = Arc::new(ServedMember::new(Arc::clone(server.core())));
        let through_gateway = through_gateway(grpc(server));
        let http =
            kvd_gateway::metrics_router(through_gateway, member, self.settings.monitoring.ui);
        let services = Services {
            grpc: http.clone(),
            http,
        };
        let options = self.options(Protocols::HttpOnly, self.security.of_metrics());
        serve::start(
            listeners,
            &services,
            options,
            &self.cores,
            &self.connections,
        )
        .context("serving metrics")
    }
}

fn grpc(server: &Server) -> GrpcService {
    let core = server.core();
    ServiceBuilder::new()
        .layer(core.metrics().grpc_layer())
        .layer(AdmissionLayer::new(Arc::clone(core)))
        .service(server.client_routes())
}

/// The services for calls that come by HTTP.
fn through_gateway(grpc: GrpcService) -> MapRequest<GrpcService, MarkGateway> {
    ServiceBuilder::new()
        .map_request(mark_gateway as MarkGateway)
        .service(grpc)
}

/// Where clients are served, for etcd's lines about it, which tools wait for.
struct Told {
    address: String,
    is_plain: bool,
    is_tls: bool,
}

impl Told {
    fn of(listener: &Listener) -> Told {
        let address = listener.local_address();
        Told {
            address: address.map_or_else(|| listener.url().to_string(), |at| at.to_string()),
            is_plain: listener.is_plain(),
            is_tls: listener.is_tls(),
        }
    }

    fn emit(&self, protocols: Protocols) {
        let Told { address, .. } = self;
        let traffic = match protocols {
            Protocols::Both => "grpc+http",
            Protocols::GrpcOnly => "grpc",
            Protocols::HttpOnly => "http",
        };
        if self.is_plain {
            info!(
                traffic,
                address, "serving client traffic insecurely; this is strongly discouraged!"
            );
        }
        if self.is_tls {
            info!(traffic, address, "serving client traffic securely");
        }
    }
}

/// Says that a call came through the gateway, where a certificate is not taken for a user.
fn mark_gateway(mut request: http::Request<tonic::body::Body>) -> http::Request<tonic::body::Body> {
    let mut peer = request
        .extensions_mut()
        .remove::<PeerInfo>()
        .unwrap_or_default();
    peer.gateway = true;
    request.extensions_mut().insert(peer);
    request
}

/// Stops in the order that loses nothing: no new clients, another leader, the answers that are
/// under way, then consensus and the store, then the peers' port.
async fn stop(
    server: Server,
    mut clients: Vec<Serving>,
    peers: Serving,
    in_order: bool,
) -> anyhow::Result<()> {
    for serving in &mut clients {
        serving.stop_accepting().await;
    }
    server.end_watches();
    if in_order {
        server.hand_over().await;
    }
    for serving in clients {
        let cut = serving.stop(server_limits::DRAIN_DEADLINE).await;
        if cut > 0 {
            warn!(
                connections = cut,
                "requests were still under way when their time was over"
            );
        }
    }
    if in_order {
        // Answered for and without clients; whether it stays a member is known only now.
        autopilot::leave(server.core()).await;
    }
    logging::stopping();
    let stopped = server.stop().await;
    peers.stop(Duration::ZERO).await;
    stopped?;
    info!("the member has stopped");
    Ok(())
}

/// How the process ends when the member cannot go on. As with etcd, one that was removed has done
/// what it was told to.
fn outcome(ending: Ending) -> anyhow::Result<()> {
    match ending {
        Ending::Failed(failure) => anyhow::bail!("{failure}"),
        Ending::Removed => {
            info!("the member was removed from the cluster and ends");
            Ok(())
        }
    }
}

fn stopped_early(signal: &str) -> anyhow::Result<()> {
    info!(
        signal,
        "received signal; stopping before the member was started"
    );
    Ok(())
}

fn texts(urls: &[Url]) -> Vec<String> {
    urls.iter().map(ToString::to_string).collect()
}

fn members(cluster: &Members) -> BTreeMap<String, Vec<String>> {
    let entry = |(name, urls): (&String, &Vec<Url>)| (name.clone(), texts(urls));
    cluster.iter().map(entry).collect()
}

fn wal_stall(settings: &Settings) -> StallLimits {
    StallLimits {
        after: settings.storage_stall_timeout,
        recovery: settings.storage_stall_recovery,
    }
}

fn config(settings: &Settings, security: &Security) -> Config {
    let mut store = kvd_mvcc::Options {
        engine: match settings.storage_engine {
            StorageEngine::Sled => kvd_mvcc::EngineKind::Sled,
            StorageEngine::Redb => kvd_mvcc::EngineKind::Redb,
            StorageEngine::Memory => kvd_mvcc::EngineKind::Memory,
        },
        ..kvd_mvcc::Options::default()
    };
    if let Some(bytes) = settings.storage_cache_bytes {
        store.cache_bytes = bytes;
    }
    if let Some(limit) = settings.compaction_batch_limit {
        store.compaction_batch_limit = limit;
    }
    if let Some(sleep) = settings.compaction_sleep_interval {
        store.compaction_sleep = sleep;
    }
    Config {
        name: settings.name.clone(),
        data_dir: settings.data_dir.clone(),
        wal_dir: settings.wal_dir.clone(),
        peer_urls: texts(&settings.advertise_peer_urls),
        client_urls: texts(&settings.advertise_client_urls),
        initial_cluster: members(&settings.initial_cluster),
        initial_cluster_token: settings.initial_cluster_token.clone(),
        strict_reconfig_check: settings.strict_reconfig_check,
        learners_max: settings.max_learners,
        token_is_explicit: settings.initial_cluster_token != DEFAULT_TOKEN,
        join: None,
        autopilot: auto::start::watching(settings),
        force_new_cluster: settings.force_new_cluster,
        heartbeat_interval: settings.heartbeat_interval,
        election_timeout: settings.election_timeout,
        pre_vote: settings.pre_vote,
        snapshot_count: settings.snapshot_count,
        catchup_entries: settings.snapshot_catchup_entries,
        quota_backend_bytes: match settings.quota_bytes {
            None => -1,
            Some(bytes) => i64::try_from(bytes).unwrap_or(i64::MAX),
        },
        request_bytes_max: settings.max_request_bytes,
        txn_ops_max: settings.max_txn_ops,
        auto_compaction: match settings.auto_compaction {
            AutoCompaction::Off => config::AutoCompaction::Off,
            AutoCompaction::Periodic(period) => config::AutoCompaction::Periodic(period),
            AutoCompaction::Revision(keep) => config::AutoCompaction::Revision(keep),
        },
        wal_stall: wal_stall(settings),
        unsafe_no_fsync: settings.unsafe_no_fsync,
        wal_stall_switch: std::env::var_os(WAL_STALL_VARIABLE).map(Into::into),
        v2_keys_visible: settings.v2_keys_visible,
        watch_progress_interval: settings.watch_progress_notify_interval,
        watchers_per_stream_max: settings.watches_per_stream_max,
        initial_corrupt_check: settings.feature_gates.is_enabled("InitialCorruptCheck"),
        corrupt_check_interval: settings.corrupt_check_time,
        compact_hash_check_interval: settings
            .feature_gates
            .is_enabled("CompactHashCheck")
            .then_some(settings.compact_hash_check_time),
        bootstrap_defrag_bytes: settings.bootstrap_defrag_megabytes.saturating_mul(1 << 20),
        auth: settings.auth.clone(),
        audit: settings.audit.clone(),
        dialer: security.dialer(),
        store,
        version: env!("CARGO_PKG_VERSION"),
    }
}

/// Names a file; while it exists, the disk under the log stalls. For tests alone.
const WAL_STALL_VARIABLE: &str = "KVD_TEST_WAL_STALL";

/// The default of `--initial-cluster-token`.
const DEFAULT_TOKEN: &str = "etcd-cluster";
