//! What all services share: the way into the log, the read barrier, the header.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kvd_api::error::WireError;
use kvd_api::pb::etcdserverpb::{AlarmMember, AlarmType, ResponseHeader};
use kvd_api::pb::kvdcommandpb::{self, Command, command};
use kvd_mvcc::Store;
use kvd_raft::{Node, Role, Status};
use prost::Message;
use tokio::sync::watch;

use crate::apply::{Alarms, Applied, Durations, Kind};
use crate::audit::Audit;
use crate::auth::{Auth, Caller, Credentials, Unidentified, Verdict, View};
use crate::autopilot::Autopilot;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::lease::{self, Leases};
use crate::limits;
use crate::members::Standings;
use crate::metrics::Metrics;
use crate::waiters::Waiters;

/// What a service needs of the member it runs in. Shared by every connection.
pub struct Core {
    config: Config,
    cluster_id: u64,
    member_id: u64,
    store: Store,
    node: Node,
    status: watch::Receiver<Status>,
    applied: watch::Receiver<u64>,
    waiters: Arc<Waiters>,
    alarms: Arc<Alarms>,
    leases: Arc<Leases>,
    auth: Arc<Auth>,
    audit: Audit,
    lease_peers: lease::Peers,
    standings: Standings,
    autopilot: Autopilot,
    /// Held by whoever changes the membership through this member as leader.
    changes: tokio::sync::Mutex<()>,
    /// How long requests take that go through the log.
    request_durations: Durations,
    metrics: Arc<Metrics>,
    phase: AtomicU8,
    stopping: watch::Sender<bool>,
}

/// What [`Core`] is made of.
pub struct Parts {
    /// Settings of the member.
    pub config: Config,
    /// The cluster's ID.
    pub cluster_id: u64,
    /// The member's ID.
    pub member_id: u64,
    /// The store's read side.
    pub store: Store,
    /// The way into the log.
    pub node: Node,
    /// The log index that is applied and answered for.
    pub applied: watch::Receiver<u64>,
    /// Requests that wait for their result.
    pub waiters: Arc<Waiters>,
    /// Active alarms, kept by apply.
    pub alarms: Arc<Alarms>,
    /// The leases, kept by apply and the expiry loop.
    pub leases: Arc<Leases>,
    /// Users and roles, kept by apply.
    pub auth: Arc<Auth>,
    /// Where requests are written down.
    pub audit: Audit,
    /// The member's metrics.
    pub metrics: Arc<Metrics>,
}

const STOPPING: u8 = 1;

impl Core {
    /// Puts the parts together.
    pub fn new(parts: Parts) -> Core {
        Core {
            status: parts.node.status(),
            autopilot: Autopilot::new(parts.config.autopilot.clone()),
            config: parts.config,
            cluster_id: parts.cluster_id,
            member_id: parts.member_id,
            store: parts.store,
            node: parts.node,
            applied: parts.applied,
            waiters: parts.waiters,
            alarms: parts.alarms,
            leases: parts.leases,
            auth: parts.auth,
            audit: parts.audit,
            lease_peers: lease::Peers::new(),
            standings: Standings::default(),
            changes: tokio::sync::Mutex::new(()),
            request_durations: Durations::new(|name| parts.metrics.request_outcomes(name)),
            metrics: parts.metrics,
            phase: AtomicU8::new(0),
            stopping: watch::Sender::new(false),
        }
    }

    /// The store's read side.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The member's settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Alarms that are active.
    pub fn alarms(&self) -> &Alarms {
        &self.alarms
    }

    /// The leases.
    pub fn leases(&self) -> &Leases {
        &self.leases
    }

    /// The users, and what they may do.
    pub fn auth(&self) -> &Auth {
        &self.auth
    }

    /// What a request shows of who sends it; for streams, which look again with each message.
    pub fn credentials<T>(&self, request: &tonic::Request<T>) -> Credentials {
        let headers = request.metadata().as_ref();
        Credentials::of(headers, request.extensions(), self.auth.by_certificate())
    }

    /// Whom credentials stand for now; nobody while auth is off. Waits a moment for a token that
    /// another member has just given out.
    ///
    /// Errors: [`WireError::InvalidAuthToken`].
    pub async fn identify(&self, credentials: &Credentials) -> Result<Option<Caller>> {
        if !self.auth.is_enabled() {
            return Ok(None);
        }
        let index = match self.auth.identify(credentials, self.applied_index()) {
            Err(Unidentified::NotApplied(index)) => index,
            identified => return Ok(identified?),
        };
        let applied = self.wait_applied(index);
        // Whether it came or not shows in the answer to the second question.
        drop(tokio::time::timeout(limits::TOKEN_APPLIED_WAIT, applied).await);
        Ok(self.auth.identify(credentials, index)?)
    }

    /// Where requests are written down.
    pub fn audit(&self) -> &Audit {
        &self.audit
    }

    /// Refuses what `check` does not permit. Costs next to nothing while auth is off.
    ///
    /// This member may not know yet of a permission that was given through another one: before it
    /// refuses, it makes sure that it knows everything.
    ///
    /// Errors: those of `check` and [`Core::read_barrier`].
    pub async fn authorize(&self, check: impl Fn(&View) -> Verdict) -> Result<()> {
        if !self.auth.is_enabled() || check(&self.auth.view()).is_ok() {
            return Ok(());
        }
        self.read_barrier().await?;
        Ok(check(&self.auth.view())?)
    }

    /// The way to the leader for what only it knows of leases.
    pub fn lease_peers(&self) -> &lease::Peers {
        &self.lease_peers
    }

    /// How every member is.
    pub fn standings(&self) -> &Standings {
        &self.standings
    }

    /// What this member does by itself.
    pub fn autopilot(&self) -> &Autopilot {
        &self.autopilot
    }

    /// The turn to change the membership: one change at a time.
    pub(crate) async fn change_turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.changes.lock().await
    }

    /// Follows Raft's view of this member.
    pub(crate) fn follow_status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// An ID for a lease: positive, and unlikely to be in use.
    pub fn new_lease_id(&self) -> i64 {
        loop {
            let id = self.waiters.next_id() & (u64::MAX >> 1);
            if let Ok(id @ 1..) = i64::try_from(id) {
                return id;
            }
        }
    }

    /// The member's metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// This member's ID.
    pub fn member_id(&self) -> u64 {
        self.member_id
    }

    /// The cluster's ID.
    pub fn cluster_id(&self) -> u64 {
        self.cluster_id
    }

    /// The way into the log.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Raft's view of this member, with every index fresh.
    pub fn status(&self) -> Status {
        self.node.current_status()
    }

    /// The leader that this member knows; zero when there is none.
    pub fn leader(&self) -> u64 {
        self.status.borrow().leader.unwrap_or(0)
    }

    /// Whether this member leads.
    pub fn is_leader(&self) -> bool {
        self.status.borrow().role == Role::Leader
    }

    /// Whether this member has no vote.
    pub fn is_learner(&self) -> bool {
        self.status.borrow().role == Role::Learner
    }

    /// The log index that is applied here.
    pub fn applied_index(&self) -> u64 {
        *self.applied.borrow()
    }

    /// How long a request may take: etcd's 5 s and two election timeouts.
    pub fn request_timeout(&self) -> Duration {
        limits::REQUEST_TIMEOUT_BASE + 2 * self.config.election_timeout
    }

    /// A header with the given store revision (zero leaves it out).
    pub fn header(&self, revision: i64) -> ResponseHeader {
        ResponseHeader {
            cluster_id: self.cluster_id,
            member_id: self.member_id,
            revision,
            raft_term: self.status.borrow().term,
        }
    }

    /// Replicates `request`, waits until it is applied here and returns its result.
    ///
    /// Errors: [`WireError::RequestIsTooLarge`] above `--max-request-bytes`;
    /// [`WireError::TooManyRequests`] when apply lags or the queue is full; [`WireError::Timeout`]
    /// and [`WireError::LeaderChanged`] when the fate of the request is unknown; what apply
    /// answered. Source: etcd `server/etcdserver/v3_server.go`, `processInternalRaftRequestOnce`.
    ///
    /// For what the member asks by itself; requests of clients go through [`Core::propose_for`].
    pub async fn propose(&self, request: command::Request) -> Result<Applied> {
        self.propose_for(None, request).await
    }

    /// As [`Core::propose`], on behalf of `caller`: apply refuses what the caller may not do.
    ///
    /// Errors: those of [`Core::propose`].
    pub async fn propose_for(
        &self,
        caller: Option<Caller>,
        request: command::Request,
    ) -> Result<Applied> {
        if self.stopping() {
            return Err(WireError::ServerStopped.into());
        }
        let committed = self.status.borrow().commit_index;
        if committed > self.applied_index() + limits::APPLY_GAP_MAX {
            return Err(WireError::TooManyRequests.into());
        }
        let (kind, started) = (Kind::of(&request), Instant::now());
        let result = self.replicate(caller, request).await;
        // Whatever apply answered: the request went through the log.
        let ok = !matches!(
            result,
            Err(Error::Proposal(_) | Error::Wire(WireError::Timeout))
        );
        self.request_durations.observe(kind, ok, started.elapsed());
        result
    }

    /// The way of a request through the log.
    ///
    /// Errors: those of [`Core::propose`].
    async fn replicate(
        &self,
        caller: Option<Caller>,
        request: command::Request,
    ) -> Result<Applied> {
        let (request_id, mut waiting) = self.waiters.register();
        let command = encode(request_id, caller, request);
        if command.len() > self.config.request_bytes_max {
            return Err(WireError::RequestIsTooLarge.into());
        }
        let pending = self.metrics.proposal_started();
        let timeout = self.request_timeout();
        self.node
            .propose(request_id, command, Instant::now() + timeout)?;
        let outcome = tokio::time::timeout(timeout, waiting.result()).await;
        drop(pending);
        match outcome {
            Ok(Err(error @ Error::Proposal(_))) => {
                self.metrics.proposal_failed();
                Err(error)
            }
            Ok(result) => result,
            Err(_) => {
                self.metrics.proposal_failed();
                Err(WireError::Timeout.into())
            }
        }
    }

    /// Returns when this member has applied everything that was acknowledged anywhere before the
    /// call: a read that follows is linearizable.
    ///
    /// Errors: [`WireError::Timeout`], [`WireError::LeaderChanged`], [`WireError::ServerStopped`].
    /// Source: Raft thesis, section 6.4; etcd `linearizableReadNotify`.
    pub async fn read_barrier(&self) -> Result<()> {
        if self.stopping() {
            return Err(WireError::ServerStopped.into());
        }
        let barrier = async {
            let index = match Box::pin(self.node.read_index()).await {
                Ok(index) => index,
                Err(kvd_raft::Error::NoLeader | kvd_raft::Error::Timeout) => {
                    return Err(WireError::Timeout.into());
                }
                Err(kvd_raft::Error::NotLeader { .. }) => {
                    return Err(WireError::LeaderChanged.into());
                }
                Err(error) => return Err(error.into()),
            };
            self.wait_applied(index).await
        };
        let result = match tokio::time::timeout(self.request_timeout(), barrier).await {
            Ok(result) => result,
            Err(_) => Err(WireError::Timeout.into()),
        };
        match &result {
            Ok(()) | Err(Error::Wire(WireError::ServerStopped)) => {}
            Err(Error::Wire(WireError::Timeout)) => self.metrics.slow_read_indexes.inc(),
            Err(_) => self.metrics.read_indexes_failed.inc(),
        }
        result
    }

    /// Waits until the log index `index` is applied here.
    ///
    /// Errors: [`WireError::ServerStopped`] when the member stops meanwhile.
    pub async fn wait_applied(&self, index: u64) -> Result<()> {
        if *self.applied.borrow() >= index {
            return Ok(());
        }
        let mut applied = self.applied.clone();
        match applied.wait_for(|applied| *applied >= index).await {
            Ok(_) => Ok(()),
            Err(_) => Err(WireError::ServerStopped.into()),
        }
    }

    /// Refuses a request that would add `cost` bytes to a store that is full, and raises the
    /// NOSPACE alarm. A cost of zero always passes.
    ///
    /// Errors: [`WireError::NoSpace`]. Source: etcd `storage/quota.go`, `v3rpc/quota.go`.
    pub async fn check_quota(&self, cost: u64) -> Result<()> {
        if cost == 0 {
            return Ok(());
        }
        let Ok(quota) = u64::try_from(self.config.quota()) else {
            return Ok(());
        };
        if self.store.size().saturating_add(cost) < quota {
            return Ok(());
        }
        if self.alarms.is_active(AlarmType::Nospace) {
            return Err(WireError::NoSpace.into());
        }
        let alarm = kvd_api::pb::etcdserverpb::AlarmRequest {
            action: kvd_api::pb::etcdserverpb::alarm_request::AlarmAction::Activate as i32,
            member_id: self.member_id,
            alarm: AlarmType::Nospace as i32,
        };
        tracing::warn!(
            quota,
            size = self.store.size(),
            "the store is full: raising NOSPACE"
        );
        self.propose(command::Request::Alarm(alarm)).await?;
        Err(WireError::NoSpace.into())
    }

    /// Refuses a request of `cost` bytes while an alarm is active, as apply would, so that it does
    /// not fill the log. Comes after the request's own check, as in etcd.
    ///
    /// Errors: [`WireError::CorruptCluster`], [`WireError::NoSpace`].
    pub fn check_alarms(&self, cost: u64) -> Result<()> {
        if cost == 0 {
            return Ok(());
        }
        if self.alarms.is_active(AlarmType::Corrupt) {
            return Err(WireError::CorruptCluster.into());
        }
        if self.alarms.is_active(AlarmType::Nospace) {
            return Err(WireError::NoSpace.into());
        }
        Ok(())
    }

    /// The active alarms.
    pub fn active_alarms(&self) -> Vec<AlarmMember> {
        self.alarms.list(AlarmType::None)
    }

    /// Sets the gauges that are read from the store when somebody asks for them.
    pub fn collect_metrics(&self) {
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let metrics = &self.metrics;
        metrics.mvcc_db_size.set(gauge(self.store.size()));
        metrics
            .mvcc_db_size_in_use
            .set(gauge(self.store.size_in_use()));
        metrics.quota_backend_bytes.set(self.config.quota());
        metrics
            .debugging_mvcc_keys
            .set(gauge(self.store.keys_count()));
        metrics
            .debugging_mvcc_current_revision
            .set(self.store.current_revision());
        metrics
            .debugging_mvcc_compact_revision
            .set(self.store.compacted_revision());
        metrics
            .debugging_auth_revision
            .set(gauge(self.auth.view().revision()));
        let watches = self.store.watch_stats();
        metrics.debugging_mvcc_watch_stream.set(watches.streams);
        metrics.debugging_mvcc_watcher.set(watches.watchers);
        metrics.debugging_mvcc_slow_watcher.set(watches.slow);
        metrics.debugging_mvcc_pending_events.set(watches.pending);
        let lag = self.store.watch_lag();
        metrics.watch_lag_max.set(lag.max);
        for (revisions, watchers) in lag.watchers {
            let lagging = &metrics.watch_lagging;
            lagging
                .with_label_values(&[&revisions.to_string()])
                .set(watchers);
        }
        metrics.leases.set(gauge(self.leases.len() as u64));
        metrics.set_alarms(&self.active_alarms());
        if let Some(version) = crate::apply::cluster_version(&self.store) {
            metrics.set_cluster_version(&version);
        }
    }

    /// From now on new requests are refused with `server stopped`, and watch streams end with it.
    pub fn stop_accepting(&self) {
        self.store.stop_watches();
        self.phase.store(STOPPING, Ordering::Release);
        self.end_streams();
    }

    /// Ends streams that would else go on for ever. Requests are still taken.
    pub fn end_streams(&self) {
        self.stopping.send_replace(true);
    }

    /// Returns once streams must end.
    pub async fn stopped(&self) {
        let mut stopping = self.stopping.subscribe();
        // The sender lives as long as this.
        drop(stopping.wait_for(|stopping| *stopping).await);
    }

    fn stopping(&self) -> bool {
        self.phase.load(Ordering::Acquire) == STOPPING
    }

    /// How many requests wait for their result.
    pub fn waiting(&self) -> usize {
        self.waiters.len()
    }
}

fn encode(request_id: u64, caller: Option<Caller>, request: command::Request) -> Bytes {
    Bytes::from(
        Command {
            request_id,
            caller: caller.map(|caller| kvdcommandpb::Caller {
                user: (*caller.user).to_owned(),
                auth_revision: caller.revision,
            }),
            request: Some(request),
        }
        .encode_to_vec(),
    )
}
