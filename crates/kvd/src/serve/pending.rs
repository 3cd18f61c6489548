//! Connections that have not said what they want: how many there may be.
//!
//! Whoever opens connections and stays silent, or shakes hands slowly, holds a place here. When all
//! places are taken, the one that has waited longest goes: a client that does its part needs a
//! place for milliseconds, so it gets in whatever the silent ones do.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// The places.
#[derive(Debug)]
pub(super) struct Pending {
    most: usize,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    tickets: BTreeMap<u64, CancellationToken>,
}

/// A place, free again when it is dropped.
#[derive(Debug)]
pub(super) struct Ticket {
    number: u64,
    out: CancellationToken,
    pending: Arc<Pending>,
}

impl Pending {
    pub(super) fn new(most: usize) -> Arc<Pending> {
        Arc::new(Pending {
            most: most.max(1),
            waiting: Mutex::default(),
        })
    }

    /// Takes a place, which may cost the oldest one.
    pub(super) fn enter(self: &Arc<Self>) -> Ticket {
        let out = CancellationToken::new();
        let mut waiting = self.waiting.lock();
        waiting.next += 1;
        let number = waiting.next;
        waiting.tickets.insert(number, out.clone());
        if waiting.tickets.len() > self.most
            && let Some((_, oldest)) = waiting.tickets.pop_first()
        {
            oldest.cancel();
        }
        Ticket {
            number,
            out,
            pending: Arc::clone(self),
        }
    }
}

impl Ticket {
    /// Cancelled when the place goes to somebody else.
    pub(super) fn out(&self) -> CancellationToken {
        self.out.clone()
    }

    /// Returns when the place went to somebody else.
    pub(super) async fn pushed_out(&self) {
        self.out.cancelled().await;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.pending.waiting.lock().tickets.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_when_all_places_are_taken() {
        let pending = Pending::new(2);
        let (first, second) = (pending.enter(), pending.enter());
        drop(second);
        let third = pending.enter();
        assert!(!first.out.is_cancelled());
        let fourth = pending.enter();
        assert!(first.out.is_cancelled());
        assert!(!third.out.is_cancelled() && !fourth.out.is_cancelled());
        drop((first, third, fourth));
        assert!(pending.waiting.lock().tickets.is_empty());
    }
}
