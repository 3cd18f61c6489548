//! The thread that writes: takes one change, drains what else waits, writes all as one frame,
//! syncs once, reports in order.
//!
//! ```text
//!  append ─┐                      ┌─ pwrite ─ fdatasync ─┐
//!  vote   ─┼─▶ queue ─▶ drain all ┤  (one frame)         ├─▶ callbacks, in order
//!  purge  ─┘       while the last ┘                      │
//!                  sync runs, more gathers ◀─────────────┘
//! ```
//! The next frame is begun only after the sync of this one: see `recovery` for what that proves.
//! After a failed write or sync nothing more is written, ever: what the file holds is unknown.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Instant;

use super::error::{Error, Result};
use super::handle::Shared;
use super::log::Location;
use super::record::{Entry, FRAME_HEADER_BYTES, LogId, Record, Vote, encode_entry, seal_frame};
use super::recovery::Recovered;
use super::segment::{
    SEGMENT_HEADER_BYTES, Segment, SegmentHeader, activate, reserve_spare, spare_name,
};
use super::spares::Spares;
use crate::disk::DiskLock;

/// Called once with the outcome of a change: on success it is durable.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// A change on its way to the file.
pub(crate) enum Op {
    Append(Vec<Entry>, Done),
    Vote(Vote, Done),
    Truncate(Option<LogId>),
    Purge(LogId),
    /// Write what is left and end.
    Close(Done),
}

impl Op {
    /// Roughly the bytes it adds to the frame.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Op::Append(entries, _) => entries.iter().map(|entry| entry.data.len() + 32).sum(),
            _ => 32,
        }
    }

    /// Reports the outcome to whoever waits for it.
    pub(crate) fn finish(self, outcome: io::Result<()>) {
        match self {
            Op::Append(_, done) | Op::Vote(_, done) | Op::Close(done) => done(outcome),
            Op::Truncate(_) | Op::Purge(_) => {}
        }
    }
}

/// Positions as the frames written so far give them. Repeated at the front of each segment, so
/// that older segments can go.
#[derive(Debug, Clone, Copy, Default)]
struct Written {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    last: Option<LogId>,
}

impl Written {
    fn encode(&self, out: &mut Vec<u8>) {
        let vote = self.vote.map(Record::Vote);
        let purged = self.purged.map(Record::Purge);
        let committed = self.committed.map(Record::Committed);
        vote.into_iter()
            .chain(purged)
            .chain(committed)
            .for_each(|record| record.encode(out));
    }
}

/// A segment, and the highest index of any entry ever written to it.
type Filled = (Arc<Segment>, Option<u64>);

pub(crate) struct Writer {
    shared: Arc<Shared>,
    spares: Spares,
    /// All segments, oldest first; the last one is being written.
    segments: VecDeque<Filled>,
    active: Arc<Segment>,
    offset: u64,
    sequence: u64,
    written: Written,
    spare_asked: bool,
    frame: Vec<u8>,
    /// Held until the thread ends.
    _lock: Box<dyn DiskLock>,
}

/// A frame being put together.
struct Draft {
    written: Written,
    entries: Vec<(LogId, Location)>,
    purges: bool,
}

impl Writer {
    /// Takes over where recovery ended, making the first segment where there is none.
    pub(crate) fn new(
        shared: Arc<Shared>,
        recovered: Recovered,
        lock: Box<dyn DiskLock>,
    ) -> Result<Writer> {
        let options = &shared.options;
        let spares = Spares::spawn(options.disk.clone(), &options.dir, options.segment_bytes)?;
        let Recovered {
            log,
            segments,
            offset,
            sequence,
        } = recovered;
        let written = Written {
            vote: log.vote,
            committed: log.committed,
            purged: log.purged,
            last: log.last(),
        };
        let mut segments = VecDeque::from(segments);
        *shared.log.lock() = log;
        let (active, offset) = match segments.back() {
            Some((active, _)) => (active.clone(), offset),
            None => {
                let (first, offset) = make_segment(&shared, &spares, 1, sequence, &[])?;
                segments.push_back((first.clone(), None));
                (first, offset)
            }
        };
        shared
            .log
            .lock()
            .segments
            .insert(active.number, active.clone());
        Ok(Writer {
            shared,
            spares,
            segments,
            active,
            offset,
            sequence,
            written,
            spare_asked: false,
            frame: Vec::new(),
            _lock: lock,
        })
    }

    /// Serves the queue until it is closed. The thread's body.
    pub(crate) fn run(mut self, inbox: &mpsc::Receiver<Op>) {
        let mut batch = Vec::new();
        while let Ok(op) = inbox.recv() {
            let mut bytes = op.bytes();
            batch.push(op);
            while bytes < self.shared.options.batch_bytes_max {
                let Ok(op) = inbox.try_recv() else { break };
                bytes += op.bytes();
                batch.push(op);
            }
            let closing = batch.iter().any(|op| matches!(op, Op::Close(_)));
            self.serve(&mut batch, bytes, closing);
            if closing {
                return;
            }
        }
        // All handles are gone without a close: the last commit position is still worth keeping.
        self.serve(&mut batch, 0, true);
    }

    /// Writes one batch and reports its outcome.
    fn serve(&mut self, batch: &mut Vec<Op>, bytes: usize, closing: bool) {
        let outcome = match self.shared.failed.get() {
            Some(why) => Err(why.clone()),
            None => {
                self.shared.busy.begin();
                let written = self.write(batch, closing);
                self.shared.busy.end();
                written.map_err(|error| {
                    let why = error.to_string();
                    self.shared.fail(&why);
                    why
                })
            }
        };
        for op in batch.drain(..) {
            op.finish(match &outcome {
                Ok(()) => Ok(()),
                Err(why) => Err(Error::Failed { why: why.clone() }.into_io()),
            });
        }
        self.shared.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.shared.drained.notify_waiters();
    }

    fn write(&mut self, batch: &[Op], closing: bool) -> Result<()> {
        let mut draft = self.draft(batch, closing);
        if self.frame.len() > FRAME_HEADER_BYTES {
            self.write_and_sync(&mut draft)?;
        }
        self.written = draft.written;
        self.publish(draft);
        let segment_bytes = self.shared.options.segment_bytes;
        if self.offset > segment_bytes / 2 && !self.spare_asked && !closing {
            self.spare_asked = true;
            self.spares.prepare();
        }
        let keep = 2 * self.shared.options.batch_bytes_max;
        self.frame.clear();
        self.frame.shrink_to(keep);
        Ok(())
    }

    /// Encodes the batch. Entries' locations count from the start of the frame.
    fn draft(&mut self, batch: &[Op], closing: bool) -> Draft {
        let frame = &mut self.frame;
        frame.clear();
        frame.resize(FRAME_HEADER_BYTES, 0);
        let mut written = self.written;
        let mut entries = Vec::new();
        let mut purges = false;
        for op in batch {
            match op {
                Op::Append(appended, _) => {
                    for entry in appended {
                        let at = frame.len();
                        encode_entry(entry, frame);
                        let record = &frame[at..];
                        let location = Location {
                            segment: 0,
                            offset: at as u64,
                            length: record.len() as u32,
                            crc: crc32c::crc32c(record),
                        };
                        entries.push((entry.id, location));
                        written.last = Some(entry.id);
                    }
                }
                Op::Vote(vote, _) => {
                    Record::Vote(*vote).encode(frame);
                    written.vote = Some(*vote);
                }
                Op::Truncate(last) => {
                    Record::Truncate(*last).encode(frame);
                    written.last = (*last).max(written.purged);
                }
                Op::Purge(upto) => {
                    Record::Purge(*upto).encode(frame);
                    written.purged = written.purged.max(Some(*upto));
                    written.last = written.last.max(Some(*upto));
                    purges = true;
                }
                Op::Close(_) => {}
            }
        }
        // The commit position rides along; alone it is not worth a sync, except at the end. It
        // may run ahead of this frame when its entries are still in the queue.
        let committed = self.shared.log.lock().committed;
        let news =
            committed.filter(|id| Some(*id) > written.committed && Some(*id) <= written.last);
        if let Some(id) = news.filter(|_| closing || frame.len() > FRAME_HEADER_BYTES) {
            Record::Committed(id).encode(frame);
            written.committed = Some(id);
        }
        Draft {
            written,
            entries,
            purges,
        }
    }

    fn write_and_sync(&mut self, draft: &mut Draft) -> Result<()> {
        let length = self.frame.len() as u64;
        let segment_bytes = self.shared.options.segment_bytes;
        let is_fresh = self
            .segments
            .back()
            .is_none_or(|(_, highest)| highest.is_none());
        // A frame larger than a segment goes into one of its own and makes it longer.
        if self.offset + length > segment_bytes && !(is_fresh && length > segment_bytes / 2) {
            self.next_segment()?;
        }
        seal_frame(&mut self.frame, self.sequence, self.active.seed);
        let (file, path) = (&self.active.file, &self.active.path);
        let events = &self.shared.options.events;
        let start = Instant::now();
        let written = file.write_at(&self.frame, self.offset);
        written.map_err(|error| Error::io("append", path, error))?;
        events.wal_write(start.elapsed(), self.frame.len());
        let start = Instant::now();
        file.sync_data()
            .map_err(|error| Error::io("sync", path, error))?;
        events.wal_fsync(start.elapsed());
        for (_, location) in &mut draft.entries {
            location.segment = self.active.number;
            location.offset += self.offset;
        }
        self.offset += length;
        self.sequence += 1;
        Ok(())
    }

    /// Goes on in a new segment, which repeats the positions written so far.
    fn next_segment(&mut self) -> Result<()> {
        let mut state = vec![0; FRAME_HEADER_BYTES];
        self.written.encode(&mut state);
        let number = self.active.number + 1;
        let (segment, offset) =
            make_segment(&self.shared, &self.spares, number, self.sequence, &state)?;
        self.sequence += u64::from(offset > SEGMENT_HEADER_BYTES);
        self.offset = offset;
        self.spare_asked = false;
        self.active = segment.clone();
        self.shared
            .log
            .lock()
            .segments
            .insert(number, segment.clone());
        self.segments.push_back((segment, None));
        Ok(())
    }

    /// Makes known where the entries lie, and lets purged segments go.
    fn publish(&mut self, draft: Draft) {
        if let Some((_, highest)) = self.segments.back_mut() {
            *highest = (*highest).max(draft.entries.iter().map(|(id, _)| id.index).max());
        }
        let options = &self.shared.options;
        let mut log = self.shared.log.lock();
        for (id, location) in draft.entries {
            log.set_location(id, location);
        }
        log.evict(options.cache_entries_max, options.cache_bytes_max);
        let mut retired = Vec::new();
        // Judged by what is durable, not by what the log in memory has already forgotten.
        let purged = self
            .written
            .purged
            .filter(|_| draft.purges)
            .map(|purged| purged.index);
        while let (Some(purged), Some((oldest, highest))) = (purged, self.segments.front()) {
            if oldest.number == self.active.number || highest.is_some_and(|index| index > purged) {
                break;
            }
            log.segments.remove(&oldest.number);
            retired.extend(self.segments.pop_front().map(|(segment, _)| segment));
        }
        drop(log);
        self.spares.retire(retired);
    }
}

/// Makes a segment durable, with its first frame when that holds any record, and returns where
/// the next frame goes.
fn make_segment(
    shared: &Shared,
    spares: &Spares,
    number: u64,
    sequence: u64,
    state: &[u8],
) -> Result<(Arc<Segment>, u64)> {
    let options = &shared.options;
    let spare = match spares.take() {
        Some(spare) => spare,
        None => {
            // A name that the thread of the spares never gives.
            let path = options.dir.join(spare_name(u64::MAX - number));
            reserve_spare(options.disk.as_ref(), path, options.segment_bytes)?
        }
    };
    // Random, so that no frame of the file's earlier life passes in this one.
    let segment_id = rand::random();
    let header = SegmentHeader {
        identity: shared.identity,
        number,
        segment_id,
        sequence,
    };
    let mut frame = state.to_vec();
    if frame.len() > FRAME_HEADER_BYTES {
        seal_frame(&mut frame, sequence, header.seed());
    } else {
        frame.clear();
    }
    let segment = activate(options.disk.as_ref(), &options.dir, spare, header, &frame)?;
    Ok((Arc::new(segment), SEGMENT_HEADER_BYTES + frame.len() as u64))
}
