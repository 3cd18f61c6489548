//! What the log holds, in memory: positions, the newest entries, and where the others lie.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use super::error::{Error, Result};
use super::record::{Entry, LogId, Vote};
use super::segment::Segment;

/// Where an entry's record lies, and the checksum it must have when read back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) segment: u64,
    pub(crate) offset: u64,
    /// Bytes of the whole record.
    pub(crate) length: u32,
    pub(crate) crc: u32,
}

/// One entry: in memory, in a file, or both. Never neither.
#[derive(Debug)]
struct Slot {
    term: u64,
    entry: Option<Entry>,
    location: Option<Location>,
}

/// An entry found by [`Log::find`].
#[derive(Debug)]
pub(crate) enum Found {
    /// In memory.
    Here(Entry),
    /// To be read from the segment, which lives as long as it is held.
    In(LogId, Location, Arc<Segment>),
}

/// The log's content. Indexes are dense: slot `i` is entry `first + i`.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) vote: Option<Vote>,
    pub(crate) committed: Option<LogId>,
    pub(crate) purged: Option<LogId>,
    pub(crate) segments: BTreeMap<u64, Arc<Segment>>,
    slots: VecDeque<Slot>,
    first: u64,
    /// Slots at the front without an entry in memory.
    cold: usize,
    cached_bytes: usize,
}

impl Log {
    /// The last entry, or the last purged one when nothing follows it.
    pub(crate) fn last(&self) -> Option<LogId> {
        match self.slots.back() {
            Some(slot) => Some(LogId {
                term: slot.term,
                index: self.first + self.slots.len() as u64 - 1,
            }),
            None => self.purged,
        }
    }

    /// The indexes present.
    pub(crate) fn range(&self) -> Range<u64> {
        self.first..self.first + self.slots.len() as u64
    }

    /// The position of the entry at `index`, or of the last purged one.
    pub(crate) fn id_at(&self, index: u64) -> Option<LogId> {
        if let Some(purged) = self.purged.filter(|purged| purged.index == index) {
            return Some(purged);
        }
        let slot = self
            .slots
            .get(usize::try_from(index.checked_sub(self.first)?).ok()?)?;
        Some(LogId {
            term: slot.term,
            index,
        })
    }

    /// Whether an entry may be appended at `index` now.
    pub(crate) fn follows(&self, index: u64) -> Result<()> {
        match self.last() {
            Some(last) if Some(index) != last.index.checked_add(1) => Err(Error::Hole {
                index,
                last: last.index,
            }),
            _ => Ok(()),
        }
    }

    /// Appends an entry that is in memory and not yet written.
    pub(crate) fn push(&mut self, entry: Entry) -> Result<()> {
        self.follows(entry.id.index)?;
        self.start_at(entry.id.index);
        self.cached_bytes += entry.data.len();
        self.slots.push_back(Slot {
            term: entry.id.term,
            entry: Some(entry),
            location: None,
        });
        Ok(())
    }

    /// Appends an entry that was found in a file. An empty log may begin anywhere above the purged
    /// position: the segments between were dropped by a purge whose record is still to come.
    pub(crate) fn push_written(&mut self, id: LogId, location: Location) -> Result<()> {
        if !self.slots.is_empty() || self.purged.is_some_and(|purged| purged.index >= id.index) {
            self.follows(id.index)?;
        }
        self.start_at(id.index);
        self.cold += 1;
        self.slots.push_back(Slot {
            term: id.term,
            entry: None,
            location: Some(location),
        });
        Ok(())
    }

    fn start_at(&mut self, index: u64) {
        if self.slots.is_empty() {
            self.first = index;
        }
    }

    /// Notes where an entry was written. Nothing happens when it has been replaced or removed
    /// since: the same position always has the same content.
    pub(crate) fn set_location(&mut self, id: LogId, location: Location) {
        let Some(place) = id.index.checked_sub(self.first) else {
            return;
        };
        if let Some(slot) = self
            .slots
            .get_mut(place as usize)
            .filter(|slot| slot.term == id.term)
        {
            slot.location = Some(location);
        }
    }

    /// Removes every entry after `last`; all of them when `None`.
    pub(crate) fn truncate_after(&mut self, last: Option<LogId>) {
        let end = last.map_or(self.first, |last| {
            last.index.saturating_add(1).max(self.first)
        });
        let kept = usize::try_from(end - self.first)
            .unwrap_or(usize::MAX)
            .min(self.slots.len());
        for slot in self.slots.drain(kept..) {
            self.cached_bytes -= slot.entry.map_or(0, |entry| entry.data.len());
        }
        self.cold = self.cold.min(kept);
    }

    /// Removes every entry up to `upto`. A position below the purged one changes nothing.
    pub(crate) fn purge(&mut self, upto: LogId) {
        if self.purged.is_some_and(|purged| purged.index >= upto.index) {
            return;
        }
        self.purged = Some(upto);
        let end = upto.index.saturating_add(1).max(self.first);
        let gone = usize::try_from(end - self.first)
            .unwrap_or(usize::MAX)
            .min(self.slots.len());
        for slot in self.slots.drain(..gone) {
            self.cached_bytes -= slot.entry.map_or(0, |entry| entry.data.len());
        }
        self.first = end;
        self.cold = self.cold.saturating_sub(gone);
    }

    /// Drops the oldest entries from memory while there are more than `entries` or `bytes` of
    /// them. Entries that are not yet in a file stay.
    pub(crate) fn evict(&mut self, entries: usize, bytes: usize) {
        while self.slots.len() - self.cold > entries || self.cached_bytes > bytes {
            let Some(slot) = self.slots.get_mut(self.cold) else {
                return;
            };
            if slot.location.is_none() {
                return;
            }
            self.cached_bytes -= slot.entry.take().map_or(0, |entry| entry.data.len());
            self.cold += 1;
        }
    }

    /// The entries of `range` that are present, from its start until `bytes_max` of data are
    /// found; one at least.
    pub(crate) fn find(&self, range: Range<u64>, bytes_max: usize) -> Vec<Found> {
        let present = self.range();
        let (start, end) = (range.start.max(present.start), range.end.min(present.end));
        let mut found = Vec::new();
        let mut bytes = 0;
        for index in start..end {
            let slot = &self.slots[(index - self.first) as usize];
            let (length, next) = match (&slot.entry, slot.location) {
                (Some(entry), _) => (entry.data.len(), Found::Here(entry.clone())),
                (None, Some(at)) => {
                    let Some(segment) = self.segments.get(&at.segment) else {
                        break;
                    };
                    let id = LogId {
                        term: slot.term,
                        index,
                    };
                    (at.length as usize, Found::In(id, at, segment.clone()))
                }
                (None, None) => break,
            };
            if bytes + length > bytes_max && !found.is_empty() {
                break;
            }
            bytes += length;
            found.push(next);
        }
        found
    }

    /// The last entry of each term between two indexes, both included.
    pub(crate) fn last_of_each_term(&self, first: u64, last: u64) -> Vec<LogId> {
        let mut points: Vec<LogId> = Vec::new();
        for id in (first..=last).filter_map(|index| self.id_at(index)) {
            match points.last_mut() {
                Some(point) if point.term == id.term => *point = id,
                _ => points.push(id),
            }
        }
        points
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(term: u64, index: u64) -> Entry {
        Entry {
            id: LogId { term, index },
            kind: 0,
            data: vec![index as u8; 10].into(),
        }
    }

    fn log(indexes: Range<u64>) -> Log {
        let mut log = Log::default();
        for index in indexes {
            log.push(entry(1, index)).expect("follows");
        }
        log
    }

    fn at(segment: u64) -> Location {
        Location {
            segment,
            offset: 0,
            length: 10,
            crc: 0,
        }
    }

    fn indexes(found: &[Found]) -> Vec<u64> {
        let index = |found: &Found| match found {
            Found::Here(entry) => entry.id.index,
            Found::In(id, ..) => id.index,
        };
        found.iter().map(index).collect()
    }

    #[test]
    fn a_read_is_bounded_by_bytes_but_returns_one_entry() {
        let log = log(3..9);
        assert_eq!(indexes(&log.find(0..100, usize::MAX)), [3, 4, 5, 6, 7, 8]);
        assert_eq!(indexes(&log.find(4..100, 25)), [4, 5]);
        assert_eq!(indexes(&log.find(4..6, 1)), [4]);
        assert!(log.find(9..12, 100).is_empty());
    }

    #[test]
    fn unwritten_entries_are_never_evicted() {
        let mut log = log(0..6);
        log.evict(0, 0);
        assert_eq!(log.cold, 0);
        log.set_location(LogId { term: 1, index: 0 }, at(1));
        log.set_location(LogId { term: 1, index: 1 }, at(1));
        log.set_location(LogId { term: 9, index: 2 }, at(1));
        log.evict(5, usize::MAX);
        assert_eq!(log.cold, 1);
        log.evict(0, 0);
        assert_eq!((log.cold, log.cached_bytes), (2, 40));
    }

    #[test]
    fn purge_beyond_the_end_leaves_an_empty_log_that_goes_on_there() {
        let mut log = log(0..6);
        log.purge(LogId { term: 3, index: 20 });
        assert_eq!(log.last(), Some(LogId { term: 3, index: 20 }));
        assert!(log.push(entry(3, 22)).is_err());
        log.push(entry(3, 21)).expect("follows the purged one");
        assert_eq!(log.range(), 21..22);
        log.truncate_after(None);
        assert_eq!(log.last(), Some(LogId { term: 3, index: 20 }));
        assert_eq!(log.cached_bytes, 0);
    }

    #[test]
    fn each_term_is_named_by_its_last_entry() {
        let mut log = log(0..3);
        for (term, index) in [(2, 3), (2, 4), (5, 5), (5, 6)] {
            log.push(entry(term, index)).expect("follows");
        }
        let ids = |first, last| -> Vec<_> {
            log.last_of_each_term(first, last)
                .iter()
                .map(|id| (id.term, id.index))
                .collect()
        };
        assert_eq!(ids(1, 6), [(1, 2), (2, 4), (5, 6)]);
        assert_eq!(ids(3, 5), [(2, 4), (5, 5)]);
    }
}
