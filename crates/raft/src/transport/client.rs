//! The sending side: a [`Peer`] per member, and openraft's network on top of it.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError,
    StreamAppendResult, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tonic::Status;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;

use super::append::{Link, Session};
use super::codec;
use super::identity::{Identity, LogLimit};
pub(crate) use super::line::{Client, Purpose};
use super::line::{Line, NotConnected, Target};
use super::resolve::Dialer;
use super::transfers::Transfers;
use crate::events::Events;
use crate::snapshot::{self, Snapshot, SnapshotData};
use crate::type_config::{PeerNode, TypeConfig, Vote};

/// Every member this one has talked to.
pub(crate) struct Peers {
    identity: Identity,
    dialer: Arc<dyn Dialer>,
    events: Arc<dyn Events>,
    transfers: Arc<Transfers>,
    /// Told when a peer says that this member was removed.
    status: Arc<watch::Sender<crate::status::Status>>,
    /// Connections live here, whichever thread needs them first.
    runtime: Handle,
    known: Mutex<HashMap<u64, Arc<Peer>>>,
}

impl Peers {
    pub(crate) fn new(
        identity: Identity,
        dialer: Arc<dyn Dialer>,
        events: Arc<dyn Events>,
        status: Arc<watch::Sender<crate::status::Status>>,
    ) -> Peers {
        let known = Mutex::new(HashMap::new());
        Peers {
            identity,
            dialer,
            events,
            transfers: Arc::new(Transfers::default()),
            status,
            runtime: Handle::current(),
            known,
        }
    }

    /// The snapshots on their way to peers.
    pub(crate) fn transfers(&self) -> &Transfers {
        &self.transfers
    }

    /// The peer `id`. When its URLs have changed, the next connection is made to the new ones. When
    /// the dialer has something better ([`Dialer::generation`]), it is one with connections of its
    /// own, and whoever holds the old one may finish what is under way.
    pub(crate) fn get(&self, id: u64, node: &PeerNode) -> Arc<Peer> {
        let generation = self.dialer.generation();
        let mut known = self.known.lock();
        let old = known.get(&id).cloned();
        if let Some(peer) = &old {
            let mut urls = peer.urls.lock();
            if *urls != node.peer_urls {
                urls.clone_from(&node.peer_urls);
            }
        }
        if let Some(peer) = &old
            && peer.generation == generation
        {
            return peer.clone();
        }
        let _context = self.runtime.enter();
        let urls = old.as_ref().map(|old| Arc::clone(&old.urls));
        let urls = urls.unwrap_or_else(|| Arc::new(Mutex::new(node.peer_urls.clone())));
        let peer = Arc::new(Peer::new(id, urls, generation, self));
        if let Some(old) = old {
            *peer.connected_since.lock() = *old.connected_since.lock();
            peer.processes.lock().clone_from(&old.processes.lock());
        }
        known.insert(id, peer.clone());
        peer
    }

    /// Forgets the peers that are no members. Who still holds one can go on with it.
    pub(crate) fn forget_others(&self, is_member: impl Fn(u64) -> bool) {
        self.known.lock().retain(|id, peer| {
            let stays = is_member(*id);
            if !stays {
                peer.gone.store(true, Ordering::Relaxed);
                peer.connected(false);
                self.events.peer_gone(*id);
            }
            stays
        });
    }

    /// Notes which process speaks for the member `id` now. When that is another one than before,
    /// the connections lead nowhere, whatever they look like: new ones are made, to where the name
    /// leads by now.
    pub(crate) fn met(&self, id: u64, process: u64) {
        let peer = self.known.lock().get(&id).cloned();
        if let Some(peer) = peer {
            peer.met(process);
        }
    }

    /// Since when the way to a peer has been open.
    pub(crate) fn connected_since(&self, id: u64) -> Option<Instant> {
        *self.known.lock().get(&id)?.connected_since.lock()
    }

    pub(crate) fn is_connected(&self, id: u64) -> bool {
        self.connected_since(id).is_some()
    }
}

/// A member and the connections to it, each made when first used.
pub(crate) struct Peer {
    pub(crate) id: u64,
    /// Written when the membership changes; read for every new connection.
    urls: Arc<Mutex<Vec<String>>>,
    /// The dialer's when the connections were made.
    generation: u64,
    metadata: MetadataMap,
    append: Line,
    control: Line,
    snapshot: Line,
    forward: Line,
    events: Arc<dyn Events>,
    pub(crate) transfers: Arc<Transfers>,
    log_limit: LogLimit,
    status: Arc<watch::Sender<crate::status::Status>>,
    /// Written with every answer, and by probes that find none.
    connected_since: Mutex<Option<Instant>>,
    /// When it last answered anything.
    last_answer: Mutex<Option<Instant>>,
    /// It is no member any more: answers that still come do not count.
    gone: AtomicBool,
    /// Who has spoken for the member.
    processes: Mutex<Processes>,
}

/// The processes that have spoken for a member, by the numbers that they drew.
#[derive(Debug, Clone, Default)]
struct Processes {
    current: Option<u64>,
    /// Those before it, the last one last.
    past: Vec<u64>,
}

impl Processes {
    /// So many are told from new ones: an old process may still speak while it ends.
    const PAST_MAX: usize = 8;

    /// Notes who speaks; says whether that is a new process in place of another.
    fn has_changed(&mut self, process: u64) -> bool {
        // Zero is a member from before there were numbers.
        if process == 0 || self.current == Some(process) || self.past.contains(&process) {
            return false;
        }
        let Some(before) = self.current.replace(process) else {
            return false;
        };
        if self.past.len() >= Self::PAST_MAX {
            self.past.remove(0);
        }
        self.past.push(before);
        true
    }
}

impl Peer {
    fn new(id: u64, urls: Arc<Mutex<Vec<String>>>, generation: u64, peers: &Peers) -> Peer {
        let target = Target {
            id,
            urls: urls.clone(),
            dialer: peers.dialer.clone(),
        };
        Peer {
            id,
            metadata: peers.identity.metadata(id),
            append: Line::new(Purpose::Append, &target),
            control: Line::new(Purpose::Control, &target),
            snapshot: Line::new(Purpose::Snapshot, &target),
            forward: Line::new(Purpose::Forward, &target),
            events: peers.events.clone(),
            transfers: peers.transfers.clone(),
            log_limit: LogLimit::default(),
            status: peers.status.clone(),
            connected_since: Mutex::new(None),
            processes: Mutex::default(),
            last_answer: Mutex::new(None),
            gone: AtomicBool::new(false),
            generation,
            urls,
        }
    }

    pub(crate) fn client(&self, purpose: Purpose) -> Client {
        match purpose {
            Purpose::Append => self.append.client(),
            Purpose::Control => self.control.client(),
            Purpose::Snapshot => self.snapshot.client(),
            Purpose::Forward => self.forward.client(),
        }
    }

    /// A request to this peer, with the metadata that it checks.
    pub(crate) fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        *request.metadata_mut() = self.metadata.clone();
        request
    }

    pub(crate) fn events(&self) -> &dyn Events {
        self.events.as_ref()
    }

    /// Notes a failure, and logs it unless that was done a moment ago.
    pub(crate) fn failed(&self, status: &Status) {
        self.events.peer_failed(self.id);
        if kvd_api::error::is_peer_removed(status) {
            self.status.send_if_modified(|status| {
                let news = !status.removed;
                status.removed = true;
                news
            });
        }
        if self.log_limit.allows("failed") {
            let urls = self.urls.lock().join(",");
            let error = innermost(status);
            tracing::warn!(
                peer = format!("{:x}", self.id),
                urls,
                error,
                "cannot reach a member"
            );
        }
    }

    /// Notes that the peer has answered.
    pub(crate) fn answered(&self) {
        if self.log_limit.clear("failed") {
            tracing::info!(peer = format!("{:x}", self.id), "a member answers again");
        }
        if !self.gone.load(Ordering::Relaxed) {
            *self.last_answer.lock() = Some(Instant::now());
            self.connected(true);
        }
    }

    /// See [`Peers::met`].
    fn met(&self, process: u64) {
        if self.processes.lock().has_changed(process) {
            tracing::info!(
                peer = format!("{:x}", self.id),
                "a member was started anew: connecting to it again"
            );
            for line in [&self.control, &self.append, &self.forward, &self.snapshot] {
                line.hang_up();
            }
        }
    }

    /// Whether the last probe was answered.
    pub(crate) fn is_connected(&self) -> bool {
        self.connected_since.lock().is_some()
    }

    /// Whether it has answered anything since `then`.
    pub(crate) fn answered_since(&self, then: Instant) -> bool {
        self.last_answer.lock().is_some_and(|at| at >= then)
    }

    /// Notes whether the way is open, as an answer shows or a probe has found.
    pub(crate) fn connected(&self, is_open: bool) {
        let mut since = self.connected_since.lock();
        match (is_open, since.is_some()) {
            (true, false) => {
                *since = Some(Instant::now());
                self.events.peer_connected(self.id);
            }
            (false, true) => {
                *since = None;
                self.events.peer_disconnected(self.id);
            }
            _ => {}
        }
    }

    /// Waits for a call, notes how it went, and gives up after `limit`.
    async fn call<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, RPCError<TypeConfig>> {
        match tokio::time::timeout(limit, call).await {
            Ok(Ok(response)) => {
                self.answered();
                Ok(response.into_inner())
            }
            Ok(Err(status)) => {
                self.failed(&status);
                Err(unreachable(&status))
            }
            Err(_) => {
                self.events.peer_failed(self.id);
                Err(NetworkError::from_string(format!("no answer within {limit:?}")).into())
            }
        }
    }
}

/// The way to services of the application on a peer's port: the connection of forwarded requests.
#[derive(Clone)]
pub struct PeerHandle {
    peer: Arc<Peer>,
}

impl PeerHandle {
    pub(crate) fn new(peer: Arc<Peer>) -> PeerHandle {
        PeerHandle { peer }
    }

    /// What a client of such a service is made of.
    pub fn channel(&self) -> Channel {
        self.peer.forward.channel()
    }

    /// A request with the metadata that
    /// [`Node::check_sender`](crate::Node::check_sender) checks on the other side.
    pub fn request<T>(&self, message: T) -> tonic::Request<T> {
        self.peer.request(message)
    }
}

/// Whether a failed call to a peer surely never reached it.
pub fn was_not_sent(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<NotConnected>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// What is at the bottom of a failed call, without the layers around it.
pub(crate) fn innermost(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = status.source();
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    text
}

pub(crate) fn unreachable(status: &Status) -> RPCError<TypeConfig> {
    Unreachable::from_string(innermost(status)).into()
}

/// Gives openraft a way to each member.
pub(crate) struct NetworkFactory {
    peers: Arc<Peers>,
}

impl NetworkFactory {
    pub(crate) fn new(peers: Arc<Peers>) -> NetworkFactory {
        NetworkFactory { peers }
    }

    fn network(&self, target: u64, node: &PeerNode, purpose: Purpose) -> Network {
        Network {
            peer: self.peers.get(target, node),
            purpose,
            link: Mutex::new(None),
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for NetworkFactory {
    type Network = Network;

    async fn new_client(&mut self, target: u64, node: &PeerNode) -> Network {
        self.network(target, node, Purpose::Append)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &PeerNode) -> Network {
        self.network(target, node, Purpose::Control)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &PeerNode) -> Network {
        self.network(target, node, Purpose::Snapshot)
    }
}

/// openraft's way to one member, for one purpose.
pub(crate) struct Network {
    peer: Arc<Peer>,
    purpose: Purpose,
    /// Never locked: openraft wants to share what it only ever uses alone.
    link: Mutex<Option<Link>>,
}

impl RaftNetworkV2<TypeConfig> for Network {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let last = request
            .entries
            .last()
            .map(|entry| entry.log_id)
            .or(request.prev_log_id);
        let mut replies = self.stream_append(stream::iter([request]), option).await?;
        match replies.next().await {
            Some(Ok(Ok(matching))) if matching == last => Ok(AppendEntriesResponse::Success),
            Some(Ok(Ok(matching))) => Ok(AppendEntriesResponse::PartialSuccess(matching)),
            Some(Ok(Err(StreamAppendError::Conflict(_)))) => Ok(AppendEntriesResponse::Conflict),
            Some(Ok(Err(StreamAppendError::HigherVote(vote)))) => {
                Ok(AppendEntriesResponse::HigherVote(vote))
            }
            Some(Err(error)) => Err(error),
            None => Err(NetworkError::from_string("the stream ended without a reply").into()),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<
            BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>,
            RPCError<TypeConfig>,
        >,
    >
    where
        S: stream::Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        let session = Session::new(&self.peer, self.purpose, self.link.get_mut(), input);
        let session: BoxStream<'s, _> = Box::pin(session);
        Box::pin(async move { Ok(session) })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask_for_vote(&request, false, option).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask_for_vote(&request, true, option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let started = Instant::now();
        self.peer.events.snapshot_sending(self.peer.id);
        let sending = snapshot::send(&self.peer, &vote, snapshot);
        let result = tokio::select! {
            result = sending => result.map_err(StreamingError::from),
            closed = cancel => Err(closed.into()),
        };
        self.peer
            .events
            .snapshot_sent(self.peer.id, started.elapsed(), result.is_ok());
        result
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let mut client = self.peer.client(Purpose::Control);
        let message = self.peer.request(codec::transfer_out(&request));
        let call = client.transfer_leader(message);
        let reply = self.peer.call(option.hard_ttl(), call).await?;
        match reply.accepted {
            true => Ok(Ok(())),
            false => Err(NetworkError::from_string(reply.reason).into()),
        }
    }

    /// A member that comes back is noticed within this. A snapshot that could not be sent may have
    /// cost much on both sides, and will once more.
    fn backoff(&self) -> Option<Backoff> {
        let steps = match self.purpose {
            Purpose::Snapshot => [100, 200, 400, 800, 1_600],
            _ => [10, 20, 40, 80, 80],
        };
        let steps = steps.into_iter().chain(std::iter::repeat(steps[4]));
        Some(Backoff::new(steps.map(Duration::from_millis)))
    }
}

impl Network {
    async fn ask_for_vote(
        &self,
        request: &VoteRequest<TypeConfig>,
        pre_vote: bool,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let mut client = self.peer.client(Purpose::Control);
        let message = self
            .peer
            .request(codec::vote_request_out(request, pre_vote));
        let call = client.request_vote(message);
        let reply = self.peer.call(option.hard_ttl(), call).await?;
        codec::vote_reply_in(reply).map_err(|error| NetworkError::new(&error).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_takes_over_is_noticed_once_and_its_forerunner_is_not_believed() {
        let mut processes = Processes::default();
        assert!(!processes.has_changed(0));
        assert!(!processes.has_changed(7), "the first is no change");
        assert!(!processes.has_changed(7));
        assert!(processes.has_changed(8));
        assert!(!processes.has_changed(7), "it is about to end");
        assert!(!processes.has_changed(8));
        for process in 9..40 {
            assert!(processes.has_changed(process));
        }
    }
}
