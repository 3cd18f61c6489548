//! Compaction that nobody asks for: by age or by number of revisions.
//!
//! Only the leader compacts; a follower goes on noting revisions, so that it knows the past when
//! it comes to lead. Source: etcd `server/etcdserver/api/v3compactor`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use kvd_api::pb::etcdserverpb::CompactionRequest;
use kvd_api::pb::kvdcommandpb::command::Request;
use tokio::time::Instant;

use crate::config::AutoCompaction;
use crate::core::Core;
use crate::error::Error;

const HOUR: Duration = Duration::from_secs(3600);
/// How often compaction by revision looks. etcd: `revInterval`.
const REVISION_INTERVAL: Duration = Duration::from_secs(300);

/// Runs until the task is aborted; returns at once when compaction is off.
pub async fn run(core: Arc<Core>) {
    match core.config().auto_compaction {
        AutoCompaction::Off => {}
        AutoCompaction::Periodic(period) => periodic(&core, period).await,
        AutoCompaction::Revision(keep) => by_revision(&core, keep).await,
    }
}

/// The schedule of compaction by age: which revision is `period` old, and when it may go.
struct Schedule {
    revisions: VecDeque<i64>,
    kept: usize,
    period: Duration,
    wait: Duration,
    last_revision: i64,
    last_success: Instant,
}

impl Schedule {
    fn new(period: Duration, now: Instant) -> Schedule {
        let tick = Schedule::tick(period);
        let kept = usize::try_from(period.as_nanos() / tick.as_nanos().max(1)).unwrap_or(0) + 1;
        Schedule {
            revisions: VecDeque::new(),
            kept,
            period,
            // The first compaction waits a whole period, the later ones at most an hour.
            wait: period,
            last_revision: 0,
            last_success: now,
        }
    }

    fn tick(period: Duration) -> Duration {
        period.min(HOUR) / 10
    }

    fn note(&mut self, revision: i64) {
        self.revisions.push_back(revision);
        if self.revisions.len() > self.kept {
            self.revisions.pop_front();
        }
    }

    fn due(&mut self, now: Instant) -> Option<i64> {
        let revision = *self.revisions.front()?;
        if now.duration_since(self.last_success) < self.wait || revision == self.last_revision {
            return None;
        }
        self.wait = self.period.min(HOUR);
        Some(revision)
    }

    fn done(&mut self, revision: i64, now: Instant) {
        self.last_revision = revision;
        self.last_success = now;
    }
}

async fn periodic(core: &Core, period: Duration) {
    let mut schedule = Schedule::new(period, Instant::now());
    loop {
        schedule.note(core.store().current_revision());
        tokio::time::sleep(Schedule::tick(period)).await;
        if !core.is_leader() {
            continue;
        }
        let Some(revision) = schedule.due(Instant::now()) else {
            continue;
        };
        if compact(core, revision).await {
            schedule.done(revision, Instant::now());
        }
    }
}

async fn by_revision(core: &Core, keep: i64) {
    let mut last = 0;
    loop {
        tokio::time::sleep(REVISION_INTERVAL).await;
        let revision = core.store().current_revision().saturating_sub(keep);
        if !core.is_leader() || revision <= 0 || revision == last {
            continue;
        }
        if compact(core, revision).await {
            last = revision;
        }
    }
}

/// Whether `revision` is compacted now, by this call or an earlier one.
async fn compact(core: &Core, revision: i64) -> bool {
    let request = Request::Compaction(CompactionRequest {
        revision,
        physical: false,
    });
    match core.propose(request).await {
        Ok(_) => {
            tracing::info!(revision, "completed auto compaction");
            true
        }
        Err(Error::Store(kvd_mvcc::Error::Compacted { .. })) => true,
        Err(error) => {
            tracing::warn!(revision, %error, "auto compaction failed; trying again");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_periodic_compaction_waits_a_whole_period() {
        let start = Instant::now();
        let period = Duration::from_secs(600);
        let mut schedule = Schedule::new(period, start);
        let mut now = start;
        for revision in 2..=11 {
            schedule.note(revision);
            now += Schedule::tick(period);
            let due = schedule.due(now);
            assert_eq!(
                due.is_some(),
                revision == 11,
                "after {revision} ticks: {due:?}"
            );
        }
    }

    #[test]
    fn a_periodic_compaction_takes_the_revision_that_is_one_period_old() {
        let start = Instant::now();
        let period = Duration::from_secs(600);
        let mut schedule = Schedule::new(period, start);
        for tick in 1..=30 {
            schedule.note(tick);
        }
        assert_eq!(schedule.due(start + 3 * period), Some(20));
    }
}
