//! The sled 1.0 engine, under the conditions it holds on.
//!
//! - One tree, one writing thread. Leaf fan-out 64 is part of the on-disk format.
//! - Pages that this process wrote never leave sled's memory, whatever its cache limit, nor do
//!   those that an iterator read: it counts them in a copy of the cache's books that ends with it.
//!   So the handle is *recycled* (flushed, dropped, opened again) when so many bytes went through
//!   it. Readers wait meanwhile; what was written last is still in memory above the engine and
//!   does not ask it.
//! - A handle can be sent to another thread but not shared, and each keeps books of its own: so
//!   there are a few for readers, each behind a lock, and the cache limit is divided among them.
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
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::available_parallelism;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use super::{BLOCK, Backend, Batch, Page};
use crate::error::{Error, Result};

/// Pairs in a leaf. Files of another fan-out cannot be read.
const LEAF_FANOUT: usize = 64;
/// Bytes that may go through a handle before it is recycled: a part of the files' size, since
/// opening takes time in proportion to it, within bounds.
const RECYCLE_PART: u64 = 16;
const RECYCLE_MIN: u64 = 32 << 20;
const RECYCLE_MAX: u64 = 512 << 20;
/// What a pair costs in memory beside its bytes.
const PAIR_OVERHEAD: usize = 64;
/// Most handles for readers.
const READERS_MAX: usize = 8;
/// A fast level: matches alone, no entropy coding of literals. Level 1 costs twice its CPU.
const ZSTD_LEVEL: i32 = -5;
/// sled's flush interval: never (100 years).
const NEVER_MS: usize = 100 * 365 * 24 * 3_600_000;

/// Where sled keeps what lies where: a snapshot and logs, each with a number.
const METADATA: &str = "metadata";
/// The file with sled's settings.
const SETTINGS: &str = "durability_cookie";

type Db = ::sled::Db<LEAF_FANOUT>;

/// A [`Backend`] over a sled directory.
pub struct Sled {
    dir: PathBuf,
    cache_bytes: usize,
    /// Held for reading by every call, for writing by a recycle or close. None once closed.
    state: RwLock<Option<Handles>>,
    /// Bytes written and scanned since the last recycle.
    used: AtomicU64,
    /// Bytes of the files, when they were last looked at.
    size: AtomicU64,
    failed: AtomicBool,
}

struct Handles {
    writer: Mutex<Db>,
    readers: Vec<Mutex<Db>>,
    /// Where the next reader starts to look for a free handle.
    next: AtomicUsize,
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
            used: AtomicU64::new(0),
            size: AtomicU64::new(0),
            failed: AtomicBool::new(false),
        };
        *engine.state.write() = Some(engine.open_handles()?);
        engine.sync_settings()?;
        Ok(engine)
    }

    /// sled writes its settings when it makes a directory, does not sync them, and opens no
    /// directory whose settings are cut short.
    fn sync_settings(&self) -> Result<()> {
        let path = self.dir.join(SETTINGS);
        let synced = fs::File::open(&path).and_then(|file| file.sync_all());
        synced.map_err(|source| Error::io(path, source))
    }

    /// When sled opens a directory that has a snapshot of its metadata and no log after it, it
    /// writes the same snapshot anew and then removes it as the old one: the next open finds
    /// nothing. A power cut, or a kill, leaves such a directory when it comes after an open and
    /// before the first flush. An empty log keeps sled from it.
    fn add_missing_log(&self) -> io::Result<()> {
        let dir = self.dir.join(METADATA);
        let entries = match fs::read_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let (mut snapshot, mut log) = (None, None);
        for entry in entries {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            snapshot = snapshot.max(numbered(&name, "snapshot_"));
            log = log.max(numbered(&name, "log_"));
        }
        let Some(snapshot) = snapshot.filter(|snapshot| log <= Some(*snapshot)) else {
            return Ok(());
        };
        fs::File::create_new(dir.join(format!("log_{:016x}", snapshot + 1)))?.sync_all()?;
        fs::File::open(&dir)?.sync_all()
    }

    fn open_handles(&self) -> Result<Handles> {
        self.add_missing_log()
            .map_err(|source| Error::io(self.dir.join(METADATA), source))?;
        let readers = available_parallelism()
            .map_or(1, usize::from)
            .min(READERS_MAX);
        let config = ::sled::Config::new()
            .path(&self.dir)
            .cache_capacity_bytes(self.cache_bytes / readers)
            .flush_every_ms(Some(NEVER_MS))
            .zstd_compression_level(ZSTD_LEVEL);
        let db = self.guarded("open", || config.open::<LEAF_FANOUT>())?;
        let readers = (0..readers).map(|_| Mutex::new(db.clone())).collect();
        Ok(Handles {
            writer: Mutex::new(db),
            readers,
            next: AtomicUsize::new(0),
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
        let count = handles.readers.len();
        let start = handles.next.fetch_add(1, Ordering::Relaxed);
        let free = (0..count).find_map(|nth| handles.readers[(start + nth) % count].try_lock());
        let db = free.unwrap_or_else(|| handles.readers[start % count].lock());
        self.guarded(action, || call(&db))
    }

    /// Counts bytes that went through the handle; true when it is time to recycle it.
    fn count(&self, pairs: usize, bytes: usize) -> bool {
        let bytes = (bytes + pairs * PAIR_OVERHEAD) as u64;
        let used = self.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        used >= self.recycle_bytes()
    }

    fn recycle_bytes(&self) -> u64 {
        let size = self.size.load(Ordering::Relaxed);
        (size / RECYCLE_PART).clamp(RECYCLE_MIN, RECYCLE_MAX)
    }

    /// Gives sled's memory back, if nobody did so meanwhile.
    fn recycle(&self) -> Result<()> {
        let mut state = self.state.write();
        if self.used.load(Ordering::Relaxed) < self.recycle_bytes() {
            return Ok(());
        }
        self.used.store(0, Ordering::Relaxed);
        let Some(handles) = state.take() else {
            return Ok(());
        };
        let flushed = self.guarded("flush", || handles.writer.lock().flush().map(|_| ()));
        if let Err(error) = flushed {
            self.failed.store(true, Ordering::Release);
            mem::forget(handles);
            return Err(error);
        }
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
        self.count(batch.changes().len(), batch.bytes());
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
        let (found, bytes) = self.read("scan", |db| {
            let (mut found, mut bytes) = (Vec::new(), 0);
            let mut pairs = db.range(from..to);
            while page.has_room(found.len(), bytes)
                && let Some((key, value)) = pairs.next().transpose()?
            {
                bytes += value.len();
                found.push((Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value)));
            }
            Ok((found, bytes))
        })?;
        if self.count(found.len(), bytes) {
            self.recycle()?;
        }
        Ok(found)
    }

    fn size(&self) -> Result<u64> {
        let size = size_of_dir(&self.dir).map_err(|source| Error::io(&self.dir, source))?;
        self.size.store(size, Ordering::Relaxed);
        Ok(size)
    }

    fn maintain(&self) -> Result<()> {
        self.recycle()
    }

    fn is_busy(&self) -> bool {
        self.state.is_locked_exclusive()
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

/// The number of a file of sled's metadata, if its name begins with `kind`.
fn numbered(name: &str, kind: &str) -> Option<u64> {
    u64::from_str_radix(name.strip_prefix(kind)?, 16).ok()
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
            Ok(metadata) => size += metadata.blocks() * BLOCK,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(size)
}
