//! Chunks of the [tail](crate::tail) as batches of the engine, with the durable position's counts.

use std::collections::BTreeSet;

use crate::backend::schema::{self, DurablePosition};
use crate::backend::{Backend, Batch};
use crate::error::Result;
use crate::tail::Chunk;

/// What the engine holds, known to whoever writes to it.
#[derive(Debug)]
pub(crate) struct Io {
    /// What the engine says of itself after the last batch; none while it has no position.
    pub(crate) written: Option<DurablePosition>,
    /// Counts, also of records above the position.
    pub(crate) records: u64,
    pub(crate) live_bytes: u64,
    /// The log index of the last flush.
    pub(crate) flushed_index: u64,
    /// Bytes and batches written since the last flush.
    pub(crate) unflushed_bytes: usize,
    pub(crate) unflushed: bool,
}

impl Io {
    /// The state of an engine just opened.
    pub(crate) fn new(durable: Option<DurablePosition>) -> Self {
        let at = durable.clone().unwrap_or_default();
        Io {
            records: at.records,
            live_bytes: at.live_bytes,
            flushed_index: at.position.index,
            written: durable,
            unflushed_bytes: 0,
            unflushed: false,
        }
    }

    /// The engine is another one, which holds `durable`.
    pub(crate) fn replace(&mut self, durable: DurablePosition) {
        *self = Io::new(Some(durable));
    }

    /// Makes `chunk` a batch. The counts go along, so a batch that is not written is a fault.
    pub(crate) fn batch_of(&mut self, chunk: &Chunk, engine: &dyn Backend) -> Result<Batch> {
        let mut batch = Batch::default();
        for (key, value) in &chunk.records {
            let key_bytes = schema::record_key(key);
            let sealed = schema::seal(&key_bytes, value);
            batch.put(key_bytes, sealed);
            self.records += 1;
            self.live_bytes += (key.as_bytes().len() + value.len()) as u64;
        }
        // A key may be asked for twice: by a compaction that went over the same ground again.
        for key in chunk.deletes.iter().collect::<BTreeSet<_>>() {
            let key_bytes = schema::record_key(key);
            let length = match chunk.records.binary_search_by(|(other, _)| other.cmp(key)) {
                Ok(at) => Some(chunk.records[at].1.len()),
                Err(_) => match engine.get(&key_bytes)? {
                    Some(sealed) => Some(schema::unseal(&key_bytes, &sealed)?.len()),
                    None => None,
                },
            };
            if let Some(length) = length {
                batch.delete(key_bytes);
                self.records -= 1;
                self.live_bytes -= (key.as_bytes().len() + length) as u64;
            }
        }
        for change in &chunk.tables {
            let key = schema::table_key(change.table, &change.key);
            match &change.value {
                Some(value) => {
                    let sealed = schema::seal(&key, value);
                    batch.put(key, sealed);
                }
                None => batch.delete(key),
            }
        }
        self.add_position(chunk, &mut batch);
        Ok(batch)
    }

    fn add_position(&mut self, chunk: &Chunk, batch: &mut Batch) {
        if !chunk.ends_unit() {
            return;
        }
        if let Some(position) = &chunk.position {
            let durable = self.written.get_or_insert_default();
            durable.position = position.clone();
            durable.revision = chunk.revision;
        }
        if let Some(durable) = &mut self.written {
            durable.records = self.records;
            durable.live_bytes = self.live_bytes;
            let key = schema::position_key();
            let sealed = schema::seal(&key, &schema::encode_position(durable));
            batch.put(key, sealed);
        }
    }
}
