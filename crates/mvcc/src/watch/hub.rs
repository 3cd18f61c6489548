//! Who is synced and who is behind, and the live feed of the synced ones.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::task::Waker;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::event::{Event, record_key};
use super::group::Group;
use super::outbox::{Delivery, Item, Outbox, Pushed};
use super::watcher::{Place, Watcher};
use crate::lanes::Heaps;
use crate::revision::RevKey;

/// How many watch, and how far they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchStats {
    /// Streams that are open.
    pub streams: i64,
    /// Watchers of all streams.
    pub watchers: i64,
    /// Watchers that are behind.
    pub slow: i64,
    /// Events that wait for their clients.
    pub pending: i64,
}

/// Steps of [`WatchLag`], in revisions.
const LAG_STEPS: [i64; 6] = [1, 10, 100, 1_000, 10_000, 100_000];

/// How far clients are behind the store: revisions from the first that a watcher's client has not
/// taken yet to the current one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchLag {
    /// That of the watcher furthest behind.
    pub max: i64,
    /// Numbers of revisions, and how many watchers lack at least so many.
    pub watchers: [(i64, i64); LAG_STEPS.len()],
}

/// The watchers of one stream, taken together.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OfAll {
    /// The furthest of their first revisions.
    pub(crate) start: i64,
    /// The serial number of the newest one.
    pub(crate) newest: u64,
}

/// What the lock guards.
#[derive(Debug)]
pub(crate) struct State {
    /// Everything up to here has been handed to the synced watchers.
    pub(crate) revision: i64,
    pub(crate) synced: Group,
    serial: u64,
}

/// The hand-over to the catch-up thread.
#[derive(Debug, Default)]
struct Arrivals {
    watchers: Vec<Arc<Watcher>>,
    woken: bool,
    stopped: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) streams: AtomicI64,
    pub(crate) watchers: AtomicI64,
    pub(crate) slow: AtomicI64,
}

/// All watchers of a store.
#[derive(Debug)]
pub(crate) struct Hub {
    state: Mutex<State>,
    /// Size of the synced group, to be read without the lock.
    listening: AtomicUsize,
    arrivals: Mutex<Arrivals>,
    wake: Condvar,
    outboxes: Mutex<HashMap<usize, Weak<Outbox>>>,
    /// The watchers that are behind, by serial number, for who asks how far. Changes under the
    /// lock of the state.
    behind: Mutex<HashMap<u64, Arc<Watcher>>>,
    pub(crate) counters: Counters,
}

impl Hub {
    pub(crate) fn new(revision: i64) -> Hub {
        Hub {
            state: Mutex::new(State {
                revision,
                synced: Group::default(),
                serial: 0,
            }),
            listening: AtomicUsize::new(0),
            arrivals: Mutex::default(),
            wake: Condvar::new(),
            outboxes: Mutex::default(),
            behind: Mutex::default(),
            counters: Counters::default(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    pub(crate) fn revision(&self) -> i64 {
        self.state.lock().revision
    }

    /// Whether [`Self::publish`] should be given the records.
    pub(crate) fn is_listened_to(&self) -> bool {
        self.listening.load(Ordering::Acquire) > 0
    }

    /// Hands the changes of revision `main`, which readers see already, to who watches them.
    /// `None`: nobody listened when the transaction ended; who came since reads them later.
    pub(crate) fn publish(&self, main: i64, records: Option<Vec<(RevKey, Bytes)>>) {
        // Woken when the lock is free again.
        let mut wakes = Heaps::default();
        let mut state = self.state.lock();
        if state.synced.len() > 0 {
            match records {
                Some(records) => self.feed(&mut state, main, records, &mut wakes),
                None => self.unsync_all(&mut state),
            }
        }
        state.revision = main;
    }

    fn feed(
        &self,
        state: &mut State,
        main: i64,
        records: Vec<(RevKey, Bytes)>,
        wakes: &mut Heaps<Waker>,
    ) {
        let mut late = Vec::new();
        if let [(record, kv)] = &records[..] {
            let event = Arc::new(Event::new(*record, kv.clone()));
            let bytes = event.encoded().len();
            let key = event.key();
            let events: Arc<[Arc<Event>]> = Arc::new([Arc::clone(&event)]);
            state.synced.each_watching(&key, |watcher| {
                if watcher.next() <= main && watcher.wants(&event) {
                    let events = Arc::clone(&events);
                    if !self.deliver(watcher, events, bytes, main, wakes) {
                        late.push(Arc::clone(watcher));
                    }
                }
            });
        } else {
            let mut batch = Batch::default();
            for (record, kv) in records {
                batch.add(&state.synced, record, kv);
            }
            for (watcher, events, bytes) in batch.into_parts() {
                if !self.deliver(&watcher, events.into(), bytes, main, wakes) {
                    late.push(watcher);
                }
            }
        }
        for watcher in late {
            self.unsync(state, watcher, main);
        }
    }

    /// Queues events for the watcher's client, who waits for them if added to `wakes`; says whether
    /// there was room.
    pub(crate) fn deliver(
        &self,
        watcher: &Watcher,
        events: Arc<[Arc<Event>]>,
        bytes: usize,
        revision: i64,
        wakes: &mut Heaps<Waker>,
    ) -> bool {
        let id = watcher.id;
        let delivery = Delivery::Events {
            id,
            revision,
            events,
        };
        let serial = watcher.serial;
        match watcher.outbox.push(Item { serial, delivery }, bytes, false) {
            Pushed::Refused => false,
            Pushed::Queued(waiter) => {
                if let Some(waiter) = waiter {
                    wakes.add(waiter.lane, waiter.waker);
                }
                true
            }
        }
    }

    /// Gives a watcher a serial number and its first hands: who wants the past is behind.
    pub(crate) fn register(
        &self,
        current: impl FnOnce() -> i64,
        wanted: i64,
        build: impl FnOnce(u64, i64) -> Watcher,
    ) -> (Arc<Watcher>, i64) {
        let mut state = self.state.lock();
        state.serial += 1;
        // Readers may see a revision that is on its way here; a new watcher must not hear of it.
        let current = current().max(state.revision);
        let next = if wanted == 0 { current + 1 } else { wanted };
        let watcher = Arc::new(build(state.serial, next));
        self.counters.watchers.fetch_add(1, Ordering::Relaxed);
        if next > state.revision {
            state.synced.insert(Arc::clone(&watcher));
            self.listening.store(state.synced.len(), Ordering::Release);
        } else {
            self.hand_to_catch_up(Arc::clone(&watcher), next);
        }
        (watcher, current)
    }

    /// Ends a watcher: nothing is queued for it any more. Doing it twice does nothing.
    pub(crate) fn remove(&self, watcher: &Watcher) {
        let mut state = self.state.lock();
        match watcher.place() {
            Place::Gone => return,
            Place::Synced => {
                state.synced.remove(watcher);
                self.listening.store(state.synced.len(), Ordering::Release);
            }
            Place::Behind => {
                self.leaves_behind(watcher);
                self.wake();
            }
        }
        watcher.set_place(Place::Gone);
        self.counters.watchers.fetch_sub(1, Ordering::Relaxed);
    }

    /// Takes a watcher that has everything up to the revision of the state back into the group.
    pub(crate) fn admit(&self, state: &mut State, watcher: Arc<Watcher>) {
        if watcher.place() == Place::Behind {
            self.leaves_behind(&watcher);
            watcher.set_place(Place::Synced);
            state.synced.insert(watcher);
            self.listening.store(state.synced.len(), Ordering::Release);
        }
    }

    /// The content was replaced by one at `revision`: everybody reads on from the store.
    pub(crate) fn reset(&self, revision: i64) {
        let mut state = self.state.lock();
        self.unsync_all(&mut state);
        state.revision = revision;
    }

    fn unsync_all(&self, state: &mut State) {
        let next = state.revision + 1;
        for watcher in state.synced.take_all() {
            let next = next.max(watcher.next());
            self.hand_to_catch_up(watcher, next);
        }
        self.listening.store(0, Ordering::Release);
    }

    fn unsync(&self, state: &mut State, watcher: Arc<Watcher>, next: i64) {
        state.synced.remove(&watcher);
        self.listening.store(state.synced.len(), Ordering::Release);
        self.hand_to_catch_up(watcher, next);
    }

    fn hand_to_catch_up(&self, watcher: Arc<Watcher>, next: i64) {
        watcher.set_next(next);
        watcher.set_place(Place::Behind);
        watcher.outbox.behind.fetch_add(1, Ordering::Relaxed);
        self.counters.slow.fetch_add(1, Ordering::Relaxed);
        self.behind
            .lock()
            .insert(watcher.serial, Arc::clone(&watcher));
        let mut arrivals = self.arrivals.lock();
        arrivals.watchers.push(watcher);
        drop(arrivals);
        self.wake.notify_one();
    }

    fn leaves_behind(&self, watcher: &Watcher) {
        watcher.outbox.behind.fetch_sub(1, Ordering::Relaxed);
        self.counters.slow.fetch_sub(1, Ordering::Relaxed);
        self.behind.lock().remove(&watcher.serial);
    }

    /// Queues a progress notification if the watcher, or all of the stream's, are synced and their
    /// first revision is reached. Whatever was queued before is sent before.
    pub(crate) fn progress(&self, watcher: Option<&Watcher>, outbox: &Outbox, of_all: OfAll) {
        let state = self.state.lock();
        let synced = match watcher {
            Some(watcher) => watcher.place() == Place::Synced,
            None => outbox.behind.load(Ordering::Relaxed) == 0,
        };
        let start = watcher.map_or(of_all.start, |watcher| watcher.start);
        if synced && state.revision >= start {
            let delivery = Delivery::Progress {
                id: watcher.map(|watcher| watcher.id),
                revision: state.revision,
            };
            let serial = watcher.map_or(of_all.newest, |watcher| watcher.serial);
            outbox.push_and_wake(Item { serial, delivery }, 0, false);
        }
    }

    /// Tells the catch-up thread that a client made room, or that a watcher is gone.
    pub(crate) fn wake(&self) {
        self.arrivals.lock().woken = true;
        self.wake.notify_one();
    }

    /// Blocks until there is something to look at, at once if `busy`; adds new watchers to
    /// `behind`. Says whether to go on.
    pub(crate) fn wait(&self, behind: &mut Vec<Arc<Watcher>>, busy: bool) -> bool {
        let mut arrivals = self.arrivals.lock();
        while !busy && !arrivals.stopped && !arrivals.woken && arrivals.watchers.is_empty() {
            self.wake.wait(&mut arrivals);
        }
        arrivals.woken = false;
        behind.append(&mut arrivals.watchers);
        !arrivals.stopped
    }

    pub(crate) fn open_outbox(&self) -> Arc<Outbox> {
        let outbox = Arc::new(Outbox::default());
        self.counters.streams.fetch_add(1, Ordering::Relaxed);
        let address = Arc::as_ptr(&outbox) as usize;
        let mut outboxes = self.outboxes.lock();
        outboxes.insert(address, Arc::downgrade(&outbox));
        if self.arrivals.lock().stopped {
            outbox.close();
        }
        outbox
    }

    pub(crate) fn close_outbox(&self, outbox: &Arc<Outbox>) {
        let address = Arc::as_ptr(outbox) as usize;
        if self.outboxes.lock().remove(&address).is_some() {
            self.counters.streams.fetch_sub(1, Ordering::Relaxed);
        }
        outbox.close();
    }

    /// Ends all streams, those opened later too, and the catch-up thread.
    pub(crate) fn stop(&self) {
        self.arrivals.lock().stopped = true;
        self.wake.notify_one();
        for outbox in self.each_outbox() {
            outbox.close();
        }
    }

    /// Asks every stream: costs what waits for clients.
    pub(crate) fn lag(&self) -> WatchLag {
        let revision = self.revision();
        let mut oldest = HashMap::new();
        for outbox in self.each_outbox() {
            outbox.oldest(&mut oldest);
        }
        for (serial, watcher) in self.behind.lock().iter() {
            oldest.entry(*serial).or_insert_with(|| watcher.next());
        }
        let mut lag = WatchLag {
            max: 0,
            watchers: LAG_STEPS.map(|step| (step, 0)),
        };
        for first in oldest.into_values() {
            let lacks = revision - first + 1;
            lag.max = lag.max.max(lacks);
            for (step, watchers) in &mut lag.watchers {
                *watchers += i64::from(lacks >= *step);
            }
        }
        lag
    }

    pub(crate) fn streams(&self) -> i64 {
        self.counters.streams.load(Ordering::Relaxed)
    }

    fn each_outbox(&self) -> impl Iterator<Item = Arc<Outbox>> {
        let outboxes: Vec<_> = self.outboxes.lock().values().cloned().collect();
        outboxes.into_iter().filter_map(|outbox| outbox.upgrade())
    }

    /// Asks every stream for the events that wait.
    pub(crate) fn stats(&self) -> WatchStats {
        let pending: usize = self.each_outbox().map(|outbox| outbox.pending()).sum();
        let read = |counter: &AtomicI64| counter.load(Ordering::Relaxed);
        WatchStats {
            streams: read(&self.counters.streams),
            watchers: read(&self.counters.watchers),
            slow: read(&self.counters.slow),
            pending: i64::try_from(pending).unwrap_or(i64::MAX),
        }
    }
}

/// Events on their way to several watchers.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    parts: HashMap<u64, Part>,
}

type Part = (Arc<Watcher>, Vec<Arc<Event>>, usize);

impl Batch {
    /// Adds a record for every watcher of `group` that wants it and has not had it.
    pub(crate) fn add(&mut self, group: &Group, record: RevKey, kv: Bytes) {
        let main = record.revision().main;
        let key = record_key(&kv);
        let mut event = None;
        group.each_watching(&key, |watcher| {
            if watcher.next() > main {
                return;
            }
            let event = event.get_or_insert_with(|| Arc::new(Event::new(record, kv.clone())));
            if watcher.wants(event) {
                let empty = || (Arc::clone(watcher), Vec::new(), 0);
                let (_, events, bytes) = self.parts.entry(watcher.serial).or_insert_with(empty);
                *bytes += event.encoded().len();
                events.push(Arc::clone(event));
            }
        });
    }

    pub(crate) fn into_parts(self) -> impl Iterator<Item = Part> {
        self.parts.into_values()
    }
}
