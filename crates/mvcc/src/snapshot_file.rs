//! The snapshot file: the whole content at one revision, as a stream of checked frames.
//!
//! ```text
//! stream   "KVDSNAP" version(1)  frame  frame  …  end frame
//! frame    length(4)  crc(4)  kind(1)  entries…
//! kind     'h'  index(8) main(8) sub(8) bytes…            position and newest revision, first
//!          't'  (table(1) length(4) key length(4) value)* the small tables
//!          'k'  (length(1) revision key  length(4) value)*  the records, in order
//!          'e'  records(8) tables(8) frames(8)            counts, last
//!
//! length: of kind and entries; crc: CRC-32C of the frame's number (8) and kind and entries.
//! Integers are big endian.
//! ```
//!
//! The crc covers the frame's number, so a frame that is missing, doubled or moved is found; the end
//! frame says whether the stream is whole.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::backend::schema::{self, DurablePosition, Table};
use crate::backend::{Backend, Batch};
use crate::error::{Error, Result};
use crate::ledger::Entries;
use crate::options::Position;
use crate::revision::{RevKey, Revision};

/// Between two lines of the log while a file is read.
const PROGRESS: Duration = Duration::from_secs(5);
pub(crate) const MAGIC: &[u8; 7] = b"KVDSNAP";
pub(crate) const VERSION: u8 = 1;
/// The longest frame that is read: far above the longest entry a request can make.
const FRAME_BYTES_MAX: usize = 1 << 30;
pub(crate) const HEAD: u8 = b'h';
pub(crate) const TABLES: u8 = b't';
pub(crate) const RECORDS: u8 = b'k';
pub(crate) const END: u8 = b'e';

/// Numbers and seals frames.
#[derive(Default)]
pub(crate) struct Frames {
    pub(crate) count: u64,
}

impl Frames {
    pub(crate) fn seal(&mut self, kind: u8, body: &[u8]) -> Bytes {
        let mut frame = BytesMut::with_capacity(9 + body.len());
        frame.put_u32(1 + body.len() as u32);
        frame.put_u32(checksum(self.count, kind, body));
        frame.put_u8(kind);
        frame.put_slice(body);
        self.count += 1;
        frame.freeze()
    }
}

fn checksum(number: u64, kind: u8, body: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&number.to_be_bytes()), &[kind]);
    crc32c::crc32c_append(crc, body)
}

pub(crate) fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u32(bytes.len() as u32);
    out.put_slice(bytes);
}

/// What a snapshot brought.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) durable: DurablePosition,
    pub(crate) tables: Entries,
}

/// Writes the snapshot in `file` to an empty `engine`, as the content of `position`, and flushes it.
///
/// Errors: [`Error::Corrupt`] and [`Error::NewerFormat`] name the file; the engine's content is of
/// no use then.
pub(crate) fn load(file: &Path, engine: &dyn Backend, position: Position) -> Result<Loaded> {
    let mut source = Source::open(file)?;
    let mut loaded = Loaded {
        durable: DurablePosition::default(),
        tables: Vec::new(),
    };
    let mut last = None;
    let mut said = Instant::now();
    loop {
        let (kind, mut body) = source.frame()?;
        if said.elapsed() >= PROGRESS {
            said = Instant::now();
            let (records, bytes) = (loaded.durable.records, loaded.durable.live_bytes);
            tracing::info!(
                records,
                bytes,
                of = source.bytes,
                "reading a snapshot into the store"
            );
        }
        match kind {
            HEAD => {
                loaded.durable.position.index = source.number(&mut body)?;
                let main = source.number(&mut body)? as i64;
                loaded.durable.revision = Revision::new(main, source.number(&mut body)? as i64);
            }
            TABLES => source.tables(body, &mut loaded.tables)?,
            RECORDS => {
                let batch = source.records(body, &mut loaded.durable, &mut last)?;
                engine.write(&batch)?;
                engine.maintain()?;
            }
            END => {
                source.check_end(body, &loaded)?;
                break;
            }
            _ => return Err(source.corrupt(format!("frame of unknown kind {kind}"))),
        }
    }
    loaded.durable.position = position;
    let mut batch = Batch::default();
    for (table, key, value) in &loaded.tables {
        let key = schema::table_key(*table, key);
        let sealed = schema::seal(&key, value);
        batch.put(key, sealed);
    }
    let key = schema::position_key();
    let sealed = schema::seal(&key, &schema::encode_position(&loaded.durable));
    batch.put(key, sealed);
    engine.write(&batch)?;
    engine.flush()?;
    Ok(loaded)
}

/// A snapshot file being read.
struct Source<'a> {
    path: &'a Path,
    file: BufReader<File>,
    /// Of the whole file.
    bytes: u64,
    frames: u64,
}

impl<'a> Source<'a> {
    fn open(path: &'a Path) -> Result<Self> {
        let file = File::open(path).map_err(|error| Error::io(path, error))?;
        let bytes = file.metadata().map_or(0, |metadata| metadata.len());
        let mut source = Source {
            path,
            bytes,
            file: BufReader::with_capacity(1 << 18, file),
            frames: 0,
        };
        let mut start = [0; MAGIC.len() + 1];
        source.read(&mut start)?;
        if &start[..MAGIC.len()] != MAGIC {
            return Err(source.corrupt("not a snapshot"));
        }
        let version = start[MAGIC.len()];
        if version != VERSION {
            let place = path.display().to_string();
            let (found, supported) = (version.into(), VERSION.into());
            return Err(Error::NewerFormat {
                place,
                found,
                supported,
            });
        }
        Ok(source)
    }

    fn frame(&mut self) -> Result<(u8, Bytes)> {
        let mut head = [0; 9];
        self.read(&mut head)?;
        let mut fields = &head[..];
        let (length, crc, kind) = (fields.get_u32() as usize, fields.get_u32(), fields.get_u8());
        if length == 0 || length > FRAME_BYTES_MAX {
            return Err(self.corrupt(format!("frame {} of {length} bytes", self.frames)));
        }
        // Read in steps: a damaged length must not make us ask for memory the file cannot fill.
        let mut body = Vec::new();
        let wanted = length as u64 - 1;
        let read = (&mut self.file).take(wanted).read_to_end(&mut body);
        if read.map_err(|error| Error::io(self.path, error))? as u64 != wanted {
            return Err(self.corrupt("cut short"));
        }
        if checksum(self.frames, kind, &body) != crc {
            return Err(self.corrupt(format!("frame {} does not match its crc", self.frames)));
        }
        if (self.frames == 0) != (kind == HEAD) {
            return Err(self.corrupt("the head is not the first frame"));
        }
        self.frames += 1;
        Ok((kind, body.into()))
    }

    fn tables(&self, mut body: Bytes, tables: &mut Entries) -> Result<()> {
        while body.has_remaining() {
            let number = body.get_u8();
            let table = Table::from_number(number);
            let table = table.ok_or_else(|| self.corrupt(format!("unknown table {number}")))?;
            let key = self.bytes(&mut body)?;
            tables.push((table, key, self.bytes(&mut body)?));
        }
        Ok(())
    }

    /// The records of a frame as a batch; `durable` counts them, `last` is the one before.
    fn records(
        &self,
        mut body: Bytes,
        durable: &mut DurablePosition,
        last: &mut Option<RevKey>,
    ) -> Result<Batch> {
        let mut batch = Batch::default();
        while body.has_remaining() {
            let length = usize::from(body.get_u8());
            let key = RevKey::decode(&self.take(&mut body, length)?)?;
            let value = self.bytes(&mut body)?;
            if last.is_some_and(|last| key <= last) || key.revision() > durable.revision {
                return Err(self.corrupt(format!("revision {key:?} is out of order")));
            }
            *last = Some(key);
            durable.records += 1;
            durable.live_bytes += (key.as_bytes().len() + value.len()) as u64;
            let key = schema::record_key(&key);
            let sealed = schema::seal(&key, &value);
            batch.put(key, sealed);
        }
        Ok(batch)
    }

    fn check_end(&mut self, mut body: Bytes, loaded: &Loaded) -> Result<()> {
        let said = (
            self.number(&mut body)?,
            self.number(&mut body)?,
            self.number(&mut body)?,
        );
        let found = (
            loaded.durable.records,
            loaded.tables.len() as u64,
            self.frames - 1,
        );
        if said != found {
            let problem = format!("(records, tables, frames) are {found:?}, not {said:?}");
            return Err(self.corrupt(problem));
        }
        let more = self
            .file
            .read(&mut [0])
            .map_err(|error| Error::io(self.path, error))?;
        if more != 0 {
            Err(self.corrupt("goes on after its end"))
        } else {
            Ok(())
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<()> {
        match self.file.read_exact(buffer) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                Err(self.corrupt("cut short"))
            }
            other => other.map_err(|error| Error::io(self.path, error)),
        }
    }

    fn number(&self, body: &mut Bytes) -> Result<u64> {
        body.try_get_u64()
            .map_err(|_| self.corrupt("a frame is cut short"))
    }

    fn bytes(&self, body: &mut Bytes) -> Result<Bytes> {
        let length = body
            .try_get_u32()
            .map_err(|_| self.corrupt("a frame is cut short"))?;
        self.take(body, length as usize)
    }

    fn take(&self, body: &mut Bytes, length: usize) -> Result<Bytes> {
        if length > body.len() {
            return Err(self.corrupt("an entry is longer than its frame"));
        }
        Ok(body.split_to(length))
    }

    fn corrupt(&self, problem: impl Into<String>) -> Error {
        Error::corrupt(format!("snapshot {}", self.path.display()), problem)
    }
}
