//! One client's watchers.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::event::Event;
use super::hub::OfAll;
use super::outbox::{Delivery, Item, Outbox};
use super::watcher::{End, Keys, Place, Watcher};
use crate::index::KeyRange;
use crate::read::{self, RangeOptions, View};
use crate::store::Core;

/// Why a watcher was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// `range_end` is not behind `key`.
    #[error("mvcc: watcher range is empty")]
    EmptyRange,
    /// The stream has a watcher of that ID.
    #[error("mvcc: duplicate watch ID provided on the WatchStream")]
    DuplicateId,
}

/// What to watch.
#[derive(Clone, Debug, Default)]
pub struct WatchOptions {
    /// The key, or the first one.
    pub key: Bytes,
    /// Exclusive; empty means `key` alone, one zero byte all keys from `key` on.
    pub range_end: Bytes,
    /// The first revision wanted; zero means the one after the current one.
    pub start_revision: i64,
    /// The watcher's ID; zero lets the stream choose.
    pub id: i64,
    /// Leave puts out.
    pub no_put: bool,
    /// Leave deletions out.
    pub no_delete: bool,
}

/// A watcher that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watching {
    /// Its ID.
    pub id: i64,
    /// The store's revision when it was made.
    pub revision: i64,
}

/// The watchers of one client, and what waits for it. Dropping it ends all of them.
pub struct WatchStream {
    core: Arc<Core>,
    outbox: Arc<Outbox>,
    watchers: HashMap<i64, Arc<Watcher>>,
    next_id: i64,
    /// The serial number of the newest watcher.
    newest: u64,
}

impl WatchStream {
    pub(crate) fn new(core: Arc<Core>) -> WatchStream {
        WatchStream {
            outbox: core.hub.open_outbox(),
            core,
            watchers: HashMap::new(),
            next_id: 0,
            newest: 0,
        }
    }

    /// Number of watchers, those ended by a compaction included until they are cancelled.
    pub fn len(&self) -> usize {
        self.watchers.len()
    }

    /// Whether there is no watcher.
    pub fn is_empty(&self) -> bool {
        self.watchers.is_empty()
    }

    /// Makes a watcher. It gets every change from its first revision on, once and in order.
    ///
    /// Errors: [`WatchError`].
    pub fn watch(&mut self, options: WatchOptions) -> Result<Watching, WatchError> {
        let keys = match &options.range_end[..] {
            [] => Keys::One(options.key),
            [0] => Keys::Range(options.key, End::Unbounded),
            end if options.key[..] >= *end => return Err(WatchError::EmptyRange),
            _ => Keys::Range(options.key, End::Before(options.range_end)),
        };
        let id = if options.id != 0 {
            if self.watchers.contains_key(&options.id) {
                return Err(WatchError::DuplicateId);
            }
            options.id
        } else {
            while self.watchers.contains_key(&self.next_id) {
                self.next_id += 1;
            }
            self.next_id += 1;
            self.next_id - 1
        };
        let filters = (options.no_put, options.no_delete);
        let outbox = Arc::clone(&self.outbox);
        let start = options.start_revision;
        let (watcher, revision) = self.core.hub.register(
            || self.core.index.current(),
            start,
            |serial, next| Watcher::new((serial, id), keys, filters, (start, next), outbox),
        );
        self.newest = watcher.serial;
        self.watchers.insert(id, watcher);
        Ok(Watching { id, revision })
    }

    /// Ends a watcher: nothing of it comes after. Says whether there was one.
    pub fn cancel(&mut self, id: i64) -> bool {
        let Some(watcher) = self.watchers.remove(&id) else {
            return false;
        };
        self.core.hub.remove(&watcher);
        true
    }

    /// Has [`Delivery::Progress`] come for the watcher `id`, unless it is behind.
    pub fn request_progress(&self, id: i64) {
        if let Some(watcher) = self.watchers.get(&id) {
            let hub = &self.core.hub;
            hub.progress(Some(watcher), &self.outbox, OfAll::default());
        }
    }

    /// Has [`Delivery::Progress`] come for the whole stream, unless one of its watchers is behind
    /// or there is none.
    pub fn request_progress_all(&self) {
        let live = self.watchers.values();
        let live = live.filter(|watcher| watcher.place() != Place::Gone);
        if let Some(start) = live.map(|watcher| watcher.start).max() {
            let newest = self.newest;
            let of_all = OfAll { start, newest };
            self.core.hub.progress(None, &self.outbox, of_all);
        }
    }

    /// Waits for the next thing to tell the client; `None` when the store stops. Nothing is lost
    /// when the future is dropped.
    pub async fn next(&self) -> Option<Delivery> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// The same for a hand-written future. Only the task that asked last is woken.
    pub fn poll_next(&self, context: &mut Context<'_>) -> Poll<Option<Delivery>> {
        loop {
            let Some((item, room_wanted)) = ready!(self.outbox.poll_pop(context)) else {
                return Poll::Ready(None);
            };
            if room_wanted {
                self.core.hub.wake();
            }
            let Item { serial, delivery } = item;
            let id = match &delivery {
                Delivery::Events { id, .. }
                | Delivery::Compacted { id, .. }
                | Delivery::Progress { id: Some(id), .. } => *id,
                Delivery::Progress { id: None, .. } if serial == self.newest => {
                    return Poll::Ready(Some(delivery));
                }
                // It says nothing of a watcher that came after it was queued.
                Delivery::Progress { id: None, .. } => {
                    self.request_progress_all();
                    continue;
                }
            };
            // What was queued for a watcher that was cancelled since is not told any more.
            let watcher = self.watchers.get(&id);
            if watcher.is_some_and(|watcher| watcher.serial == serial) {
                return Poll::Ready(Some(delivery));
            }
        }
    }
}

/// `event` as `mvccpb.Event`, with the pair before, if that still exists.
pub(crate) fn encode_with_prev(core: &Core, event: &Event) -> Bytes {
    event.encoded_with_prev(|| {
        let options = RangeOptions::default();
        let key = event.key();
        let range = KeyRange::new(&key, &[]);
        let view = View::At(event.mod_revision() - 1);
        let found = read::range(&core.index, view, range, &options, |revision| {
            core.records.get(revision)
        });
        match found {
            Ok(mut found) => found.kvs.pop(),
            Err(error) => {
                tracing::debug!(%error, "the pair before an event cannot be read");
                None
            }
        }
    })
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        for watcher in self.watchers.values() {
            self.core.hub.remove(watcher);
        }
        self.core.hub.close_outbox(&self.outbox);
    }
}
