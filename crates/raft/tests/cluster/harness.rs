//! Clusters in one process: each member has its own runtime, log and listener, so that it can be
//! killed at any moment and started again.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kvd_raft::disk::RealDisk;
use kvd_raft::{Change, Error, Member, NoEvents, Node, Options, ProposeFailure, Status};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tonic::transport::server::TcpIncoming;

use crate::net::Net;
use crate::toy::{Toy, ToyState};

pub(crate) const CLUSTER_ID: u64 = 0xc1;
/// Long enough for a machine that is busy with other things.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(40);
pub(crate) const ELECTION: Duration = Duration::from_millis(1000);

/// Waits until `condition` yields something.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "still not: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What may differ from test to test.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) cluster_id: u64,
    pub(crate) snapshot_count: u64,
    pub(crate) catchup_entries: u64,
    pub(crate) queue_max: usize,
    pub(crate) force_new_cluster: bool,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            cluster_id: CLUSTER_ID,
            snapshot_count: 10_000,
            catchup_entries: 5_000,
            queue_max: 10_000,
            force_new_cluster: false,
        }
    }
}

pub(crate) struct TestMember {
    pub(crate) id: u64,
    pub(crate) setup: Setup,
    pub(crate) state: Arc<ToyState>,
    pub(crate) failures: Arc<Mutex<Vec<(u64, ProposeFailure)>>>,
    dir: PathBuf,
    net: Arc<Net>,
    running: Option<(Runtime, Node)>,
}

impl TestMember {
    pub(crate) fn new(id: u64, dir: PathBuf, net: Arc<Net>, setup: Setup) -> TestMember {
        TestMember {
            id,
            setup,
            state: Arc::default(),
            failures: Arc::default(),
            dir,
            net,
            running: None,
        }
    }

    fn options(&self) -> Options {
        let failures = self.failures.clone();
        Options {
            member_id: self.id,
            cluster_id: self.setup.cluster_id,
            wal_dir: self.dir.join("wal"),
            snapshot_dir: self.dir.join("snapshots"),
            heartbeat: HEARTBEAT,
            election: ELECTION,
            pre_vote: true,
            snapshot_count: self.setup.snapshot_count,
            catchup_entries: self.setup.catchup_entries,
            segment_bytes: 1 << 20,
            batch_commands_max: 1_024,
            batch_bytes_max: 1 << 20,
            inflight_max: 16,
            queue_max: self.setup.queue_max,
            on_failed: Arc::new(move |ids, failure| {
                failures.lock().extend(ids.iter().map(|id| (*id, failure)));
            }),
            purgeable_index: self.state.purgeable.clone(),
            force_new_cluster: self.setup.force_new_cluster.then(|| member(self.id, true)),
            is_removed: {
                let state = self.state.clone();
                Arc::new(move |id| state.removed.lock().contains(&id))
            },
            stall: Default::default(),
            events: Arc::new(NoEvents),
            disk: Arc::new(RealDisk),
            dialer: self.net.dialer(self.id),
        }
    }

    pub(crate) fn start(&mut self, bootstrap: Option<Vec<Member>>) {
        assert!(self.running.is_none(), "already running");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let (options, toy) = (self.options(), Toy(self.state.clone()));
        // The lock of a killed member's log goes when its last thread has ended.
        let node = eventually("the member starts", || {
            let (options, toy) = (options.clone(), Toy(toy.0.clone()));
            match runtime.block_on(Node::start(options, toy, bootstrap.clone())) {
                Ok(node) => Some(node),
                Err(Error::Wal(kvd_raft::wal::Error::Locked { .. })) => None,
                Err(error) => panic!("cannot start: {error}"),
            }
        });
        let listener = runtime
            .block_on(TcpListener::bind("127.0.0.1:0"))
            .expect("a free port");
        self.net
            .listens(self.id, listener.local_addr().expect("bound"));
        let service = node.peer_service();
        runtime.spawn(async move {
            let server = tonic::transport::Server::builder().add_service(service);
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            server.serve_with_incoming(incoming).await
        });
        self.running = Some((runtime, node));
    }

    /// Ends the member as kill -9 would: no task of it runs any further.
    pub(crate) fn kill(&mut self) {
        let (runtime, node) = self.running.take().expect("running");
        self.net.gone(self.id);
        runtime.shutdown_background();
        drop(node);
    }

    pub(crate) fn shutdown(&mut self) {
        let (runtime, node) = self.running.take().expect("running");
        self.net.gone(self.id);
        runtime.block_on(node.shutdown()).expect("a clean end");
        drop(node);
        runtime.shutdown_background();
    }

    /// Files in the folder for received snapshots.
    pub(crate) fn received_files(&self) -> usize {
        std::fs::read_dir(self.dir.join("snapshots"))
            .expect("made at start")
            .count()
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    pub(crate) fn node(&self) -> &Node {
        &self.running.as_ref().expect("running").1
    }

    pub(crate) fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.running.as_ref().expect("running").0.block_on(future)
    }

    pub(crate) fn status(&self) -> Status {
        self.node().current_status()
    }

    /// Changes the membership, once changes before it are over.
    #[track_caller]
    pub(crate) fn change(&self, change: Change) -> Result<u64, Error> {
        eventually("the membership may change", || {
            let changed = self
                .node()
                .basis()
                .and_then(|basis| self.wait(self.node().change(&basis, change.clone())));
            match changed {
                Err(Error::Superseded) => None,
                other => Some(other),
            }
        })
    }

    pub(crate) fn propose(&self, id: u64, command: &[u8]) {
        let deadline = Instant::now() + DEADLINE;
        let command = Bytes::copy_from_slice(command);
        self.node().propose(id, command, deadline).expect("queued");
    }

    /// Proposes and waits until the command is applied here.
    #[track_caller]
    pub(crate) fn write(&self, id: u64) {
        self.propose(id, format!("command {id}").as_bytes());
        eventually("the command is applied", || {
            self.state.has(id).then_some(())
        });
    }
}

pub(crate) struct Cluster {
    pub(crate) members: Vec<TestMember>,
    pub(crate) net: Arc<Net>,
    next_id: AtomicU64,
    dir: TempDir,
}

impl Cluster {
    /// Starts members 1 to `size`.
    pub(crate) fn start(size: u64, setup: Setup) -> Cluster {
        let mut cluster = Cluster::prepare(size, setup);
        let bootstrap: Vec<Member> = (1..=size).map(|id| member(id, true)).collect();
        for member in &mut cluster.members {
            member.start(Some(bootstrap.clone()));
        }
        cluster
    }

    /// Members that have not been started.
    pub(crate) fn prepare(size: u64, setup: Setup) -> Cluster {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let net = Arc::new(Net::default());
        let mut cluster = Cluster {
            members: Vec::new(),
            net,
            next_id: AtomicU64::new(1_000),
            dir,
        };
        for _ in 0..size {
            cluster.prepare_member(setup.clone());
        }
        cluster
    }

    /// Another member, not started; returns its place.
    pub(crate) fn prepare_member(&mut self, setup: Setup) -> usize {
        let id = self.members.len() as u64 + 1;
        let dir = self.dir.path().join(id.to_string());
        self.members
            .push(TestMember::new(id, dir, self.net.clone(), setup));
        self.members.len() - 1
    }

    pub(crate) fn new_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = &TestMember> {
        self.members.iter().filter(|member| member.is_running())
    }

    /// Waits until all running members agree on a leader that runs; returns its place.
    #[track_caller]
    pub(crate) fn leader(&self) -> usize {
        self.leader_of(&(0..self.members.len()).collect::<Vec<_>>())
    }

    /// Waits until the running ones of these members agree on a leader among them.
    #[track_caller]
    pub(crate) fn leader_of(&self, places: &[usize]) -> usize {
        eventually("there is one leader", || {
            let members = places.iter().map(|place| &self.members[*place]);
            let running: Vec<_> = members.filter(|member| member.is_running()).collect();
            let leader = running.first()?.status().leader?;
            let agreed = running
                .iter()
                .all(|member| member.status().leader == Some(leader));
            let place = self.members.iter().position(|member| member.id == leader)?;
            let there = agreed && places.contains(&place) && self.members[place].is_running();
            there.then_some(place)
        })
    }

    /// The place of a running member that does not lead.
    pub(crate) fn follower(&self) -> usize {
        let leader = self.leader();
        let is_follower = |place: &usize| *place != leader && self.members[*place].is_running();
        (0..self.members.len())
            .find(is_follower)
            .expect("a follower")
    }

    /// Waits until all running members have applied the same commands, `count` or more.
    #[track_caller]
    pub(crate) fn converge(&self, count: usize) -> Vec<u64> {
        eventually("all members have the same content", || {
            let mut running = self.running();
            let ids = running.next()?.state.ids();
            (ids.len() >= count && running.all(|member| member.state.ids() == ids)).then_some(ids)
        })
    }
}

pub(crate) fn member(id: u64, voter: bool) -> Member {
    let peer_urls = vec![format!("http://member-{id}:2380")];
    Member {
        id,
        name: format!("m{id}"),
        peer_urls,
        voter,
    }
}
