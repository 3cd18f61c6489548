//! What a member does while the disk under its log stalls: it leaves the lead to another one, and
//! does not ask to be elected.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::core::Core;
use crate::error::Error;
use crate::transfer;

/// Between two tries to hand over.
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
                "the disk under the write-ahead log stalls: this member does not lead until it is \
                 well again; look at the disk, or raise --storage-stall-timeout if it is always so \
                 slow"
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
        match transfer::transfer_leadership(core, None).await {
            Ok(leader) => {
                let new_leader = format!("{leader:x}");
                tracing::info!(new_leader, "leadership handed over: the disk here stalls");
                return;
            }
            Err(Error::NotLeader { .. } | Error::Stopped { .. }) => return,
            Err(error) => {
                tracing::warn!(%error, "leadership cannot be handed over although the disk stalls");
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}
