//! The receiving side: the peer service, mounted by the server on its peer port.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use futures_util::stream::FuturesOrdered;
use futures_util::{Stream, StreamExt};
use kvd_api::error::{internal, peer_malformed, peer_refused, peer_removed, peer_unavailable};
use kvd_api::pb::kvdpeerpb as pb;
use kvd_api::pb::kvdpeerpb::peer_server::{Peer, PeerServer};
use openraft::errors::ClientWriteError;
use openraft::raft::AppendEntriesResponse;
use prost::Message;
use tokio::sync::oneshot;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::identity::Identity;
use super::{MESSAGE_BYTES_MAX, codec};
use crate::commands::Commands;
use crate::core::Core;
use crate::read_index;
use crate::responder::Callback;
use crate::snapshot::{Receiver, Snapshot, SnapshotData};

/// Requests of one append stream that are handed to openraft and not yet answered.
const APPENDS_MAX: usize = 256;

/// Answers the peers of one node.
pub struct PeerService {
    core: Arc<Core>,
    snapshots: Arc<Receiver>,
}

impl PeerService {
    pub(crate) fn server(core: Arc<Core>, snapshots: Arc<Receiver>) -> PeerServer<PeerService> {
        PeerServer::new(PeerService { core, snapshots })
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The sender's member id; refuses what is not meant for this member of this cluster.
    fn sender<T>(&self, request: &Request<T>) -> Result<u64, Status> {
        check_sender(&self.core, request.metadata())
    }

    fn leader(&self) -> u64 {
        self.core.status.borrow().leader.unwrap_or(0)
    }
}

/// The sender's member id; refuses what is not meant for this member of this cluster, and members
/// that were removed.
pub(crate) fn check_sender(core: &Core, metadata: &MetadataMap) -> Result<u64, Status> {
    let identity = Identity {
        cluster_id: core.options.cluster_id,
        member_id: core.options.member_id,
    };
    let from = identity.check(metadata).map_err(|refusal| {
        let text = refusal.to_string();
        if core.refusals.allows(&text) {
            let advice = "check --initial-cluster and --initial-cluster-token";
            tracing::warn!(refusal = text, advice, "refused a peer");
        }
        peer_refused(text)
    })?;
    if (core.options.is_removed)(from) {
        return Err(peer_removed());
    }
    Ok(from)
}

/// A snapshot that is being received; counted as failed unless it is said to have succeeded.
struct Receiving {
    core: Arc<Core>,
    from: u64,
    started: Instant,
    ok: bool,
}

impl Receiving {
    fn begin(core: Arc<Core>, from: u64) -> Receiving {
        core.options.events.snapshot_receiving(from);
        Receiving {
            core,
            from,
            started: Instant::now(),
            ok: false,
        }
    }

    fn succeed(mut self) {
        self.ok = true;
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        let events = &self.core.options.events;
        events.snapshot_received(self.from, self.started.elapsed(), self.ok);
    }
}

fn malformed(error: codec::Malformed) -> Status {
    peer_malformed(error.to_string())
}

#[tonic::async_trait]
impl Peer for PeerService {
    type AppendStream = Replies;

    async fn append(
        &self,
        request: Request<Streaming<pb::AppendRequest>>,
    ) -> Result<Response<Replies>, Status> {
        let from = self.sender(&request)?;
        Ok(Response::new(Replies {
            core: self.core.clone(),
            from,
            requests: Some(request.into_inner()),
            under_way: FuturesOrdered::new(),
            carries_entries: false,
            room: None,
        }))
    }

    async fn request_vote(
        &self,
        request: Request<pb::VoteRequest>,
    ) -> Result<Response<pb::VoteReply>, Status> {
        self.sender(&request)?;
        let request = request.into_inner();
        let pre_vote = request.pre_vote;
        let request = codec::vote_request_in(request).map_err(malformed)?;
        let reply = match pre_vote {
            true => self.core.raft().pre_vote(request).await,
            false => self.core.raft().vote(request).await,
        };
        let reply = reply.map_err(|error| peer_unavailable(error.to_string()))?;
        Ok(Response::new(codec::vote_reply_out(&reply)))
    }

    async fn transfer_leader(
        &self,
        request: Request<pb::TransferRequest>,
    ) -> Result<Response<pb::TransferReply>, Status> {
        self.sender(&request)?;
        let request = codec::transfer_in(request.into_inner()).map_err(malformed)?;
        if request.to_node_id() == &self.core.options.member_id && self.core.is_stuck() {
            return Ok(Response::new(pb::TransferReply {
                accepted: false,
                reason: "the disk here stalls".to_owned(),
            }));
        }
        let reply = self.core.raft().handle_transfer_leader(request).await;
        let reply = reply.map_err(|error| peer_unavailable(error.to_string()))?;
        let reason = reply.err().map(|error| error.to_string());
        let reply = pb::TransferReply {
            accepted: reason.is_none(),
            reason: reason.unwrap_or_default(),
        };
        Ok(Response::new(reply))
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<pb::SnapshotPart>>,
    ) -> Result<Response<pb::SnapshotReply>, Status> {
        let from = self.sender(&request)?;
        let receiving = Receiving::begin(self.core.clone(), from);
        let events = self.core.options.events.as_ref();
        let parts = request.into_inner();
        let incoming = self.snapshots.receive(parts, from, events).await?;
        let snapshot = Snapshot {
            meta: incoming.meta,
            snapshot: SnapshotData::Received(incoming.file),
        };
        let reply = self
            .core
            .raft()
            .install_full_snapshot(incoming.vote, snapshot)
            .await;
        let reply = reply.map_err(|error| internal(format!("snapshot: {error}")))?;
        receiving.succeed();
        Ok(Response::new(pb::SnapshotReply {
            vote: Some(codec::vote_out(&reply.vote)),
        }))
    }

    /// Appends a follower's batch as one entry and answers when a quorum has it.
    async fn propose(
        &self,
        request: Request<pb::ProposeRequest>,
    ) -> Result<Response<pb::ProposeReply>, Status> {
        use pb::ProposeOutcome::{ProposeCommitted, ProposeLost, ProposeRefused};
        self.sender(&request)?;
        let commands = Commands::decode(request.into_inner().commands)
            .ok_or(codec::Malformed("commands"))
            .map_err(malformed)?;
        if !self.core.log.has_room() {
            return Ok(Response::new(pb::ProposeReply {
                outcome: ProposeRefused.into(),
                leader: self.leader(),
            }));
        }
        let (sender, receiver) = oneshot::channel();
        let sender = Arc::new(parking_lot::Mutex::new(Some(sender)));
        let answer = move |sender: &parking_lot::Mutex<Option<oneshot::Sender<_>>>, outcome| {
            if let Some(sender) = sender.lock().take() {
                // A caller that has gone needs no answer.
                let _ = sender.send(outcome);
            }
        };
        let on_commit = sender.clone();
        let callback = Callback::on_complete(move |result| {
            let outcome = match result {
                Ok(_) => ProposeCommitted,
                Err(ClientWriteError::ForwardToLeader(_)) => ProposeRefused,
                Err(_) => ProposeLost,
            };
            answer(&sender, outcome);
        })
        .with_on_commit(move || answer(&on_commit, ProposeCommitted));
        let written = self
            .core
            .raft()
            .client_write_ff(commands, Some(callback))
            .await;
        written.map_err(|error| peer_unavailable(error.to_string()))?;
        // The callback is dropped unanswered when openraft stops with the entry under way.
        let outcome = receiver.await.unwrap_or(ProposeLost);
        Ok(Response::new(pb::ProposeReply {
            outcome: outcome.into(),
            leader: self.leader(),
        }))
    }

    async fn read_index(
        &self,
        request: Request<pb::ReadIndexRequest>,
    ) -> Result<Response<pb::ReadIndexReply>, Status> {
        self.sender(&request)?;
        let index = read_index::confirm_for_peer(&self.core).await;
        Ok(Response::new(pb::ReadIndexReply {
            ok: index.is_some(),
            index: index.unwrap_or_default(),
            leader: self.leader(),
        }))
    }

    async fn probe(
        &self,
        request: Request<pb::ProbeRequest>,
    ) -> Result<Response<pb::ProbeReply>, Status> {
        let from = self.sender(&request)?;
        self.core.peers.met(from, request.into_inner().process);
        let process = self.core.process;
        Ok(Response::new(pb::ProbeReply { process }))
    }
}

type UnderWay = Pin<Box<dyn Future<Output = pb::AppendReply> + Send>>;

/// The replies to an append stream: requests are handed to openraft in order as they come, each
/// is answered when its entries are on disk.
pub struct Replies {
    core: Arc<Core>,
    from: u64,
    /// `None` once the peer has ended the stream.
    requests: Option<Streaming<pb::AppendRequest>>,
    under_way: FuturesOrdered<UnderWay>,
    /// Heartbeats come on a stream of their own, which nothing holds up.
    carries_entries: bool,
    /// Waited for before more is taken: a log whose disk does not keep up must not hold up
    /// openraft, which would answer no heartbeats then.
    room: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Replies {
    fn poll_requests(&mut self, cx: &mut Context<'_>) -> Result<(), Status> {
        while self.under_way.len() < APPENDS_MAX {
            if self.carries_entries && self.room.is_none() && !self.core.log.has_room() {
                let log = self.core.log.clone();
                self.room = Some(Box::pin(async move { log.half_room().await }));
            }
            if let Some(room) = &mut self.room {
                if room.as_mut().poll(cx).is_pending() {
                    break;
                }
                self.room = None;
            }
            let Some(requests) = &mut self.requests else {
                break;
            };
            match requests.poll_next_unpin(cx) {
                Poll::Ready(Some(request)) => {
                    let request = request?;
                    self.carries_entries |= !request.entries.is_empty();
                    let bytes = request.encoded_len() as u64;
                    self.core.options.events.peer_received(self.from, bytes);
                    self.under_way
                        .push_back(append(self.core.clone(), request)?);
                }
                Poll::Ready(None) => self.requests = None,
                Poll::Pending => break,
            }
        }
        Ok(())
    }
}

/// Appends one request. First polled in the order in which requests came, and handed to openraft
/// then.
fn append(core: Arc<Core>, request: pb::AppendRequest) -> Result<UnderWay, Status> {
    let sequence = request.sequence;
    let request = codec::append_in(request).map_err(malformed)?;
    Ok(Box::pin(async move {
        let result = core.raft().append_entries(request).await;
        if !matches!(result, Ok(AppendEntriesResponse::HigherVote(_)) | Err(_)) {
            core.contact.note();
        }
        codec::append_reply_out(sequence, result.map_err(|error| error.to_string()))
    }))
}

impl Stream for Replies {
    type Item = Result<pb::AppendReply, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if let Err(status) = this.poll_requests(cx) {
            this.requests = None;
            return Poll::Ready(Some(Err(status)));
        }
        match this.under_way.poll_next_unpin(cx) {
            Poll::Ready(Some(reply)) => Poll::Ready(Some(Ok(reply))),
            Poll::Ready(None) if this.requests.is_some() => Poll::Pending,
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}
