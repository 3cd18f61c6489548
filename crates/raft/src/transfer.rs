//! Leadership, handed from the leader to another member.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use tokio::time::{Instant, timeout_at};

use crate::core::Core;
use crate::error::{Error, Result};

/// How long a member that was asked to take over has to be elected before another one is asked.
/// Doubles with each try: on a slow machine an election takes longer than this, and the next one
/// asked would only compete with it.
const TAKE_OVER: Duration = Duration::from_millis(150);

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
    let mut take_over = TAKE_OVER;
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
        match timeout_at(deadline.min(Instant::now() + take_over), moved).await {
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
            Err(_) => take_over *= 2,
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
