//! What took longer than it should: when to warn, and how often.
//!
//! etcd warns each time, which makes a slow disk slower; here a second has a few lines, and the next
//! one says how many were left out.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Most lines in a second.
const LINES_MAX: u32 = 10;
const SECOND: Duration = Duration::from_secs(1);

/// A limit, and what was said about it lately.
#[derive(Debug)]
pub struct Slow {
    limit_nanos: AtomicU64,
    window: Mutex<Window>,
}

#[derive(Debug)]
struct Window {
    begun: Instant,
    lines: u32,
    left_out: u64,
}

impl Slow {
    pub(super) fn new(limit: Duration) -> Slow {
        Slow {
            limit_nanos: AtomicU64::new(nanos(limit)),
            window: Mutex::new(Window {
                begun: Instant::now(),
                lines: 0,
                left_out: 0,
            }),
        }
    }

    /// Sets what counts as slow from now on: whatever takes longer.
    pub fn set_limit(&self, limit: Duration) {
        self.limit_nanos.store(nanos(limit), Ordering::Relaxed);
    }

    fn limit(&self) -> Duration {
        Duration::from_nanos(self.limit_nanos.load(Ordering::Relaxed))
    }

    /// Whether something that took that long is slow.
    pub fn is(&self, took: Duration) -> bool {
        took > self.limit()
    }

    /// Whether to say something now; then, about how many nothing was said since the last line.
    fn may_say(&self, now: Instant) -> Option<u64> {
        let mut window = self.window.lock();
        if now.saturating_duration_since(window.begun) >= SECOND {
            window.begun = now;
            window.lines = 0;
        }
        if window.lines >= LINES_MAX {
            window.left_out += 1;
            return None;
        }
        window.lines += 1;
        Some(std::mem::take(&mut window.left_out))
    }

    /// Warns of a unary request that was slow. Source: etcd `v3rpc/interceptor.go`,
    /// `logUnaryRequestStats`; what was asked for is not told.
    pub(super) fn request(&self, path: &str, remote: Option<SocketAddr>, took: Duration) {
        if !self.is(took) {
            return;
        }
        if let Some(left_out) = self.may_say(Instant::now()) {
            let remote = remote.map_or_else(String::new, |remote| remote.to_string());
            tracing::warn!(
                "time spent" = ?took,
                remote,
                "response type" = path,
                "left out" = left_out,
                "request stats"
            );
        }
    }

    /// Warns of a command that was applied slowly. Source: etcd `txn/util.go`,
    /// `warnOfExpensiveGenericRequest`.
    pub(super) fn apply(&self, name: &str, log_index: u64, took: Duration) {
        if let Some(left_out) = self.may_say(Instant::now()) {
            tracing::warn!(
                ?took,
                "expected-duration" = ?self.limit(),
                request = name,
                "log index" = log_index,
                "left out" = left_out,
                "apply request took too long"
            );
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_a_few_lines_and_the_next_says_how_many_it_had_not() {
        let slow = Slow::new(Duration::from_millis(5));
        assert!(!slow.is(Duration::from_millis(5)));
        assert!(slow.is(Duration::from_millis(6)));
        let now = Instant::now();
        for _ in 0..LINES_MAX {
            assert_eq!(slow.may_say(now), Some(0));
        }
        assert_eq!(slow.may_say(now), None);
        assert_eq!(slow.may_say(now), None);
        assert_eq!(slow.may_say(now + SECOND), Some(2));
        slow.set_limit(Duration::from_secs(1));
        assert!(!slow.is(Duration::from_millis(6)));
    }
}
