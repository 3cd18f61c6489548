//! [`Wal`]: the log as its owner sees it.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::error::{Error, Result};
use super::log::{Found, Location, Log};
use super::record::{Entry, LogId, Record, Vote};
use super::recovery::recover;
use super::segment::{Identity, Segment};
use super::watchdog::{self, Busy, StallLimits};
use super::writer::{Done, Op, Writer};
use crate::disk::{Disk, RealDisk};
use crate::events::{Events, NoEvents};

/// Most bytes read from a segment at once.
const READ_BYTES: u64 = 1 << 20;

/// Most bytes of one append: a frame's length must fit into 32 bits with room to spare.
const APPEND_BYTES_MAX: usize = 1 << 30;

/// How a log is opened.
#[derive(Clone)]
pub struct Options {
    /// The directory; made when missing.
    pub dir: PathBuf,
    /// Whose log it is; a log of another cluster is refused.
    pub cluster_id: u64,
    /// Whose log it is; a log of another member is refused.
    pub member_id: u64,
    /// Length of a segment file.
    pub segment_bytes: u64,
    /// A batch is closed for further changes at this size.
    pub batch_bytes_max: usize,
    /// Most written entries kept in memory.
    pub cache_entries_max: usize,
    /// Most data of written entries kept in memory.
    pub cache_bytes_max: usize,
    /// Most data returned by one bounded read for replication, one entry at least.
    pub read_bytes_max: usize,
    /// Above this many bytes on their way to the file, appending waits.
    pub queue_bytes_max: usize,
    /// Where the files live.
    pub disk: Arc<dyn Disk>,
    /// Who is told of writes and syncs.
    pub events: Arc<dyn Events>,
    /// When the disk counts as stalled.
    pub stall: StallLimits,
    /// Told when that begins and when it is over.
    pub stalled: Arc<watch::Sender<bool>>,
}

impl Options {
    /// The usual sizes, on the real disk, reporting to nobody.
    pub fn new(dir: impl Into<PathBuf>, cluster_id: u64, member_id: u64) -> Options {
        Options {
            dir: dir.into(),
            cluster_id,
            member_id,
            segment_bytes: 64 << 20,
            batch_bytes_max: 4 << 20,
            cache_entries_max: 16_384,
            cache_bytes_max: 8 << 20,
            read_bytes_max: 1 << 20,
            queue_bytes_max: 64 << 20,
            disk: Arc::new(RealDisk),
            events: Arc::new(NoEvents),
            stall: StallLimits::default(),
            stalled: Arc::new(watch::Sender::new(false)),
        }
    }
}

/// What the handles and the writer share.
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) identity: Identity,
    /// Written by the handles (positions, entries) and the writer (locations, segments).
    pub(crate) log: Mutex<Log>,
    /// The first failure. Set once, by the writer.
    pub(crate) failed: OnceLock<String>,
    /// Grown by the handles, shrunk by the writer.
    pub(crate) queued_bytes: AtomicUsize,
    /// Signalled by the writer after each batch.
    pub(crate) drained: Notify,
    /// Written by the writer, read by the watchdog.
    pub(crate) busy: Busy,
}

impl Shared {
    /// Remembers and reports the failure that ends all writing.
    pub(crate) fn fail(&self, why: &str) {
        if self.failed.set(why.to_owned()).is_ok() {
            tracing::error!(why, "the write-ahead log failed, this member stops");
            self.options.events.wal_failed(why);
        }
    }
}

/// An open write-ahead log; clones share it.
///
/// Changes take effect in memory at once and in the file in the order of the calls. A change is
/// durable when its callback says so. The thread behind it ends with [`Wal::close`], or with the
/// last clone.
#[derive(Clone)]
pub struct Wal {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    ops: Mutex<Option<mpsc::Sender<Op>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        *self.ops.lock() = None;
        // The last clone may go in a callback, on the writer's own thread.
        if let Some(thread) = self.thread.lock().take()
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Wal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wal")
            .field("dir", &self.inner.shared.options.dir)
            .finish_non_exhaustive()
    }
}

impl Wal {
    /// Opens the log in `options.dir`, reads it back and starts its writer.
    ///
    /// On return everything that can be read is durable. Errors: [`Error::Corrupt`] when durable
    /// bytes are damaged, [`Error::Locked`], the `Wrong…` variants, and the disk's own.
    pub fn open(options: Options) -> Result<Wal> {
        let (disk, dir) = (options.disk.clone(), options.dir.clone());
        disk.create_dir_all(&dir)
            .map_err(|error| Error::io("make the directory", &dir, error))?;
        let path = dir.join("LOCK");
        let lock = disk.lock(&path).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => Error::Locked { dir: dir.clone() },
            _ => Error::io("lock", &path, error),
        })?;
        let identity = Identity {
            cluster_id: options.cluster_id,
            member_id: options.member_id,
        };
        let recovered = recover(disk.as_ref(), &dir, identity)?;
        let shared = Arc::new(Shared {
            options,
            identity,
            log: Mutex::new(Log::default()),
            failed: OnceLock::new(),
            queued_bytes: AtomicUsize::new(0),
            drained: Notify::new(),
            busy: Busy::new(),
        });
        let writer = Writer::new(shared.clone(), recovered, lock)?;
        watchdog::spawn(
            &shared,
            shared.options.stall,
            shared.options.stalled.clone(),
        )?;
        let (ops, inbox) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("wal".into())
            .spawn(move || writer.run(&inbox))
            .map_err(|error| Error::io("start a thread for", &dir, error))?;
        let (ops, thread) = (Mutex::new(Some(ops)), Mutex::new(Some(thread)));
        Ok(Wal {
            inner: Arc::new(Inner {
                shared,
                ops,
                thread,
            }),
        })
    }

    /// Appends entries that follow the last one; `done` is called when they are durable. They
    /// can be read when this returns.
    ///
    /// Errors: [`Error::Hole`]; [`Error::Failed`] and [`Error::Closed`]. `done` is not called
    /// after an error.
    pub fn append(&self, entries: Vec<Entry>, done: Done) -> Result<()> {
        if entries
            .iter()
            .map(|entry| entry.data.len() + 32)
            .sum::<usize>()
            > APPEND_BYTES_MAX
        {
            let source = io::Error::from(io::ErrorKind::FileTooLarge);
            return Err(Error::io("append that much at once", self.dir(), source));
        }
        self.change(|log| {
            let before = log.last();
            for entry in &entries {
                if let Err(error) = log.push(entry.clone()) {
                    log.truncate_after(before);
                    return Err(error);
                }
            }
            Ok(Op::Append(entries, done))
        })
    }

    /// Replaces the vote; `done` is called when it is durable.
    pub fn save_vote(&self, vote: Vote, done: Done) -> Result<()> {
        self.change(|log| {
            log.vote = Some(vote);
            Ok(Op::Vote(vote, done))
        })
    }

    /// Notes that everything up to `id` is committed. Stored with the next batch: after a crash
    /// an older position may come back, never a newer one.
    pub fn save_committed(&self, id: Option<LogId>) {
        self.inner.shared.log.lock().committed = id;
    }

    /// Removes the entries after `last`; all when `None`.
    pub fn truncate_after(&self, last: Option<LogId>) -> Result<()> {
        self.change(|log| {
            log.truncate_after(last);
            Ok(Op::Truncate(last))
        })
    }

    /// Removes the entries up to `upto`. Segments that hold nothing else are recycled once this
    /// is durable.
    pub fn purge(&self, upto: LogId) -> Result<()> {
        self.change(|log| {
            log.purge(upto);
            Ok(Op::Purge(upto))
        })
    }

    /// Changes the log in memory and queues the change for the file, as one step: the file has
    /// the order of memory.
    fn change(&self, make: impl FnOnce(&mut Log) -> Result<Op>) -> Result<()> {
        let shared = &self.inner.shared;
        if let Some(why) = shared.failed.get() {
            return Err(Error::Failed { why: why.clone() });
        }
        let mut log = shared.log.lock();
        let ops = self.inner.ops.lock();
        let ops = ops.as_ref().ok_or(Error::Closed)?;
        let op = make(&mut log)?;
        shared.queued_bytes.fetch_add(op.bytes(), Ordering::Relaxed);
        // The thread ends only after a close, which takes the sender away first.
        ops.send(op).map_err(|_| Error::Closed)
    }

    /// Waits while more than [`Options::queue_bytes_max`] are on their way to the file.
    pub async fn room(&self) {
        self.room_below(self.inner.shared.options.queue_bytes_max)
            .await;
    }

    /// Whether less than half of [`Options::queue_bytes_max`] is on its way to the file. Who asks
    /// this first never has to wait while appending.
    pub fn has_room(&self) -> bool {
        let shared = &self.inner.shared;
        shared.queued_bytes.load(Ordering::Relaxed) <= shared.options.queue_bytes_max / 2
    }

    /// Waits for [`Wal::has_room`].
    pub async fn half_room(&self) {
        self.room_below(self.inner.shared.options.queue_bytes_max / 2)
            .await;
    }

    async fn room_below(&self, bytes: usize) {
        let shared = &self.inner.shared;
        loop {
            let drained = shared.drained.notified();
            tokio::pin!(drained);
            // Registered before the check, so that no signal is missed in between.
            drained.as_mut().enable();
            if shared.queued_bytes.load(Ordering::Relaxed) <= bytes {
                return;
            }
            drained.await;
        }
    }

    /// Writes what is queued and the commit position, and ends the writer. Changes fail with
    /// [`Error::Closed`] afterwards; reads go on. Blocks until done.
    pub fn close(&self) -> Result<()> {
        let Some(ops) = self.inner.ops.lock().take() else {
            return Ok(());
        };
        let (done, outcome) = mpsc::sync_channel(1);
        let op = Op::Close(Box::new(move |result| {
            let _ = done.send(result);
        }));
        self.inner
            .shared
            .queued_bytes
            .fetch_add(op.bytes(), Ordering::Relaxed);
        ops.send(op).map_err(|_| Error::Closed)?;
        let closed = outcome
            .recv()
            .unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()));
        if let Some(thread) = self.inner.thread.lock().take() {
            let _ = thread.join();
        }
        match self.fault() {
            Some(why) => Err(Error::Failed { why }),
            None => closed.map_err(|error| Error::io("close", self.dir(), error)),
        }
    }

    /// The failure that ended all writing, if any.
    pub fn fault(&self) -> Option<String> {
        self.inner.shared.failed.get().cloned()
    }

    /// For how long the disk has been busy with what is being written; zero while it is idle.
    pub fn busy_for(&self) -> Duration {
        self.inner.shared.busy.age()
    }

    /// The options it was opened with.
    pub fn options(&self) -> &Options {
        &self.inner.shared.options
    }

    /// The vote saved last.
    pub fn vote(&self) -> Option<Vote> {
        self.inner.shared.log.lock().vote
    }

    /// The commit position saved last.
    pub fn committed(&self) -> Option<LogId> {
        self.inner.shared.log.lock().committed
    }

    /// The purged position, and the last entry (or the purged position when none follows it).
    pub fn bounds(&self) -> (Option<LogId>, Option<LogId>) {
        let log = self.inner.shared.log.lock();
        (log.purged, log.last())
    }

    /// How many segment files the log has.
    pub fn segment_count(&self) -> usize {
        self.inner.shared.log.lock().segments.len()
    }

    /// The last entry of each term between two indexes, both included.
    pub fn last_of_each_term(&self, first: u64, last: u64) -> Vec<LogId> {
        self.inner.shared.log.lock().last_of_each_term(first, last)
    }

    /// The entries of `range` that the log holds, from its start, until `bytes_max` of data are
    /// found; one at least. Reads files where memory does not have the entry; blocks for that.
    ///
    /// Errors: [`Error::Corrupt`] when a file does not give back what was written.
    pub fn read(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<Entry>> {
        load(self.find(range, bytes_max))
    }

    /// First half of [`Wal::read`]: what memory has. The rest is in the second half, [`load`].
    pub(crate) fn find(&self, range: Range<u64>, bytes_max: usize) -> Vec<Found> {
        self.inner.shared.log.lock().find(range, bytes_max)
    }

    fn dir(&self) -> &std::path::Path {
        &self.inner.shared.options.dir
    }
}

/// Reads what was not in memory, neighbours together, each record checked.
pub(crate) fn load(found: Vec<Found>) -> Result<Vec<Entry>> {
    let mut entries = Vec::with_capacity(found.len());
    let mut piece: Option<Piece> = None;
    let mut left = found.into_iter().peekable();
    while let Some(next) = left.next() {
        let (id, at, segment) = match next {
            Found::Here(entry) => {
                entries.push(entry);
                continue;
            }
            Found::In(id, at, segment) => (id, at, segment),
        };
        let entry = match piece.as_ref().and_then(|piece| piece.get(at)) {
            Some(record) => decode(record, id, at, &segment)?,
            None => {
                let fresh = Piece::read(at, &segment)?;
                let record = fresh.get(at).unwrap_or_default();
                let entry = decode(record, id, at, &segment)?;
                piece = matches!(left.peek(), Some(Found::In(..))).then_some(fresh);
                entry
            }
        };
        entries.push(entry);
    }
    Ok(entries)
}

/// A stretch of a segment, read at once.
struct Piece {
    segment: u64,
    start: u64,
    bytes: Bytes,
}

impl Piece {
    /// Reads from `at` on, further than asked since the next entry usually follows.
    fn read(at: Location, segment: &Segment) -> Result<Piece> {
        let fail = |error| Error::io("read", &segment.path, error);
        let size = segment.file.size().map_err(fail)?;
        let wanted = READ_BYTES
            .max(u64::from(at.length))
            .min(size.saturating_sub(at.offset));
        let mut buffer = vec![0; wanted as usize];
        let read = segment.file.read_at(&mut buffer, at.offset).map_err(fail)?;
        buffer.truncate(read);
        Ok(Piece {
            segment: at.segment,
            start: at.offset,
            bytes: buffer.into(),
        })
    }

    fn get(&self, at: Location) -> Option<Bytes> {
        if self.segment != at.segment {
            return None;
        }
        let from = usize::try_from(at.offset.checked_sub(self.start)?).ok()?;
        let end = from.checked_add(at.length as usize)?;
        (end <= self.bytes.len()).then(|| self.bytes.slice(from..end))
    }
}

fn decode(record: Bytes, id: LogId, at: Location, segment: &Segment) -> Result<Entry> {
    let mut rest = record.clone();
    match Record::decode(&mut rest) {
        Some(Record::Entry(entry))
            if entry.id == id && crc32c::crc32c(&record) == at.crc && rest.is_empty() =>
        {
            Ok(entry)
        }
        _ => {
            let what = format!("entry {} does not read back as it was written", id.index);
            Err(Error::corrupt(&segment.path, at.offset, what))
        }
    }
}
