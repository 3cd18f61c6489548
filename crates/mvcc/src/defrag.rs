//! Giving disk space back: the engine's content is copied to a new generation, without the holes.
//!
//! ```text
//! 1  everything is copied from the engine, which goes on being read and written
//! 2  the copy is made durable
//! 3  under the lock of whoever writes to the engine: what came meanwhile, the small tables and the
//!    position are copied, and made durable
//! 4  CURRENT is switched to the copy by a rename; readers find the new engine
//! 5  the old generation is removed
//! ```
//!
//! Records never change and are not removed meanwhile, since compaction is held back: so copying
//! them in order misses none. A crash before step 4 leaves the old generation, one after it the new;
//! the other one is removed when the store is opened. Until step 3 nobody waits; during it only the
//! flush thread does, and what is written goes on to the tail.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;

use crate::backend::{self, Backend, Batch, Page, schema};
use crate::error::{Error, Result};
use crate::pipeline::{Shared, content_bytes};
use crate::records::Records;
use crate::revision::Revision;

const PAGE: Page = Page {
    pairs: 1000,
    bytes: 1 << 20,
};
const LAST: Revision = Revision::new(i64::MAX, i64::MAX);
/// A compaction that was under way when it was held back may still remove one batch.
const ATTEMPTS: usize = 3;
/// How often what came meanwhile is copied before the flush thread has to wait for the rest.
const PASSES: usize = 5;
/// So few records are a rest that it can wait for.
const REST: u64 = 2_000;
/// Records between two lines of the log.
const PROGRESS_RECORDS: u64 = 1_000_000;

/// What a defragmentation did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Defragmented {
    /// Bytes on disk before.
    pub before: u64,
    /// Bytes on disk after.
    pub after: u64,
}

/// A copy under way.
struct Copy<'a> {
    shared: &'a Shared,
    target: Box<dyn Backend>,
    /// Where the records go on.
    next: Bytes,
    records: u64,
    bytes: u64,
}

/// Says that the store's generations are being rebuilt, while it lives.
pub(crate) struct RebuildGuard(pub(crate) Arc<Shared>);

impl Drop for RebuildGuard {
    fn drop(&mut self) {
        *self.0.rebuilding.lock() = false;
        self.0.rebuilt.notify_all();
    }
}

impl Records {
    /// Waits until nobody else rebuilds the store's generations, and keeps others from it.
    pub(crate) fn rebuild_guard(&self) -> RebuildGuard {
        let mut rebuilding = self.shared.rebuilding.lock();
        while *rebuilding {
            self.shared.rebuilt.wait(&mut rebuilding);
        }
        *rebuilding = true;
        drop(rebuilding);
        RebuildGuard(self.shared.clone())
    }

    /// Copies the engine's content to a new generation and switches to it.
    ///
    /// Errors: [`Error::Engine`] and [`Error::Io`] when there is no room for the copy: the store
    /// goes on as it was. [`Error::Superseded`] when a snapshot is about to be installed.
    /// [`Error::Closed`], [`Error::Failed`].
    pub(crate) fn defragment(&self) -> Result<Defragmented> {
        let shared = &self.shared;
        let _rebuild = self.rebuild_guard();
        let _hold = self.compaction_hold();
        let before = shared.ask_engine(content_bytes)?;
        for _ in 0..ATTEMPTS {
            shared.write_out()?;
            let files = {
                let directory = shared.directory.lock();
                directory.as_ref().ok_or(Error::Closed)?.next_generation()?
            };
            match self.copy_and_switch(&files) {
                Ok(true) => {
                    let after = shared.ask_engine(content_bytes)?;
                    return Ok(Defragmented { before, after });
                }
                Ok(false) => {
                    tracing::info!("records were removed meanwhile: copying again");
                    self.discard(&files);
                }
                Err(error) => {
                    self.discard(&files);
                    return Err(error);
                }
            }
        }
        Err(Error::Engine {
            action: "copy the records",
            message: "they do not stay the same".to_owned(),
        })
    }

    /// Says whether the copy is the store now; if not, records were removed while it was made.
    fn copy_and_switch(&self, files: &Path) -> Result<bool> {
        let shared = &*self.shared;
        let options = &shared.options;
        let target = backend::open(options.engine, files, options.engine_cache_bytes)?;
        let mut copy = Copy {
            shared,
            target,
            next: schema::record_bounds(Revision::default(), LAST).0,
            records: 0,
            bytes: 0,
        };
        for _ in 0..PASSES {
            let before = copy.records;
            // Not to what comes meanwhile: a writer may be faster than this.
            let written = shared.io.lock().written.clone();
            copy.records(written.unwrap_or_default().revision)?;
            copy.target.flush()?;
            if copy.records - before <= REST {
                break;
            }
        }
        let old = {
            let io = shared.io.lock();
            if let Some(message) = self.failure() {
                return Err(Error::Failed { message });
            }
            copy.records(LAST)?;
            if (copy.records, copy.bytes) != (io.records, io.live_bytes) {
                return Ok(false);
            }
            copy.tables_and_position()?;
            copy.target.flush()?;
            let mut directory = shared.directory.lock();
            let directory = directory.as_mut().ok_or(Error::Closed)?;
            // From here on nobody knows which generation a crash would leave.
            directory.switch().inspect_err(|error| shared.fail(error))?;
            std::mem::replace(&mut *shared.engine.write(), Arc::from(copy.target))
        };
        shared.update_engine_bytes()?;
        if let Err(error) = old.close() {
            tracing::warn!(%error, "closing the replaced engine");
        }
        drop(old);
        if let Some(directory) = &*shared.directory.lock() {
            directory.remove_others()?;
        }
        Ok(true)
    }

    /// Removes a copy that is not to be used.
    fn discard(&self, files: &Path) {
        let directory = self.shared.directory.lock();
        let is_current = |dir: &crate::directory::Directory| dir.generation_dir() == *files;
        if directory.as_ref().is_some_and(|dir| !is_current(dir))
            && self.failure().is_none()
            && let Err(error) = std::fs::remove_dir_all(files)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, dir = %files.display(), "removing what was copied");
        }
    }
}

impl Copy<'_> {
    /// Copies the records up to `to` that are not copied yet.
    fn records(&mut self, to: Revision) -> Result<()> {
        let (_, end) = schema::record_bounds(Revision::default(), to);
        let started = Instant::now();
        loop {
            let (from, shared) = (self.next.clone(), self.shared);
            // Whoever installs a snapshot holds up what is to be applied after it.
            if shared.installs_waiting.load(Ordering::Acquire) > 0 {
                return Err(Error::Superseded);
            }
            let page = shared.ask_engine(|engine| engine.scan(&from, &end, PAGE))?;
            let Some((last, _)) = page.last() else {
                return Ok(());
            };
            self.next = after(last);
            let mut batch = Batch::default();
            for (key, sealed) in page {
                let (record, value) = schema::open_record(&key, &sealed)?;
                self.records += 1;
                self.bytes += (record.as_bytes().len() + value.len()) as u64;
                if self.records.is_multiple_of(PROGRESS_RECORDS) {
                    let (records, bytes) = (self.records, self.bytes);
                    tracing::info!(records, bytes, took = ?started.elapsed(), "defragmenting");
                }
                batch.put(key, sealed);
            }
            self.target.write(&batch)?;
            self.target.maintain()?;
        }
    }

    fn tables_and_position(&mut self) -> Result<()> {
        let (start, end) = schema::table_bounds();
        let (mut from, shared) = (Bytes::from_static(start), self.shared);
        loop {
            let page = shared.ask_engine(|engine| engine.scan(&from, end, PAGE))?;
            let Some((last, _)) = page.last() else { break };
            from = after(last);
            let mut batch = Batch::default();
            for (key, sealed) in page {
                schema::unseal(&key, &sealed)?;
                batch.put(key, sealed);
            }
            self.target.write(&batch)?;
        }
        let key = schema::position_key();
        if let Some(sealed) = shared.ask_engine(|engine| engine.get(&key))? {
            schema::unseal(&key, &sealed)?;
            let mut batch = Batch::default();
            batch.put(key, sealed);
            self.target.write(&batch)?;
        }
        Ok(())
    }
}

/// The first key after `key`.
fn after(key: &Bytes) -> Bytes {
    let mut next = key.to_vec();
    next.push(0);
    next.into()
}

#[cfg(test)]
mod tests;
