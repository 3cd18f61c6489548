//! The sled 1.0 engine, under the conditions it holds on.
//!
//! - One tree, one writing thread. Leaf fan-out 64 is part of the on-disk format.
//! - Pages that this process wrote never leave sled's memory, whatever its cache limit. So the
//!   handle is *recycled* (flushed, dropped, opened again) each [`RECYCLE_RECORDS`] records or
//!   [`RECYCLE_BYTES`] bytes. Readers wait meanwhile; what was written last is still in memory
//!   above the engine and does not ask it.
//! - sled's handle can be sent to another thread but not shared, so readers take one from a pool.
//! - sled's own flush thread would abort the process on an I/O error, so it is given an interval
//!   that never comes; [`flush`](Backend::flush) is the only flush.
//! - sled panics on some damaged files. A panic is caught here and becomes an error, and the
//!   engine refuses everything after it.
//! - After a failed write or flush sled's state is unknown, and dropping it would write again. It
//!   is leaked: the process is about to end.

use std::any::Any;
use std::fs;
use std::io;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use super::{Backend, Batch, Page};
use crate::error::{Error, Result};

/// Pairs in a leaf. Files of another fan-out cannot be read.
const LEAF_FANOUT: usize = 64;
/// Changes after which the handle is recycled.
const RECYCLE_RECORDS: usize = 200_000;
/// Bytes after which the handle is recycled.
const RECYCLE_BYTES: usize = 64 << 20;
/// Most idle handles kept for readers.
const POOL: usize = 16;
/// Level 1 costs a third of sled's default CPU and little space.
const ZSTD_LEVEL: i32 = 1;
/// sled's flush interval: never (100 years).
const NEVER_MS: usize = 100 * 365 * 24 * 3_600_000;

type Db = ::sled::Db<LEAF_FANOUT>;

/// A [`Backend`] over a sled directory.
pub struct Sled {
    dir: PathBuf,
    cache_bytes: usize,
    /// Held for reading by every call, for writing by a recycle or close.
    state: RwLock<Option<Handles>>,
    /// Changes and bytes since the last recycle. Only the writing thread changes them.
    records: AtomicUsize,
    bytes: AtomicUsize,
    failed: AtomicBool,
}

struct Handles {
    writer: Mutex<Db>,
    readers: Mutex<Vec<Db>>,
}

impl Sled {
    /// Opens or creates sled's files in `dir`.
    ///
    /// Errors: [`Error::Engine`] when sled cannot read them.
    pub fn open(dir: &Path, cache_bytes: usize) -> Result<Self> {
        let engine = Sled {
            dir: dir.to_owned(),
            cache_bytes,
            state: RwLock::new(None),
            records: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
        };
        *engine.state.write() = Some(engine.open_handles()?);
        Ok(engine)
    }

    fn open_handles(&self) -> Result<Handles> {
        let config = ::sled::Config::new()
            .path(&self.dir)
            .cache_capacity_bytes(self.cache_bytes)
            .flush_every_ms(Some(NEVER_MS))
            .zstd_compression_level(ZSTD_LEVEL);
        let db = self.guarded("open", || config.open::<LEAF_FANOUT>())?;
        Ok(Handles {
            writer: Mutex::new(db),
            readers: Mutex::new(Vec::new()),
        })
    }

    /// Runs a call into sled; its error or panic becomes ours.
    fn guarded<T>(&self, action: &'static str, call: impl FnOnce() -> io::Result<T>) -> Result<T> {
        if self.failed.load(Ordering::Acquire) {
            return Err(failed(action, "it failed before".into()));
        }
        match catch_unwind(AssertUnwindSafe(call)) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(failed(action, error.to_string())),
            Err(panic) => {
                self.failed.store(true, Ordering::Release);
                Err(failed(action, panic_text(panic.as_ref())))
            }
        }
    }

    /// A change that failed leaves sled in an unknown state: nothing more goes to it.
    fn change<T>(
        &self,
        action: &'static str,
        call: impl FnOnce(&Db) -> io::Result<T>,
    ) -> Result<T> {
        let state = self.state.read();
        let handles = state.as_ref().ok_or(Error::Closed)?;
        let result = self.guarded(action, || call(&handles.writer.lock()));
        if result.is_err() {
            self.failed.store(true, Ordering::Release);
        }
        result
    }

    fn read<T>(&self, action: &'static str, call: impl FnOnce(&Db) -> io::Result<T>) -> Result<T> {
        let state = self.state.read();
        let handles = state.as_ref().ok_or(Error::Closed)?;
        let pooled = handles.readers.lock().pop();
        let db = match pooled {
            Some(db) => db,
            None => handles.writer.lock().clone(),
        };
        let result = self.guarded(action, || call(&db));
        let mut readers = handles.readers.lock();
        if readers.len() < POOL {
            readers.push(db);
        }
        result
    }

    fn recycle(&self) -> Result<()> {
        let mut state = self.state.write();
        let handles = state.take().ok_or(Error::Closed)?;
        self.guarded("flush", || handles.writer.lock().flush().map(|_| ()))
            .inspect_err(|_| {
                self.failed.store(true, Ordering::Release);
            })?;
        self.guarded("close", || {
            drop(handles);
            Ok(())
        })?;
        *state = Some(self.open_handles()?);
        Ok(())
    }
}

impl Backend for Sled {
    fn write(&self, batch: &Batch) -> Result<()> {
        let mut writes = ::sled::Batch::default();
        for change in batch.changes() {
            match &change.value {
                Some(value) => writes.insert(&change.key[..], &value[..]),
                None => writes.remove(&change.key[..]),
            }
        }
        self.change("write a batch", |db| db.apply_batch(writes))?;
        self.records
            .fetch_add(batch.changes().len(), Ordering::Relaxed);
        self.bytes.fetch_add(batch.bytes(), Ordering::Relaxed);
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        self.change("flush", |db| db.flush().map(|_| ()))
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let value = self.read("read", |db| db.get(key))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(&self, from: &[u8], to: &[u8], page: Page) -> Result<Vec<(Bytes, Bytes)>> {
        if from >= to {
            return Ok(Vec::new());
        }
        self.read("scan", |db| {
            let (mut found, mut bytes) = (Vec::new(), 0);
            let mut pairs = db.range(from..to);
            while page.has_room(found.len(), bytes)
                && let Some((key, value)) = pairs.next().transpose()?
            {
                bytes += value.len();
                found.push((Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value)));
            }
            Ok(found)
        })
    }

    fn size(&self) -> Result<u64> {
        size_of_dir(&self.dir).map_err(|source| Error::io(&self.dir, source))
    }

    fn maintain(&self) -> Result<()> {
        if self.records.load(Ordering::Relaxed) < RECYCLE_RECORDS
            && self.bytes.load(Ordering::Relaxed) < RECYCLE_BYTES
        {
            return Ok(());
        }
        self.records.store(0, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
        self.recycle()
    }

    fn close(&self) -> Result<()> {
        let flushed = match self.flush() {
            Err(Error::Closed) => return Ok(()),
            other => other,
        };
        if flushed.is_ok()
            && let Some(handles) = self.state.write().take()
        {
            self.guarded("close", || {
                drop(handles);
                Ok(())
            })?;
        }
        flushed
    }
}

impl Drop for Sled {
    fn drop(&mut self) {
        // sled flushes when its last handle goes, and aborts the process when that fails.
        if let Err(error) = self.close() {
            tracing::error!(%error, "closing sled");
        }
        if self.failed.load(Ordering::Acquire) {
            mem::forget(self.state.get_mut().take());
        }
    }
}

/// sled prefixes its messages with a trail of its source lines, and says "corrupt" when a checksum
/// of its own does not match.
fn failed(action: &'static str, message: String) -> Error {
    let text = message.rsplit(" -> ").next().unwrap_or(&message);
    if text.contains("corrupt") {
        return Error::corrupt("sled's files", format!("{text} (on {action})"));
    }
    Error::Engine {
        action,
        message: format!("sled: {text}"),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    format!("panicked, its files may be damaged: {text}")
}

fn size_of_dir(dir: &Path) -> io::Result<u64> {
    let mut size = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // sled replaces files while it runs: one that is gone by now counts nothing.
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size += size_of_dir(&entry.path())?,
            Ok(metadata) => size += metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(size)
}
