//! What waits for one client, within bounds.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::event::Event;

/// Most responses that wait for one client.
const RESPONSES_MAX: usize = 1024;
/// Most bytes of events that wait for one client, unless one response alone is larger.
const BYTES_MAX: usize = 8 << 20;

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
        events: Vec<Arc<Event>>,
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
}

impl Queue {
    fn is_full(&self) -> bool {
        self.items.len() >= RESPONSES_MAX || self.bytes >= BYTES_MAX
    }

    fn is_half_empty(&self) -> bool {
        self.items.len() <= RESPONSES_MAX / 2 && self.bytes <= BYTES_MAX / 2
    }
}

/// The deliveries that wait for one client.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    arrived: Notify,
    /// Watchers of the stream that are behind; changes under the hub's lock.
    pub(crate) behind: AtomicUsize,
}

impl Outbox {
    /// Adds a delivery of `bytes` bytes; says whether there was room. `force` makes room for what
    /// is small and must not be lost.
    pub(crate) fn push(&self, item: Item, bytes: usize, force: bool) -> bool {
        let mut queue = self.queue.lock();
        if queue.closed || (queue.is_full() && !force) {
            return false;
        }
        queue.bytes += bytes;
        queue.items.push_back((item, bytes));
        drop(queue);
        self.arrived.notify_one();
        true
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

    /// Whether there is room. If not, [`Self::pop`] says when half of it is free again.
    pub(crate) fn has_room(&self) -> bool {
        let mut queue = self.queue.lock();
        let full = queue.is_full();
        queue.wanted |= full;
        !full
    }

    /// Waits for the next delivery; `None` after [`Self::close`]. The second part says that
    /// somebody waits for the room there is now.
    pub(crate) async fn pop(&self) -> Option<(Item, bool)> {
        loop {
            {
                let mut queue = self.queue.lock();
                if let Some((item, bytes)) = queue.items.pop_front() {
                    queue.bytes -= bytes;
                    let wanted = queue.wanted && queue.is_half_empty();
                    queue.wanted &= !wanted;
                    return Some((item, wanted));
                }
                if queue.closed {
                    return None;
                }
            }
            self.arrived.notified().await;
        }
    }

    /// Lets go of everything that waits and takes no more. Returns the number of events let go.
    pub(crate) fn close(&self) -> i64 {
        let mut queue = self.queue.lock();
        queue.closed = true;
        queue.bytes = 0;
        let waiting = std::mem::take(&mut queue.items);
        drop(queue);
        self.arrived.notify_one();
        let events = waiting.iter().map(|(item, _)| match &item.delivery {
            Delivery::Events { events, .. } => i64::try_from(events.len()).unwrap_or(i64::MAX),
            Delivery::Compacted { .. } | Delivery::Progress { .. } => 0,
        });
        events.sum()
    }
}
