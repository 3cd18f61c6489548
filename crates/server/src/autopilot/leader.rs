//! The loop: every member looks, the leader acts.

use std::sync::Arc;
use std::time::Duration;

use kvd_autopilot::plan::{self, Action, Kind, Plan};
use kvd_raft::{Change, Role};
use tokio::time::{Instant, MissedTickBehavior};

use super::state::called;
use crate::core::Core;
use crate::members;

/// Between two looks.
const TICK: Duration = Duration::from_millis(500);
/// How often the leader asks how many members are wanted.
const DESIRED_LEADER: Duration = Duration::from_secs(2);
/// How often the others ask; their readings count when they lead, and when they stop.
const DESIRED_OTHERS: Duration = Duration::from_secs(10);

/// Runs until it is cancelled.
pub(crate) async fn run(core: Arc<Core>) {
    tokio::join!(watch(&core), read_desired(&core));
}

async fn watch(core: &Arc<Core>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        core.autopilot().watch(core);
        look(core).await;
    }
}

async fn read_desired(core: &Core) {
    let mut read: Option<Instant> = None;
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let pause = match core.is_leader() {
            true => DESIRED_LEADER,
            false => DESIRED_OTHERS,
        };
        if read.is_none_or(|at| at.elapsed() >= pause) {
            core.autopilot().desired().refresh().await;
            read = Some(Instant::now());
        }
    }
}

/// Judges the members, and does the next thing that is due.
async fn look(core: &Arc<Core>) {
    let autopilot = core.autopilot();
    let status = core.status();
    let view = match autopilot.view(core, &status) {
        Ok(view) => view,
        Err(error) => return tracing::error!(%error, "the member records cannot be read"),
    };
    let leads = status.role == Role::Leader && autopilot.has_looked();
    let metrics = core.metrics();
    let tolerance = if leads {
        plan::failure_tolerance(&view)
    } else {
        0
    };
    metrics
        .autopilot_healthy
        .set(i64::from(leads && plan::is_healthy(&view)));
    metrics
        .autopilot_failure_tolerance
        .set(i64::try_from(tolerance).unwrap_or(i64::MAX));
    if !leads || !autopilot.settings().enabled {
        return autopilot.set_plan(Plan::default());
    }
    let plan = plan::plan(&view, &autopilot.settings().policy);
    autopilot.set_plan(plan.clone());
    if let Some(action) = plan.next {
        act(core, &action, &called(&view, &action)).await;
    }
}

/// Does what was planned, if it is still the plan on a fresh look.
async fn act(core: &Arc<Core>, action: &Action, who: &str) {
    let autopilot = core.autopilot();
    let pick = || {
        let view = autopilot.view(core, &core.status()).ok()?;
        let now = plan::plan(&view, &autopilot.settings().policy).next?;
        let same = now.kind == action.kind && now.id == action.id;
        same.then(|| change(action))
    };
    match members::as_leader_if(core, &pick).await {
        Ok(Some(_)) => autopilot.did(core, action.kind, who, &action.why, ""),
        Ok(None) => {}
        Err(error) => autopilot.did(core, action.kind, who, &action.why, &error.to_string()),
    }
}

fn change(action: &Action) -> Change {
    match action.kind {
        Kind::Promote => Change::Promote(action.id),
        Kind::Leave | Kind::Cleanup | Kind::Abandoned | Kind::Replace | Kind::Join => {
            Change::Remove(action.id)
        }
    }
}
