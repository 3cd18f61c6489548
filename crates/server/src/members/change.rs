//! A change of the membership, from the member that was asked to the entry in the log.

use std::sync::Arc;
use std::time::SystemTime;

use kvd_api::error::WireError;
use kvd_api::pb::etcdserverpb::Member;
use kvd_raft::{Basis, Change};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::rules::{self, VOTE_PATIENCE, View};
use super::service;
use crate::apply;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::identity;
use crate::limits;

/// What came of a change.
#[derive(Clone, Debug)]
pub struct Done {
    /// The log entry that made it.
    pub index: u64,
    /// The members after it.
    pub members: Vec<Member>,
}

/// A member to be added, with the ID that etcd gives one that is added now.
pub fn added(peer_urls: Vec<String>, voter: bool) -> kvd_raft::Member {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    // A clock before 1970 makes an ID as good as another.
    let seconds = now.unwrap_or_default().as_secs();
    kvd_raft::Member {
        id: identity::member_id(&peer_urls, &seconds.to_string()),
        name: String::new(),
        peer_urls,
        voter,
    }
}

/// Makes a change, by way of the leader, and returns the members after it once it is applied here.
///
/// Errors: etcd's refusals; [`WireError::Timeout`] when there is no leader, or no quorum, for as
/// long as a request may take. After a timeout, a lost connection or a lost leader the change may
/// still be made.
pub async fn change(core: &Arc<Core>, change: Change) -> Result<Vec<Member>> {
    let members = apply::members(core.store())?;
    // A learner's promotion is judged by the leader alone, who knows how far the learner is.
    if !matches!(change, Change::Promote(_)) {
        check_quorum(core, &members, &change)?;
    }
    let deadline = Instant::now() + core.request_timeout();
    match timeout_at(deadline, through_leader(core, &change)).await {
        Ok(done) => Ok(done?.members),
        Err(_) => Err(WireError::Timeout.into()),
    }
}

async fn through_leader(core: &Arc<Core>, change: &Change) -> Result<Done> {
    let mut status = core.follow_status();
    loop {
        let leader = match status.wait_for(|status| status.leader.is_some()).await {
            Ok(status) => status.leader.unwrap_or(0),
            Err(_) => return Err(WireError::ServerStopped.into()),
        };
        let outcome = match leader == core.member_id() {
            true => as_leader(core, change).await,
            false => service::ask(core, leader, change).await,
        };
        match outcome {
            // Nothing was done, and another member leads now, or will.
            Err(Error::Wire(WireError::NotLeader)) => sleep(limits::CHANGE_PAUSE).await,
            Ok(done) if leader != core.member_id() => {
                seen_here(core, done.index).await;
                return Ok(done);
            }
            other => return other,
        }
    }
}

/// Waits until a change is applied here, so that who made it through this member sees it here. A
/// member that is removed never applies that.
async fn seen_here(core: &Core, index: u64) {
    let mut status = core.follow_status();
    tokio::select! {
        // When the member stops, the caller has the leader's answer all the same.
        applied = core.wait_applied(index) => drop(applied),
        removed = status.wait_for(|status| status.removed) => drop(removed),
        () = sleep(VOTE_PATIENCE) => {}
    }
}

/// Makes a change as the leader.
///
/// Errors: [`WireError::NotLeader`] when this member does not lead: nothing was done.
pub(super) async fn as_leader(core: &Arc<Core>, change: &Change) -> Result<Done> {
    let done = match timeout(core.request_timeout(), commit(core, change)).await {
        Ok(done) => done,
        Err(_) => Err(WireError::Timeout.into()),
    };
    if let Change::Promote(_) = change {
        match &done {
            Ok(_) => core.metrics().learner_promoted(),
            Err(Error::Wire(WireError::NotLeader)) => {}
            Err(Error::Wire(error)) => {
                let reason = rules::promote_failure(*error);
                core.metrics().learner_not_promoted(reason);
            }
            Err(error) => core.metrics().learner_not_promoted(&error.to_string()),
        }
    }
    done
}

async fn commit(core: &Arc<Core>, change: &Change) -> Result<Done> {
    let done = commit_picked(core, &|| Some(change.clone())).await?;
    // It always picks one.
    done.ok_or_else(|| WireError::NotLeader.into())
}

/// Makes the change that `pick` names, as the leader: it is asked after each fresh look at the
/// members, and what it says is done only on exactly those.
///
/// Returns `None` when it names none. Errors: as [`change`], and [`WireError::NotLeader`] when this
/// member does not lead: nothing was done.
pub(crate) async fn as_leader_if(
    core: &Arc<Core>,
    pick: &(dyn Fn() -> Option<Change> + Send + Sync),
) -> Result<Option<Done>> {
    match timeout(core.request_timeout(), commit_picked(core, pick)).await {
        Ok(done) => done,
        Err(_) => Err(WireError::Timeout.into()),
    }
}

async fn commit_picked(
    core: &Arc<Core>,
    pick: &(dyn Fn() -> Option<Change> + Send + Sync),
) -> Result<Option<Done>> {
    let _turn = core.change_turn().await;
    loop {
        let basis = look(core).await?;
        let members = apply::members(core.store())?;
        let Some(change) = pick() else {
            return Ok(None);
        };
        if let Change::Promote(id) = change {
            check_ready(core, id)?;
        }
        check_quorum(core, &members, &change)?;
        validate(core, &members, &change)?;
        if change == Change::Remove(core.member_id()) {
            return leave(core).await.map(Some);
        }
        match core.node().change(&basis, change.clone()).await {
            Ok(index) => {
                core.wait_applied(index).await?;
                log(core, &change);
                if let Change::Promote(id) = change {
                    vote_given(core, id).await;
                }
                let members = apply::members(core.store())?;
                return Ok(Some(Done { index, members }));
            }
            Err(kvd_raft::Error::Superseded) => sleep(limits::CHANGE_PAUSE).await,
            Err(error) => return Err(error.into()),
        }
    }
}

/// A look at the members that nothing was decided before and is not seen: the records are as the
/// basis has them.
async fn look(core: &Core) -> Result<Basis> {
    core.read_barrier().await?;
    let basis = core.node().basis()?;
    core.wait_applied(basis.index()).await?;
    Ok(basis)
}

fn check_quorum(core: &Core, members: &[Member], change: &Change) -> Result<()> {
    if !core.config().strict_reconfig_check {
        return Ok(());
    }
    let view = View {
        members,
        local_id: core.member_id(),
        connected_since: &|id| core.node().connected_since(id),
    };
    let checked = view.check_quorum(change);
    if let Err(error) = checked {
        tracing::warn!(
            ?change,
            %error,
            "refused a change of the members that would endanger the quorum"
        );
    }
    Ok(checked?)
}

fn validate(core: &Core, members: &[Member], change: &Change) -> Result<()> {
    let view = View {
        members,
        local_id: core.member_id(),
        connected_since: &|id| core.node().connected_since(id),
    };
    let is_removed = |id| apply::is_removed(core.store(), id);
    Ok(view.validate(change, is_removed, core.config().learners_max)?)
}

fn check_ready(core: &Core, id: u64) -> Result<()> {
    let status = core.status();
    if !status.voters.contains(&id) && !status.learners.contains(&id) {
        return Err(WireError::MemberNotFound.into());
    }
    if id == core.member_id() {
        return Ok(());
    }
    let Some(matched) = core.node().matched_index(id) else {
        return Err(WireError::NotLeader.into());
    };
    if rules::is_ready(matched, status.last_index) {
        return Ok(());
    }
    tracing::warn!(
        member = format!("{id:x}"),
        matched,
        last = status.last_index,
        "rejecting promote learner: learner is not ready"
    );
    Err(WireError::LearnerNotReady.into())
}

/// The leader that is to be removed lets another one do it.
async fn leave(core: &Core) -> Result<Done> {
    match core.node().transfer_leadership(None).await {
        Ok(leader) => {
            let new_leader = format!("{leader:x}");
            tracing::info!(
                new_leader,
                "leadership handed over: this member is to be removed"
            );
            Err(WireError::NotLeader.into())
        }
        // Nothing has happened: there is time for another try.
        Err(kvd_raft::Error::NotLeader { .. } | kvd_raft::Error::Timeout) => {
            Err(WireError::NotLeader.into())
        }
        Err(kvd_raft::Error::Membership(_)) => Err(WireError::NotEnoughStartedMembers.into()),
        Err(error) => Err(error.into()),
    }
}

/// A member that was promoted is in sync: its vote follows at once. Who promoted it counts on that.
async fn vote_given(core: &Core, id: u64) {
    let mut status = core.follow_status();
    let given = status.wait_for(|status| status.voters.contains(&id));
    if timeout(VOTE_PATIENCE, given).await.is_err() {
        tracing::warn!(
            member = format!("{id:x}"),
            "a promoted member does not catch up; it gets its vote when it does"
        );
    }
}

fn log(core: &Core, change: &Change) {
    let cluster_id = format!("{:x}", core.cluster_id());
    match change {
        Change::Add(member) => tracing::info!(
            cluster_id,
            added_peer_id = format!("{:x}", member.id),
            added_peer_peer_urls = ?member.peer_urls,
            added_peer_is_learner = !member.voter,
            "added member"
        ),
        Change::Promote(id) => {
            tracing::info!(cluster_id, member = format!("{id:x}"), "promote member");
        }
        Change::Remove(id) => tracing::info!(
            cluster_id,
            removed_remote_peer_id = format!("{id:x}"),
            "removed member"
        ),
        Change::Update { id, peer_urls } => tracing::info!(
            cluster_id,
            updated_remote_peer_id = format!("{id:x}"),
            updated_remote_peer_urls = ?peer_urls,
            "updated member"
        ),
    }
}
