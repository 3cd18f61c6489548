//! The revisions of one key, in generations.
//!
//! A generation is one life of the key: it starts with the put that creates it and ends with a
//! tombstone. `put(1); put(2); delete(3); put(4); delete(5)` leaves
//!
//! ```text
//! {1.0, 2.0, 3.0(t)} {4.0, 5.0(t)} {}        the last generation is open, here empty
//! ```
//!
//! and compacting it, as etcd's `storage/mvcc/key_index.go` does, leaves
//!
//! ```text
//! compact(2): {2.0, 3.0(t)} {4.0, 5.0(t)} {}     what is visible at 2 stays
//! compact(4): {4.0, 5.0(t)} {}                   3 ended the first life before 4
//! compact(5): {5.0(t)} {}                        a tombstone at the very revision stays
//! compact(6): {}                                 nothing is left: the key goes
//! ```
//!
//! Most keys of most stores have one live revision. They are a 32-byte [`Head`]; only the others
//! pay for a [`History`] out of line.

use std::num::NonZeroI64;

use crate::revision::Revision;

/// What the index says of a key at some revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Where the value is.
    pub(crate) modified: Revision,
    /// The main revision of the generation's first put. Zero when compaction took it.
    pub(crate) created: i64,
    /// Changes since then, 1 for the first.
    pub(crate) version: i64,
}

/// The only live revision of a key. It has no tombstone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    // Never zero, which leaves the compiler a value to tell a `History` by.
    main: NonZeroI64,
    created: i64,
    lease: i64,
    sub: u32,
    version: u32,
}

impl Head {
    /// `None` when the parts do not fit; a [`History`] holds them then.
    fn new(found: Found, lease: i64) -> Option<Self> {
        Some(Head {
            main: NonZeroI64::new(found.modified.main)?,
            created: found.created,
            lease,
            sub: u32::try_from(found.modified.sub).ok()?,
            version: u32::try_from(found.version).ok()?,
        })
    }

    fn found(&self) -> Found {
        Found {
            modified: Revision::new(self.main.get(), i64::from(self.sub)),
            created: self.created,
            version: i64::from(self.version),
        }
    }
}

/// One life of a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Generation {
    created: i64,
    /// The version of the last revision.
    version: i64,
    /// Ascending. Of an ended generation, the last one is the tombstone.
    revisions: Vec<Revision>,
}

impl Generation {
    fn of(found: Found) -> Self {
        let Found {
            modified,
            created,
            version,
        } = found;
        Generation {
            created,
            version,
            revisions: vec![modified],
        }
    }

    fn push(&mut self, revision: Revision) {
        if self.revisions.is_empty() {
            self.created = revision.main;
        }
        self.revisions.push(revision);
        self.version += 1;
    }

    fn is_empty(&self) -> bool {
        self.revisions.is_empty()
    }

    /// The place of the newest revision at or below `at`.
    fn position(&self, at: i64) -> Option<usize> {
        self.revisions
            .partition_point(|revision| revision.main <= at)
            .checked_sub(1)
    }

    fn found(&self, position: usize) -> Found {
        let later = (self.revisions.len() - position - 1) as i64;
        Found {
            modified: self.revisions[position],
            created: self.created,
            version: self.version - later,
        }
    }

    fn last(&self) -> Option<Revision> {
        self.revisions.last().copied()
    }
}

/// All revisions of a key that has more than one, or a tombstone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct History {
    /// Ended generations, oldest first; none is empty.
    ended: Vec<Generation>,
    /// The present life; empty when the key does not exist.
    open: Generation,
    /// The lease of the open generation's last revision.
    lease: i64,
}

impl History {
    fn get(&self, at: i64) -> Option<Found> {
        if let Some(position) = self.open.position(at) {
            return Some(self.open.found(position));
        }
        for generation in self.ended.iter().rev() {
            if generation
                .last()
                .is_some_and(|tombstone| tombstone.main <= at)
            {
                return None;
            }
            if let Some(position) = generation.position(at) {
                return Some(generation.found(position));
            }
        }
        None
    }

    /// The first generation that a compaction at `at` keeps, and in it the place of the first
    /// revision kept, if any is at or below `at`.
    fn first_kept(&self, at: i64) -> (usize, Option<usize>) {
        let is_kept = |generation: &Generation| generation.last().is_some_and(|t| t.main >= at);
        let index = self
            .ended
            .iter()
            .position(is_kept)
            .unwrap_or(self.ended.len());
        (
            index,
            self.ended.get(index).unwrap_or(&self.open).position(at),
        )
    }

    fn compact(&mut self, at: i64) -> Option<Revision> {
        let (index, position) = self.first_kept(at);
        self.ended.drain(..index);
        let generation = self.ended.first_mut().unwrap_or(&mut self.open);
        let position = position?;
        generation.revisions.drain(..position);
        generation.revisions.shrink_to_fit();
        generation.revisions.first().copied()
    }
}

/// All that is known of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KeyIndex {
    /// One live revision.
    Head(Head),
    /// Anything else.
    History(Box<History>),
}

impl KeyIndex {
    /// A key whose only known revision is `found`: just created, or the oldest one left of it.
    pub(crate) fn new(found: Found, lease: i64) -> Self {
        match Head::new(found, lease) {
            Some(head) => KeyIndex::Head(head),
            None => {
                let open = Generation::of(found);
                KeyIndex::History(Box::new(History {
                    ended: Vec::new(),
                    open,
                    lease,
                }))
            }
        }
    }

    /// A key of which only a tombstone is left: what it ended is compacted.
    pub(crate) fn from_tombstone(revision: Revision) -> Self {
        let ended = vec![Generation::of(Found {
            modified: revision,
            created: 0,
            version: 1,
        })];
        KeyIndex::History(Box::new(History {
            ended,
            ..History::default()
        }))
    }

    /// Adds a put at `revision`, which must be the newest. Returns what it replaces, with its
    /// lease.
    pub(crate) fn put(&mut self, revision: Revision, lease: i64) -> Option<(Found, i64)> {
        let previous = self.latest();
        let history = self.history();
        history.open.push(revision);
        history.lease = lease;
        previous
    }

    /// Ends the present life at `revision`. Returns what it deletes, with its lease; `None` when
    /// the key does not exist, and then nothing changes.
    pub(crate) fn tombstone(&mut self, revision: Revision) -> Option<(Found, i64)> {
        let previous = self.latest()?;
        let history = self.history();
        history.open.push(revision);
        history.ended.push(std::mem::take(&mut history.open));
        history.lease = 0;
        Some(previous)
    }

    fn history(&mut self) -> &mut History {
        if let KeyIndex::Head(head) = self {
            let open = Generation::of(head.found());
            let history = History {
                ended: Vec::new(),
                open,
                lease: head.lease,
            };
            *self = KeyIndex::History(Box::new(history));
        }
        match self {
            KeyIndex::History(history) => history,
            KeyIndex::Head(_) => unreachable!("replaced above"),
        }
    }

    /// The key as it stood at `at`, if it existed.
    pub(crate) fn get(&self, at: i64) -> Option<Found> {
        match self {
            KeyIndex::Head(head) if head.main.get() <= at => Some(head.found()),
            KeyIndex::Head(_) => None,
            KeyIndex::History(history) => history.get(at),
        }
    }

    /// The key as it is now, with its lease, if it exists.
    pub(crate) fn latest(&self) -> Option<(Found, i64)> {
        match self {
            KeyIndex::Head(head) => Some((head.found(), head.lease)),
            KeyIndex::History(history) => {
                let last = history.open.revisions.len().checked_sub(1)?;
                Some((history.open.found(last), history.lease))
            }
        }
    }

    /// Forgets what nobody can read at `at` or above. Returns the revision at or below `at` that
    /// stays, a tombstone included.
    pub(crate) fn compact(&mut self, at: i64) -> Option<Revision> {
        let history = match self {
            KeyIndex::Head(head) => {
                let revision = head.found().modified;
                return (revision.main <= at).then_some(revision);
            }
            KeyIndex::History(history) => history,
        };
        let kept = history.compact(at);
        if history.ended.is_empty()
            && history.open.revisions.len() == 1
            && let Some(head) = Head::new(history.open.found(0), history.lease)
        {
            *self = KeyIndex::Head(head);
        }
        kept
    }

    /// The revision at or below `at` that counts in a hash at `at`. Unlike [`Self::compact`] it
    /// leaves out a tombstone at `at` itself, as etcd does to agree with its older releases.
    pub(crate) fn keep(&self, at: i64) -> Option<Revision> {
        let history = match self {
            KeyIndex::Head(head) => {
                return Some(head.found().modified).filter(|revision| revision.main <= at);
            }
            KeyIndex::History(history) => history,
        };
        let (index, position) = history.first_kept(at);
        let position = position?;
        match history.ended.get(index) {
            Some(ended) if position == ended.revisions.len() - 1 => None,
            Some(ended) => Some(ended.revisions[position]),
            None => Some(history.open.revisions[position]),
        }
    }

    /// Whether nothing is left of the key.
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            KeyIndex::Head(_) => false,
            KeyIndex::History(history) => history.ended.is_empty() && history.open.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests;
