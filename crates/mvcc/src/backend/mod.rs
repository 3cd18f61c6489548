//! Storage engines: an ordered map of bytes on disk that takes atomic batches.
//!
//! The engine is never on the way of an answer. One thread writes to it, behind the log, and the
//! log replays what a crash took: so the contract asks for atomic batches and an honest
//! [`flush`](Backend::flush), not for cheap small commits.
//!
//! What the keys and values mean is said in one place, [`schema`]. Three engines stand behind the
//! trait and pass one suite (`tests/backend_conformance.rs`): [`sled`], the default; [`redb`]; and
//! [`memory`], which forgets.

pub mod memory;
pub mod redb;
pub mod schema;
pub mod sled;

use std::path::Path;

use bytes::Bytes;

use crate::error::Result;
use crate::options::EngineKind;

/// An ordered map of bytes that takes atomic batches.
///
/// One thread calls [`write`](Backend::write), [`flush`](Backend::flush),
/// [`maintain`](Backend::maintain) and [`close`](Backend::close); any number of threads read at the
/// same time. After a failed write or flush the caller writes nothing more.
pub trait Backend: Send + Sync {
    /// Applies `batch` as one: readers, and an engine opened after a crash, see all of it or none.
    /// Durable only after the next [`flush`](Backend::flush); a crash loses a suffix of the batches.
    ///
    /// Errors: [`Error::Engine`](crate::Error::Engine), also when the disk is full.
    fn write(&self, batch: &Batch) -> Result<()>;

    /// Returns when all batches so far survive a power cut.
    fn flush(&self) -> Result<()>;

    /// The value of `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>>;

    /// A page of the pairs with `from <= key < to`, in byte order. Not a snapshot: a batch that is
    /// written meanwhile may show in part. An empty page is the end; a short one is not.
    fn scan(&self, from: &[u8], to: &[u8], page: Page) -> Result<Vec<(Bytes, Bytes)>>;

    /// Bytes taken on disk. Engines make their files longer than they fill them; holes don't count.
    fn size(&self) -> Result<u64>;

    /// Bytes that an engine takes for itself beside what it holds, as far as that matters.
    fn overhead(&self) -> u64 {
        0
    }

    /// Work the engine wants done now and then, such as giving memory back. Called by the writing
    /// thread after a flush; readers may wait for it.
    fn maintain(&self) -> Result<()> {
        Ok(())
    }

    /// Whether reads have to wait for [`maintain`](Backend::maintain) now.
    fn is_busy(&self) -> bool {
        false
    }

    /// Flushes and lets go of the files. Calls after it fail with
    /// [`Error::Closed`](crate::Error::Closed).
    fn close(&self) -> Result<()>;
}

/// How long a page of a scan gets. At least one pair is returned, if there is one.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// Most pairs.
    pub pairs: usize,
    /// Bytes of values after which the page ends.
    pub bytes: usize,
}

impl Page {
    /// Up to `pairs` pairs, however long.
    pub fn pairs(pairs: usize) -> Self {
        Page {
            pairs,
            bytes: usize::MAX,
        }
    }

    /// Whether a page with `pairs` pairs and `bytes` bytes takes one more.
    pub(crate) fn has_room(&self, pairs: usize, bytes: usize) -> bool {
        pairs < self.pairs && bytes < self.bytes
    }
}

/// Bytes of a block, as the file system counts them.
pub(crate) const BLOCK: u64 = 512;

/// Changes that are applied as one, in their order: of two to the same key the later one counts.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    changes: Vec<Change>,
    bytes: usize,
}

/// One change of a batch.
#[derive(Clone, Debug)]
pub struct Change {
    /// The key.
    pub key: Bytes,
    /// The new value; none deletes the key.
    pub value: Option<Bytes>,
}

impl Batch {
    /// Sets `key` to `value`.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.push(key.into(), Some(value.into()));
    }

    /// Removes `key`; absent keys are fine.
    pub fn delete(&mut self, key: impl Into<Bytes>) {
        self.push(key.into(), None);
    }

    fn push(&mut self, key: Bytes, value: Option<Bytes>) {
        self.bytes += key.len() + value.as_ref().map_or(0, Bytes::len);
        self.changes.push(Change { key, value });
    }

    /// The changes in order.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Bytes of all keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is nothing to apply.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// Opens or creates the engine's files in `dir`, an existing directory that is the engine's own.
/// `cache_bytes` bounds the engine's page cache as well as the engine can.
pub fn open(kind: EngineKind, dir: &Path, cache_bytes: usize) -> Result<Box<dyn Backend>> {
    Ok(match kind {
        EngineKind::Sled => Box::new(sled::Sled::open(dir, cache_bytes)?),
        EngineKind::Redb => Box::new(redb::Redb::open(dir, cache_bytes)?),
        EngineKind::Memory => Box::new(memory::Memory::default()),
    })
}
