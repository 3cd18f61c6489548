//! The records: what each revision says, wherever it is at the moment.
//!
//! ```text
//!  append ─► tail (in memory, readable at once) ─► flush thread ─► engine
//!  get    ─► tail, else value cache, else engine
//! ```
//!
//! The newest records are in the [tail](crate::tail) until the engine has them, so an append never
//! waits for a disk, except when the tail holds more than
//! [`unflushed_bytes_max`](Options::unflushed_bytes_max): then the writer waits for the flush thread
//! to catch up, which is the store's back-pressure.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use bytes::Bytes;

use crate::backend::{self, Backend, Page, schema};
use crate::defrag::RebuildGuard;
use crate::directory::{Directory, Found, with_advice};
use crate::error::{Error, Result};
use crate::ledger::Entries;
use crate::options::{Options, Position};
use crate::pipeline::Shared;
use crate::recovery::{read_content, remove_above};
use crate::revision::{RevKey, Revision};
use crate::snapshot_file::{self, Loaded};
pub(crate) use crate::tail::{Aside, TableChange};

/// Most pairs asked of the engine at once.
const PAGE_PAIRS: usize = 1000;
/// Bytes of values after which a page from the engine ends.
const PAGE_BYTES: usize = 4 << 20;
/// All records of a store; clones share them. The last clone's drop closes them.
#[derive(Clone)]
pub(crate) struct Records {
    pub(crate) shared: Arc<Shared>,
    _closer: Arc<Closer>,
}

/// What the engine held when it was opened, beside the records.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    /// The log position of the content; none for a new store.
    pub(crate) position: Option<Position>,
    /// All entries of all tables.
    pub(crate) tables: Entries,
}

/// The content of a snapshot, on disk beside the current one.
pub(crate) struct Prepared {
    _rebuild: RebuildGuard,
    engine: Arc<dyn Backend>,
    loaded: Loaded,
}

/// Holds the physical part of compaction back while it lives.
pub(crate) struct HoldGuard(Arc<Shared>);

impl Drop for HoldGuard {
    fn drop(&mut self) {
        self.0.holds.fetch_sub(1, Ordering::AcqRel);
    }
}

struct Closer(Arc<Shared>);

impl Drop for Closer {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Records {
    /// Opens the store's directory, removes what a crash left of an unfinished unit and starts the
    /// flush thread. Reads and checks every record after an unclean stop.
    ///
    /// Errors: those of [`Directory::open`]; [`Error::Corrupt`] names what is damaged, and nothing
    /// is changed then.
    pub(crate) fn open(dir: &Path, options: &Options) -> Result<(Records, Recovered)> {
        let (directory, found) = Directory::open(dir, options.engine)?;
        let files = directory.generation_dir();
        let engine = backend::open(options.engine, &files, options.engine_cache_bytes)
            .map_err(with_advice)?;
        Self::start(directory, found, Arc::from(engine), options)
    }

    /// [`open`](Records::open) over an engine that is open already.
    pub(crate) fn start(
        directory: Directory,
        found: Found,
        engine: Arc<dyn Backend>,
        options: &Options,
    ) -> Result<(Records, Recovered)> {
        let (durable, tables) = match found {
            Found::Fresh => {
                engine.flush()?;
                directory.finish_creation()?;
                (None, Vec::new())
            }
            Found::Clean | Found::Unclean => {
                let content = read_content(&*engine, found == Found::Unclean);
                let (durable, tables) = content.map_err(with_advice)?;
                directory.clear_clean()?;
                remove_above(&*engine, durable.as_ref())?;
                (durable, tables)
            }
        };
        let position = durable.as_ref().map(|durable| durable.position.clone());
        let shared = Arc::new(Shared::new(directory, engine, durable, options.clone())?);
        let flusher = shared.clone();
        let thread = thread::Builder::new().name("mvcc-flush".into());
        let thread = thread.spawn(move || flusher.run_flush_thread());
        let thread = thread.map_err(|error| Error::io("thread mvcc-flush", error))?;
        *shared.thread.lock() = Some(thread);
        let records = Records {
            _closer: Arc::new(Closer(shared.clone())),
            shared,
        };
        Ok((records, Recovered { position, tables }))
    }

    /// Takes in changes of the open unit; they are readable on return and on disk later.
    ///
    /// Waits while more than [`Options::unflushed_bytes_max`] bytes of finished units are not in
    /// the engine. After a fault it does not wait: what it takes in never gets to disk.
    pub(crate) fn stage(&self, records: Vec<(RevKey, Bytes)>, tables: Vec<TableChange>) {
        self.shared.wait_for_room();
        self.shared.tail.write().stage(records, tables);
    }

    /// Ends the open unit: everything since the last commit becomes durable as one, with
    /// `position`.
    pub(crate) fn commit(&self, position: Position) {
        self.shared.change_and_wake(|tail| {
            tail.commit(position);
            true
        });
    }

    /// Takes in what a compaction changes. It becomes durable with the unit that is open, or by
    /// itself, after everything committed before.
    pub(crate) fn append(&self, aside: Aside) {
        self.shared.wait_for_room();
        self.shared.change_and_wake(|tail| tail.append(aside));
    }

    /// The encoded pair put at `revision`; none if there is no such record.
    ///
    /// Errors: [`Error::Corrupt`] when the engine's bytes are not those written.
    pub(crate) fn get(&self, revision: Revision) -> Result<Option<Bytes>> {
        let key = revision.key();
        if let Some(value) = self.shared.tail.read().get(&key) {
            return Ok(Some(value));
        }
        if let Some(value) = self.shared.cache.get(&revision) {
            return Ok(Some(value));
        }
        let engine_key = schema::record_key(&key);
        let Some(sealed) = self.shared.ask_engine(|engine| engine.get(&engine_key))? else {
            return Ok(None);
        };
        let value = schema::unseal(&engine_key, &sealed)?;
        self.shared.cache.insert(revision, value.clone());
        Ok(Some(value))
    }

    /// Up to `limit` records with `from <= revision <= to`, in order; fewer mean that there are no
    /// more. Leaves the cache alone. Records that are deleted meanwhile may be there or not.
    pub(crate) fn scan(
        &self,
        from: Revision,
        to: Revision,
        limit: usize,
    ) -> Result<Vec<(RevKey, Bytes)>> {
        let mut found = self.scan_page(from, to, limit)?;
        while !found.is_empty() && found.len() < limit {
            let Some(next) = found.last().and_then(|(key, _)| key.revision().next()) else {
                break;
            };
            let page = self.scan_page(next, to, limit - found.len())?;
            if page.is_empty() {
                break;
            }
            found.extend(page);
        }
        Ok(found)
    }

    /// [`scan`](Records::scan) of bounded memory: only an empty page means that there are no more.
    pub(crate) fn scan_page(
        &self,
        from: Revision,
        to: Revision,
        limit: usize,
    ) -> Result<Vec<(RevKey, Bytes)>> {
        if from > to || limit == 0 {
            return Ok(Vec::new());
        }
        let page = Page {
            pairs: limit.min(PAGE_PAIRS),
            bytes: PAGE_BYTES,
        };
        let mut from = from;
        loop {
            // Everything before the tail's first record is in the engine, and stays there.
            let first = {
                let tail = self.shared.tail.read();
                let first = tail.first().map(|key| key.revision());
                if first.is_some_and(|first| first <= from) {
                    return Ok(tail.scan(from, to, page.pairs));
                }
                first.filter(|first| *first <= to)
            };
            let (start, end) = schema::record_bounds(from, to);
            let end = first.map_or(end, |first| schema::record_key(&first.key()));
            let found = self
                .shared
                .ask_engine(|engine| engine.scan(&start, &end, page))?;
            match first {
                Some(first) if found.is_empty() => from = first,
                _ => {
                    return found
                        .iter()
                        .map(|(key, sealed)| schema::open_record(key, sealed))
                        .collect();
                }
            }
        }
    }

    /// Returns when everything appended so far, up to the last position, survives a power cut.
    ///
    /// Errors: [`Error::Failed`] after a fault, [`Error::Closed`].
    pub(crate) fn flush(&self) -> Result<()> {
        self.shared.flush()
    }

    /// Whether whoever appends or reads now has to wait.
    pub(crate) fn is_behind(&self) -> bool {
        self.shared.is_full() || self.shared.engine.read().is_busy()
    }

    /// Bytes on disk and waiting to get there.
    pub(crate) fn size(&self) -> u64 {
        let waiting = self.shared.tail.read().bytes() as u64;
        let on_disk = self.shared.engine_bytes.load(Ordering::Relaxed);
        // An engine that compresses may hold more than it takes. The quota is about what is held,
        // so that it does not depend on how well a value compresses.
        on_disk.max(self.shared.live_bytes.load(Ordering::Relaxed)) + waiting
    }

    /// Bytes of the records there are, in the engine and waiting.
    pub(crate) fn size_in_use(&self) -> u64 {
        let waiting = self.shared.tail.read().bytes() as u64;
        self.shared.live_bytes.load(Ordering::Relaxed) + waiting
    }

    /// The log index up to which the log may be purged: that of the flush before the last one. Zero
    /// until there is one.
    pub(crate) fn purgeable_index(&self) -> Arc<AtomicU64> {
        self.shared.purgeable.clone()
    }

    /// The first fault of the flush thread, after which nothing more is written.
    pub(crate) fn failure(&self) -> Option<String> {
        self.shared.control.lock().failure.clone()
    }

    /// Writes out and flushes what is finished, closes the engine, marks the directory as closed in
    /// order and unlocks it. Further calls do nothing.
    pub(crate) fn close(&self) {
        self.shared.close();
    }

    /// Holds the physical part of compaction back until the guard is dropped.
    pub(crate) fn compaction_hold(&self) -> HoldGuard {
        self.shared.holds.fetch_add(1, Ordering::AcqRel);
        HoldGuard(self.shared.clone())
    }

    /// Whether someone holds compaction back.
    pub(crate) fn compaction_held(&self) -> bool {
        self.shared.holds.load(Ordering::Acquire) > 0
    }

    /// Reads a snapshot file into the next generation, as the content of `position`: checked and
    /// on disk on return, and not the current one yet. A defragmentation that is under way is
    /// given up.
    ///
    /// Errors: [`Error::Corrupt`] and [`Error::NewerFormat`] about the snapshot.
    pub(crate) fn prepare_install(&self, file: &Path, position: Position) -> Result<Prepared> {
        let shared = &self.shared;
        shared.installs_waiting.fetch_add(1, Ordering::AcqRel);
        let rebuild = self.rebuild_guard();
        shared.installs_waiting.fetch_sub(1, Ordering::AcqRel);
        let files = shared
            .directory
            .lock()
            .as_ref()
            .ok_or(Error::Closed)?
            .next_generation()?;
        let kind = shared.options.engine;
        let engine = backend::open(kind, &files, shared.options.engine_cache_bytes)?;
        let loaded = snapshot_file::load(file, &*engine, position)?;
        Ok(Prepared {
            _rebuild: rebuild,
            engine: Arc::from(engine),
            loaded,
        })
    }

    /// Replaces the whole content by the prepared one. A crash leaves the old content or the new.
    /// What was appended before and is not in the snapshot is gone.
    ///
    /// Errors: [`Error::Failed`] after a fault; the content is the old one then.
    pub(crate) fn finish_install(&self, prepared: Prepared) -> Result<Recovered> {
        let shared = &self.shared;
        let mut directory = shared.directory.lock();
        let directory = directory.as_mut().ok_or(Error::Closed)?;
        let Prepared {
            _rebuild,
            engine,
            loaded: Loaded { durable, tables },
        } = prepared;
        let old = {
            let mut io = shared.io.lock();
            if let Some(message) = self.failure() {
                return Err(Error::Failed { message });
            }
            directory.switch()?;
            let old = std::mem::replace(&mut *shared.engine.write(), engine);
            shared.replaced(&durable);
            io.replace(durable.clone());
            old
        };
        // Nobody reads the old content again, so what its engine says no longer matters.
        if let Err(error) = old.close() {
            tracing::warn!(%error, "closing the replaced engine");
        }
        drop(old);
        directory.remove_others()?;
        Ok(Recovered {
            position: Some(durable.position),
            tables,
        })
    }
}

#[cfg(test)]
mod tests;
