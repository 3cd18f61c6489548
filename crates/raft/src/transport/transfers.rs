//! Snapshots on their way to peers, for whose sake the log is kept.
//!
//! A member that has got a snapshot needs the entries after it. Were these purged while the snapshot
//! was sent, it would need another one, and so on without end as long as there are writes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How long after a transfer the log is still kept, for the member to catch up. Source: etcd
/// `releaseDelayAfterSnapshot`.
const RELEASE_DELAY: Duration = Duration::from_secs(30);

/// Counts transfers.
#[derive(Debug, Default)]
pub(crate) struct Transfers(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    under_way: usize,
    last_install: Option<Instant>,
}

/// A transfer that is under way until this is dropped.
pub(crate) struct Transfer(Arc<Transfers>);

impl Drop for Transfer {
    fn drop(&mut self) {
        self.0.0.lock().under_way -= 1;
    }
}

impl Transfers {
    /// To be called when the peer takes the first bytes: for one that cannot be reached, the log is
    /// not kept.
    pub(crate) fn begin(self: &Arc<Self>) -> Transfer {
        self.0.lock().under_way += 1;
        Transfer(self.clone())
    }

    /// The peer has installed a snapshot.
    pub(crate) fn installed(&self) {
        self.0.lock().last_install = Some(Instant::now());
    }

    /// Whether the log has to be kept.
    pub(crate) fn need_log(&self) -> bool {
        self.need_log_at(Instant::now())
    }

    fn need_log_at(&self, now: Instant) -> bool {
        let state = self.0.lock();
        let recent = |at| now.saturating_duration_since(at) < RELEASE_DELAY;
        state.under_way > 0 || state.last_install.is_some_and(recent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_kept_while_a_snapshot_is_sent_and_for_a_while_after() {
        let transfers = Arc::new(Transfers::default());
        assert!(!transfers.need_log());
        let (first, second) = (transfers.begin(), transfers.begin());
        drop(first);
        assert!(transfers.need_log(), "one is still under way");
        transfers.installed();
        drop(second);
        assert!(transfers.need_log());
        assert!(!transfers.need_log_at(Instant::now() + 2 * RELEASE_DELAY));
    }

    #[test]
    fn the_log_is_not_kept_for_a_transfer_that_failed() {
        let transfers = Arc::new(Transfers::default());
        drop(transfers.begin());
        assert!(!transfers.need_log());
    }
}
