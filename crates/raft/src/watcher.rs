//! The housekeeping of a node: publishes its status, takes snapshots, purges the log.
//!
//! openraft reports changes of leadership and membership at once. Everything that need not be
//! known at once is looked at once in a while, so that writing an entry wakes nobody here.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::Instant;
use openraft::RaftMetrics;
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::Fatal;
use openraft::metrics::RaftDataMetrics;
use tokio::time::MissedTickBehavior;

use crate::core::Core;
use crate::membership;
use crate::status::{Role, Status};
use crate::type_config::TypeConfig;

/// Between two looks.
const TICK: Duration = Duration::from_millis(100);

/// Purging less than this part of what is kept is not worth a look at the log.
const PURGE_FRACTION: u64 = 10;

/// So many times the snapshot count of entries are kept, at most, for a member that is being sent a
/// snapshot.
const TRANSFER_SNAPSHOTS: u64 = 10;

/// Runs until openraft stops, or the task is cancelled.
pub(crate) async fn watch(core: Arc<Core>) {
    let mut changes = core.raft().server_metrics();
    let mut ticks = tokio::time::interval(TICK.min(core.options.heartbeat * 2));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let running = tokio::select! {
            changed = changes.changed() => changed.is_ok(),
            _ = ticks.tick() => {
                housekeep(&core).await;
                true
            }
        };
        changes.borrow_and_update();
        refresh(&core);
        if !running || !core.status.borrow().running {
            return stopped(&core);
        }
    }
}

/// Publishes what openraft knows now, if that differs from what was published.
pub(crate) fn refresh(core: &Core) {
    let fresh = current(core);
    let leader = core.status.borrow().leader;
    core.status.send_if_modified(|status| {
        // The apply task may have published something newer meanwhile.
        let fresh = Status {
            applied_index: status.applied_index.max(fresh.applied_index),
            commit_index: status.commit_index.max(fresh.commit_index),
            last_index: status.last_index.max(fresh.last_index),
            fault: status.fault.clone().or(fresh.fault.clone()),
            removed: status.removed,
            running: status.running && fresh.running,
            ..fresh.clone()
        };
        let changed = *status != fresh;
        *status = fresh;
        changed
    });
    if fresh.leader != leader {
        core.options.events.leader_changed(fresh.leader);
    }
}

fn stopped(core: &Core) {
    core.status.send_modify(|status| {
        // openraft says why it ends, unless it panics.
        if status.running && status.fault.is_none() {
            status.fault = Some("it ended without a reason; the log has a panic".to_owned());
        }
        status.running = false;
        status.leader = None;
        status.role = Role::Follower;
    });
    if let Some(fault) = &core.status.borrow().fault {
        tracing::error!(fault, "this member has stopped");
    }
}

/// What openraft knows at this moment.
pub(crate) fn current(core: &Core) -> Status {
    let metrics = core.raft().metrics();
    let metrics: &RaftMetrics<TypeConfig> = &metrics.borrow_watched();
    let index = |log_id: Option<crate::type_config::LogId>| log_id.map_or(0, |id| id.index);
    let (voters, learners) = membership::split(metrics.membership_config.membership());
    let leader = metrics
        .current_leader
        .filter(|leader| is_live(core, metrics, *leader, &voters));
    let role = match metrics.state {
        ServerState::Leader if leader.is_some() => Role::Leader,
        ServerState::Candidate => Role::Candidate,
        ServerState::Learner => Role::Learner,
        ServerState::Leader | ServerState::Follower | ServerState::Shutdown => Role::Follower,
    };
    Status {
        term: metrics.current_term,
        leader,
        role,
        last_index: metrics.last_log_index.unwrap_or(0),
        commit_index: index(metrics.local_committed),
        applied_index: index(metrics.last_applied),
        snapshot_index: index(metrics.snapshot),
        purged_index: index(metrics.purged),
        voters,
        learners,
        removed: false,
        running: metrics.running_state.is_ok(),
        fault: fault(core, metrics),
    }
}

/// Why openraft has stopped itself, in the words of whoever failed.
fn fault(core: &Core, metrics: &RaftMetrics<TypeConfig>) -> Option<String> {
    match &metrics.running_state {
        Ok(()) | Err(Fatal::Stopped) => core.log.fault(),
        Err(fatal) => core.log.fault().or_else(|| Some(fatal.to_string())),
    }
}

/// Whether the leader still leads, as far as this member can tell: a leader must hear from a
/// quorum, a follower from the leader. After the longest election timeout without it, etcd's
/// members say that there is no leader, and so do we.
fn is_live(core: &Core, metrics: &RaftMetrics<TypeConfig>, leader: u64, voters: &[u64]) -> bool {
    // A sole voter is its own quorum, and nobody else's answer renews its time.
    if voters == [core.options.member_id] && leader == core.options.member_id {
        return true;
    }
    let patience = 2 * core.options.election;
    if leader != core.options.member_id {
        return core.contact.age() < patience;
    }
    match &metrics.last_quorum_acked {
        Some(at) => at.elapsed() < patience,
        None => true,
    }
}

/// Takes a snapshot when enough was applied, and purges what no one needs.
async fn housekeep(core: &Core) {
    let metrics = core.raft().data_metrics();
    let metrics: RaftDataMetrics<TypeConfig> = metrics.borrow_watched().clone();
    let Some(applied) = metrics.last_applied.map(|id| id.index) else {
        return;
    };
    let snapshot = metrics.snapshot.map(|id| id.index);
    let trigger = core.raft().trigger();
    if applied - snapshot.unwrap_or(0).min(applied) >= core.options.snapshot_count {
        // An error means that openraft has stopped, which the caller notices.
        let _ = trigger.snapshot().await;
    }
    let Some(snapshot) = snapshot else { return };
    let purged = metrics.purged.map_or(0, |id| id.index);
    let durable = core.options.purgeable_index.load(Ordering::Acquire);
    let mut kept = core.options.catchup_entries;
    if core.peers.transfers().need_log() {
        kept = kept.max(
            core.options
                .snapshot_count
                .saturating_mul(TRANSFER_SNAPSHOTS),
        );
    }
    let up_to = snapshot.min(durable).min(applied.saturating_sub(kept));
    if up_to > purged && up_to - purged > core.options.snapshot_count / PURGE_FRACTION {
        let _ = trigger.purge_log(up_to).await;
    }
}
