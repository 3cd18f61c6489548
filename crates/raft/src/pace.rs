//! How far a snapshot's transfer is: said in the log now and then, and told to the metrics.

use std::time::{Duration, Instant};

/// Between two lines of the log.
const SAID_EVERY: Duration = Duration::from_secs(5);

/// Follows one transfer.
pub(crate) struct Pace {
    what: &'static str,
    peer: u64,
    /// About how many bytes there are to come in all; the peer may be wrong.
    total: u64,
    bytes: u64,
    started: Instant,
    said: Instant,
    is_complete: bool,
}

/// Says how the transfer ended, whatever way that was.
impl Drop for Pace {
    fn drop(&mut self) {
        let (what, took) = (self.what, self.started.elapsed());
        let (peer, bytes) = (format!("{:x}", self.peer), self.bytes);
        let bytes_per_second = self.rate(Instant::now());
        match self.is_complete {
            true => tracing::info!(peer, bytes, ?took, bytes_per_second, "{what}: done"),
            false => tracing::warn!(peer, bytes, ?took, bytes_per_second, "{what}: interrupted"),
        }
    }
}

impl Pace {
    /// A transfer of about `total` bytes begins.
    pub(crate) fn begin(what: &'static str, peer: u64, total: u64) -> Pace {
        tracing::info!(peer = format!("{peer:x}"), about_bytes = total, "{what}");
        let now = Instant::now();
        Pace {
            what,
            peer,
            total,
            bytes: 0,
            started: now,
            said: now,
            is_complete: false,
        }
    }

    /// So many bytes more. Says so when it is time.
    pub(crate) fn advance(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        let now = Instant::now();
        if now.duration_since(self.said) < SAID_EVERY {
            return;
        }
        self.said = now;
        tracing::info!(
            peer = format!("{:x}", self.peer),
            bytes = self.bytes,
            percent = self.percent(),
            bytes_per_second = self.rate(now),
            "{}",
            self.what
        );
    }

    /// All of it is there.
    pub(crate) fn complete(&mut self) {
        self.is_complete = true;
    }

    /// Bytes so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// About how many there are in all.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// How much is there, as far as it is known how much there is to be.
    fn percent(&self) -> u64 {
        let hundredths = self.bytes.saturating_mul(100);
        hundredths.checked_div(self.total).unwrap_or(0).min(100)
    }

    fn rate(&self, now: Instant) -> u64 {
        let seconds = now.duration_since(self.started).as_secs_f64().max(0.001);
        (self.bytes as f64 / seconds) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_known_as_far_as_the_whole_is() {
        let mut pace = Pace::begin("sending a snapshot", 7, 200);
        assert_eq!(pace.percent(), 0);
        pace.advance(50);
        assert_eq!((pace.bytes(), pace.percent()), (50, 25));
        pace.advance(500);
        assert_eq!(pace.percent(), 100);
        let unknown = Pace::begin("sending a snapshot", 7, 0);
        assert_eq!(unknown.percent(), 0);
    }
}
