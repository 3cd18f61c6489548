//! Read indexes: which entry must be applied before a read is linearizable.
//!
//! The leader asks a quorum whether it still leads (thesis, 6.4); a follower asks the leader. One
//! round is under way at a time, and everyone who asked before it began shares its answer: who
//! asks during a round shares the next, because an answer from a round that began earlier might
//! miss a write that was acknowledged meanwhile.
//!
//! A leader that is alone needs to ask nobody: nobody can be elected without it.

use std::sync::Arc;
use std::time::Duration;

use kvd_api::pb::kvdpeerpb as pb;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::RaftError;
use openraft::{ReadPolicy, ServerState};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::core::Core;
use crate::error::{Error, Result};
use crate::status::Status;
use crate::transport::client::Purpose;

/// Between two tries, when a leader is known but does not answer.
const PAUSE: Duration = Duration::from_millis(10);
/// How long one try may take.
const TRY_MAX: Duration = Duration::from_secs(1);

/// What all who wait for a round get. Errors cannot be cloned; this says which.
#[derive(Debug, Clone, Copy)]
enum Failure {
    NoLeader,
    Timeout,
    Stopped,
}

type Round = std::result::Result<u64, Failure>;

#[derive(Default)]
struct State {
    /// Whether somebody runs a round.
    running: bool,
    /// Who shares the next round.
    waiting: Vec<oneshot::Sender<Round>>,
}

/// Shares rounds among readers.
#[derive(Default)]
pub(crate) struct ReadIndex {
    state: Arc<Mutex<State>>,
}

impl ReadIndex {
    /// The index that must be applied before a read that starts now.
    pub(crate) async fn get(&self, core: &Arc<Core>) -> Result<u64> {
        if let Some(index) = of_sole_voter(core) {
            return Ok(index);
        }
        let receiver = {
            let mut state = self.state.lock();
            if state.running {
                let (sender, receiver) = oneshot::channel();
                state.waiting.push(sender);
                Some(receiver)
            } else {
                state.running = true;
                None
            }
        };
        let round = match receiver {
            Some(receiver) => receiver.await.unwrap_or(Err(Failure::Stopped)),
            None => {
                // Whoever finds no round under way runs one, without waking a task for it. When
                // it is dropped half-way, or others came meanwhile, a task takes over.
                let _turn = Turn {
                    state: self.state.clone(),
                    core: core.clone(),
                };
                run_round(core).await
            }
        };
        round.map_err(|failure| match failure {
            Failure::NoLeader => Error::NoLeader,
            Failure::Timeout => Error::Timeout,
            Failure::Stopped => core.stopped(),
        })
    }
}

/// The right to run rounds. Passes to a task when it ends and others wait.
struct Turn {
    state: Arc<Mutex<State>>,
    core: Arc<Core>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        if state.waiting.is_empty() {
            state.running = false;
            return;
        }
        drop(state);
        let (state, core) = (self.state.clone(), self.core.clone());
        self.core
            .runtime
            .spawn(async move { run_rounds(&state, &core).await });
    }
}

/// Runs rounds until nobody waits.
async fn run_rounds(state: &Mutex<State>, core: &Core) {
    loop {
        let waiting = {
            let mut state = state.lock();
            if state.waiting.is_empty() {
                state.running = false;
                return;
            }
            std::mem::take(&mut state.waiting)
        };
        let round = run_round(core).await;
        for sender in waiting {
            // Who has stopped waiting does not need the answer.
            let _ = sender.send(round);
        }
    }
}

/// One round, tried again until the deadline: asking twice does no harm.
async fn run_round(core: &Core) -> Round {
    let deadline = Instant::now() + core.read_timeout();
    let mut status = core.status.subscribe();
    loop {
        let (leader, running) = {
            let status: &Status = &status.borrow_and_update();
            (status.leader, status.running)
        };
        if !running {
            return Err(Failure::Stopped);
        }
        match leader {
            Some(leader) => {
                let answer = timeout(TRY_MAX, ask(core, leader)).await;
                if let Ok(Some(round)) = answer {
                    return round;
                }
                if Instant::now() >= deadline {
                    return Err(Failure::Timeout);
                }
                sleep(PAUSE).await;
            }
            None => match timeout_at(deadline, status.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(Failure::Stopped),
                Err(_) => return Err(Failure::NoLeader),
            },
        }
    }
}

/// The answer of a leader that is the only member, once it has applied an entry of its own term:
/// what it answered itself was applied before, and what earlier leaders committed lies below that
/// entry. The membership is read as openraft has it now: it takes effect when it is appended, so
/// that a second member is seen here before it can vote. A learner counts: one that lost its vote a
/// moment ago may have answered for an entry that this member has not applied yet.
fn of_sole_voter(core: &Core) -> Option<u64> {
    let metrics = core.raft().server_metrics();
    let metrics = metrics.borrow_watched();
    if metrics.state != ServerState::Leader || !core.status.borrow().running {
        return None;
    }
    let membership = metrics.membership_config.membership();
    let [voters] = membership.get_joint_config().as_slice() else {
        return None;
    };
    let is_sole = voters.len() == 1
        && voters.contains(&core.options.member_id)
        && membership.nodes().count() == 1;
    is_sole
        .then(|| core.progress.in_term(metrics.vote.leader_id.term))
        .flatten()
}

/// Asks whoever leads. `None`: there was no answer, ask again.
async fn ask(core: &Core, leader: u64) -> Option<Round> {
    if leader == core.options.member_id {
        return confirm(core).await.transpose();
    }
    let peer = core.peer(leader)?;
    let mut client = peer.client(Purpose::Forward);
    match client
        .read_index(peer.request(pb::ReadIndexRequest {}))
        .await
    {
        Ok(reply) => {
            peer.answered();
            let reply = reply.into_inner();
            reply.ok.then_some(Ok(reply.index))
        }
        Err(status) => {
            peer.failed(&status);
            None
        }
    }
}

/// Confirms with a quorum that this member leads. `Ok(None)`: it could not be confirmed.
async fn confirm(core: &Core) -> std::result::Result<Option<u64>, Failure> {
    match core.raft().get_read_log_id(ReadPolicy::ReadIndex).await {
        Ok((read, _)) => Ok(Some(read.index())),
        Err(RaftError::APIError(_)) => Ok(None),
        Err(RaftError::Fatal(_)) => Err(Failure::Stopped),
    }
}

/// The answer to a follower that asks: the index, or `None` when this member cannot confirm that
/// it leads.
pub(crate) async fn confirm_for_peer(core: &Core) -> Option<u64> {
    confirm(core).await.ok().flatten()
}
