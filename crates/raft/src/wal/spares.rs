//! The thread that keeps the next segment ready, off the path of the writer.
//!
//! A new file is reserved, filled with zeros and synced here, slowly: syncs of a file whose
//! blocks have been written once need no journal commit. A purged segment is renamed to a spare
//! instead, which costs one directory sync. The writer takes what is ready and never waits.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

use super::error::{Error, Result};
use super::segment::{Segment, Spare, reserve_spare, spare_name};
use crate::disk::Disk;

/// Zeroing goes in pieces of this size with a pause after each, so that it leaves the disk to
/// the writer most of the time.
const ZERO_BYTES: usize = 1 << 20;
const ZERO_PAUSE: Duration = Duration::from_millis(4);

/// Zeros written between two syncs, so that no sync has much to do.
const SYNC_BYTES: u64 = 8 << 20;

/// More purged segments than this are removed instead of kept.
const SPARES_MAX: usize = 2;

enum Request {
    /// Make a spare when there is none.
    Prepare,
    /// These segments are purged; oldest first.
    Retire(Vec<Arc<Segment>>),
}

/// Handle of the thread; dropping it ends the thread and waits for it.
#[derive(Debug)]
pub(crate) struct Spares {
    requests: Option<mpsc::Sender<Request>>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    segment_bytes: u64,
    ready: Mutex<Vec<Spare>>,
    stopping: AtomicBool,
}

impl Spares {
    pub(crate) fn spawn(disk: Arc<dyn Disk>, dir: &Path, segment_bytes: u64) -> Result<Spares> {
        let shared = Arc::new(Shared {
            disk,
            dir: dir.to_owned(),
            segment_bytes,
            ready: Mutex::new(Vec::new()),
            stopping: AtomicBool::new(false),
        });
        let (requests, inbox) = mpsc::channel();
        let worker = Worker {
            shared: shared.clone(),
            next_name: 1,
            retired: VecDeque::new(),
        };
        let thread = std::thread::Builder::new()
            .name("wal-spares".into())
            .spawn(move || worker.run(&inbox))
            .map_err(|error| Error::io("start a thread for", dir, error))?;
        Ok(Spares {
            requests: Some(requests),
            shared,
            thread: Some(thread),
        })
    }

    /// Asks for a spare to be made, unless one is ready.
    pub(crate) fn prepare(&self) {
        self.send(Request::Prepare);
    }

    /// Hands over purged segments, oldest first. Their purge must be durable.
    pub(crate) fn retire(&self, segments: Vec<Arc<Segment>>) {
        if !segments.is_empty() {
            self.send(Request::Retire(segments));
        }
    }

    /// A ready spare, if any.
    pub(crate) fn take(&self) -> Option<Spare> {
        self.shared.ready.lock().pop()
    }

    fn send(&self, request: Request) {
        // The thread ends only after this handle; if it panicked, the writer makes its own.
        if let Some(requests) = &self.requests {
            let _ = requests.send(request);
        }
    }
}

impl Drop for Spares {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Worker {
    shared: Arc<Shared>,
    next_name: u64,
    /// Purged segments whose names are still there, oldest first.
    retired: VecDeque<Arc<Segment>>,
}

impl Worker {
    fn run(mut self, inbox: &mpsc::Receiver<Request>) {
        while let Ok(request) = inbox.recv() {
            let done = match request {
                Request::Prepare => self.prepare(),
                Request::Retire(segments) => {
                    self.retired.extend(segments);
                    self.retire()
                }
            };
            // Not fatal: the writer makes its own segment, or fails with the same reason.
            if let Err(error) = done {
                tracing::warn!(%error, "preparing the next log segment failed");
            }
        }
    }

    fn stopping(&self) -> bool {
        self.shared.stopping.load(Ordering::Relaxed)
    }

    fn next_path(&mut self) -> PathBuf {
        let path = self.shared.dir.join(spare_name(self.next_name));
        self.next_name += 1;
        path
    }

    fn prepare(&mut self) -> Result<()> {
        if !self.shared.ready.lock().is_empty() || self.stopping() {
            return Ok(());
        }
        let path = self.next_path();
        let spare = reserve_spare(self.shared.disk.as_ref(), path, self.shared.segment_bytes)?;
        if let Err(error) = self.zero(&spare) {
            // It would keep space that is missing; if this fails too, the next start removes it.
            let _ = self.shared.disk.remove(&spare.path);
            return Err(error);
        }
        self.shared.ready.lock().push(spare);
        Ok(())
    }

    /// Fills a spare with zeros and syncs it; stops early when the log is being closed.
    fn zero(&self, spare: &Spare) -> Result<()> {
        let bytes = self.shared.segment_bytes;
        let zeros = vec![0; ZERO_BYTES.min(bytes as usize)];
        let mut at = 0;
        while at < bytes && !self.stopping() {
            let length = zeros.len().min((bytes - at) as usize);
            let written = spare.file.write_at(&zeros[..length], at);
            written.map_err(|error| Error::io("zero a segment", &spare.path, error))?;
            at += length as u64;
            if at.is_multiple_of(SYNC_BYTES) || at == bytes {
                let synced = spare.file.sync_data();
                synced.map_err(|error| Error::io("sync a segment", &spare.path, error))?;
            }
            if at < bytes {
                std::thread::sleep(ZERO_PAUSE);
            }
        }
        Ok(())
    }

    /// Takes the names of purged segments away, strictly in order: one that fails is tried again
    /// before any later one, or a power cut could leave a hole between segments.
    fn retire(&mut self) -> Result<()> {
        while let Some(segment) = self.retired.front() {
            segment.file.drop_cache();
            let from = segment.path.clone();
            let spare = if self.may_recycle() {
                let path = self.next_path();
                let renamed = self.shared.disk.rename(&from, &path);
                renamed.map_err(|error| Error::io("recycle a segment", &from, error))?;
                Some(path)
            } else {
                let removed = self.shared.disk.remove(&from);
                removed.map_err(|error| Error::io("remove a segment", &from, error))?;
                None
            };
            let segment = self.retired.pop_front();
            let dir = &self.shared.dir;
            let synced = self.shared.disk.sync_dir(dir);
            synced.map_err(|error| Error::io("sync the directory", dir, error))?;
            if let Some((path, segment)) = spare.zip(segment) {
                self.shared.ready.lock().push(Spare {
                    path,
                    file: segment.file.clone(),
                });
            }
        }
        Ok(())
    }

    /// Whether the oldest retired segment's file may be written again: there is room for a
    /// spare, and no reader holds the segment.
    fn may_recycle(&self) -> bool {
        self.shared.ready.lock().len() < SPARES_MAX
            && !self.stopping()
            && self
                .retired
                .front()
                .is_some_and(|segment| Arc::strong_count(segment) == 1)
    }
}
