//! One watcher: what it wants, and in whose hands it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};

use bytes::Bytes;

use super::event::Event;
use super::outbox::Outbox;

/// Where a watched range ends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    /// Before this key.
    Before(Bytes),
    /// Nowhere.
    Unbounded,
}

/// The keys that are watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Keys {
    One(Bytes),
    Range(Bytes, End),
}

/// In whose hands a watcher is. It changes under the hub's lock only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Place {
    Synced = 0,
    Behind = 1,
    Gone = 2,
}

/// One watcher of a stream.
#[derive(Debug)]
pub(crate) struct Watcher {
    /// Tells watchers apart, in the order of their creation, through the life of the store.
    pub(crate) serial: u64,
    /// Its name in its stream.
    pub(crate) id: i64,
    pub(crate) keys: Keys,
    pub(crate) no_put: bool,
    pub(crate) no_delete: bool,
    /// The first revision asked for; zero if none was. Progress is told from there on.
    pub(crate) start: i64,
    /// The next revision needed, kept by whoever has the watcher; in the group it may be old.
    next: AtomicI64,
    place: AtomicU8,
    pub(crate) outbox: Arc<Outbox>,
}

impl Watcher {
    pub(crate) fn new(
        (serial, id): (u64, i64),
        keys: Keys,
        (no_put, no_delete): (bool, bool),
        (start, next): (i64, i64),
        outbox: Arc<Outbox>,
    ) -> Watcher {
        Watcher {
            serial,
            id,
            keys,
            no_put,
            no_delete,
            start,
            next: AtomicI64::new(next),
            place: AtomicU8::new(Place::Synced as u8),
            outbox,
        }
    }

    pub(crate) fn next(&self) -> i64 {
        self.next.load(Ordering::Acquire)
    }

    pub(crate) fn set_next(&self, revision: i64) {
        self.next.store(revision, Ordering::Release);
    }

    pub(crate) fn place(&self) -> Place {
        match self.place.load(Ordering::Acquire) {
            0 => Place::Synced,
            1 => Place::Behind,
            _ => Place::Gone,
        }
    }

    pub(crate) fn set_place(&self, place: Place) {
        self.place.store(place as u8, Ordering::Release);
    }

    /// Whether the watcher's filters let an event of this kind pass.
    pub(crate) fn wants(&self, event: &Event) -> bool {
        if event.is_delete() {
            !self.no_delete
        } else {
            !self.no_put
        }
    }
}
