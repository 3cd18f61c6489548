//! What the [records](crate::records)' handles and the [flush thread](crate::flush) share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, RwLock};
use quick_cache::Weighter;

use crate::backend::Backend;
use crate::backend::schema::DurablePosition;
use crate::directory::Directory;
use crate::error::{Error, Result};
use crate::io::Io;
use crate::options::Options;
use crate::revision::Revision;
use crate::tail::Tail;

/// What one entry costs the cache beside its value.
const CACHE_OVERHEAD: usize = 96;
/// A value of a usual size, from which the cache guesses how many it will hold.
const USUAL_VALUE: usize = 400;

type Cache = quick_cache::sync::Cache<Revision, Bytes, Weight>;

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
    pub(crate) holds: AtomicUsize,
    /// How often the content was replaced by that of a snapshot.
    pub(crate) installs: AtomicU64,
    /// Whether the next generation is being made, by an install or a defragmentation.
    pub(crate) rebuilding: Mutex<bool>,
    /// Signalled when it no longer is.
    pub(crate) rebuilt: Condvar,
    /// So many installs wait to begin: a defragmentation is given up for them.
    pub(crate) installs_waiting: AtomicUsize,
    pub(crate) thread: Mutex<Option<JoinHandle<()>>>,
}

/// What writers and the flush thread tell each other. Units are counted from the start.
#[derive(Debug, Default)]
pub(crate) struct Control {
    /// Someone waits until so many units are written, or durable.
    pub(crate) write_wanted: u64,
    pub(crate) flush_wanted: u64,
    /// So many units are durable.
    pub(crate) durable_count: u64,
    pub(crate) closing: bool,
    /// The thread is gone.
    pub(crate) ended: bool,
    /// The first fault.
    pub(crate) failure: Option<String>,
}

#[derive(Clone)]
pub(crate) struct Weight;

impl Weighter<Revision, Bytes> for Weight {
    fn weight(&self, _: &Revision, value: &Bytes) -> u64 {
        (value.len() + CACHE_OVERHEAD) as u64
    }
}

/// Bytes on disk without what the engine needs for itself: a quota is about what is stored, and
/// etcd's own overhead, which quotas are chosen by, is a few pages.
pub(crate) fn content_bytes(engine: &dyn Backend) -> Result<u64> {
    Ok(engine.size()?.saturating_sub(engine.overhead()))
}

impl Shared {
    pub(crate) fn new(
        directory: Directory,
        engine: Arc<dyn Backend>,
        durable: Option<DurablePosition>,
        options: Options,
    ) -> Result<Self> {
        let cache_bytes = options.cache_bytes;
        let at = durable.clone().unwrap_or_default();
        Ok(Shared {
            engine_bytes: AtomicU64::new(content_bytes(&*engine)?),
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
            installs: AtomicU64::new(0),
            rebuilding: Mutex::new(false),
            rebuilt: Condvar::new(),
            installs_waiting: AtomicUsize::new(0),
            thread: Mutex::new(None),
            options,
        })
    }

    /// Asks the engine; asks the new one if an install closed the old one meanwhile.
    pub(crate) fn ask_engine<T>(&self, ask: impl Fn(&dyn Backend) -> Result<T>) -> Result<T> {
        loop {
            let engine = self.engine.read().clone();
            match ask(&*engine) {
                Err(Error::Closed) if !Arc::ptr_eq(&engine, &self.engine.read()) => {}
                answer => return answer,
            }
        }
    }

    /// The content is another one now. The caller holds `io`.
    pub(crate) fn replaced(&self, durable: &DurablePosition) {
        self.installs.fetch_add(1, Ordering::AcqRel);
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

    /// Nothing may be written any more: nobody knows what the disk holds.
    pub(crate) fn fail(&self, error: &Error) {
        self.failed.store(true, Ordering::Release);
        tracing::error!(%error, "the store stops writing");
        self.control
            .lock()
            .failure
            .get_or_insert_with(|| error.to_string());
        self.progress.notify_all();
        if let Some(on_fault) = &self.options.on_fault {
            on_fault(error);
        }
    }

    /// Asks the engine how much it takes on disk.
    pub(crate) fn update_engine_bytes(&self) -> Result<()> {
        let bytes = content_bytes(&**self.engine.read())?;
        self.engine_bytes.store(bytes, Ordering::Relaxed);
        Ok(())
    }

    pub(crate) fn close(&self) {
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
