//! The whole content at one revision as the pieces of a [snapshot file](crate::snapshot_file).

use bytes::{BufMut, Bytes, BytesMut};

use crate::content::Content;
use crate::error::Result;
use crate::options::Position;
use crate::snapshot_file::{END, Frames, HEAD, MAGIC, RECORDS, TABLES, VERSION, put_bytes};

/// The most that [`SnapshotReader::next_chunk`] returns.
const CHUNK_BYTES: usize = 1 << 20;
/// Bytes after which a frame ends. A frame is longer only by one entry.
const FRAME_BYTES: usize = 512 << 10;

/// Reads the store's content as it stood when the reader was made, piece by piece.
///
/// Holds the physical part of compaction back while it lives. Blocks on the disk: not for async
/// threads.
pub struct SnapshotReader {
    content: Content,
    stage: Stage,
    frames: Frames,
    /// Made and not handed out yet.
    ready: Bytes,
    records_count: u64,
    tables_count: u64,
}

#[derive(PartialEq)]
enum Stage {
    Head,
    Tables,
    Records,
    End,
    Done,
}

impl SnapshotReader {
    /// Starts handing out `content`.
    pub(crate) fn new(content: Content) -> Self {
        SnapshotReader {
            content,
            stage: Stage::Head,
            frames: Frames::default(),
            ready: Bytes::new(),
            records_count: 0,
            tables_count: 0,
        }
    }

    /// The next piece, of at most 1 MiB; none after the last. The pieces in their order are the
    /// snapshot file.
    ///
    /// Errors: [`Error::Corrupt`](crate::Error::Corrupt) when a record is damaged; the snapshot is
    /// of no use then.
    pub fn next_chunk(&mut self) -> Result<Option<Bytes>> {
        while self.ready.is_empty() {
            if self.stage == Stage::Done {
                return Ok(None);
            }
            self.ready = self.next_frame()?;
        }
        Ok(Some(self.ready.split_to(self.ready.len().min(CHUNK_BYTES))))
    }

    /// The position that the content belongs to.
    pub fn position(&self) -> &Position {
        self.content.position()
    }

    /// About how many bytes there are to come in all.
    pub fn size_hint(&self) -> u64 {
        self.content.size_hint()
    }

    /// Bytes of the next frame; may be empty between two stages.
    fn next_frame(&mut self) -> Result<Bytes> {
        match self.stage {
            Stage::Head => {
                self.stage = Stage::Tables;
                Ok(self.head())
            }
            Stage::Tables => {
                self.stage = Stage::Records;
                Ok(self.table_frames())
            }
            Stage::Records => self.record_frame(),
            Stage::End => {
                self.stage = Stage::Done;
                let mut body = BytesMut::new();
                body.put_u64(self.records_count);
                body.put_u64(self.tables_count);
                body.put_u64(self.frames.count);
                Ok(self.frames.seal(END, &body))
            }
            Stage::Done => Ok(Bytes::new()),
        }
    }

    fn head(&mut self) -> Bytes {
        let (position, revision) = (self.content.position(), self.content.last());
        let mut body = BytesMut::new();
        body.put_u64(position.index);
        body.put_i64(revision.main);
        body.put_i64(revision.sub);
        body.put_slice(&position.bytes);
        let mut start = BytesMut::from(&MAGIC[..]);
        start.put_u8(VERSION);
        start.put(self.frames.seal(HEAD, &body));
        start.freeze()
    }

    fn table_frames(&mut self) -> Bytes {
        let (mut out, mut body) = (BytesMut::new(), BytesMut::new());
        for (table, key, value) in self.content.take_tables() {
            body.put_u8(table as u8);
            put_bytes(&mut body, &key);
            put_bytes(&mut body, &value);
            self.tables_count += 1;
            if body.len() >= FRAME_BYTES {
                out.put(self.frames.seal(TABLES, &body));
                body.clear();
            }
        }
        if !body.is_empty() {
            out.put(self.frames.seal(TABLES, &body));
        }
        out.freeze()
    }

    fn record_frame(&mut self) -> Result<Bytes> {
        let mut body = BytesMut::with_capacity(FRAME_BYTES + (FRAME_BYTES >> 2));
        // Not more at once than goes into a frame, or it would be read again.
        while body.len() < FRAME_BYTES {
            let page = self.content.next_records()?;
            if page.is_empty() {
                self.stage = Stage::End;
                break;
            }
            for (key, value) in page {
                body.put_u8(key.as_bytes().len() as u8);
                body.put_slice(key.as_bytes());
                put_bytes(&mut body, &value);
                self.records_count += 1;
            }
        }
        Ok(if body.is_empty() {
            Bytes::new()
        } else {
            self.frames.seal(RECORDS, &body)
        })
    }
}

#[cfg(test)]
mod tests;
