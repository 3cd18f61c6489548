//! What a member does while the disk under its log stalls: it leaves the lead to another one, and
//! does not ask to be elected.
//!
//! Members may share a disk, or what is behind theirs, and all be paused at once. So the lead is
//! left only to one whose disk works at this moment, and only while a write here takes too long:
//! a leader that hands over takes no more writes, and would find nobody to lead in its place.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::watch;

use crate::core::Core;
use crate::error::Error;
use crate::transfer;

/// Between two tries to hand over, and time for others to take what is new.
const PAUSE: Duration = Duration::from_millis(100);

/// Runs until it is cancelled.
pub(crate) async fn run(core: Arc<Core>, mut stalled: watch::Receiver<bool>) {
    let after = core.options.stall.after;
    while stalled.changed().await.is_ok() {
        let is_stalled = *stalled.borrow_and_update();
        core.raft().runtime_config().elect(!is_stalled);
        if is_stalled {
            tracing::error!(
                limit = ?after,
                "the disk under the write-ahead log stalls: this member leaves the lead to others \
                 until it is well again; look at the disk, or raise --storage-stall-timeout if it \
                 is always so slow"
            );
            hand_over(&core, &stalled).await;
        } else {
            tracing::info!("the disk under the write-ahead log is well again");
        }
    }
    // The log's thread has ended, and the node with it.
    std::future::pending().await
}

async fn hand_over(core: &Core, stalled: &watch::Receiver<bool>) {
    while *stalled.borrow() {
        if core.is_stuck() && is_followed(core).await {
            match transfer::transfer_leadership(core, None).await {
                Ok(leader) => {
                    let new_leader = format!("{leader:x}");
                    tracing::info!(new_leader, "leadership handed over: the disk here stalls");
                }
                Err(Error::NotLeader { .. }) => {}
                Err(Error::Stopped { .. }) => return,
                Err(error) => {
                    tracing::warn!(
                        %error,
                        "leadership cannot be handed over although the disk stalls"
                    );
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether this member leads, and another voter has by now what the log here had a moment ago: its
/// disk works.
async fn is_followed(core: &Core) -> bool {
    let last = {
        let metrics = core.raft().metrics();
        let last = metrics.borrow_watched().last_log_index;
        last.unwrap_or(0)
    };
    tokio::time::sleep(PAUSE).await;
    let metrics = core.raft().metrics();
    let metrics = metrics.borrow_watched();
    let Some(progress) = metrics.replication.as_ref() else {
        return false;
    };
    let has_it = |id: &u64| {
        let matched = progress.get(id).copied().flatten();
        matched.is_some_and(|matched| matched.index >= last)
    };
    let mut voters = metrics.membership_config.voter_ids();
    voters.any(|id| id != core.options.member_id && has_it(&id))
}
