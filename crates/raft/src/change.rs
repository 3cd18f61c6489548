//! Changes that only the leader makes: who leads, and who takes part.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::core::Core;
use crate::error::{Error, Result};
use crate::membership::Member;
use crate::type_config::{PeerNode, TypeConfig};

/// How long a member that was asked to take over has to be elected before it is asked again.
const TAKE_OVER: Duration = Duration::from_millis(150);

/// Between two tries of a membership change that has to wait for another one.
const PAUSE: Duration = Duration::from_millis(10);

/// Hands leadership to `to`, or to the voter that has most of the log, and waits until another
/// member leads. Returns who does.
pub(crate) async fn transfer_leadership(core: &Core, to: Option<u64>) -> Result<u64> {
    let me = core.options.member_id;
    let mut status = core.status.subscribe();
    let deadline = Instant::now() + 2 * core.options.election;
    let leader = status.borrow().leader;
    if leader != Some(me) {
        return Err(Error::NotLeader { leader });
    }
    let mut tried = BTreeSet::new();
    loop {
        let target = match to {
            Some(to) => to,
            None => most_caught_up(core, &mut tried)?,
        };
        check_target(core, target)?;
        core.raft()
            .trigger()
            .transfer_leader(target)
            .await
            .map_err(|_| core.stopped())?;
        let moved = status
            .wait_for(|status| !status.running || status.leader.is_some_and(|leader| leader != me));
        match timeout_at(deadline.min(Instant::now() + TAKE_OVER), moved).await {
            Ok(Ok(status)) => match status.leader {
                Some(leader) if status.running => return Ok(leader),
                _ => {
                    return Err(Error::Stopped {
                        fault: status.fault.clone(),
                    });
                }
            },
            Ok(Err(_)) => return Err(core.stopped()),
            Err(_) if Instant::now() >= deadline => return Err(Error::Timeout),
            Err(_) => {}
        }
    }
}

fn check_target(core: &Core, target: u64) -> Result<()> {
    let is_voter = core.status.borrow().voters.contains(&target);
    match is_voter && target != core.options.member_id {
        true => Ok(()),
        false => Err(Error::Membership(format!(
            "member {target:x} cannot take over"
        ))),
    }
}

/// The other voter that has most of the log; each is tried once before any is tried again.
fn most_caught_up(core: &Core, tried: &mut BTreeSet<u64>) -> Result<u64> {
    let metrics = core.raft().metrics();
    let metrics = metrics.borrow_watched();
    let progress = metrics.replication.clone().unwrap_or_default();
    let me = core.options.member_id;
    let voters = || metrics.membership_config.voter_ids().filter(|id| *id != me);
    if voters().all(|id| tried.contains(&id)) {
        tried.clear();
    }
    let best = voters()
        .filter(|id| !tried.contains(id))
        .max_by_key(|id| progress.get(id).and_then(|matched| *matched));
    let best = best.ok_or_else(|| Error::Membership("there is no other voter".into()))?;
    tried.insert(best);
    Ok(best)
}

/// Adds a member that follows without a vote.
pub(crate) async fn add_learner(core: &Core, member: Member) -> Result<()> {
    let nodes = BTreeMap::from([(member.id, member.node())]);
    change(core, ChangeMembers::AddNodes(nodes)).await
}

/// Gives a learner a vote.
pub(crate) async fn promote(core: &Core, id: u64) -> Result<()> {
    change(core, ChangeMembers::AddVoterIds(BTreeSet::from([id]))).await
}

/// Removes a member, voter or learner.
pub(crate) async fn remove(core: &Core, id: u64) -> Result<()> {
    let (voters, learners) = {
        let status = core.status.borrow();
        (status.voters.clone(), status.learners.clone())
    };
    if voters.contains(&id) {
        if voters.len() == 1 {
            return Err(Error::Membership("the last voter cannot be removed".into()));
        }
        return change(core, ChangeMembers::RemoveVoters(BTreeSet::from([id]))).await;
    }
    if learners.contains(&id) {
        return change(core, ChangeMembers::RemoveNodes(BTreeSet::from([id]))).await;
    }
    Err(Error::Membership(format!("member {id:x} does not exist")))
}

/// Changes a member's name and peer URLs.
pub(crate) async fn update(core: &Core, member: Member) -> Result<()> {
    let known = core.peer(member.id).is_some();
    if !known {
        return Err(Error::Membership(format!(
            "member {:x} does not exist",
            member.id
        )));
    }
    let nodes = BTreeMap::from([(member.id, member.node())]);
    change(core, ChangeMembers::SetNodes(nodes)).await
}

/// Commits a change of the membership; waits for one that is under way.
async fn change(core: &Core, change: ChangeMembers<u64, PeerNode>) -> Result<()> {
    let deadline = Instant::now() + core.read_timeout();
    loop {
        let changing = core.raft().change_membership(change.clone(), false);
        let left = deadline.saturating_duration_since(Instant::now());
        let error = match timeout(left, changing).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => error,
            Err(_) => return Err(Error::Timeout),
        };
        match refusal(core, error) {
            Some(error) => return Err(error),
            None if Instant::now() >= deadline => return Err(Error::Timeout),
            None => sleep(PAUSE).await,
        }
    }
}

/// Why a change failed; `None` when it only has to wait.
fn refusal(
    core: &Core,
    error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>,
) -> Option<Error> {
    let me = core.options.member_id;
    match error {
        RaftError::Fatal(_) => Some(core.stopped()),
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => {
            let leader = core.status.borrow().leader;
            // The leader refuses while it has no quorum's lease; that is waited for.
            (leader != Some(me)).then_some(Error::NotLeader { leader })
        }
        RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => Some(Error::LeaderChanged),
        RaftError::APIError(ClientWriteError::ChangeMembershipError(
            ChangeMembershipError::InProgress(_) | ChangeMembershipError::UncommittedLeaderLog(_),
        )) => None,
        RaftError::APIError(error) => Some(Error::Membership(error.to_string())),
    }
}
