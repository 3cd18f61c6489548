//! The small tables and the position they stand at, in memory.
//!
//! A snapshot needs both as of the same commit, so the ledger knows whether a unit is open: from
//! the writer's first change after a commit until the next commit.

use std::collections::BTreeMap;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::backend::schema::Table;
use crate::options::Position;

/// All entries of one table, or of all.
pub(crate) type Entries = Vec<(Table, Bytes, Bytes)>;

/// The small tables.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    state: Mutex<State>,
    // Signalled when a unit is closed, for those who need a committed state.
    closed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    tables: BTreeMap<Table, BTreeMap<Bytes, Bytes>>,
    applied: Option<Position>,
    open: bool,
}

impl Ledger {
    /// Replaces everything; no unit is open afterwards.
    pub(crate) fn replace(&self, entries: Entries, applied: Option<Position>) {
        let mut state = State {
            applied,
            ..State::default()
        };
        for (table, key, value) in entries {
            state.tables.entry(table).or_default().insert(key, value);
        }
        *self.state.lock() = state;
        self.closed.notify_all();
    }

    /// The value of `key` in `table`.
    pub(crate) fn get(&self, table: Table, key: &[u8]) -> Option<Bytes> {
        self.state.lock().tables.get(&table)?.get(key).cloned()
    }

    /// Everything in `table`, in order.
    pub(crate) fn scan(&self, table: Table) -> Vec<(Bytes, Bytes)> {
        let state = self.state.lock();
        let entries = state.tables.get(&table).into_iter().flatten();
        entries
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }

    /// Sets a value.
    pub(crate) fn set(&self, table: Table, key: Bytes, value: Bytes) {
        self.state
            .lock()
            .tables
            .entry(table)
            .or_default()
            .insert(key, value);
    }

    /// Removes a value.
    pub(crate) fn remove(&self, table: Table, key: &[u8]) {
        if let Some(entries) = self.state.lock().tables.get_mut(&table) {
            entries.remove(key);
        }
    }

    /// The position of the last commit.
    pub(crate) fn applied(&self) -> Option<Position> {
        self.state.lock().applied.clone()
    }

    /// The writer is about to change something.
    pub(crate) fn open_unit(&self) {
        self.state.lock().open = true;
    }

    /// The writer has closed a unit at `position`.
    pub(crate) fn close_unit(&self, position: Position) {
        let mut state = self.state.lock();
        state.applied = Some(position);
        state.open = false;
        // Whoever waits gets its turn before the writer opens the next unit.
        if self.closed.notify_all() > 0 {
            MutexGuard::unlock_fair(state);
        }
    }

    /// Waits until no unit is open, and returns all tables, the position of the last commit and
    /// what `and` sees while the writer can not start the next unit.
    pub(crate) fn committed<T>(&self, and: impl FnOnce() -> T) -> (Entries, Option<Position>, T) {
        let mut state = self.state.lock();
        while state.open {
            self.closed.wait(&mut state);
        }
        let tables = state.tables.iter().flat_map(|(table, entries)| {
            entries
                .iter()
                .map(|(key, value)| (*table, key.clone(), value.clone()))
        });
        (tables.collect(), state.applied.clone(), and())
    }
}
