//! Changes of the membership, which only the leader makes.
//!
//! Each change is one entry of the log, so that it is there or not, and nothing has to be finished
//! after a crash: voters come and go one at a time, for which consensus needs no second step
//! (thesis, 4.1). openraft refuses a change while the one before it is not committed, and before
//! the leader has committed anything of its own term.
//!
//! Whoever asks for a change has looked at the members first. A [`Basis`] says what was seen: a
//! change on a basis that has passed is refused, and nothing is written.

use std::collections::{BTreeMap, BTreeSet};

use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::raft::Precondition;
use tokio::time::timeout;

use crate::core::Core;
use crate::error::{Error, Result};
use crate::membership::Member;
use crate::type_config::{
    CommittedLeaderId, EntryPayload, LogId, Membership, PeerNode, StoredMembership, TypeConfig,
};

/// A change of the membership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A member comes. One with a vote is given it as soon as it has caught up.
    Add(Member),
    /// A learner is given a vote, as soon as it has caught up.
    Promote(u64),
    /// A member goes.
    Remove(u64),
    /// A member's peers reach it elsewhere.
    Update {
        /// Whose.
        id: u64,
        /// Its peer URLs from now on.
        peer_urls: Vec<String>,
    },
}

/// The membership that a change starts from, as the leader of one term saw it.
#[derive(Debug, Clone)]
pub struct Basis {
    term: u64,
    log_id: Option<LogId>,
}

impl Basis {
    /// The entry that made this membership: once it is applied, the application has seen it.
    pub fn index(&self) -> u64 {
        self.log_id.map_or(0, |id| id.index)
    }

    fn preconditions(&self) -> [Precondition<TypeConfig>; 2] {
        [
            Precondition::CommittedLeaderId {
                committed_leader_id: CommittedLeaderId::from(self.term),
            },
            Precondition::LastMembershipLogId {
                last_membership_log_id: self.log_id,
            },
        ]
    }
}

/// What changes are based on now, when this member leads.
pub(crate) fn basis(core: &Core) -> Result<Basis> {
    let leader = core.status.borrow().leader;
    if leader != Some(core.options.member_id) {
        return Err(Error::NotLeader { leader });
    }
    Ok(current(core).0)
}

fn current(core: &Core) -> (Basis, StoredMembership) {
    let metrics = core.raft().server_metrics();
    let metrics = metrics.borrow_watched();
    let stored = metrics.membership_config.as_ref().clone();
    let basis = Basis {
        term: metrics.vote.leader_id.term,
        log_id: *stored.log_id(),
    };
    (basis, stored)
}

/// Commits `change` and returns the index of its entry.
pub(crate) async fn change(core: &Core, basis: &Basis, change: Change) -> Result<u64> {
    let (now, stored) = current(core);
    if now.log_id != basis.log_id {
        return Err(Error::Superseded);
    }
    let membership = stored.membership();
    let known = |id: u64| {
        let unknown = || Error::Membership(format!("member {id:x} does not exist"));
        membership.get_node(&id).cloned().ok_or_else(unknown)
    };
    match change {
        Change::Add(member) => {
            if membership.get_node(&member.id).is_some() {
                let what = format!("member {:x} exists already", member.id);
                return Err(Error::Membership(what));
            }
            let node = (member.id, member.node());
            let proposed = rebuilt(membership, |_, nodes| nodes.extend([node]))?;
            append(core, basis, proposed).await
        }
        Change::Remove(id) => {
            known(id)?;
            let proposed = rebuilt(membership, |voters, nodes| {
                voters.remove(&id);
                nodes.remove(&id);
            })?;
            append(core, basis, proposed).await
        }
        Change::Promote(id) => {
            let node = PeerNode {
                learner: false,
                ..known(id)?
            };
            set_node(core, basis, id, node).await
        }
        Change::Update { id, peer_urls } => {
            let node = PeerNode {
                peer_urls,
                ..known(id)?
            };
            set_node(core, basis, id, node).await
        }
    }
}

/// Makes a voter of a member that has caught up.
pub(crate) async fn give_vote(core: &Core, id: u64) -> Result<u64> {
    let (basis, stored) = current(core);
    let proposed = rebuilt(stored.membership(), |voters, _| {
        voters.insert(id);
    })?;
    append(core, &basis, proposed).await
}

/// A membership like `membership`, but for one step.
fn rebuilt(
    membership: &Membership,
    step: impl FnOnce(&mut BTreeSet<u64>, &mut BTreeMap<u64, PeerNode>),
) -> Result<Membership> {
    let mut voters = match membership.get_joint_config().as_slice() {
        [voters] => voters.clone(),
        _ => return Err(Error::Superseded),
    };
    let mut nodes = membership
        .nodes()
        .map(|(id, node)| (*id, node.clone()))
        .collect();
    step(&mut voters, &mut nodes);
    if voters.is_empty() {
        return Err(Error::Membership("the last voter cannot be removed".into()));
    }
    Membership::new(vec![voters], nodes).map_err(|error| Error::Membership(error.to_string()))
}

async fn append(core: &Core, basis: &Basis, proposed: Membership) -> Result<u64> {
    let raft = core.raft();
    let appending = raft.append_membership(proposed, EntryPayload::Blank, basis.preconditions());
    outcome(core, timeout(core.read_timeout(), appending).await)
}

async fn set_node(core: &Core, basis: &Basis, id: u64, node: PeerNode) -> Result<u64> {
    let nodes = ChangeMembers::SetNodes(BTreeMap::from([(id, node)]));
    let changing = core
        .raft()
        .change_membership_if(nodes, false, basis.preconditions());
    outcome(core, timeout(core.read_timeout(), changing).await)
}

type Written = std::result::Result<
    openraft::raft::ClientWriteResponse<TypeConfig>,
    RaftError<TypeConfig, ClientWriteError<TypeConfig>>,
>;

fn outcome(
    core: &Core,
    written: std::result::Result<Written, tokio::time::error::Elapsed>,
) -> Result<u64> {
    let error = match written {
        Ok(Ok(response)) => return Ok(response.log_id.index),
        Ok(Err(error)) => error,
        Err(_) => return Err(Error::Timeout),
    };
    Err(match error {
        RaftError::Fatal(_) => core.stopped(),
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => {
            let leader = core.status.borrow().leader;
            match leader == Some(core.options.member_id) {
                // The leader refuses while it has no quorum's lease: nothing was written.
                true => Error::Superseded,
                false => Error::NotLeader { leader },
            }
        }
        RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => Error::LeaderChanged,
        RaftError::APIError(
            ClientWriteError::PreconditionFailed(_)
            | ClientWriteError::ChangeMembershipError(
                ChangeMembershipError::InProgress(_)
                | ChangeMembershipError::UncommittedLeaderLog(_),
            ),
        ) => Error::Superseded,
        RaftError::APIError(error) => Error::Membership(error.to_string()),
    })
}
