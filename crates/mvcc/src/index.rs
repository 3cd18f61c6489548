//! All keys in order, each with its revisions, and the two numbers that bound what can be read.
//!
//! One lock guards it all, so a reader that holds it sees whole transactions: a change puts its
//! revisions in one by one above the current revision, where nobody looks, and publishing it raises
//! the current revision. Every visit lets go of the lock after [`SLICE`] keys. What it reads in the
//! next slice is consistent with the last because both look at the same revision, not because of
//! the lock.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;
use std::sync::atomic::{AtomicI64, Ordering};

use parking_lot::{RwLock, RwLockWriteGuard};

use crate::error::{Error, Result};
use crate::key_index::{Found, KeyIndex};
use crate::revision::Revision;

/// Most keys visited while the lock is held once: about 100 µs.
const SLICE: usize = 4096;

/// A range of keys, in etcd's notation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyRange<'a> {
    key: &'a [u8],
    end: RangeEnd<'a>,
}

#[derive(Clone, Copy, Debug)]
enum RangeEnd<'a> {
    Single,
    Unbounded,
    Before(&'a [u8]),
}

impl<'a> KeyRange<'a> {
    /// `range_end` is exclusive; empty means `key` alone, one zero byte all keys from `key` on.
    pub(crate) fn new(key: &'a [u8], range_end: &'a [u8]) -> Self {
        let end = match range_end {
            [] => RangeEnd::Single,
            [0] => RangeEnd::Unbounded,
            end => RangeEnd::Before(end),
        };
        KeyRange { key, end }
    }

    /// Whether every key is inside. The empty key is none.
    fn is_everything(&self) -> bool {
        matches!(self.end, RangeEnd::Unbounded) && matches!(self.key, [] | [0])
    }
}

/// How far a visit goes. `None` is no bound.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Most {
    /// Keys handed out.
    pub(crate) visited: Option<usize>,
    /// Keys counted; those handed out are in any case.
    pub(crate) counted: Option<usize>,
}

/// What a visit found besides the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Visited {
    /// Keys in the range, whatever the limit.
    pub(crate) count: i64,
    /// The store's current revision when the visit began.
    pub(crate) current: i64,
}

/// A key's state before it was changed.
pub(crate) type Previous = Option<(Found, i64)>;

/// The key index.
#[derive(Debug)]
pub(crate) struct Index {
    state: RwLock<State>,
    // Copies for those who want nothing else; written under the lock.
    current: AtomicI64,
    compacted: AtomicI64,
}

/// The index's content.
#[derive(Debug)]
pub(crate) struct State {
    keys: BTreeMap<Box<[u8]>, KeyIndex>,
    current: i64,
    compacted: i64,
    /// Existing keys at the current revision.
    live: i64,
    /// Keys created less keys deleted above the current revision.
    live_pending: i64,
}

impl Default for State {
    fn default() -> Self {
        State {
            keys: BTreeMap::new(),
            current: 1,
            compacted: -1,
            live: 0,
            live_pending: 0,
        }
    }
}

impl State {
    /// Adds a put found in a record, in order of revision.
    pub(crate) fn restore_put(&mut self, key: &[u8], found: Found, lease: i64) {
        // A key that is known already costs a copy here; looking first costs the others a search.
        match self.keys.entry(key.into()) {
            Entry::Occupied(mut entry) => {
                self.live += i64::from(entry.get_mut().put(found.modified, lease).is_none());
            }
            Entry::Vacant(entry) => {
                entry.insert(KeyIndex::new(found, lease));
                self.live += 1;
            }
        }
        self.current = found.modified.main;
    }

    /// Adds a tombstone found in a record, in order of revision.
    pub(crate) fn restore_tombstone(&mut self, key: &[u8], revision: Revision) {
        match self.keys.get_mut(key) {
            Some(entry) => {
                if entry.tombstone(revision).is_some() {
                    self.live -= 1;
                } else {
                    tracing::warn!(%revision, "a tombstone of a key that does not exist");
                }
            }
            None => {
                self.keys
                    .insert(key.into(), KeyIndex::from_tombstone(revision));
            }
        }
        self.current = revision.main;
    }

    /// The current revision is at least `revision`, even if all its records are compacted.
    pub(crate) fn raise_current(&mut self, revision: i64) {
        self.current = self.current.max(revision);
    }

    /// Sets the compacted revision.
    pub(crate) fn set_compacted(&mut self, revision: i64) {
        self.compacted = revision;
    }

    /// The newest revision there is.
    pub(crate) fn current(&self) -> i64 {
        self.current
    }

    /// The compacted revision, -1 when there is none.
    pub(crate) fn compacted(&self) -> i64 {
        self.compacted
    }

    fn check(&self, requested: i64) -> Result<()> {
        if requested > self.current {
            return Err(Error::FutureRevision {
                requested,
                current: self.current,
            });
        }
        if requested < self.compacted {
            return Err(Error::Compacted {
                requested,
                compacted: self.compacted,
            });
        }
        Ok(())
    }

    /// Visits up to `most` entries of `range` after `resume`; returns the last one's key if there
    /// may be more.
    fn slice(
        &self,
        range: KeyRange<'_>,
        resume: Option<&[u8]>,
        most: usize,
        mut each: impl FnMut(&[u8], &KeyIndex) -> bool,
    ) -> Option<Box<[u8]>> {
        let end = match range.end {
            RangeEnd::Single => {
                if let Some((key, entry)) = self.keys.get_key_value(range.key) {
                    each(key, entry);
                }
                return None;
            }
            RangeEnd::Before(end) if end <= resume.unwrap_or(range.key) => return None,
            RangeEnd::Before(end) => Bound::Excluded(end),
            RangeEnd::Unbounded => Bound::Unbounded,
        };
        let start = resume.map_or(Bound::Included(range.key), Bound::Excluded);
        let mut left = most;
        for (key, entry) in self.keys.range::<[u8], _>((start, end)) {
            if !each(key, entry) {
                return None;
            }
            left -= 1;
            if left == 0 {
                return Some(key.clone());
            }
        }
        None
    }
}

impl Index {
    /// An index with this content.
    pub(crate) fn new(state: State) -> Self {
        let index = Index {
            current: AtomicI64::new(state.current),
            compacted: AtomicI64::new(state.compacted),
            state: RwLock::new(State::default()),
        };
        *index.state.write() = state;
        index
    }

    /// The last published revision.
    pub(crate) fn current(&self) -> i64 {
        self.current.load(Ordering::Acquire)
    }

    /// The compacted revision, -1 when there was no compaction.
    pub(crate) fn compacted(&self) -> i64 {
        self.compacted.load(Ordering::Acquire)
    }

    /// [`Self::compacted`], after an installation that is under way.
    pub(crate) fn compacted_settled(&self) -> i64 {
        self.state.read().compacted
    }

    /// Number of existing keys.
    pub(crate) fn live(&self) -> i64 {
        self.state.read().live
    }

    /// Keeps everybody away until the guard is given to [`Self::replace`].
    pub(crate) fn lock(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write()
    }

    /// Replaces the content.
    pub(crate) fn replace(&self, mut guard: RwLockWriteGuard<'_, State>, state: State) {
        *guard = state;
        self.current.store(guard.current, Ordering::Release);
        self.compacted.store(guard.compacted, Ordering::Release);
    }

    /// Visits the keys that exist in `range` at revision `at` in order, calling `each` with as
    /// many as `most` says, and counts the rest as far.
    ///
    /// `at` zero or less means the current revision. `hold`: do not let go of the lock on the way.
    ///
    /// Errors: [`Error::Compacted`], [`Error::FutureRevision`]. Without `hold` a compaction may
    /// overtake a visit of the current revision as well: visit again.
    pub(crate) fn visit(
        &self,
        range: KeyRange<'_>,
        at: i64,
        most: Most,
        hold: bool,
        mut each: impl FnMut(&[u8], Found),
    ) -> Result<Visited> {
        let slice = if hold { usize::MAX } else { SLICE };
        let mut state = self.state.read();
        let current = state.current;
        let at = if at <= 0 { current } else { at };
        state.check(at)?;
        let bound = |most: Option<usize>| {
            most.map_or(i64::MAX, |most| i64::try_from(most).unwrap_or(i64::MAX))
        };
        let (limit, counted) = (bound(most.visited), bound(most.counted));
        let all = (range.is_everything() && at == current).then_some(state.live);
        if limit == 0
            && let Some(count) = all
        {
            return Ok(Visited { count, current });
        }
        let mut count = 0;
        let mut resume = None;
        loop {
            let next = state.slice(range, resume.as_deref(), slice, |key, entry| {
                if let Some(found) = entry.get(at) {
                    if count < limit {
                        each(key, found);
                    }
                    count += 1;
                }
                count < limit || (all.is_none() && count < counted)
            });
            if next.is_none() {
                return Ok(Visited {
                    count: all.unwrap_or(count),
                    current,
                });
            }
            resume = next;
            drop(state);
            state = self.state.read();
            if at < state.compacted {
                return Err(Error::Compacted {
                    requested: at,
                    compacted: state.compacted,
                });
            }
        }
    }

    /// Visits what exists in `range` now, changes above the current revision included. For the
    /// writer only: nobody else may change the index meanwhile.
    pub(crate) fn visit_latest(
        &self,
        range: KeyRange<'_>,
        limit: Option<usize>,
        mut each: impl FnMut(&[u8], Found, i64),
    ) -> i64 {
        let limit = limit.map_or(i64::MAX, |limit| i64::try_from(limit).unwrap_or(i64::MAX));
        let mut count = 0;
        let mut resume = None;
        loop {
            let state = self.state.read();
            let next = state.slice(range, resume.as_deref(), SLICE, |key, entry| {
                if let Some((found, lease)) = entry.latest() {
                    if count < limit {
                        each(key, found, lease);
                    }
                    count += 1;
                }
                true
            });
            if next.is_none() {
                return count;
            }
            resume = next;
        }
    }

    /// The newest state of one key, changes above the current revision included.
    pub(crate) fn latest(&self, key: &[u8]) -> Previous {
        self.state.read().keys.get(key)?.latest()
    }

    /// The keys that exist at the current revision with a lease, in order.
    pub(crate) fn leased(&self) -> Vec<(Box<[u8]>, i64)> {
        let mut leased = Vec::new();
        self.visit_latest(KeyRange::new(b"", b"\0"), None, |key, _, lease| {
            if lease != 0 {
                leased.push((key.into(), lease));
            }
        });
        leased
    }

    /// Adds a put above the current revision. `revision` must be newer than all before.
    pub(crate) fn put(&self, key: &[u8], revision: Revision, lease: i64) -> Previous {
        let copy = Box::from(key); // before the lock: allocating may take its time
        let mut state = self.state.write();
        let previous = match state.keys.entry(copy) {
            Entry::Occupied(mut entry) => entry.get_mut().put(revision, lease),
            Entry::Vacant(entry) => {
                let found = Found {
                    modified: revision,
                    created: revision.main,
                    version: 1,
                };
                entry.insert(KeyIndex::new(found, lease));
                None
            }
        };
        state.live_pending += i64::from(previous.is_none());
        previous
    }

    /// Adds tombstones above the current revision, from `revision` on, one `sub` each. The keys
    /// must exist.
    pub(crate) fn tombstones(&self, keys: &[impl AsRef<[u8]>], revision: Revision) {
        let mut revision = revision;
        for keys in keys.chunks(SLICE / 4) {
            let mut state = self.state.write();
            for key in keys {
                let entry = state
                    .keys
                    .get_mut(key.as_ref())
                    .expect("the writer has just seen it");
                entry
                    .tombstone(revision)
                    .expect("the writer has just seen it alive");
                revision.sub += 1;
                state.live_pending -= 1;
            }
        }
    }

    /// Adds tombstones above the current revision, from `revision` on, one `sub` each, for those of
    /// `keys` that exist, and calls `deleted` for them in order. One look-up a key, and the lock is
    /// let go of on the way.
    pub(crate) fn delete_present<'k>(
        &self,
        keys: impl IntoIterator<Item = &'k [u8]>,
        revision: Revision,
        mut deleted: impl FnMut(&'k [u8]),
    ) {
        let mut revision = revision;
        let mut keys = keys.into_iter();
        loop {
            let mut some: Vec<&[u8]> = keys.by_ref().take(SLICE / 4).collect();
            if some.is_empty() {
                return;
            }
            let mut state = self.state.write();
            some.retain(|key| {
                let entry = state.keys.get_mut(*key);
                let exists = entry.is_some_and(|entry| entry.tombstone(revision).is_some());
                if exists {
                    revision.sub += 1;
                    state.live_pending -= 1;
                }
                exists
            });
            drop(state);
            some.into_iter().for_each(&mut deleted);
        }
    }

    /// Makes everything up to `revision` visible.
    pub(crate) fn publish(&self, revision: i64) {
        let mut state = self.state.write();
        debug_assert!(revision > state.current, "revisions only grow");
        state.current = revision;
        state.live += std::mem::take(&mut state.live_pending);
        self.current.store(revision, Ordering::Release);
    }

    /// Sets the compacted revision; reads below it fail from now on. Returns the one before.
    ///
    /// Errors: [`Error::Compacted`] unless `revision` is above the compacted revision,
    /// [`Error::FutureRevision`] above the current one.
    pub(crate) fn begin_compaction(&self, revision: i64) -> Result<i64> {
        let mut state = self.state.write();
        if revision <= state.compacted {
            return Err(Error::Compacted {
                requested: revision,
                compacted: state.compacted,
            });
        }
        state.check(revision)?;
        self.compacted.store(revision, Ordering::Release);
        Ok(std::mem::replace(&mut state.compacted, revision))
    }

    /// Forgets what is not visible at `at` or above, which must be compacted already. Returns the
    /// revisions at or below `at` that stay, in order; `None` when `stop` said so between slices.
    pub(crate) fn compact(&self, at: i64, stop: impl Fn() -> bool) -> Option<Vec<Revision>> {
        let mut kept = Vec::new();
        let mut gone = Vec::new();
        let mut resume: Option<Box<[u8]>> = None;
        loop {
            if stop() {
                return None;
            }
            let mut state = self.state.write();
            let start = resume.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            let mut last = None;
            for (key, entry) in state
                .keys
                .range_mut::<[u8], _>((start, Bound::Unbounded))
                .take(SLICE / 4)
            {
                kept.extend(entry.compact(at));
                if entry.is_empty() {
                    gone.push(key.clone());
                }
                last = Some(key);
            }
            let last = last.cloned();
            for key in gone.drain(..) {
                state.keys.remove(&key);
            }
            if last.is_none() {
                break;
            }
            resume = last;
        }
        kept.sort_unstable();
        Some(kept)
    }

    /// The revisions at or below `at` that count in a hash at `at`, in order. No compaction may run
    /// meanwhile.
    pub(crate) fn keep(&self, at: i64) -> Vec<Revision> {
        let everything = KeyRange::new(b"", b"\0");
        let mut kept = Vec::new();
        let mut resume = None;
        loop {
            let state = self.state.read();
            let next = state.slice(everything, resume.as_deref(), SLICE, |_, entry| {
                kept.extend(entry.keep(at));
                true
            });
            if next.is_none() {
                kept.sort_unstable();
                return kept;
            }
            resume = next;
        }
    }
}
