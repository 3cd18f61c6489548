//! Proposals on their way into the log.
//!
//! ```text
//!  propose() ─▶ queue ─▶ batcher ── leads ──────▶ openraft: one entry
//!  propose() ─▶   │         ▲  └── follows ────▶ Peer.Propose ─▶ the leader's openraft
//!  propose() ─▶   │         └────── refused, surely not appended: try again ──┘
//! ```
//!
//! The batcher takes whatever waits, up to a number of commands and bytes, frames it once and
//! proposes it as one entry. It does not linger: under load the queue fills while entries are
//! under way, because only so many may be, and that makes the batches large.
//!
//! An entry that may have been appended is never proposed again. Either it is applied, and the
//! state machine answers, or its request ids go to [`Options::on_failed`](crate::Options).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kvd_api::pb::kvdpeerpb as pb;
use openraft::errors::ClientWriteError;
use openraft::raft::ClientWriteResult;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::commands::{Commands, CommandsBuilder, FRAME_HEADER_BYTES};
use crate::core::Core;
use crate::error::{Error, Result};
use crate::options::{Options, ProposeFailure};
use crate::responder::Callback;
use crate::status::Status;
use crate::transport::client::{Purpose, innermost, was_not_sent};
use crate::type_config::TypeConfig;

/// How long a batch waits that a leader refused: it has no quorum's lease at the moment, hands its
/// leadership over, or has just lost it.
const REFUSED_PAUSE: Duration = Duration::from_millis(5);

/// How long a batch waits that could not be sent to the leader.
const UNREACHABLE_PAUSE: Duration = Duration::from_millis(50);

struct Proposal {
    request_id: u64,
    command: Bytes,
    deadline: Instant,
}

/// Takes proposals; cheap to clone.
#[derive(Clone)]
pub(crate) struct Proposer {
    queue: mpsc::UnboundedSender<Proposal>,
    waiting: Arc<AtomicUsize>,
    waiting_max: usize,
}

impl Proposer {
    /// Puts a command into the queue. Never waits.
    pub(crate) fn propose(&self, request_id: u64, command: Bytes, deadline: Instant) -> Result<()> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.waiting_max {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(Error::Overloaded);
        }
        let proposal = Proposal {
            request_id,
            command,
            deadline,
        };
        self.queue
            .send(proposal)
            .map_err(|_| Error::Stopped { fault: None })
    }
}

/// Commands that are proposed as one entry, and the right to have it under way.
struct Batch {
    commands: Commands,
    /// Nobody waits for any of its commands after this.
    deadline: Instant,
    /// When to try again, after a refusal.
    not_before: Option<Instant>,
    _slot: OwnedSemaphorePermit,
}

/// The task behind [`Proposer`].
pub(crate) struct Batcher {
    core: Arc<Core>,
    queue: mpsc::UnboundedReceiver<Proposal>,
    waiting: Arc<AtomicUsize>,
    /// Taken from the queue but not yet in a batch.
    drained: VecDeque<Proposal>,
    slots: Arc<Semaphore>,
    refused: mpsc::UnboundedReceiver<Batch>,
    refuse: mpsc::UnboundedSender<Batch>,
    status: watch::Receiver<Status>,
}

/// The two ends of the queue, before there is a node to propose to.
pub(crate) struct Queue {
    pub(crate) proposer: Proposer,
    receiver: mpsc::UnboundedReceiver<Proposal>,
}

impl Queue {
    pub(crate) fn new(options: &Options) -> Queue {
        let (queue, receiver) = mpsc::unbounded_channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let proposer = Proposer {
            queue,
            waiting,
            waiting_max: options.queue_max,
        };
        Queue { proposer, receiver }
    }
}

impl Batcher {
    /// Runs until `stop`.
    pub(crate) async fn run(core: Arc<Core>, queue: Queue, stop: CancellationToken) {
        let (refuse, refused) = mpsc::unbounded_channel();
        let mut batcher = Batcher {
            queue: queue.receiver,
            waiting: queue.proposer.waiting,
            drained: VecDeque::new(),
            slots: Arc::new(Semaphore::new(core.options.inflight_max)),
            refused,
            refuse,
            status: core.status.subscribe(),
            core,
        };
        stop.run_until_cancelled(batcher.propose_batches()).await;
        batcher.fail_all();
    }

    async fn propose_batches(&mut self) {
        loop {
            let batch = tokio::select! {
                biased;
                Some(batch) = self.refused.recv() => batch,
                slot = self.slots.clone().acquire_owned() => {
                    let Ok(slot) = slot else { return };
                    match self.fill(slot).await {
                        Some(batch) => batch,
                        None => continue,
                    }
                }
            };
            self.dispatch(batch).await;
        }
    }

    /// Waits for proposals and takes what is there, or a batch that was refused meanwhile.
    async fn fill(&mut self, slot: OwnedSemaphorePermit) -> Option<Batch> {
        let most = self.core.options.batch_commands_max;
        let mut taken = Vec::new();
        if self.drained.is_empty() {
            tokio::select! {
                biased;
                Some(batch) = self.refused.recv() => return Some(batch),
                count = self.queue.recv_many(&mut taken, most) => if count == 0 {
                    // Every handle is gone: nothing will be proposed any more.
                    std::future::pending::<()>().await;
                },
            }
        } else {
            while self.drained.len() + taken.len() < most {
                let Ok(proposal) = self.queue.try_recv() else {
                    break;
                };
                taken.push(proposal);
            }
        }
        self.drained.extend(taken);
        self.frame(slot)
    }

    /// Frames what was drained into one batch, leaving out what nobody waits for any more.
    fn frame(&mut self, slot: OwnedSemaphorePermit) -> Option<Batch> {
        let now = Instant::now();
        let (commands_max, bytes_max) = (
            self.core.options.batch_commands_max,
            self.core.options.batch_bytes_max,
        );
        let framed_len = |proposal: &Proposal| FRAME_HEADER_BYTES + proposal.command.len();
        let expected: usize = self.drained.iter().map(framed_len).sum();
        let mut builder = CommandsBuilder::with_capacity(expected.min(bytes_max));
        let mut deadline = now;
        let mut bytes = 0;
        let mut left = 0;
        while let Some(proposal) = self.drained.front() {
            let len = framed_len(proposal);
            let full = builder.count() >= commands_max || bytes + len > bytes_max;
            if full && builder.count() > 0 {
                break;
            }
            if proposal.deadline > now {
                builder.push(proposal.request_id, &proposal.command);
                deadline = deadline.max(proposal.deadline);
                bytes += len;
            }
            self.drained.pop_front();
            left += 1;
        }
        self.waiting.fetch_sub(left, Ordering::Relaxed);
        let commands = (builder.count() > 0).then(|| builder.finish())?;
        Some(Batch {
            commands,
            deadline,
            not_before: None,
            _slot: slot,
        })
    }

    /// Proposes the batch, here or through the leader; waits while there is none. When cancelled
    /// meanwhile, the batch is reported.
    async fn dispatch(&mut self, mut batch: Batch) {
        let not_before = batch.not_before.take();
        let deadline = batch.deadline;
        let under_way = UnderWay::new(self.core.clone(), batch, self.refuse.clone());
        if let Some(not_before) = not_before {
            tokio::time::sleep_until(not_before).await;
        }
        loop {
            if deadline <= Instant::now() {
                return under_way.done();
            }
            let leader = self.status.borrow_and_update().leader;
            match leader {
                Some(leader) if leader == self.core.options.member_id => {
                    return self.write(under_way).await;
                }
                Some(leader) => {
                    let core = self.core.clone();
                    tokio::spawn(async move { forward(&core, under_way, leader).await });
                    return;
                }
                None => match tokio::time::timeout_at(deadline, self.status.changed()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return, // Stopped: the batch is reported.
                    Err(_) => return under_way.done(),
                },
            }
        }
    }

    async fn write(&self, under_way: UnderWay) {
        if !self.core.log.has_room() {
            return under_way.refused(REFUSED_PAUSE);
        }
        let commands = under_way.commands();
        let callback = Callback::on_complete(|result| under_way.complete(result));
        if let Err(error) = self
            .core
            .raft()
            .client_write_ff(commands, Some(callback))
            .await
        {
            // The callback was dropped, and has reported the batch.
            tracing::debug!(%error, "cannot propose");
        }
    }

    /// At the end: nothing that waits will be proposed.
    fn fail_all(&mut self) {
        self.queue.close();
        let mut ids: Vec<u64> = self.drained.drain(..).map(|p| p.request_id).collect();
        while let Ok(proposal) = self.queue.try_recv() {
            ids.push(proposal.request_id);
        }
        self.refused.close();
        while let Ok(batch) = self.refused.try_recv() {
            ids.extend(batch.commands.request_ids());
        }
        self.core.proposals_failed(&ids, ProposeFailure::Stopped);
    }
}

/// Sends a batch to the leader and learns what became of it there.
async fn forward(core: &Core, under_way: UnderWay, leader: u64) {
    let Some(peer) = core.peer(leader) else {
        return under_way.refused(UNREACHABLE_PAUSE);
    };
    let mut client = peer.client(Purpose::Forward);
    let commands = under_way.commands().as_bytes().clone();
    let request = peer.request(pb::ProposeRequest { commands });
    let reply = tokio::select! {
        reply = client.propose(request) => reply,
        () = deposed(core, leader) => return under_way.fail(ProposeFailure::LeaderChanged),
    };
    match reply {
        Ok(reply) => {
            peer.answered();
            match reply.into_inner().outcome() {
                pb::ProposeOutcome::ProposeCommitted => under_way.done(),
                pb::ProposeOutcome::ProposeRefused => under_way.refused(REFUSED_PAUSE),
                pb::ProposeOutcome::ProposeLost => {
                    under_way.fail(ProposeFailure::LeaderChanged);
                }
            }
        }
        Err(status) => {
            peer.failed(&status);
            if was_not_sent(&status) || status.code() == tonic::Code::FailedPrecondition {
                under_way.refused(UNREACHABLE_PAUSE);
            } else {
                let error = innermost(&status);
                tracing::debug!(error, "lost the leader's answer to a proposal");
                under_way.fail(ProposeFailure::ConnectionLost);
            }
        }
    }
}

/// Ends when `leader` has not led for an election timeout: what it has not answered by then, it will
/// not answer. A leader that hands over answers sooner.
async fn deposed(core: &Core, leader: u64) {
    let mut status = core.status.subscribe();
    // An error means that the node has stopped, which the call notices, too.
    let _ = status
        .wait_for(|status| status.leader != Some(leader))
        .await;
    tokio::time::sleep(core.options.election).await;
}

/// A batch that is being proposed. Whatever happens to it, its slot becomes free; when it is dropped
/// without a word, the node has stopped.
struct UnderWay {
    core: Arc<Core>,
    batch: Option<Batch>,
    refuse: mpsc::UnboundedSender<Batch>,
}

impl UnderWay {
    fn new(core: Arc<Core>, batch: Batch, refuse: mpsc::UnboundedSender<Batch>) -> UnderWay {
        UnderWay {
            core,
            batch: Some(batch),
            refuse,
        }
    }

    fn commands(&self) -> Commands {
        self.batch
            .as_ref()
            .map(|batch| batch.commands.clone())
            .unwrap_or_default()
    }

    /// openraft's answer to a proposal on this member.
    fn complete(self, result: ClientWriteResult<TypeConfig>) {
        match result {
            Ok(_) => self.done(),
            Err(ClientWriteError::ForwardToLeader(_)) => self.refused(REFUSED_PAUSE),
            Err(ClientWriteError::LogEntryDiscarded(_)) => {
                self.fail(ProposeFailure::LeaderChanged);
            }
            Err(error) => {
                tracing::error!(%error, "openraft refused a batch of commands");
                self.fail(ProposeFailure::Dropped);
            }
        }
    }

    /// It will be applied, or was, and the state machine answers; or nobody waits for it.
    fn done(mut self) {
        self.batch = None;
    }

    /// It was surely not appended: it is tried again.
    fn refused(mut self, pause: Duration) {
        let Some(mut batch) = self.batch.take() else {
            return;
        };
        batch.not_before = Some(Instant::now() + pause);
        if let Err(mpsc::error::SendError(batch)) = self.refuse.send(batch) {
            self.core
                .proposals_failed(&batch.commands.request_ids(), ProposeFailure::Stopped);
        }
    }

    fn fail(mut self, failure: ProposeFailure) {
        if let Some(batch) = self.batch.take() {
            self.core
                .proposals_failed(&batch.commands.request_ids(), failure);
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Some(batch) = self.batch.take() {
            self.core
                .proposals_failed(&batch.commands.request_ids(), ProposeFailure::Stopped);
        }
    }
}
