//! A member that stops for good leaves the cluster; one that only restarts does not.

use std::sync::Arc;
use std::time::Duration;

use kvd_autopilot::plan::{self, Kind};
use kvd_raft::Change;
use tokio::time::{Instant, sleep};

use crate::core::Core;
use crate::members;
use crate::server::note_removal;

/// Most time that leaving may take. If it does not succeed the leader sees to it later.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two tries: the leader refuses while another change is under way, or it has not been in
/// touch with enough voters for long enough.
const PAUSE: Duration = Duration::from_millis(500);

/// To be called when the process is told to stop, while it still takes part: when fewer members are
/// wanted than this one's number says, or than answer where members have none, it hands leadership
/// over and removes itself.
///
/// Returns whether it has left.
pub async fn leave(core: &Arc<Core>) -> bool {
    let autopilot = core.autopilot();
    if !autopilot.settings().enabled {
        return false;
    }
    let reading = autopilot.desired().refresh().await;
    let name = &core.config().name;
    let first = autopilot.settings().policy.first_ordinal;
    let Some(desired) = reading.count else {
        return false;
    };
    let goes = || match autopilot.view(core, &core.status()) {
        Ok(view) => plan::goes_for_good(&view, name, desired, first),
        Err(error) => {
            tracing::error!(%error, "the member records cannot be read");
            false
        }
    };
    if !goes() {
        tracing::info!(
            desired_replicas = desired,
            name,
            "this member stops and stays a member"
        );
        return false;
    }
    let why = format!("{desired} members are wanted, and its process was told to stop");
    tracing::info!(
        reason = why,
        name,
        "this member leaves the cluster for good"
    );
    let deadline = Instant::now() + PATIENCE;
    loop {
        match members::change(core, Change::Remove(core.member_id())).await {
            Ok(_) => {
                autopilot.did(core, Kind::Leave, name, &why, "");
                return left(core).await;
            }
            Err(_) if core.status().removed => return left(core).await,
            Err(error) if Instant::now() >= deadline => {
                autopilot.did(core, Kind::Leave, name, &why, &error.to_string());
                return false;
            }
            Err(error) => {
                tracing::info!(%error, "leaving the cluster has to wait");
                sleep(PAUSE).await;
                // Another one may have left instead.
                if !goes() {
                    tracing::info!(name, "this member stops and stays a member after all");
                    return false;
                }
            }
        }
    }
}

/// Notes in the data that it is of no use any more: nobody may be left to say so at the next start.
async fn left(core: &Arc<Core>) -> bool {
    note_removal(core).await;
    true
}
