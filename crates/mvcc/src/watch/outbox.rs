//! What waits for one client, within bounds.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use super::event::Event;
use crate::lanes::{Lane, OfThread};

/// Most responses that wait for one client.
const RESPONSES_MAX: usize = 1024;
/// Most bytes of events that wait for one client, unless one response alone is larger.
const BYTES_MAX: usize = 8 << 20;

thread_local! {
    static LANE: OfThread<Waker> = const { RefCell::new(None) };
}

/// Something to tell the client of a stream.
#[derive(Debug)]
pub enum Delivery {
    /// Changes of one or more whole revisions, in order.
    Events {
        /// The watcher that they are for.
        id: i64,
        /// The store's revision: for live events their own.
        revision: i64,
        /// The changes.
        events: Arc<[Arc<Event>]>,
    },
    /// The watcher is over: what it needs next is gone.
    Compacted {
        /// The watcher.
        id: i64,
        /// The compacted revision.
        compact_revision: i64,
    },
    /// Everything up to a revision has been delivered.
    Progress {
        /// The watcher; none means all of the stream.
        id: Option<i64>,
        /// The revision.
        revision: i64,
    },
}

/// A delivery, and the serial number of the watcher it is for. If it is for the whole stream: that
/// of the stream's newest watcher, zero for none.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) serial: u64,
    pub(crate) delivery: Delivery,
}

#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<(Item, usize)>,
    bytes: usize,
    closed: bool,
    /// Somebody found no room, and wants to know when there is.
    wanted: bool,
    /// The client's task, while it waits, and where that runs.
    waker: Option<Waker>,
    lane: Option<Arc<Lane<Waker>>>,
}

impl Queue {
    fn is_full(&self) -> bool {
        self.items.len() >= RESPONSES_MAX || self.bytes >= BYTES_MAX
    }

    fn take_waiter(&mut self) -> Option<Waiter> {
        let waker = self.waker.take()?;
        let lane = self.lane.clone();
        Some(Waiter { lane, waker })
    }

    fn is_half_empty(&self) -> bool {
        self.items.len() <= RESPONSES_MAX / 2 && self.bytes <= BYTES_MAX / 2
    }
}

impl Delivery {
    fn events(&self) -> usize {
        match self {
            Delivery::Events { events, .. } => events.len(),
            Delivery::Compacted { .. } | Delivery::Progress { .. } => 0,
        }
    }
}

/// A client's task, and the way to it.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) lane: Option<Arc<Lane<Waker>>>,
    pub(crate) waker: Waker,
}

/// What became of a delivery.
#[derive(Debug)]
pub(crate) enum Pushed {
    /// There was no room, or nobody takes it any more.
    Refused,
    /// It waits, and so did the client if it is to be woken.
    Queued(Option<Waiter>),
}

/// The deliveries that wait for one client.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    /// Watchers of the stream that are behind; changes under the hub's lock.
    pub(crate) behind: AtomicUsize,
}

impl Outbox {
    /// Adds a delivery of `bytes` bytes, if there is room. `force` makes room for what is small and
    /// must not be lost.
    pub(crate) fn push(&self, item: Item, bytes: usize, force: bool) -> Pushed {
        let mut queue = self.queue.lock();
        if queue.closed || (queue.is_full() && !force) {
            return Pushed::Refused;
        }
        queue.bytes += bytes;
        queue.items.push_back((item, bytes));
        Pushed::Queued(queue.take_waiter())
    }

    /// The same, and wakes the client.
    pub(crate) fn push_and_wake(&self, item: Item, bytes: usize, force: bool) {
        if let Pushed::Queued(Some(waiter)) = self.push(item, bytes, force) {
            waiter.waker.wake();
        }
    }

    /// Notes the oldest revision that waits, by the serial number of the watcher it is for.
    pub(crate) fn oldest(&self, oldest: &mut HashMap<u64, i64>) {
        for (item, _) in &self.queue.lock().items {
            if let Delivery::Events { events, .. } = &item.delivery
                && let Some(event) = events.first()
            {
                oldest.entry(item.serial).or_insert(event.mod_revision());
            }
        }
    }

    /// Number of events that wait.
    pub(crate) fn pending(&self) -> usize {
        let queue = self.queue.lock();
        let items = queue.items.iter();
        items.map(|(item, _)| item.delivery.events()).sum()
    }

    /// Whether there is room. If not, [`Self::poll_pop`] says when half of it is free again.
    pub(crate) fn has_room(&self) -> bool {
        let mut queue = self.queue.lock();
        let full = queue.is_full();
        queue.wanted |= full;
        !full
    }

    /// Takes the next delivery; `None` after [`Self::close`]. The second part says that somebody
    /// waits for the room there is now. Only the task that asked last is woken.
    pub(crate) fn poll_pop(&self, context: &mut Context<'_>) -> Poll<Option<(Item, bool)>> {
        let mut queue = self.queue.lock();
        if let Some((item, bytes)) = queue.items.pop_front() {
            queue.bytes -= bytes;
            let wanted = queue.wanted && queue.is_half_empty();
            queue.wanted &= !wanted;
            return Poll::Ready(Some((item, wanted)));
        }
        if queue.closed {
            return Poll::Ready(None);
        }
        let waker = context.waker();
        if !queue.waker.as_ref().is_some_and(|it| it.will_wake(waker)) {
            queue.waker = Some(waker.clone());
        }
        if queue.lane.is_none() {
            queue.lane = Lane::of_this_thread(&LANE);
        }
        Poll::Pending
    }

    /// Lets go of everything that waits and takes no more.
    pub(crate) fn close(&self) {
        let mut queue = self.queue.lock();
        queue.closed = true;
        queue.bytes = 0;
        let waiting = std::mem::take(&mut queue.items);
        let waiter = queue.take_waiter();
        drop(queue);
        drop(waiting);
        if let Some(waiter) = waiter {
            waiter.waker.wake();
        }
    }
}
