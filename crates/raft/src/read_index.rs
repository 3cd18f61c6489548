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
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::core::Core;
use crate::error::{Error, Result};
use crate::rounds::Rounds;
use crate::status::Status;
use crate::transport::client::Purpose;

/// Between two tries, when a leader is known but does not answer.
const PAUSE: Duration = Duration::from_millis(10);
/// How long one try may take.
const TRY_MAX: Duration = Duration::from_secs(1);

/// What all who wait for a round get. Errors cannot be cloned; this says which.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Failure {
    NoLeader,
    Timeout,
    Stopped,
}

type Round = std::result::Result<u64, Failure>;

/// Shares rounds among the readers of this member.
#[derive(Default)]
pub(crate) struct ReadIndex {
    rounds: Rounds<Round>,
}

impl ReadIndex {
    /// The index that must be applied before a read that starts now.
    pub(crate) async fn get(&self, core: &Arc<Core>) -> Result<u64> {
        if let Some(index) = of_sole_voter(core) {
            return Ok(index);
        }
        let round = self.rounds.join(core, run_round).await;
        round
            .unwrap_or(Err(Failure::Stopped))
            .map_err(|failure| match failure {
                Failure::NoLeader => Error::NoLeader,
                Failure::Timeout => Error::Timeout,
                Failure::Stopped => core.stopped(),
            })
    }
}

/// One round, tried again until the deadline: asking twice does no harm.
async fn run_round(core: Arc<Core>) -> Round {
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
                let answer = timeout(TRY_MAX, ask(&core, leader)).await;
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
async fn ask(core: &Arc<Core>, leader: u64) -> Option<Round> {
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

/// What a quorum says to whether this member leads. `Ok(None)`: it could not be confirmed.
pub(crate) type Confirmation = std::result::Result<Option<u64>, Failure>;

/// Confirms with a quorum that this member leads, together with whoever else wants to know: the
/// readers of this member and each follower that asks are one voice each, and one question to the
/// quorum answers them all.
async fn confirm(core: &Arc<Core>) -> Confirmation {
    let confirmation = core.confirmations.join(core, ask_quorum).await;
    confirmation.unwrap_or(Err(Failure::Stopped))
}

async fn ask_quorum(core: Arc<Core>) -> Confirmation {
    match core.raft().get_read_log_id(ReadPolicy::ReadIndex).await {
        Ok((read, _)) => Ok(Some(read.index())),
        Err(RaftError::APIError(_)) => Ok(None),
        Err(RaftError::Fatal(_)) => Err(Failure::Stopped),
    }
}

/// The answer to a follower that asks: the index, or `None` when this member cannot confirm that
/// it leads.
pub(crate) async fn confirm_for_peer(core: &Arc<Core>) -> Option<u64> {
    confirm(core).await.ok().flatten()
}
