//! Reading the log back at start: every frame checked, a torn tail cut, damage refused.
//!
//! A batch is written only after the one before it is durable. So when a frame does not pass:
//!
//! - a later frame of the same segment, or a later segment, proves that the bad one had been
//!   durable: that is damage, and the member refuses to start;
//! - otherwise it was never acknowledged to anyone: it is cut, and the next batch takes its place.
//!
//! A frame counts as "later" by its header alone: had it been torn itself, it would still have
//! been begun after the sync of the one before it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::error::{Error, Result};
use super::log::{Location, Log};
use super::record::{FRAME_HEADER_BYTES, FRAME_MAGIC, FrameHeader, LogId, Record};
use super::segment::{
    Identity, SEGMENT_HEADER_BYTES, Segment, SegmentHeader, is_spare, segment_name, segment_number,
};
use crate::disk::{Disk, DiskFile};

/// How much of a file is read at once.
const WINDOW_BYTES: u64 = 1 << 20;

/// A log read back, and where writing goes on.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) log: Log,
    /// Segments in order, each with the highest index ever written to it. The last one is
    /// written on. Empty for a fresh directory.
    pub(crate) segments: Vec<(Arc<Segment>, Option<u64>)>,
    /// Where in the last segment the next frame goes.
    pub(crate) offset: u64,
    /// The sequence of the next frame.
    pub(crate) sequence: u64,
}

/// Reads all segments in `dir`, and removes left-over spares.
pub(crate) fn recover(disk: &dyn Disk, dir: &Path, identity: Identity) -> Result<Recovered> {
    recover_and_show(disk, dir, identity, &mut |_, _, _| {})
}

/// [`recover`] that shows each record, with its file and offset, before it is taken in.
pub(crate) fn recover_and_show(
    disk: &dyn Disk,
    dir: &Path,
    identity: Identity,
    show: &mut dyn FnMut(&Path, u64, &Record),
) -> Result<Recovered> {
    let names = disk
        .list(dir)
        .map_err(|error| Error::io("list the directory", dir, error))?;
    let numbers: Vec<u64> = names
        .iter()
        .filter_map(|name| segment_number(name))
        .collect();
    let mut recovery = Recovery {
        dir,
        show,
        identity,
        recovered: Recovered {
            log: Log::default(),
            segments: Vec::new(),
            offset: SEGMENT_HEADER_BYTES,
            sequence: 1,
        },
    };
    for (place, number) in numbers.iter().enumerate() {
        recovery.segment(disk, *number, place == 0, place + 1 == numbers.len())?;
    }
    // Only now: the log of another member is refused untouched.
    for name in names.iter().filter(|name| is_spare(name)) {
        let path = dir.join(name);
        disk.remove(&path)
            .map_err(|error| Error::io("remove a spare segment", &path, error))?;
    }
    if let Some((newest, _)) = recovery.recovered.segments.last() {
        // What was read may so far be in the page cache only, and from here on counts as durable.
        newest
            .file
            .sync_data()
            .map_err(|error| Error::io("sync", &newest.path, error))?;
        disk.sync_dir(dir)
            .map_err(|error| Error::io("sync the directory", dir, error))?;
    }
    recovery.check_and_finish()
}

struct Recovery<'a> {
    dir: &'a Path,
    show: &'a mut dyn FnMut(&Path, u64, &Record),
    identity: Identity,
    recovered: Recovered,
}

impl Recovery<'_> {
    fn segment(&mut self, disk: &dyn Disk, number: u64, oldest: bool, newest: bool) -> Result<()> {
        let path = self.dir.join(segment_name(number));
        let file = disk
            .open(&path)
            .map_err(|error| Error::io("open", &path, error))?;
        let mut window = Window::new(&path, file.as_ref())?;
        let bytes = window.get(0, SEGMENT_HEADER_BYTES)?.unwrap_or_default();
        let header = SegmentHeader::decode(&bytes, &path, self.identity)?;
        if header.number != number {
            let what = format!(
                "the header says segment {:x}, the name {number:x}",
                header.number
            );
            return Err(Error::corrupt(&path, 0, what));
        }
        if oldest {
            self.recovered.sequence = header.sequence;
        } else {
            self.check_follows(&header, &path)?;
        }
        let seed = header.seed();
        self.recovered.log.segments.insert(
            number,
            Arc::new(Segment {
                number,
                seed,
                path: path.clone(),
                file: file.clone(),
            }),
        );
        let segment = self.recovered.log.segments[&number].clone();
        self.recovered.segments.push((segment, None));
        self.recovered.offset = SEGMENT_HEADER_BYTES;
        while self.frame(&mut window, number, seed)? {}
        let damage = window.later_frame(self.recovered.offset, self.recovered.sequence, seed)?;
        if let Some(later) = damage.filter(|_| newest) {
            let what = format!(
                "frame {} is damaged: the later frame {} at byte {} is intact, so it was durable",
                self.recovered.sequence, later.1, later.0
            );
            return Err(Error::corrupt(&path, self.recovered.offset, what));
        }
        Ok(())
    }

    /// A segment must begin where the one before it ends.
    fn check_follows(&self, header: &SegmentHeader, path: &Path) -> Result<()> {
        let Some((before, _)) = self.recovered.segments.last() else {
            return Ok(());
        };
        if header.number != before.number + 1 {
            let missing = self.dir.join(segment_name(before.number + 1));
            return Err(Error::corrupt(
                &missing,
                0,
                "this segment of the log is missing",
            ));
        }
        if header.sequence != self.recovered.sequence {
            let what = format!(
                "frame {} is damaged: {} goes on with frame {}, so it was durable",
                self.recovered.sequence,
                path.display(),
                header.sequence
            );
            return Err(Error::corrupt(&before.path, self.recovered.offset, what));
        }
        Ok(())
    }

    /// Takes the next frame in; `false` at the end of what passes.
    fn frame(&mut self, window: &mut Window<'_>, number: u64, seed: u32) -> Result<bool> {
        let offset = self.recovered.offset;
        let Some(header) = window.get(offset, FRAME_HEADER_BYTES as u64)? else {
            return Ok(false);
        };
        let header = FrameHeader::decode(&header, seed)
            .filter(|header| header.sequence == self.recovered.sequence);
        let Some(header) = header else {
            return Ok(false);
        };
        let start = offset + FRAME_HEADER_BYTES as u64;
        let payload = window.get(start, u64::from(header.length))?;
        let Some(payload) = payload.filter(|payload| header.matches(payload, seed)) else {
            return Ok(false);
        };
        self.records(payload, number, start, &window.path)?;
        self.recovered.offset = start + u64::from(header.length);
        self.recovered.sequence += 1;
        Ok(true)
    }

    fn records(&mut self, payload: Bytes, number: u64, start: u64, path: &Path) -> Result<()> {
        let mut rest = payload.clone();
        while !rest.is_empty() {
            let from = payload.len() - rest.len();
            let at = start + from as u64;
            let record = Record::decode(&mut rest).ok_or_else(|| {
                Error::corrupt(path, at, "a record of unknown form under a valid checksum")
            })?;
            (self.show)(path, at, &record);
            let bytes = &payload[from..payload.len() - rest.len()];
            self.record(record, bytes, Place { number, at, path })?;
        }
        Ok(())
    }

    fn record(&mut self, record: Record, bytes: &[u8], place: Place<'_>) -> Result<()> {
        let log = &mut self.recovered.log;
        match record {
            Record::Vote(vote) => log.vote = Some(vote),
            Record::Committed(id) => log.committed = Some(id),
            Record::Truncate(last) => log.truncate_after(last),
            Record::Purge(upto) => log.purge(upto),
            Record::Entry(entry) => {
                let location = Location {
                    segment: place.number,
                    offset: place.at,
                    length: bytes.len() as u32,
                    crc: crc32c::crc32c(bytes),
                };
                log.push_written(entry.id, location)
                    .map_err(|error| Error::corrupt(place.path, place.at, error.to_string()))?;
                if let Some((_, highest)) = self.recovered.segments.last_mut() {
                    *highest = (*highest).max(Some(entry.id.index));
                }
            }
        }
        Ok(())
    }

    /// Entries must follow the purged ones without a hole, else the oldest segment is missing.
    fn check_and_finish(mut self) -> Result<Recovered> {
        let log = &mut self.recovered.log;
        let range = log.range();
        let expected = log
            .purged
            .map_or(range.start.min(1), |purged| purged.index + 1);
        if !range.is_empty() && range.start != expected {
            let missing = self
                .recovered
                .segments
                .first()
                .map(|(oldest, _)| oldest.number);
            let missing = missing
                .and_then(|number| number.checked_sub(1))
                .unwrap_or_default();
            let what = format!(
                "the log begins at entry {} instead of {expected}: its oldest segment is missing",
                range.start
            );
            return Err(Error::corrupt(
                &self.dir.join(segment_name(missing)),
                0,
                what,
            ));
        }
        // A hint only. It may have been written before the entries that it is about: openraft must
        // not be told of a commit beyond the log, nor that those are committed which they replace.
        let committed = log.committed.filter(|id: &LogId| {
            let is_purged = log.purged.is_some_and(|purged| purged.index >= id.index);
            is_purged || log.id_at(id.index) == Some(*id)
        });
        log.committed = committed;
        Ok(self.recovered)
    }
}

#[derive(Clone, Copy)]
struct Place<'a> {
    number: u64,
    at: u64,
    path: &'a Path,
}

/// Reads a file through a buffer, so that small frames do not cost a call each.
struct Window<'a> {
    path: PathBuf,
    file: &'a dyn DiskFile,
    size: u64,
    start: u64,
    bytes: Bytes,
}

impl<'a> Window<'a> {
    fn new(path: &Path, file: &'a dyn DiskFile) -> Result<Window<'a>> {
        let size = file
            .size()
            .map_err(|error| Error::io("measure", path, error))?;
        Ok(Window {
            path: path.to_owned(),
            file,
            size,
            start: 0,
            bytes: Bytes::new(),
        })
    }

    /// `length` bytes at `offset`; `None` when the file ends before.
    fn get(&mut self, offset: u64, length: u64) -> Result<Option<Bytes>> {
        let Some(end) = offset.checked_add(length).filter(|end| *end <= self.size) else {
            return Ok(None);
        };
        if offset < self.start || end > self.start + self.bytes.len() as u64 {
            let wanted = length.max(WINDOW_BYTES).min(self.size - offset);
            let mut buffer = vec![0; wanted as usize];
            let read = self.file.read_at(&mut buffer, offset);
            let read = read.map_err(|error| Error::io("read", &self.path, error))?;
            if (read as u64) < length {
                return Ok(None);
            }
            buffer.truncate(read);
            (self.start, self.bytes) = (offset, buffer.into());
        }
        let from = (offset - self.start) as usize;
        Ok(Some(self.bytes.slice(from..from + length as usize)))
    }

    /// Offset and sequence of the first frame header at or after `from` whose sequence is above
    /// `bad`.
    fn later_frame(&mut self, from: u64, bad: u64, seed: u32) -> Result<Option<(u64, u64)>> {
        let mut at = from;
        while at + FRAME_HEADER_BYTES as u64 <= self.size {
            let length = WINDOW_BYTES.min(self.size - at);
            let Some(bytes) = self.get(at, length)? else {
                return Ok(None);
            };
            let found = magics(&bytes).find_map(|place| {
                let header = FrameHeader::decode(&bytes[place..], seed)?;
                (header.sequence > bad).then_some((at + place as u64, header.sequence))
            });
            if found.is_some() {
                return Ok(found);
            }
            if at + length == self.size {
                break;
            }
            // The windows overlap, so that no header lies across a border.
            at += length - (FRAME_HEADER_BYTES as u64 - 1);
        }
        Ok(None)
    }
}

/// Where frames may begin in `bytes`. Pieces of zeros, most of a fresh segment, are skipped whole.
fn magics(bytes: &[u8]) -> impl Iterator<Item = usize> + '_ {
    const PIECE: usize = 4096;
    static ZEROS: [u8; PIECE] = [0; PIECE];
    let pieces = bytes
        .chunks(PIECE)
        .enumerate()
        .filter(|(_, piece)| **piece != ZEROS[..piece.len()]);
    pieces.flat_map(move |(number, piece)| {
        let start = number * PIECE;
        (start..start + piece.len()).filter(|place| bytes[*place..].starts_with(&FRAME_MAGIC))
    })
}
