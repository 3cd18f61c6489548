//! When a leader was last heard of.
//!
//! openraft follows a leader until it votes for another one, and with pre-vote a member that is
//! cut off never does. Clients want to know that there is no leader; this tells.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub(crate) struct Contact {
    start: Instant,
    /// Milliseconds since `start`.
    last: AtomicU64,
}

impl Contact {
    pub(crate) fn new() -> Contact {
        Contact {
            start: Instant::now(),
            last: AtomicU64::new(0),
        }
    }

    /// The leader was heard of just now.
    pub(crate) fn note(&self) {
        let now = self.start.elapsed().as_millis() as u64;
        self.last.store(now, Ordering::Relaxed);
    }

    /// How long ago that was; since the start, if never.
    pub(crate) fn age(&self) -> Duration {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        self.start.elapsed().saturating_sub(last)
    }
}
