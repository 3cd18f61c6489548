//! Gives votes to members that were added with one, once they have caught up.
//!
//! A member counts as caught up when it has, at one look, everything that the leader had at the
//! look before: what it still lacks then is one tick's worth of entries. Source: Raft thesis,
//! section 4.2.1.

use std::sync::Arc;
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::time::MissedTickBehavior;

use crate::core::Core;
use crate::error::Error;
use crate::{change, membership};

/// Between two looks.
const TICK: Duration = Duration::from_millis(100);

/// Runs until it is cancelled.
pub(crate) async fn run(core: Arc<Core>) {
    let mut keeper = Keeper::default();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        keeper.look(&core).await;
    }
}

/// What the last look saw.
#[derive(Default)]
struct Keeper {
    /// The leader's last entry then; zero when this member did not lead.
    last_index: u64,
}

impl Keeper {
    /// Changes the membership when a vote is due.
    async fn look(&mut self, core: &Core) {
        let Some(id) = self.due(core) else { return };
        match change::give_vote(core, id).await {
            Ok(_) => tracing::info!(
                member = format!("{id:x}"),
                "a member has caught up and votes from now on"
            ),
            Err(Error::Superseded | Error::NotLeader { .. }) => {}
            Err(error) => tracing::warn!(
                member = format!("{id:x}"),
                %error,
                "a member that has caught up cannot be given its vote now"
            ),
        }
    }

    /// A member that has caught up and has no vote yet.
    fn due(&mut self, core: &Core) -> Option<u64> {
        let metrics = core.raft().metrics();
        let metrics = metrics.borrow_watched();
        if metrics.state != ServerState::Leader {
            self.last_index = 0;
            return None;
        }
        let before = std::mem::replace(&mut self.last_index, metrics.last_log_index.unwrap_or(0));
        let pending = membership::pending(metrics.membership_config.membership());
        if before == 0 || pending.is_empty() {
            return None;
        }
        let progress = metrics.replication.as_ref()?;
        let has = |id: &u64| progress.get(id).copied().flatten();
        pending
            .into_iter()
            .find(|id| has(id).is_some_and(|matched| matched.index >= before))
            .filter(|id| core.peers.is_connected(*id))
    }
}
