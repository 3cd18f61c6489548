//! Watches the thread that writes from a thread of its own: a disk that stalls says nothing.
//!
//! ```text
//!                write or sync takes longer than `after`
//!      ┌────────┐ ──────────────────────────────────────▶ ┌─────────┐
//!      │ in time│                                         │ stalled │
//!      └────────┘ ◀────────────────────────────────────── └─────────┘
//!                nothing took that long for `recovery`
//! ```

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::error::{Error, Result};
use super::handle::Shared;

/// When the disk under the log counts as stalled.
#[derive(Debug, Clone, Copy)]
pub struct StallLimits {
    /// A write or a sync that takes longer stalls. Zero: nothing does.
    pub after: Duration,
    /// For so long everything must have been quicker before the disk is trusted again.
    pub recovery: Duration,
}

impl Default for StallLimits {
    fn default() -> StallLimits {
        StallLimits {
            after: Duration::from_secs(1),
            recovery: Duration::from_secs(5),
        }
    }
}

/// Since when the disk has been busy with one batch.
#[derive(Debug)]
pub(crate) struct Busy {
    start: Instant,
    /// Milliseconds after `start`, and one; zero while it is idle. Written by the writer.
    since: AtomicU64,
}

impl Busy {
    pub(crate) fn new() -> Busy {
        Busy {
            start: Instant::now(),
            since: AtomicU64::new(0),
        }
    }

    pub(crate) fn begin(&self) {
        let now = self.start.elapsed().as_millis() as u64;
        self.since.store(now + 1, Ordering::Relaxed);
    }

    pub(crate) fn end(&self) {
        self.since.store(0, Ordering::Relaxed);
    }

    /// For how long it has been busy; zero while it is idle.
    pub(crate) fn age(&self) -> Duration {
        match self.since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => {
                let since = Duration::from_millis(since - 1);
                self.start.elapsed().saturating_sub(since)
            }
        }
    }
}

/// Starts the thread. It ends when the log is closed and nobody holds it any more.
pub(crate) fn spawn(
    shared: &Arc<Shared>,
    limits: StallLimits,
    stalled: Arc<watch::Sender<bool>>,
) -> Result<()> {
    if limits.after.is_zero() {
        return Ok(());
    }
    let watched = Arc::downgrade(shared);
    std::thread::Builder::new()
        .name("wal-watchdog".into())
        .spawn(move || run(&watched, limits, &stalled))
        .map(drop)
        .map_err(|error| Error::io("start a thread for", &shared.options.dir, error))
}

fn run(watched: &Weak<Shared>, limits: StallLimits, stalled: &watch::Sender<bool>) {
    let most = Duration::from_millis(100);
    let tick = (limits.after / 10).clamp(Duration::from_millis(1), most);
    let mut judge = Judge::new(limits);
    while let Some(shared) = watched.upgrade() {
        let age = shared.busy.age();
        drop(shared);
        if let Some(verdict) = judge.look(age, Instant::now()) {
            stalled.send_replace(verdict);
        }
        std::thread::sleep(tick);
    }
}

/// Decides, from one look to the next.
struct Judge {
    limits: StallLimits,
    stalled: bool,
    /// When something took too long, the last time that was seen.
    last_slow: Option<Instant>,
}

impl Judge {
    fn new(limits: StallLimits) -> Judge {
        Judge {
            limits,
            stalled: false,
            last_slow: None,
        }
    }

    /// `age`: how long the batch under way has taken. Returns the verdict when it changes.
    fn look(&mut self, age: Duration, now: Instant) -> Option<bool> {
        if age > self.limits.after {
            self.last_slow = Some(now);
        }
        let recovered = |at: Instant| now.saturating_duration_since(at) >= self.limits.recovery;
        let verdict = match self.last_slow {
            Some(at) => at == now || (self.stalled && !recovered(at)),
            None => false,
        };
        let changed = verdict != self.stalled;
        self.stalled = verdict;
        changed.then_some(verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_write_stalls_until_all_has_been_quick_for_a_while() {
        let ms = Duration::from_millis;
        let limits = StallLimits {
            after: ms(1_000),
            recovery: ms(5_000),
        };
        let (mut judge, start) = (Judge::new(limits), Instant::now());
        let mut look = |at, age| judge.look(ms(age), start + ms(at));
        assert_eq!(look(0, 0), None);
        assert_eq!(look(100, 1_000), None);
        assert_eq!(look(200, 1_100), Some(true));
        assert_eq!(look(300, 1_200), None);
        assert_eq!(look(400, 0), None);
        assert_eq!(look(5_200, 20), None);
        assert_eq!(look(5_250, 1_001), None, "slow again: the time begins anew");
        assert_eq!(look(10_200, 0), None);
        assert_eq!(look(10_250, 0), Some(false));
        assert_eq!(look(10_300, 2_000), Some(true));
    }
}
