//! Opening, restoring and sharing the store.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use kvd_api::pb::mvccpb::KeyValue;
use parking_lot::Mutex;
use prost::Message;

use crate::backend::schema::Table;
use crate::compaction::{self, FINISHED, Job, Queue, SCHEDULED};
use crate::content::Content;
use crate::defrag::Defragmented;
use crate::error::{Error, Result};
use crate::hash::{CompactionHashes, HashKv, Hasher};
use crate::index::{Index, KeyRange, State};
use crate::key_index::Found;
use crate::ledger::{Entries, Ledger};
use crate::options::{Options, Position};
use crate::read::{self, RangeOptions, RangeResult, View};
use crate::records::Records;
use crate::revision::{RevKey, Revision};
use crate::snapshot::SnapshotReader;
use crate::watch::{self, Event, Hub, WatchLag, WatchStats, WatchStream};
use crate::write::Writer;

/// Records read at once when all of them are.
const PAGE: usize = 4096;
/// Pages that wait for the thread that builds the index.
const PAGES_AHEAD: usize = 4;
const LAST: Revision = Revision::new(i64::MAX, i64::MAX);

/// What readers, the writer and the compaction thread share.
pub(crate) struct Core {
    pub(crate) index: Index,
    pub(crate) records: Records,
    pub(crate) ledger: Ledger,
    pub(crate) queue: Queue,
    pub(crate) hashes: CompactionHashes,
    pub(crate) hub: Hub,
    /// Held while the index is compacted, or asked what a hash has to keep.
    pub(crate) keep_gate: Mutex<()>,
    pub(crate) options: Options,
}

/// The core and its threads, which end with the last handle.
pub(crate) struct Shared {
    pub(crate) core: Arc<Core>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Shared {
    fn close(&self) {
        self.core.queue.stop();
        self.core.hub.stop();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            let name = thread.thread().name().unwrap_or_default().to_owned();
            if thread.join().is_err() {
                tracing::error!(name, "a thread of the store panicked");
            }
        }
        self.core.records.close();
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.close();
    }
}

/// Opens the store in `dir`, which is created (mode 0700) if it does not exist, and restores the
/// key index and the small tables. A compaction that a crash interrupted goes on in the background.
///
/// Errors: [`Error::Locked`] when another process has it open, [`Error::WrongEngine`],
/// [`Error::NewerFormat`], [`Error::Corrupt`], [`Error::Io`], [`Error::Engine`].
pub fn open(dir: &Path, options: Options) -> Result<(Store, Writer)> {
    let (records, recovered) = Records::open(dir, &options)?;
    let (state, unfinished) = restore(&records, &recovered.tables)?;
    let queue = Queue::default();
    queue.set_finished(state.compacted());
    let core = Arc::new(Core {
        hub: Hub::new(state.current()),
        index: Index::new(state),
        records,
        ledger: Ledger::default(),
        queue,
        hashes: CompactionHashes::default(),
        keep_gate: Mutex::new(()),
        options,
    });
    core.ledger.replace(recovered.tables, recovered.position);
    if let Some(job) = unfinished {
        core.index.begin_compaction(job.revision)?;
        core.queue.extend([job]);
    }
    let threads = vec![
        compaction::spawn(core.clone())?,
        watch::spawn(core.clone())?,
    ];
    let shared = Arc::new(Shared {
        core,
        threads: Mutex::new(threads),
    });
    Ok((
        Store {
            shared: shared.clone(),
        },
        Writer::new(shared),
    ))
}

/// Builds the index from the records. Returns it, compacted as far as a compaction has finished,
/// and the compaction that has to be taken up again.
pub(crate) fn restore(records: &Records, tables: &Entries) -> Result<(State, Option<Job>)> {
    let meta = |wanted: &[u8]| {
        let mut entries = tables.iter();
        let entry = entries.find(|(table, key, _)| *table == Table::Meta && key == wanted);
        compaction::decode_revision(entry.map(|(_, _, value)| value.clone()))
    };
    let (finished, scheduled) = (meta(FINISHED)?, meta(SCHEDULED)?);
    let mut state = restore_index(records)?;
    // All records up to the compacted revision may be gone, the newest one of the store included.
    state.raise_current(finished.unwrap_or(0).max(scheduled.unwrap_or(0)));
    if let Some(finished) = finished {
        state.set_compacted(finished);
    }
    let unfinished = scheduled.filter(|scheduled| *scheduled > state.compacted());
    let previous = state.compacted();
    let job = unfinished.map(|revision| Job {
        revision,
        previous,
        previous_finished: false,
    });
    Ok((state, job))
}

/// Reads all records, one thread ahead of the one that builds the index from them.
fn restore_index(records: &Records) -> Result<State> {
    let mut state = State::default();
    thread::scope(|scope| {
        let (sender, pages) = mpsc::sync_channel(PAGES_AHEAD);
        let reader = scope.spawn(move || {
            each_page(records, LAST, |page| match sender.send(page) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()), // a record was refused
            })
        });
        for page in pages {
            for (key, value) in page {
                restore_record(&mut state, &key, value)?;
            }
        }
        reader
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    Ok(state)
}

fn restore_record(state: &mut State, key: &RevKey, value: Bytes) -> Result<()> {
    let modified = key.revision();
    let record = KeyValue::decode(value)
        .map_err(|error| Error::corrupt(format!("the record of {modified}"), error.to_string()))?;
    if key.is_tombstone() {
        state.restore_tombstone(&record.key, modified);
    } else {
        let KeyValue {
            create_revision: created,
            version,
            lease,
            ..
        } = record;
        state.restore_put(
            &record.key,
            Found {
                modified,
                created,
                version,
            },
            lease,
        );
    }
    Ok(())
}

/// Hands out all records up to `to`, page by page.
fn each_page(
    records: &Records,
    to: Revision,
    mut each: impl FnMut(Vec<(RevKey, Bytes)>) -> ControlFlow<()>,
) -> Result<()> {
    let mut from = Some(Revision::default());
    while let Some(start) = from {
        let page = records.scan(start, to, PAGE)?;
        let last = page
            .last()
            .filter(|_| page.len() >= PAGE)
            .map(|(key, _)| key.revision());
        if each(page).is_break() {
            return Ok(());
        }
        from = last.and_then(Revision::next);
    }
    Ok(())
}

/// The shared read side of the store. Clones are handles to the same store.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

impl Store {
    fn core(&self) -> &Core {
        &self.shared.core
    }

    /// The revision of the last transaction that changed something; 1 in a fresh store.
    pub fn current_revision(&self) -> i64 {
        self.core().index.current()
    }

    /// The revision of the last compaction, finished or not; -1 if there was none. Reads below it
    /// fail.
    pub fn compacted_revision(&self) -> i64 {
        self.core().index.compacted()
    }

    /// The position of the last [`Writer::commit`]; after opening, that of the durable state.
    /// `None` in a fresh store.
    pub fn applied(&self) -> Option<Position> {
        self.core().ledger.applied()
    }

    /// Reads the pairs in `[key, range_end)` in byte order of key. `range_end` empty means `key`
    /// alone, one zero byte all keys from `key` on.
    ///
    /// Errors: [`Error::Compacted`] below the compacted revision, [`Error::FutureRevision`] above
    /// the current one; all others are this member's faults. Source: etcd `KV.Range`,
    /// `storage/mvcc/kvstore_txn.go`.
    pub fn range(
        &self,
        key: &[u8],
        range_end: &[u8],
        options: &RangeOptions,
    ) -> Result<RangeResult> {
        let core = self.core();
        let (range, view) = (KeyRange::new(key, range_end), View::At(options.revision));
        read::range(&core.index, view, range, options, |revision| {
            core.records.get(revision)
        })
    }

    /// The value of `key` in a small table, as the writer left it last.
    pub fn table_get(&self, table: Table, key: &[u8]) -> Option<Bytes> {
        self.core().ledger.get(table, key)
    }

    /// All entries of a small table in byte order of key, as the writer left them last.
    pub fn table_scan(&self, table: Table) -> Vec<(Bytes, Bytes)> {
        self.core().ledger.scan(table)
    }

    /// Number of keys that exist now.
    pub fn keys_count(&self) -> u64 {
        self.core().index.live().unsigned_abs()
    }

    /// The keys that exist now and have a lease, with it, in order of key. Visits all keys.
    pub fn leased_keys(&self) -> Vec<(Bytes, i64)> {
        let leased = self.core().index.leased();
        leased
            .into_iter()
            .map(|(key, lease)| (key.into(), lease))
            .collect()
    }

    /// The hash of all pairs up to `revision`; zero means the current one. Equals etcd's for the
    /// same history. A revision that was compacted at answers with the hash made on that way.
    /// Reads all records up to it: call it from a thread that may block.
    ///
    /// Errors: [`Error::Compacted`], [`Error::FutureRevision`], and this member's faults. Source:
    /// etcd `Maintenance.HashKV`, `storage/mvcc/hash.go`.
    pub fn hash_kv(&self, revision: i64) -> Result<HashKv> {
        let core = self.core();
        if let Some(hash) = core.hashes.get(revision) {
            return Ok(HashKv {
                current_revision: core.index.current(),
                ..hash
            });
        }
        // From here on no batch of a compaction starts.
        let _hold = core.records.compaction_hold();
        let gate = core.keep_gate.lock();
        let (current, compacted) = (core.index.current(), core.index.compacted());
        if revision > current {
            return Err(Error::FutureRevision {
                requested: revision,
                current,
            });
        }
        if revision > 0 && revision < compacted {
            return Err(Error::Compacted {
                requested: revision,
                compacted,
            });
        }
        let revision = if revision == 0 { current } else { revision };
        let keep = core.index.keep(revision);
        drop(gate);
        let mut hasher = Hasher::new(compacted, revision, &keep);
        self.scan_all(Revision::new(revision, i64::MAX), |key, value| {
            hasher.write(key, value)
        })?;
        Ok(hasher.finish(current))
    }

    /// The hashes that the last compactions made on their way, by revision.
    pub fn compaction_hashes(&self) -> Vec<HashKv> {
        self.core().hashes.all()
    }

    /// CRC-32C over everything stored: all records, then all small tables. Reads all of it.
    ///
    /// Errors: this member's faults only.
    pub fn hash(&self) -> Result<u32> {
        let core = self.core();
        let _hold = core.records.compaction_hold();
        let (tables, _, revision) = core.ledger.committed(|| core.index.current());
        let mut hash = 0;
        self.scan_all(Revision::new(revision, i64::MAX), |key, value| {
            hash = crc32c::crc32c_append(hash, key.as_bytes());
            hash = crc32c::crc32c_append(hash, value);
        })?;
        for (table, key, value) in tables {
            hash = crc32c::crc32c_append(hash, format!("{table:?}").as_bytes());
            hash = crc32c::crc32c_append(hash, &key);
            hash = crc32c::crc32c_append(hash, &value);
        }
        Ok(hash)
    }

    fn scan_all(&self, to: Revision, mut each: impl FnMut(&RevKey, &[u8])) -> Result<()> {
        each_page(&self.core().records, to, |page| {
            page.iter().for_each(|(key, value)| each(key, value));
            ControlFlow::Continue(())
        })
    }

    /// Bytes on disk, with what is not flushed yet.
    pub fn size(&self) -> u64 {
        self.core().records.size()
    }

    /// Bytes of live data.
    pub fn size_in_use(&self) -> u64 {
        self.core().records.size_in_use()
    }

    /// The log index up to which the log may be purged: that of the flush before the last one, so
    /// that a flush that turns out bad can be replayed. Zero before there were two.
    pub fn purgeable_index(&self) -> Arc<AtomicU64> {
        self.core().records.purgeable_index()
    }

    /// Blocks until everything committed so far is durable in the engine.
    ///
    /// Errors: [`Error::Failed`] when the flush thread met a fault.
    pub fn flush(&self) -> Result<()> {
        self.core().records.flush()
    }

    /// Whether the writer would wait for the disk now: what is not flushed has reached its bound, or
    /// the engine is being opened again.
    pub fn is_behind(&self) -> bool {
        self.core().records.is_behind()
    }

    /// Begins a snapshot of the state at the last commit. Waits for a unit that is open. Memory is
    /// bounded; compactions are held back while the reader lives.
    ///
    /// Errors: this member's faults only.
    pub fn snapshot(&self) -> Result<SnapshotReader> {
        Ok(SnapshotReader::new(self.content()?))
    }

    /// The content at the last commit, to be read as [`Store::snapshot`] is.
    ///
    /// Errors: this member's faults only.
    pub fn content(&self) -> Result<Content> {
        let core = self.core();
        let hold = core.records.compaction_hold();
        let installs = Content::installs(&core.records);
        let (tables, position, revision) = core.ledger.committed(|| core.index.current());
        let position = position.unwrap_or_default();
        let records = core.records.clone();
        Content::new(records, hold, installs, tables, revision, position)
    }

    /// Gives disk space back: copies everything to new files and switches to them. Reads and writes
    /// go on; physical compaction waits. Needs room for the copy. Reads all records: call it from
    /// a thread that may block.
    ///
    /// Errors: this member's faults, such as a full disk; the store goes on as it was then.
    pub fn defragment(&self) -> Result<Defragmented> {
        self.core().records.defragment()
    }

    /// Blocks until the compaction at `revision` has removed what it removes, or the store is
    /// closed or has failed. The schedule must be committed before. Call it from a thread that may
    /// block.
    pub fn wait_compacted(&self, revision: i64) {
        self.core().queue.wait(revision);
    }

    /// A new client's watchers: none yet. It does not keep the store open.
    pub fn watch_stream(&self) -> WatchStream {
        WatchStream::new(self.shared.core.clone())
    }

    /// `event` as `mvccpb.Event` with the pair before, unless that is compacted or there was none.
    pub fn event_with_prev(&self, event: &Event) -> Bytes {
        watch::encode_with_prev(self.core(), event)
    }

    /// How many watch, and how far they are. Looks at what waits for every client.
    pub fn watch_stats(&self) -> WatchStats {
        self.core().hub.stats()
    }

    /// Number of watch streams that are open.
    pub fn watch_streams(&self) -> i64 {
        self.core().hub.streams()
    }

    /// How far the clients of watchers are behind. Looks at what waits for every client.
    pub fn watch_lag(&self) -> WatchLag {
        self.core().hub.lag()
    }

    /// Ends all watch streams, those opened later too. Everything else goes on.
    pub fn stop_watches(&self) {
        self.core().hub.stop();
    }

    /// The fault that a background thread met. Nothing is written after it: stop the member.
    pub fn failure(&self) -> Option<String> {
        self.core()
            .records
            .failure()
            .or_else(|| self.core().queue.failure())
    }

    /// Flushes what is committed, stops the threads and releases the directory. Reads through other
    /// clones may fail afterwards. Closing twice does nothing.
    pub fn close(self) {
        self.shared.close();
    }
}

#[cfg(test)]
mod tests;
