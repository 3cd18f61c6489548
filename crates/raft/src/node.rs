//! The handle to a running node, and how it starts and stops.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use kvd_api::pb::kvdpeerpb::peer_server::PeerServer;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{InitializeError, RaftError};
use openraft::{Config, SnapshotPolicy, StepDownPolicy};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::metadata::MetadataMap;

use crate::apply::{Applier, Progress};
use crate::batcher::{Batcher, Proposer, Queue};
use crate::change::{self, Basis, Change};
use crate::core::{Core, Raft};
use crate::error::{Error, Result};
use crate::log_store::LogStore;
use crate::membership::Member;
use crate::options::Options;
use crate::read_index::ReadIndex;
use crate::rounds::Rounds;
use crate::snapshot::Receiver;
use crate::state_machine::StateMachine;
use crate::status::Status;
use crate::transport::client::{NetworkFactory, Peers};
use crate::transport::contact::Contact;
use crate::transport::identity::{Identity, LogLimit};
use crate::transport::{self, PeerHandle, PeerService};
use crate::type_config::PeerNode;
use crate::{force, keeper, prober, stall, transfer, wal, watcher};

/// Most entries in one append to a peer. Entries are batches; bytes are bounded by the log.
const APPEND_ENTRIES_MAX: u64 = 512;

/// A running member of the cluster. Cheap to clone; all clones are the same node.
///
/// Works from any tokio runtime; its own tasks stay on the one it was started on. Dropping every
/// handle does not stop it: [`Node::shutdown`] does.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    core: Arc<Core>,
    proposer: Proposer,
    read_index: ReadIndex,
    snapshots: Arc<Receiver>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Node {
    /// Opens the log, brings the state machine up to what is known to be committed, and starts to
    /// take part in the cluster, on the current tokio runtime.
    ///
    /// `bootstrap` are the members of a new cluster, the same on each of them; it is ignored when
    /// the log is not empty. Without it, a node with an empty log waits until a leader finds it.
    ///
    /// Errors: [`Error::Wal`] when the log is damaged or belongs to another member, and
    /// [`Error::Option`] for options that cannot work.
    pub async fn start<S: StateMachine>(
        options: Options,
        state_machine: S,
        bootstrap: Option<Vec<Member>>,
    ) -> Result<Node> {
        options.validate()?;
        let snapshots = Arc::new(Receiver::open(options.snapshot_dir.clone())?);
        let stalled = Arc::new(watch::Sender::new(false));
        let mut log = open_log(&options, stalled.clone()).await?;
        let status = Status {
            running: true,
            ..Status::default()
        };
        let status = Arc::new(watch::Sender::new(status));
        let progress = Arc::new(Progress::default());
        let machine = Box::new(state_machine);
        let applier = Applier::new(
            machine,
            status.clone(),
            progress.clone(),
            options.events.clone(),
        )?;
        log.reconcile(applier.applied())?;
        if let Some(member) = &options.force_new_cluster {
            force::alone(&mut log, applier.membership(), member).await?;
        }
        let identity = Identity {
            cluster_id: options.cluster_id,
            member_id: options.member_id,
        };
        let peers = Arc::new(Peers::new(
            identity,
            options.dialer.clone(),
            options.events.clone(),
            status.clone(),
        ));
        let network = NetworkFactory::new(peers.clone());
        let config = Arc::new(config(&options)?);
        let raft = Raft::new(options.member_id, config, network, log.clone(), applier).await;
        let raft = raft.map_err(|fatal| Error::Stopped {
            fault: Some(fatal.to_string()),
        })?;
        raft.with_state_machine(|applier| Box::pin(async { applier.serve() }))
            .await
            .map_err(|fatal| Error::Stopped {
                fault: Some(fatal.to_string()),
            })?;
        let runtime = Handle::current();
        let core = Arc::new(Core {
            options,
            raft,
            status,
            progress,
            peers,
            contact: Arc::new(Contact::new()),
            refusals: LogLimit::default(),
            stalled: stalled.subscribe(),
            log,
            confirmations: Rounds::default(),
            process: rand::random::<u64>().max(1),
            runtime,
        });
        if let Some(members) = bootstrap {
            initialize(&core, &members).await?;
        }
        watcher::refresh(&core);
        Ok(Node {
            inner: Arc::new(Inner::spawn(core, snapshots)),
        })
    }

    /// Puts a command into the queue of proposals; never waits.
    ///
    /// The answer comes through [`StateMachine::apply`] on this member, by `request_id`, or
    /// through [`Options::on_failed`]. While there is no leader the command waits; after
    /// `deadline` it is dropped without a word, if it was not proposed before.
    ///
    /// Errors: [`Error::Overloaded`] when the queue is full, [`Error::Stopped`].
    pub fn propose(
        &self,
        request_id: u64,
        command: Bytes,
        deadline: std::time::Instant,
    ) -> Result<()> {
        let proposed = self
            .inner
            .proposer
            .propose(request_id, command, Instant::from(deadline));
        proposed.map_err(|error| match error {
            Error::Stopped { .. } => self.inner.core.stopped(),
            other => other,
        })
    }

    /// Which index must be applied here before a read that starts now is linearizable. A quorum
    /// confirms it, on the way of the leader; all who ask at the same time share one round.
    ///
    /// Errors: [`Error::NoLeader`] or [`Error::Timeout`] after five seconds and two election
    /// timeouts, [`Error::Stopped`]. Source: Raft thesis, section 6.4.
    pub async fn read_index(&self) -> Result<u64> {
        self.inner.read_index.get(&self.inner.core).await
    }

    /// Follows the node's status.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.inner.core.status.subscribe()
    }

    /// The status at this moment, with every index fresh.
    pub fn current_status(&self) -> Status {
        watcher::refresh(&self.inner.core);
        self.inner.core.status.borrow().clone()
    }

    /// Hands leadership to `to`, or to the voter that has most of the log, and waits until
    /// another member leads; returns who does. Writes wait meanwhile.
    ///
    /// Errors: [`Error::NotLeader`]; [`Error::Membership`] when nobody else can lead;
    /// [`Error::Timeout`] after two election timeouts.
    pub async fn transfer_leadership(&self, to: Option<u64>) -> Result<u64> {
        transfer::transfer_leadership(&self.inner.core, to).await
    }

    /// The membership that a change can start from, when this member leads.
    ///
    /// Errors: [`Error::NotLeader`].
    pub fn basis(&self) -> Result<Basis> {
        change::basis(&self.inner.core)
    }

    /// Changes the membership by one entry, and returns its index once it is committed.
    ///
    /// Errors: [`Error::NotLeader`] and [`Error::Superseded`]: nothing was written, look again.
    /// [`Error::Membership`] for a change that makes no sense. [`Error::LeaderChanged`] and
    /// [`Error::Timeout`]: it may take effect, now or never.
    pub async fn change(&self, basis: &Basis, change: Change) -> Result<u64> {
        change::change(&self.inner.core, basis, change).await
    }

    /// The way to a peer's port, for services of the application there; `None` for who is no member.
    pub fn peer(&self, id: u64) -> Option<PeerHandle> {
        self.inner.core.peer(id).map(PeerHandle::new)
    }

    /// Who sent a request to a service of the application on this member's peer port.
    ///
    /// Errors: what to answer when it is meant for another member or cluster, or comes from a
    /// member that was removed.
    pub fn check_sender(&self, metadata: &MetadataMap) -> std::result::Result<u64, tonic::Status> {
        transport::server::check_sender(&self.inner.core, metadata)
    }

    /// Tells the node what it cannot learn by itself: that it was removed from the cluster.
    pub fn learn_removal(&self) {
        self.inner.core.status.send_if_modified(|status| {
            let is_news = !status.removed;
            status.removed = true;
            is_news
        });
    }

    /// Since when the way to a peer has been open; `None` while it is not.
    pub fn connected_since(&self, id: u64) -> Option<std::time::Instant> {
        self.inner.core.peers.connected_since(id)
    }

    /// How much of the log a member is known to have: its last index. `None` unless this member
    /// leads.
    pub fn matched_index(&self, id: u64) -> Option<u64> {
        let metrics = self.inner.core.raft().metrics();
        let metrics = metrics.borrow_watched();
        let progress = metrics.replication.as_ref()?;
        let matched = progress.get(&id).copied().flatten();
        Some(matched.map_or(0, |matched| matched.index))
    }

    /// The service that peers talk to; the server mounts it on the peer port. Accepted sockets
    /// must have `TCP_NODELAY` set, as those of [`PlainDialer`](crate::PlainDialer) have: without
    /// it each reply waits some 40 ms for a delayed acknowledgement.
    pub fn peer_service(&self) -> PeerServer<PeerService> {
        PeerService::server(self.inner.core.clone(), self.inner.snapshots.clone())
    }

    /// Stops taking part, and closes the log: what was written to it is durable on return.
    /// Proposals that wait fail with [`ProposeFailure::Stopped`](crate::ProposeFailure).
    pub async fn shutdown(&self) -> Result<()> {
        let inner = &self.inner;
        inner.stop.cancel();
        inner.tasks.close();
        inner.tasks.wait().await;
        let stopped = inner.core.raft().shutdown().await;
        inner.core.status.send_modify(|status| {
            status.running = false;
            status.leader = None;
        });
        let log = inner.core.log.clone();
        let closed = tokio::task::spawn_blocking(move || log.close()).await;
        closed.map_err(|error| Error::Stopped {
            fault: Some(error.to_string()),
        })??;
        stopped.map_err(|error| Error::Stopped {
            fault: Some(error.to_string()),
        })
    }
}

impl Inner {
    fn spawn(core: Arc<Core>, snapshots: Arc<Receiver>) -> Inner {
        let queue = Queue::new(&core.options);
        let proposer = queue.proposer.clone();
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        tasks.spawn(Batcher::run(core.clone(), queue, stop.clone()));
        let (kept, on_stop) = (core.clone(), stop.clone());
        tasks.spawn(async move { on_stop.run_until_cancelled(keeper::run(kept)).await });
        let (stalling, on_stop) = (core.clone(), stop.clone());
        tasks.spawn(async move {
            let stalled = stalling.stalled.clone();
            on_stop
                .run_until_cancelled(stall::run(stalling, stalled))
                .await
        });
        let (probing, on_stop) = (core.clone(), stop.clone());
        tasks.spawn(async move { on_stop.run_until_cancelled(prober::run(probing)).await });
        let (watched, on_stop) = (core.clone(), stop.clone());
        tasks.spawn(async move {
            on_stop.run_until_cancelled(watcher::watch(watched)).await;
            // openraft has stopped: nothing can be proposed any more.
            on_stop.cancel();
        });
        Inner {
            core,
            proposer,
            read_index: ReadIndex::default(),
            snapshots,
            stop,
            tasks,
        }
    }
}

async fn open_log(options: &Options, stalled: Arc<watch::Sender<bool>>) -> Result<LogStore> {
    let mut wal = wal::Options::new(&options.wal_dir, options.cluster_id, options.member_id);
    wal.segment_bytes = options.segment_bytes;
    wal.disk = options.disk.clone();
    wal.events = options.events.clone();
    wal.stall = options.stall;
    wal.stalled = stalled;
    let opened = tokio::task::spawn_blocking(move || LogStore::open(wal)).await;
    let opened = opened.map_err(|error| Error::Stopped {
        fault: Some(error.to_string()),
    })?;
    Ok(opened?)
}

/// Writes the first membership; the same on every member of a new cluster.
async fn initialize(core: &Core, members: &[Member]) -> Result<()> {
    if let Some(learner) = members.iter().find(|member| !member.voter) {
        let what = format!("a new cluster cannot begin with learner {:x}", learner.id);
        return Err(Error::Membership(what));
    }
    let nodes: BTreeMap<u64, PeerNode> = members.iter().map(|m| (m.id, m.node())).collect();
    match core.raft().initialize(nodes).await {
        // The log is not empty: this is a restart.
        Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
        Err(RaftError::APIError(error)) => Err(Error::Membership(error.to_string())),
        Err(RaftError::Fatal(fatal)) => Err(Error::Stopped {
            fault: Some(fatal.to_string()),
        }),
    }
}

/// openraft's settings, where they differ from its defaults.
/// A follower of openraft lets the leader's lease run out, which lasts as long as the longest wait,
/// and then waits for a random time between the two. Together that is one to less than two
/// election timeouts, as etcd's users expect: 0.8 + (0.2 to 0.8).
fn longest_wait(options: &Options) -> u64 {
    options.election.as_millis() as u64 * 4 / 5
}

/// See [`longest_wait`]. It must be longer than the heartbeat.
fn shortest_wait(options: &Options) -> u64 {
    let fifth = options.election.as_millis() as u64 / 5;
    fifth.max(options.heartbeat.as_millis() as u64 * 3 / 2)
}

fn config(options: &Options) -> Result<Config> {
    let millis = |duration: std::time::Duration| duration.as_millis() as u64;
    let config = Config {
        cluster_name: format!("{:x}", options.cluster_id),
        heartbeat_interval: millis(options.heartbeat),
        election_timeout_min: shortest_wait(options),
        election_timeout_max: longest_wait(options),
        enable_pre_vote: Some(options.pre_vote),
        max_payload_entries: APPEND_ENTRIES_MAX,
        // We say when to snapshot and what to purge (watcher.rs); a follower gets a snapshot only
        // when what it needs is purged, not because it lags.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        replication_lag_threshold: u64::MAX,
        // A restarted leader is elected anew: clients take a term to have one reign.
        enable_leader_restore: Some(false),
        removed_leader_step_down: StepDownPolicy::After(millis(options.heartbeat)),
        ..Config::default()
    };
    config.validate().map_err(|error| Error::Option {
        name: "election",
        why: error.to_string(),
    })
}
