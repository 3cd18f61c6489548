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
//!
//! # Opening
//!
//! The engine holds everything up to its durable position and perhaps the first records of the unit
//! after it. The rule: records with a revision above the durable position's are removed when the
//! store is opened, and the log brings them again. After a crash every record is read and checked,
//! and their number is compared with the number that was written with the position.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, RwLock};
use quick_cache::Weighter;

use crate::backend::schema::{self, DurablePosition};
use crate::backend::{self, Backend, Batch, Page};
use crate::directory::{Directory, Found, with_advice};
use crate::error::{Error, Result};
use crate::flush::{Control, Io};
use crate::ledger::Entries;
use crate::options::{Options, Position};
use crate::revision::{RevKey, Revision};
use crate::snapshot::{self, Loaded};
use crate::tail::Tail;
pub(crate) use crate::tail::{Aside, TableChange};

/// Most pairs asked of the engine at once.
const PAGE_PAIRS: usize = 1000;
/// Bytes of values after which a page from the engine ends.
const PAGE_BYTES: usize = 4 << 20;
/// What one entry costs the cache beside its value.
const CACHE_OVERHEAD: usize = 96;
/// A value of a usual size, from which the cache guesses how many it will hold.
const USUAL_VALUE: usize = 400;

type Cache = quick_cache::sync::Cache<Revision, Bytes, Weight>;

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
    engine: Arc<dyn Backend>,
    loaded: Loaded,
}

/// What the handles and the flush thread share.
pub(crate) struct Shared {
    pub(crate) options: Options,
    /// None once closed.
    pub(crate) directory: Mutex<Option<Directory>>,
    /// Replaced by an install.
    pub(crate) engine: RwLock<Arc<dyn Backend>>,
    pub(crate) tail: RwLock<Tail>,
    pub(crate) cache: Cache,
    /// Held by whoever writes to the engine, for one batch or flush.
    pub(crate) io: Mutex<Io>,
    /// Never locked while `tail` is held.
    pub(crate) control: Mutex<Control>,
    /// The flush thread waits, writers signal.
    pub(crate) wake: Condvar,
    /// Writers wait, the flush thread signals.
    pub(crate) progress: Condvar,
    pub(crate) failed: AtomicBool,
    pub(crate) purgeable: Arc<AtomicU64>,
    pub(crate) engine_bytes: AtomicU64,
    pub(crate) live_bytes: AtomicU64,
    holds: AtomicUsize,
    thread: Mutex<Option<JoinHandle<()>>>,
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

#[derive(Clone)]
pub(crate) struct Weight;

impl Weighter<Revision, Bytes> for Weight {
    fn weight(&self, _: &Revision, value: &Bytes) -> u64 {
        (value.len() + CACHE_OVERHEAD) as u64
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
            let Some(next) = found.last().and_then(|(key, _)| after(key.revision())) else {
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
                        .map(|(key, sealed)| open_record(key, sealed))
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

    /// Bytes on disk and waiting to get there.
    pub(crate) fn size(&self) -> u64 {
        let waiting = self.shared.tail.read().bytes() as u64;
        self.shared.engine_bytes.load(Ordering::Relaxed) + waiting
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
    /// on disk on return, and not the current one yet.
    ///
    /// Errors: [`Error::Corrupt`] and [`Error::NewerFormat`] about the snapshot.
    pub(crate) fn prepare_install(&self, file: &Path, position: Position) -> Result<Prepared> {
        let shared = &self.shared;
        let files = shared
            .directory
            .lock()
            .as_ref()
            .ok_or(Error::Closed)?
            .next_generation()?;
        let kind = shared.options.engine;
        let engine = backend::open(kind, &files, shared.options.engine_cache_bytes)?;
        let loaded = snapshot::load(file, &*engine, position)?;
        Ok(Prepared {
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
        let Loaded { durable, tables } = prepared.loaded;
        let old = {
            let mut io = shared.io.lock();
            if let Some(message) = self.failure() {
                return Err(Error::Failed { message });
            }
            directory.switch()?;
            let old = std::mem::replace(&mut *shared.engine.write(), prepared.engine);
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

impl Shared {
    fn new(
        directory: Directory,
        engine: Arc<dyn Backend>,
        durable: Option<DurablePosition>,
        options: Options,
    ) -> Result<Self> {
        let cache_bytes = options.cache_bytes;
        let at = durable.clone().unwrap_or_default();
        Ok(Shared {
            engine_bytes: AtomicU64::new(engine.size()?),
            live_bytes: AtomicU64::new(at.live_bytes),
            directory: Mutex::new(Some(directory)),
            engine: RwLock::new(engine),
            tail: RwLock::new(Tail::after(&at)),
            cache: Cache::with_weighter(cache_bytes / USUAL_VALUE, cache_bytes as u64, Weight),
            io: Mutex::new(Io::new(durable)),
            control: Mutex::new(Control::default()),
            wake: Condvar::new(),
            progress: Condvar::new(),
            failed: AtomicBool::new(false),
            purgeable: Arc::new(AtomicU64::new(0)),
            holds: AtomicUsize::new(0),
            thread: Mutex::new(None),
            options,
        })
    }

    /// Asks the engine; asks the new one if an install closed the old one meanwhile.
    fn ask_engine<T>(&self, ask: impl Fn(&dyn Backend) -> Result<T>) -> Result<T> {
        loop {
            let engine = self.engine.read().clone();
            match ask(&*engine) {
                Err(Error::Closed) if !Arc::ptr_eq(&engine, &self.engine.read()) => {}
                answer => return answer,
            }
        }
    }

    /// The content is another one now. The caller holds `io`.
    fn replaced(&self, durable: &DurablePosition) {
        let count = {
            let mut tail = self.tail.write();
            tail.replace(durable);
            self.cache.clear();
            tail.closed_count()
        };
        self.live_bytes.store(durable.live_bytes, Ordering::Relaxed);
        self.purgeable
            .store(durable.position.index, Ordering::Release);
        self.control.lock().durable_count = count;
        self.progress.notify_all();
    }

    fn close(&self) {
        self.control.lock().closing = true;
        self.wake.notify_all();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread
            && thread.thread().id() != thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the flush thread panicked");
        }
        let Some(directory) = self.directory.lock().take() else {
            return;
        };
        let engine = self.engine.read().clone();
        let closed = engine.close();
        if self.failed.load(Ordering::Acquire) {
            return; // Not an orderly close: the next open checks everything.
        }
        if let Err(error) = closed.and_then(|()| directory.mark_clean()) {
            tracing::error!(%error, "closing the store");
        }
    }
}

/// The revision after `revision`; none after the last.
pub(crate) fn after(revision: Revision) -> Option<Revision> {
    match revision.sub.checked_add(1) {
        Some(sub) => Some(Revision::new(revision.main, sub)),
        None => revision
            .main
            .checked_add(1)
            .map(|main| Revision::new(main, 0)),
    }
}

const LAST: Revision = Revision::new(i64::MAX, i64::MAX);

/// Reads the durable position and the tables, and every record if `check_all`.
fn read_content(
    engine: &dyn Backend,
    check_all: bool,
) -> Result<(Option<DurablePosition>, Entries)> {
    let key = schema::position_key();
    let durable = match engine.get(&key)? {
        Some(sealed) => Some(schema::decode_position(&schema::unseal(&key, &sealed)?)?),
        None => None,
    };
    let mut tables = Vec::new();
    let (from, to) = schema::table_bounds();
    for_each(engine, Bytes::from_static(from), to, |key, sealed| {
        let (table, name) = schema::decode_table_key(key)?;
        tables.push((table, name, schema::unseal(key, sealed)?));
        Ok(())
    })?;
    if check_all && let Some(durable) = &durable {
        check_records(engine, durable)?;
    }
    Ok((durable, tables))
}

/// Reads all records up to the durable position, and compares their number with what it says.
fn check_records(engine: &dyn Backend, durable: &DurablePosition) -> Result<()> {
    let (from, to) = schema::record_bounds(Revision::default(), durable.revision);
    let (mut records, mut bytes) = (0, 0);
    for_each(engine, from, &to, |key, sealed| {
        let (key, value) = open_record(key, sealed)?;
        records += 1;
        bytes += (key.as_bytes().len() + value.len()) as u64;
        Ok(())
    })?;
    if (records, bytes) != (durable.records, durable.live_bytes) {
        let problem = format!(
            "{records} records of {bytes} bytes where {} of {} were written",
            durable.records, durable.live_bytes
        );
        return Err(Error::corrupt("the records", problem));
    }
    tracing::info!(records, bytes, "checked all records after an unclean stop");
    Ok(())
}

/// Removes the records above the durable position: the beginning of a unit that was not finished.
fn remove_above(engine: &dyn Backend, durable: Option<&DurablePosition>) -> Result<()> {
    let from = match durable {
        Some(durable) => match after(durable.revision) {
            Some(revision) => revision,
            None => return Ok(()),
        },
        None => Revision::default(),
    };
    let (from, to) = schema::record_bounds(from, LAST);
    let mut removed = 0;
    loop {
        let page = engine.scan(
            &from,
            &to,
            Page {
                pairs: PAGE_PAIRS,
                bytes: PAGE_BYTES,
            },
        )?;
        if page.is_empty() {
            break;
        }
        let mut batch = Batch::default();
        removed += page.len();
        page.into_iter().for_each(|(key, _)| batch.delete(key));
        engine.write(&batch)?;
    }
    if removed > 0 {
        tracing::info!(removed, "removed the records of an unfinished unit");
        engine.flush()?;
    }
    Ok(())
}

/// Calls `each` with every pair of `from <= key < to`.
fn for_each(
    engine: &dyn Backend,
    mut from: Bytes,
    to: &[u8],
    mut each: impl FnMut(&Bytes, &Bytes) -> Result<()>,
) -> Result<()> {
    loop {
        let page = engine.scan(
            &from,
            to,
            Page {
                pairs: PAGE_PAIRS,
                bytes: PAGE_BYTES,
            },
        )?;
        let Some((last, _)) = page.last() else {
            return Ok(());
        };
        let mut next = last.to_vec();
        next.push(0);
        from = next.into();
        page.iter().try_for_each(|(key, value)| each(key, value))?;
    }
}

fn open_record(key: &Bytes, sealed: &Bytes) -> Result<(RevKey, Bytes)> {
    Ok((
        schema::decode_record_key(key)?,
        schema::unseal(key, sealed)?,
    ))
}

#[cfg(test)]
mod tests;
