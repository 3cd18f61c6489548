//! The single writer and its transactions.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use kvd_api::pb::mvccpb::KeyValue;
use prost::Message;

use crate::backend::schema::Table;
use crate::compaction::{self, FINISHED, Job, SCHEDULED};
use crate::error::{Error, Result};
use crate::index::KeyRange;
use crate::lease::LeaseChange;
use crate::options::Position;
use crate::read::{self, RangeOptions, RangeResult, View};
use crate::records::TableChange;
use crate::revision::{RevKey, Revision};
use crate::store::{self, Shared};

/// The head of the pair that a put replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrevKv {
    /// The revision that created the key.
    pub create_revision: i64,
    /// The revision of the change before this one.
    pub mod_revision: i64,
    /// Changes since the creation.
    pub version: i64,
    /// The lease it was attached to; zero means none.
    pub lease: i64,
}

/// Everything that changes the store goes through its one writer.
pub struct Writer {
    shared: Arc<Shared>,
    /// A change was made since the last commit.
    open: bool,
    /// Compactions to start at the next commit.
    jobs: Vec<Job>,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Writer {
            shared,
            open: false,
            jobs: Vec::new(),
        }
    }

    /// Begins a transaction: all its changes get one revision.
    pub fn txn(&mut self) -> WriteTxn<'_> {
        let main = self.shared.core.index.current() + 1;
        WriteTxn {
            writer: self,
            main,
            records: Vec::new(),
            lease_changes: Vec::new(),
        }
    }

    /// Sets `key` in a small table. Readers see it at once; durable with the unit's flush.
    pub fn table_put(&mut self, table: Table, key: Bytes, value: Bytes) {
        self.open_unit();
        let core = &self.shared.core;
        core.ledger.set(table, key.clone(), value.clone());
        core.records.stage(
            Vec::new(),
            vec![TableChange {
                table,
                key,
                value: Some(value),
            }],
        );
    }

    /// Removes `key` from a small table, as [`Self::table_put`] sets it.
    pub fn table_delete(&mut self, table: Table, key: &[u8]) {
        self.open_unit();
        let core = &self.shared.core;
        core.ledger.remove(table, key);
        let key = Bytes::copy_from_slice(key);
        core.records.stage(
            Vec::new(),
            vec![TableChange {
                table,
                key,
                value: None,
            }],
        );
    }

    /// Compacts at `revision`: from now on, reads below it fail. What only they could see is
    /// removed in the background after the next [`Self::commit`], which makes the schedule part of
    /// a unit; see [`crate::Store::wait_compacted`].
    ///
    /// Errors: [`Error::Compacted`] unless `revision` is above the compacted revision,
    /// [`Error::FutureRevision`] above the current one. Source: etcd `KV.Compact`.
    pub fn compact(&mut self, revision: i64) -> Result<()> {
        let core = &self.shared.core;
        let scheduled = core.ledger.get(Table::Meta, SCHEDULED);
        let previous_finished = scheduled == core.ledger.get(Table::Meta, FINISHED);
        let previous = core.index.begin_compaction(revision)?;
        let value = compaction::encode_revision(revision);
        self.table_put(Table::Meta, Bytes::from_static(SCHEDULED), value);
        self.jobs.push(Job {
            revision,
            previous,
            previous_finished,
        });
        Ok(())
    }

    /// Closes the unit: everything since the last call belongs to the log up to `position`, and a
    /// crash keeps all of it or nothing. Nothing is durable yet on return; the flush thread writes
    /// it behind, see [`crate::Store::flush`].
    pub fn commit(&mut self, position: Position) {
        let core = &self.shared.core;
        core.records.commit(position.clone());
        core.ledger.close_unit(position);
        self.open = false;
        // Most units have none, and the compaction thread sleeps on.
        if !self.jobs.is_empty() {
            core.queue.extend(self.jobs.drain(..));
        }
    }

    /// Replaces the whole content by that of a snapshot file, which stands at `position`. The file
    /// is checked first. All clones of the store see the new content on return, and it is durable.
    /// A crash leaves either the old content or the new.
    ///
    /// Errors: [`Error::Corrupt`] or [`Error::NewerFormat`] for the file, and then nothing changed;
    /// [`Error::Io`], [`Error::Engine`].
    pub fn install(&mut self, snapshot: &Path, position: Position) -> Result<()> {
        let core = &self.shared.core;
        let prepared = core.records.prepare_install(snapshot, position)?;
        self.jobs.clear();
        core.queue.interrupt();
        // Readers wait from here on, until they can see the new content as a whole.
        let _gate = core.keep_gate.lock();
        let guard = core.index.lock();
        let recovered = core.records.finish_install(prepared)?;
        let (state, unfinished) = store::restore(&core.records, &recovered.tables)?;
        core.ledger.replace(recovered.tables, recovered.position);
        core.queue.set_finished(state.compacted());
        let current = state.current();
        core.index.replace(guard, state);
        core.hub.reset(current);
        self.open = false;
        if let Some(job) = unfinished {
            core.index.begin_compaction(job.revision)?;
            core.queue.extend([job]);
        }
        Ok(())
    }

    fn open_unit(&mut self) {
        if !self.open {
            self.shared.core.ledger.open_unit();
            self.open = true;
        }
    }
}

/// A transaction that changes pairs. Its reads see its own changes; nobody else does before
/// [`WriteTxn::end`].
///
/// There is no way back: dropping it ends it.
pub struct WriteTxn<'a> {
    writer: &'a mut Writer,
    main: i64,
    /// The changes so far; the place is the `sub` revision.
    records: Vec<(RevKey, Bytes)>,
    lease_changes: Vec<LeaseChange>,
}

impl WriteTxn<'_> {
    /// Reads as [`crate::Store::range`] does, this transaction's changes included when
    /// `options.revision` is zero or less.
    ///
    /// Errors: [`Error::Compacted`], [`Error::FutureRevision`], and this member's faults.
    pub fn range(
        &self,
        key: &[u8],
        range_end: &[u8],
        options: &RangeOptions,
    ) -> Result<RangeResult> {
        let pending = self.current();
        let view = match options.revision {
            revision if revision <= 0 || revision == pending => View::Pending(pending),
            revision => View::At(revision),
        };
        let index = &self.writer.shared.core.index;
        let range = KeyRange::new(key, range_end);
        let mut result = read::range(index, view, range, options, |revision| self.fetch(revision))?;
        result.revision = pending;
        Ok(result)
    }

    /// The pair as it is now, this transaction's changes included.
    ///
    /// Errors: this member's faults only.
    pub fn get(&self, key: &[u8]) -> Result<Option<KeyValue>> {
        let index = &self.writer.shared.core.index;
        let Some((found, _)) = index.latest(key) else {
            return Ok(None);
        };
        let revision = found.modified;
        let Some(record) = self.fetch(revision)? else {
            let place = format!("the record of {revision}");
            return Err(Error::corrupt(
                place,
                "the index has it, the engine does not",
            ));
        };
        KeyValue::decode(record)
            .map(Some)
            .map_err(|error| Error::corrupt(format!("the record of {revision}"), error.to_string()))
    }

    /// Whether `key` exists now, and its head if so; cheaper than [`Self::get`].
    pub fn head(&self, key: &[u8]) -> Option<PrevKv> {
        self.writer.shared.core.index.latest(key).map(prev_kv)
    }

    /// Sets `key`. Returns the head of the pair it replaces; ask [`Self::get`] before for its
    /// value. `lease` is stored as it is; zero means none.
    pub fn put(&mut self, key: Bytes, value: Bytes, lease: i64) -> Result<Option<PrevKv>> {
        let revision = self.next();
        let previous = self
            .writer
            .shared
            .core
            .index
            .put(&key, revision, lease)
            .map(prev_kv);
        let from = previous.map_or(0, |previous| previous.lease);
        if from != lease {
            self.lease_changes.push(LeaseChange {
                key: key.clone(),
                from,
                to: lease,
            });
        }
        let record = KeyValue {
            create_revision: previous.map_or(self.main, |previous| previous.create_revision),
            mod_revision: self.main,
            version: previous.map_or(1, |previous| previous.version + 1),
            key,
            value,
            lease,
        };
        self.records
            .push((RevKey::new(revision, false), record.encode_to_vec().into()));
        Ok(previous)
    }

    /// Deletes the keys in `[key, range_end)`, in etcd's notation. Returns how many there were, and
    /// with `want_prev` their encoded pairs in order of key.
    ///
    /// Errors: this member's faults only, when a pair wanted can not be read.
    pub fn delete_range(
        &mut self,
        key: &[u8],
        range_end: &[u8],
        want_prev: bool,
    ) -> Result<(u64, Vec<Bytes>)> {
        let first = self.next();
        let range = KeyRange::new(key, range_end);
        let mut revisions = Vec::new();
        let mut keys = Vec::new();
        let index = &self.writer.shared.core.index;
        index.visit_latest(range, None, |key, found, lease| {
            let (record, key) = read::encode_tombstone(key);
            let revision = Revision::new(self.main, self.records.len() as i64);
            if want_prev {
                revisions.push(found.modified);
            }
            if lease != 0 {
                self.lease_changes.push(LeaseChange {
                    key: key.clone(),
                    from: lease,
                    to: 0,
                });
            }
            self.records.push((RevKey::new(revision, true), record));
            keys.push(key);
        });
        index.tombstones(&keys, first);
        let mut prev = Vec::with_capacity(revisions.len());
        for revision in revisions {
            prev.push(self.fetch(revision)?.ok_or_else(|| {
                let place = format!("the record of {revision}");
                Error::corrupt(place, "the index has it, the engine does not")
            })?);
        }
        Ok((keys.len() as u64, prev))
    }

    /// Deletes those of `keys` that exist, in this order, and returns how many there were. Quicker
    /// for many keys than [`Self::delete_range`], but does not note that they leave their lease: for
    /// a lease that goes with all its keys.
    pub fn delete_keys<'k>(&mut self, keys: impl IntoIterator<Item = &'k [u8]>) -> u64 {
        let (main, first) = (self.main, self.next());
        let records = &mut self.records;
        let before = records.len();
        let index = &self.writer.shared.core.index;
        index.delete_present(keys, first, |key| {
            let revision = Revision::new(main, records.len() as i64);
            let (record, _) = read::encode_tombstone(key);
            records.push((RevKey::new(revision, true), record));
        });
        (self.records.len() - before) as u64
    }

    /// The keys that this transaction deleted and that had a lease, with it, in order of deletion.
    pub fn detached(&self) -> Vec<(Bytes, i64)> {
        let detached = self.lease_changes.iter().filter(|change| change.to == 0);
        detached
            .map(|change| (change.key.clone(), change.from))
            .collect()
    }

    /// The keys whose lease this transaction changed, in the order of the changes.
    pub fn lease_changes(&self) -> &[LeaseChange] {
        &self.lease_changes
    }

    /// Whether anything was changed.
    pub fn changed(&self) -> bool {
        !self.records.is_empty()
    }

    /// The revision that this transaction's changes get.
    pub fn main(&self) -> i64 {
        self.main
    }

    /// Publishes the changes: the current revision becomes [`Self::main`] if there are any. Returns
    /// the current revision.
    pub fn end(mut self) -> i64 {
        self.publish()
    }

    fn publish(&mut self) -> i64 {
        let current = self.current();
        if self.changed() {
            self.writer.open_unit();
            let core = &self.writer.shared.core;
            let records = std::mem::take(&mut self.records);
            let watched = core.hub.is_listened_to().then(|| records.clone());
            core.records.stage(records, Vec::new());
            core.index.publish(self.main);
            core.hub.publish(self.main, watched);
        }
        current
    }

    /// The revision that reads inside this transaction see.
    fn current(&self) -> i64 {
        if self.changed() {
            self.main
        } else {
            self.main - 1
        }
    }

    fn next(&self) -> Revision {
        Revision::new(self.main, self.records.len() as i64)
    }

    fn fetch(&self, revision: Revision) -> Result<Option<Bytes>> {
        if revision.main == self.main {
            return Ok(usize::try_from(revision.sub)
                .ok()
                .and_then(|sub| self.records.get(sub))
                .map(|(_, record)| record.clone()));
        }
        self.writer.shared.core.records.get(revision)
    }
}

impl Drop for WriteTxn<'_> {
    fn drop(&mut self) {
        self.publish();
    }
}

fn prev_kv((found, lease): (crate::key_index::Found, i64)) -> PrevKv {
    PrevKv {
        create_revision: found.created,
        mod_revision: found.modified.main,
        version: found.version,
        lease,
    }
}
