//! What is applied but not yet in the engine: the newest records, and the units they belong to.
//!
//! ```text
//!  records   2.0  3.0  3.1  4.0 │ 5.0  5.1 │ 6.0            ordered, since revisions only grow
//!  units     ├── position 17 ───┤ ── 18 ───┤ open: no position yet
//!            ▲ chunks are taken here        ▲ appended here
//! ```
//!
//! A chunk is what goes to the engine as one batch: some whole units and the last one's position,
//! or, when a unit is longer than a chunk, some of its records without a position. Those have
//! revisions above the durable position's, which is how opening recognises and removes them.
//! Tables and deletions have no revision, so they go with the chunk that ends their unit.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::backend::schema::{DurablePosition, Table};
use crate::options::Position;
use crate::revision::{RevKey, Revision};

/// Changes that are not the writer's: those of a compaction.
#[derive(Debug, Default)]
pub(crate) struct Aside {
    /// Records to remove from the engine.
    pub(crate) deletes: Vec<RevKey>,
    /// Changes of the small tables.
    pub(crate) tables: Vec<TableChange>,
}

/// One entry of a small table changes.
#[derive(Clone, Debug)]
pub(crate) struct TableChange {
    pub(crate) table: Table,
    pub(crate) key: Bytes,
    /// None removes it.
    pub(crate) value: Option<Bytes>,
}

/// A unit without its records, which are in [`Tail::records`].
#[derive(Debug, Default)]
struct Pending {
    records: usize,
    bytes: usize,
    deletes: Vec<RevKey>,
    tables: Vec<TableChange>,
    /// None for deletions between units: they change no position.
    position: Option<Position>,
    /// The newest revision at its end.
    revision: Revision,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.records == 0 && self.deletes.is_empty() && self.tables.is_empty()
    }
}

/// The queue between the writer and the flush thread.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    records: VecDeque<(RevKey, Bytes)>,
    closed: VecDeque<Pending>,
    open: Pending,
    /// How many units were closed since the start, and how many of them are written.
    closed_count: u64,
    written_count: u64,
    /// Of closed units.
    closed_bytes: usize,
    closed_changes: usize,
    revision: Revision,
}

/// What goes to the engine as one batch.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    pub(crate) records: Vec<(RevKey, Bytes)>,
    pub(crate) deletes: Vec<RevKey>,
    pub(crate) tables: Vec<TableChange>,
    pub(crate) position: Option<Position>,
    /// The newest revision at its end; of use with a position.
    pub(crate) revision: Revision,
    units: usize,
    bytes: usize,
    changes: usize,
}

/// How long a chunk gets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChunkLimit {
    pub(crate) changes: usize,
    pub(crate) bytes: usize,
}

impl Chunk {
    /// Whether it ends a unit, and so brings the engine to that unit's position.
    pub(crate) fn ends_unit(&self) -> bool {
        self.units > 0
    }
}

impl Tail {
    /// An empty tail behind what the engine holds.
    pub(crate) fn after(durable: &DurablePosition) -> Self {
        Tail {
            revision: durable.revision,
            ..Tail::default()
        }
    }

    /// Takes in changes of the writer, which [`commit`](Tail::commit) ends.
    ///
    /// Panics if a revision is not above all earlier ones: the writer numbers them.
    pub(crate) fn stage(&mut self, records: Vec<(RevKey, Bytes)>, tables: Vec<TableChange>) {
        for (key, value) in records {
            assert!(
                key.revision() > self.revision,
                "{key:?} after {}",
                self.revision
            );
            self.revision = key.revision();
            self.open.bytes += cost(&value);
            self.open.records += 1;
            self.records.push_back((key, value));
        }
        self.stage_tables(tables);
    }

    /// Ends the unit.
    pub(crate) fn commit(&mut self, position: Position) {
        self.open.position = Some(position);
        self.close();
    }

    /// Takes in changes from beside the writer. They join the unit that is open, if one is; else
    /// they go alone. Returns whether they went alone.
    pub(crate) fn append(&mut self, aside: Aside) -> bool {
        let alone = self.open.is_empty();
        self.open.deletes.extend(aside.deletes);
        self.stage_tables(aside.tables);
        if alone && !self.open.is_empty() {
            self.close();
        }
        alone
    }

    fn stage_tables(&mut self, tables: Vec<TableChange>) {
        let bytes = tables
            .iter()
            .map(|change| change.key.len() + change.value.as_ref().map_or(0, cost));
        self.open.bytes += bytes.sum::<usize>();
        self.open.tables.extend(tables);
    }

    fn close(&mut self) {
        let mut unit = std::mem::take(&mut self.open);
        unit.revision = self.revision;
        self.closed_bytes += unit.bytes;
        self.closed_changes += unit.records + unit.deletes.len() + unit.tables.len();
        self.closed_count += 1;
        self.closed.push_back(unit);
    }

    /// The encoded pair of `key`, if it is here.
    pub(crate) fn get(&self, key: &RevKey) -> Option<Bytes> {
        let at = self
            .records
            .binary_search_by(|(other, _)| other.cmp(key))
            .ok()?;
        Some(self.records[at].1.clone())
    }

    /// The first revision here; all before it are in the engine.
    pub(crate) fn first(&self) -> Option<RevKey> {
        self.records.front().map(|(key, _)| *key)
    }

    /// Up to `limit` records with `from <= revision <= to`, in order.
    pub(crate) fn scan(&self, from: Revision, to: Revision, limit: usize) -> Vec<(RevKey, Bytes)> {
        let start = self
            .records
            .partition_point(|(key, _)| key.revision() < from);
        let within = self
            .records
            .range(start..)
            .take_while(|(key, _)| key.revision() <= to);
        within.take(limit).cloned().collect()
    }

    /// The next chunk of closed units; none when all are written.
    pub(crate) fn chunk(&self, limit: ChunkLimit) -> Option<Chunk> {
        let mut chunk = Chunk::default();
        for unit in &self.closed {
            let changes = unit.records + unit.deletes.len() + unit.tables.len();
            let fits =
                chunk.changes + changes <= limit.changes && chunk.bytes + unit.bytes <= limit.bytes;
            if !fits && chunk.units > 0 {
                break;
            }
            if !fits && self.part_of_unit(unit, limit, &mut chunk) {
                break;
            }
            chunk.units += 1;
            chunk.changes += changes;
            chunk.bytes += unit.bytes;
            chunk.deletes.extend_from_slice(&unit.deletes);
            chunk.tables.extend_from_slice(&unit.tables);
            chunk.revision = unit.revision;
            if unit.position.is_some() {
                chunk.position.clone_from(&unit.position);
            }
            let records = self.records.range(chunk.records.len()..).take(unit.records);
            chunk.records.extend(records.cloned());
        }
        (chunk.changes > 0 || chunk.units > 0).then_some(chunk)
    }

    /// Takes the first records of `unit`, the first, which is longer than a chunk. Returns false if
    /// one chunk holds its records and the rest has to come along.
    fn part_of_unit(&self, unit: &Pending, limit: ChunkLimit, chunk: &mut Chunk) -> bool {
        for (key, value) in self.records.range(..unit.records) {
            if chunk.changes >= limit.changes || chunk.bytes >= limit.bytes {
                return true;
            }
            chunk.records.push((*key, value.clone()));
            chunk.bytes += cost(value);
            chunk.changes += 1;
        }
        chunk.records.clear();
        (chunk.bytes, chunk.changes) = (0, 0);
        false
    }

    /// Drops what `chunk` held: the engine has it now.
    pub(crate) fn written(&mut self, chunk: &Chunk) {
        self.records.drain(..chunk.records.len());
        self.closed.drain(..chunk.units);
        self.closed_bytes -= chunk.bytes;
        self.closed_changes -= chunk.changes;
        self.written_count += chunk.units as u64;
        if chunk.units == 0
            && let Some(unit) = self.closed.front_mut()
        {
            unit.records -= chunk.records.len();
            unit.bytes -= chunk.bytes;
        }
        if self.records.is_empty() {
            self.records.shrink_to(SPARE_RECORDS);
        }
    }

    /// Bytes of closed units.
    pub(crate) fn closed_bytes(&self) -> usize {
        self.closed_bytes
    }

    /// Records, deletions and table entries of closed units.
    pub(crate) fn closed_changes(&self) -> usize {
        self.closed_changes
    }

    /// Bytes of everything here.
    pub(crate) fn bytes(&self) -> usize {
        self.closed_bytes + self.open.bytes
    }

    /// How many units were closed since the start.
    pub(crate) fn closed_count(&self) -> u64 {
        self.closed_count
    }

    /// How many of them the engine has.
    pub(crate) fn written_count(&self) -> u64 {
        self.written_count
    }

    /// Forgets everything, for a content that is replaced by what `durable` describes. Whoever
    /// waits for a unit stops waiting.
    pub(crate) fn replace(&mut self, durable: &DurablePosition) {
        let count = self.closed_count;
        *self = Tail::after(durable);
        (self.closed_count, self.written_count) = (count, count);
    }
}

/// Room for records kept when the queue runs empty after a burst.
const SPARE_RECORDS: usize = 16_384;

fn cost(value: &Bytes) -> usize {
    value.len() + size_of::<(RevKey, Bytes)>()
}
