//! One member, from its directories to its services: starts everything in order and stops it in
//! the reverse one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kvd_api::error::WireError;
use kvd_api::pb::kvdcommandpb::command::Request;
use kvd_api::pb::kvdcommandpb::{PublishMember, SetClusterVersion};
use kvd_raft::{Node, Role};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::apply::{self, Alarms, Applier};
use crate::audit::Audit;
use crate::auth::Auth;
use crate::autopilot;
use crate::compactor;
use crate::config::Config;
use crate::core::{Core, Parts};
use crate::corruption;
use crate::directories;
use crate::error::{Error, Result};
use crate::identity::{self, Resolved};
use crate::lease::{Leases, expiry_loop};
use crate::limits;
use crate::metrics::Metrics;
use crate::services::maintenance::STORAGE_VERSION;
use crate::services::routes::{self, ClientRoutes};
use crate::waiters::Waiters;

/// How often a member that cannot publish itself tries again.
const PUBLISH_RETRY: Duration = Duration::from_millis(200);
/// How often a member without a leader says so.
const WAITING_LOG_INTERVAL: Duration = Duration::from_secs(5);
/// Most time that handing leadership over may take while stopping.
const TRANSFER_DEADLINE: Duration = Duration::from_secs(2);
/// Most time that writing the store back may take while stopping; the log has everything.
const CLOSE_DEADLINE: Duration = Duration::from_millis(1_000);

/// Why a member can no longer go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Something has failed; says what.
    Failed(String),
    /// It was removed from the cluster.
    Removed,
}

/// A running member.
pub struct Server {
    core: Arc<Core>,
    routes: ClientRoutes,
    ended: watch::Receiver<Option<Ending>>,
    ends: Arc<watch::Sender<Option<Ending>>>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Server {
    /// Opens the data directory, recovers log and store, and takes part in consensus. Peers can be
    /// served at once ([`Server::node`]); clients only after [`Server::ready`].
    ///
    /// Errors: whatever keeps the member from starting, with the file or flag to look at.
    pub async fn start(config: Config, metrics: Arc<Metrics>) -> Result<Server> {
        // The identity comes after the directories: where it is, they are durable.
        directories::prepare(&config)?;
        let (ended_sender, ended) = watch::channel(None);
        let ended_sender = Arc::new(ended_sender);
        // The store's lock is what keeps a second process out, so it comes first.
        let (store, writer) = open_store(&config, &metrics, &ended_sender).await?;
        defragment_at_start(&config, &store).await?;
        let Resolved {
            identity,
            bootstrap,
        } = identity::resolve(&config, store.applied().is_none())?;
        identity::check_place(&config, identity.member_id, &apply::members(&store)?)?;
        tracing::info!(
            cluster_id = format!("{:x}", identity.cluster_id),
            local_member_id = format!("{:x}", identity.member_id),
            name = config.name,
            revision = store.current_revision(),
            fresh = bootstrap.is_some(),
            "starting a member"
        );

        let waiters = Arc::new(Waiters::default());
        let (applied_sender, applied) = watch::channel(0);
        let alarms = Arc::new(Alarms::restore(&store)?);
        let leases = Arc::new(Leases::restore(&store)?);
        let audit = Audit::open(&config.audit)?;
        let auth = Arc::new(Auth::restore(&store, &config.auth)?);
        let answers = Arc::clone(&waiters);
        let applier = Applier::new(apply::Parts {
            writer,
            store: store.clone(),
            alarms: Arc::clone(&alarms),
            leases: Arc::clone(&leases),
            auth: Arc::clone(&auth),
            answers,
            on_applied: Arc::new(move |index| {
                applied_sender.send_replace(index);
            }),
            metrics: Arc::clone(&metrics),
        });
        let options = raft_options(&config, &identity, &store, &waiters, &metrics);
        let node = Node::start(options, applier, bootstrap).await?;
        let core = Arc::new(Core::new(Parts {
            config,
            cluster_id: identity.cluster_id,
            member_id: identity.member_id,
            store,
            node,
            applied,
            waiters,
            alarms,
            leases,
            auth,
            audit,
            metrics,
        }));
        check_at_start(&core).await?;
        let routes = routes::client_routes(&core).await?;
        let tasks = tasks(&core, Arc::clone(&ended_sender));
        Ok(Server {
            core,
            routes,
            ended,
            ends: ended_sender,
            tasks: Mutex::new(tasks),
        })
    }

    /// What services share.
    pub fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Consensus; its `peer_service` is what the peer port serves.
    pub fn node(&self) -> &Node {
        self.core.node()
    }

    /// The gRPC services of the client port.
    pub fn client_routes(&self) -> ClientRoutes {
        self.routes.clone()
    }

    /// Returns when the member knows a leader and its name and URLs are published: from then on
    /// clients may be served. A member that was added with a vote has it by then.
    pub async fn ready(&self) {
        self.publish().await;
        self.vote().await;
    }

    /// Waits for the vote that the cluster's records say this member has.
    async fn vote(&self) {
        let mut status = self.core.follow_status();
        let id = self.core.member_id();
        loop {
            let votes = status.borrow_and_update().voters.contains(&id);
            let record = apply::member(self.core.store(), id);
            // A record that cannot be read keeps nobody from serving what can be.
            if votes || record.ok().flatten().is_none_or(|own| own.is_learner) {
                return;
            }
            let changed = tokio::time::timeout(PUBLISH_RETRY, status.changed()).await;
            if changed.is_ok_and(|changed| changed.is_err()) {
                return;
            }
        }
    }

    async fn publish(&self) {
        let config = self.core.config();
        let mut said = Instant::now();
        loop {
            match self.publish_once().await {
                Ok(()) => break,
                Err(error @ Error::Identity { .. }) => {
                    self.ends
                        .send_replace(Some(Ending::Failed(error.to_string())));
                    return std::future::pending().await;
                }
                Err(error) if said.elapsed() >= WAITING_LOG_INTERVAL => {
                    said = Instant::now();
                    tracing::warn!(
                        %error,
                        leader = format!("{:x}", self.core.leader()),
                        "cannot publish this member yet: no quorum of the members answers; \
                         check that the others run and that --initial-cluster names them"
                    );
                }
                Err(error) => tracing::debug!(%error, "publishing the member failed; again"),
            }
            tokio::time::sleep(PUBLISH_RETRY).await;
        }
        // What was acknowledged before a restart must be readable before anybody may read.
        while let Err(error) = self.core.read_barrier().await {
            tracing::debug!(%error, "no read index yet");
            // A member that is being stopped fails at once; this would never give way.
            tokio::time::sleep(PUBLISH_RETRY).await;
        }
        tracing::info!(
            local_member_id = format!("{:x}", self.core.member_id()),
            name = config.name,
            "published local member to cluster through raft"
        );
    }

    /// Errors: [`Error::Identity`] when the data are those of another member.
    async fn publish_once(&self) -> Result<()> {
        // A crash may have kept from the store what the log says of the members; now it is known.
        self.core.read_barrier().await?;
        let (core, config) = (&self.core, self.core.config());
        identity::check_place(config, core.member_id(), &apply::members(core.store())?)?;
        let request = Request::PublishMember(PublishMember {
            member_id: core.member_id(),
            name: config.name.clone(),
            client_urls: config.client_urls.clone(),
        });
        core.propose(request).await.map(drop)
    }

    /// Resolves with the reason when the member can no longer go on and must stop.
    pub async fn ended(&self) -> Ending {
        let mut ended = self.ended.clone();
        match ended
            .wait_for(Option::is_some)
            .await
            .map(|reason| reason.clone())
        {
            Ok(Some(reason)) => reason,
            // Nobody can report an end any more: the member is being dropped.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// Hands leadership over when this member leads and another can. Requests that are under way
    /// go on: they are forwarded to the new leader.
    pub async fn hand_over(&self) {
        self.core.end_streams();
        let status = self.core.status();
        if status.role != Role::Leader || status.voters.len() < 2 {
            return;
        }
        let transfer = self.core.node().transfer_leadership(None);
        match tokio::time::timeout(TRANSFER_DEADLINE, transfer).await {
            Ok(Ok(leader)) => {
                tracing::info!(new_leader = format!("{leader:x}"), "leadership handed over");
            }
            Ok(Err(error)) => tracing::warn!(%error, "leadership could not be handed over"),
            Err(_) => tracing::warn!("no other member took leadership over in time"),
        }
    }

    /// Ends all watch streams, which would go on for as long as their clients like. Everything
    /// else goes on.
    pub fn end_watches(&self) {
        self.core.store().stop_watches();
    }

    /// Stops consensus, writes back what is only in memory and closes the files.
    ///
    /// Errors: when the log or the store could not be closed properly; nothing acknowledged is
    /// lost by that, since the log holds it.
    pub async fn stop(self) -> Result<()> {
        self.core.stop_accepting();
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
        stop_parts(&self.core).await
    }
}

/// Compares this member's data with its peers', if that is wanted; stops the member if they differ.
async fn check_at_start(core: &Core) -> Result<()> {
    if core.config().initial_corrupt_check
        && let Err(error) = corruption::initial(core).await
    {
        stop_parts(core).await?;
        return Err(error);
    }
    Ok(())
}

/// Ends consensus and closes the store, in order even when the log failed.
async fn stop_parts(core: &Core) -> Result<()> {
    let stopped = core.node().shutdown().await;
    let store = core.store().clone();
    let closing = tokio::task::spawn_blocking(move || store.close());
    match tokio::time::timeout(CLOSE_DEADLINE, closing).await {
        Ok(closed) => {
            closed
                .map_err(|error| Error::Internal(format!("closing the store failed: {error}")))?;
        }
        Err(_) => tracing::warn!(
            "the store is not written back in time; the next start checks it and takes what \
             it lacks from the log"
        ),
    }
    Ok(stopped?)
}

/// Starts what a member does by itself.
fn tasks(core: &Arc<Core>, ended: Arc<watch::Sender<Option<Ending>>>) -> Vec<JoinHandle<()>> {
    vec![
        tokio::spawn(compactor::run(Arc::clone(core))),
        tokio::spawn(autopilot::run(Arc::clone(core))),
        tokio::spawn(expiry_loop::run(Arc::clone(core))),
        tokio::spawn(corruption::periodic(Arc::clone(core))),
        tokio::spawn(corruption::compaction(Arc::clone(core))),
        tokio::spawn(sweep_tokens(Arc::clone(core))),
        tokio::spawn(watch_status(Arc::clone(core), ended)),
    ]
}

/// Forgets tokens whose time is over, so that they take no memory.
async fn sweep_tokens(core: Arc<Core>) {
    let mut ticks = tokio::time::interval(limits::TOKEN_SWEEP);
    loop {
        ticks.tick().await;
        core.auth().sweep();
    }
}

/// Follows Raft's status: reports faults, counts leaders, and sets the cluster version once.
async fn watch_status(core: Arc<Core>, ended: Arc<watch::Sender<Option<Ending>>>) {
    let mut status = core.node().status();
    let mut leader = None;
    let mut setting = JoinSet::new();
    loop {
        let now = status.borrow_and_update().clone();
        core.metrics().raft_status(&now, core.member_id());
        if let Some(fault) = &now.fault {
            ended.send_replace(Some(Ending::Failed(format!("consensus failed: {fault}"))));
            return;
        }
        if now.removed {
            removed(&core).await;
            ended.send_replace(Some(Ending::Removed));
            return;
        }
        if now.leader != leader {
            leader = now.leader;
            core.metrics().v2.leads(leader.unwrap_or(0));
            if let Some(id) = leader {
                tracing::info!(
                    leader = format!("{id:x}"),
                    term = now.term,
                    "this member knows a leader"
                );
            } else {
                tracing::warn!(term = now.term, "this member knows no leader");
            }
        }
        let must_set = now.role == Role::Leader && apply::cluster_version(core.store()).is_none();
        while setting.try_join_next().is_some() {}
        if must_set && setting.is_empty() {
            // Beside this: the answer may take seconds, and a fault or a removal must be seen.
            setting.spawn(set_cluster_version(Arc::clone(&core)));
        }
        if status.changed().await.is_err() {
            return;
        }
    }
}

/// Sets the cluster version, unless this member ceases to lead first.
async fn set_cluster_version(core: Arc<Core>) {
    while core.is_leader() && apply::cluster_version(core.store()).is_none() {
        let version = STORAGE_VERSION.to_owned();
        let request = Request::SetClusterVersion(SetClusterVersion { version });
        match core.propose(request).await {
            // A member that is being stopped fails at once, and takes nothing more.
            Ok(_) | Err(Error::Wire(WireError::ServerStopped)) => return,
            Err(error) => {
                tracing::debug!(%error, "the cluster version could not be set; again");
                tokio::time::sleep(PUBLISH_RETRY).await;
            }
        }
    }
}

/// Sees to it that a removed member does not come back with the data that it has.
async fn removed(core: &Arc<Core>) {
    tracing::warn!(
        local_member_id = format!("{:x}", core.member_id()),
        data_dir = %core.config().data_dir.display(),
        "the member has been permanently removed from the cluster; the data-dir used by this \
         member must be removed"
    );
    note_removal(core).await;
}

/// Notes in the data that the member was removed; a failure is logged.
pub(crate) async fn note_removal(core: &Arc<Core>) {
    let marking = Arc::clone(core);
    let marked = tokio::task::spawn_blocking(move || identity::mark_removed(marking.config()));
    match marked.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%error, "the removal could not be noted in the data"),
        Err(error) => tracing::error!(%error, "the removal could not be noted in the data"),
    }
}

/// Opens the store, whose flush thread reports to `metrics` and its faults to `ended`.
async fn open_store(
    config: &Config,
    metrics: &Arc<Metrics>,
    ended: &Arc<watch::Sender<Option<Ending>>>,
) -> Result<(kvd_mvcc::Store, kvd_mvcc::Writer)> {
    let mut options = config.store.clone();
    let on_fault = Arc::clone(ended);
    options.on_fault = Some(Arc::new(move |fault| {
        on_fault.send_replace(Some(Ending::Failed(store_fault(fault))));
    }));
    let flushes = Arc::clone(metrics);
    options.on_flush = Some(Arc::new(move |_, took| {
        flushes.backend_commit.observe(took.as_secs_f64());
    }));
    let compactions = Arc::clone(metrics);
    options.on_compaction = Some(Arc::new(move |step| compactions.compacted(step)));
    let dir = config.member_dir().join("store");
    let opened = tokio::task::spawn_blocking(move || kvd_mvcc::open(&dir, options)).await;
    Ok(opened.map_err(|error| Error::Internal(format!("opening the store failed: {error}")))??)
}

/// Gives disk space back before the member takes part, if it is worth it.
async fn defragment_at_start(config: &Config, store: &kvd_mvcc::Store) -> Result<()> {
    let (size, in_use) = (store.size(), store.size_in_use());
    let free = size.saturating_sub(in_use);
    if config.bootstrap_defrag_bytes == 0 {
        return Ok(());
    }
    if free < config.bootstrap_defrag_bytes {
        tracing::info!(
            size,
            in_use,
            threshold = config.bootstrap_defrag_bytes,
            "Skipping defragmentation: it would free less than the threshold"
        );
        return Ok(());
    }
    let store = store.clone();
    let done = tokio::task::spawn_blocking(move || store.defragment()).await;
    let done = done.map_err(|error| {
        Error::Internal(format!("defragmenting the store did not finish: {error}"))
    })??;
    tracing::info!(
        before = done.before,
        after = done.after,
        "defragmented the store"
    );
    Ok(())
}

/// What is said of a store that stopped writing. The engines hand the system's error on as text.
fn store_fault(fault: &kvd_mvcc::Error) -> String {
    let fault = format!("the store failed: {fault}");
    if fault.contains("No space left on device") {
        return format!(
            "{fault}; nothing acknowledged is lost: free some space and start the member again"
        );
    }
    fault
}

/// The disk under the log: the real one, unless nobody is to wait for it or a test wants it to
/// stall.
fn wal_disk(config: &Config) -> Arc<dyn kvd_raft::disk::Disk> {
    let mut real: Arc<dyn kvd_raft::disk::Disk> = Arc::new(kvd_raft::disk::RealDisk);
    if config.unsafe_no_fsync {
        tracing::warn!(
            "--unsafe-no-fsync: a power cut may lose what was acknowledged, or this member"
        );
        real = Arc::new(kvd_raft::disk::UnsyncedDisk::new(real));
    }
    match &config.wal_stall_switch {
        None => real,
        Some(switch) => {
            tracing::warn!(
                switch = %switch.display(),
                "a test: the disk under the write-ahead log stalls while this file exists"
            );
            Arc::new(kvd_raft::disk::StallDisk::new(real, switch.clone()))
        }
    }
}

fn raft_options(
    config: &Config,
    identity: &identity::Identity,
    store: &kvd_mvcc::Store,
    waiters: &Arc<Waiters>,
    metrics: &Arc<Metrics>,
) -> kvd_raft::Options {
    let failing = Arc::clone(waiters);
    let members = store.clone();
    kvd_raft::Options {
        member_id: identity.member_id,
        cluster_id: identity.cluster_id,
        wal_dir: config.wal_path(),
        snapshot_dir: config.member_dir().join("snap"),
        heartbeat: config.heartbeat_interval,
        election: config.election_timeout,
        pre_vote: config.pre_vote,
        snapshot_count: config.snapshot_count,
        catchup_entries: config.catchup_entries,
        segment_bytes: limits::WAL_SEGMENT_BYTES,
        batch_commands_max: limits::BATCH_COMMANDS_MAX,
        batch_bytes_max: limits::BATCH_BYTES_MAX,
        inflight_max: limits::INFLIGHT_ENTRIES_MAX,
        queue_max: limits::PROPOSALS_MAX,
        on_failed: Arc::new(move |ids, failure| failing.fail(ids, failure)),
        purgeable_index: store.purgeable_index(),
        force_new_cluster: config.force_new_cluster.then(|| kvd_raft::Member {
            id: identity.member_id,
            name: config.name.clone(),
            peer_urls: config.peer_urls.clone(),
            voter: true,
        }),
        is_removed: Arc::new(move |id| apply::is_removed(&members, id)),
        events: Arc::clone(metrics) as Arc<dyn kvd_raft::Events>,
        stall: config.wal_stall,
        disk: wal_disk(config),
        dialer: Arc::clone(&config.dialer),
    }
}
