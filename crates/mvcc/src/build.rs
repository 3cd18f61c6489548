//! Making a store out of records that come from elsewhere, such as a backup.

use std::path::Path;

use bytes::Bytes;

use crate::backend::schema::{self, DurablePosition, Table};
use crate::backend::{self, Backend, Batch};
use crate::directory::{Directory, Found};
use crate::error::{Error, Result};
use crate::options::{EngineKind, Position};
use crate::revision::RevKey;

/// What goes to the engine at once.
const BATCH_BYTES: usize = 1 << 20;

/// Fills an engine with records in their order, and counts them.
#[derive(Default)]
pub(crate) struct Filler {
    batch: Batch,
    last: Option<RevKey>,
    durable: DurablePosition,
}

impl Filler {
    /// Adds a record. Its revision is after those before.
    ///
    /// Errors: [`Error::Corrupt`] when it is not.
    pub(crate) fn record(&mut self, engine: &dyn Backend, key: RevKey, value: &[u8]) -> Result<()> {
        if self.last.is_some_and(|last| key <= last) {
            let problem = format!("revision {key:?} is out of order");
            return Err(Error::corrupt("the records", problem));
        }
        self.last = Some(key);
        self.durable.revision = key.revision();
        self.durable.records += 1;
        self.durable.live_bytes += (key.as_bytes().len() + value.len()) as u64;
        let key = schema::record_key(&key);
        let sealed = schema::seal(&key, value);
        self.batch.put(key, sealed);
        if self.batch.bytes() >= BATCH_BYTES {
            self.write(engine)?;
        }
        Ok(())
    }

    /// Writes what waits.
    pub(crate) fn write(&mut self, engine: &dyn Backend) -> Result<()> {
        if !self.batch.is_empty() {
            engine.write(&std::mem::take(&mut self.batch))?;
            engine.maintain()?;
        }
        Ok(())
    }

    /// Writes the tables and, last of all, the position; everything is durable on return.
    pub(crate) fn finish(
        mut self,
        engine: &dyn Backend,
        tables: &[(Table, Bytes, Bytes)],
        position: Position,
    ) -> Result<DurablePosition> {
        self.durable.position = position;
        for (table, key, value) in tables {
            let key = schema::table_key(*table, key);
            let sealed = schema::seal(&key, value);
            self.batch.put(key, sealed);
        }
        let key = schema::position_key();
        let sealed = schema::seal(&key, &schema::encode_position(&self.durable));
        self.batch.put(key, sealed);
        engine.write(&self.batch)?;
        engine.flush()?;
        Ok(self.durable)
    }
}

/// Makes a new store in an empty directory. The directory counts as a store once
/// [`finish`](Builder::finish) has returned; one that was left before is laid out anew when opened.
pub struct Builder {
    directory: Directory,
    engine: Box<dyn Backend>,
    filler: Filler,
}

impl Builder {
    /// Lays the directory out.
    ///
    /// Errors: [`Error::Corrupt`] when it holds a store already.
    pub fn new(dir: &Path, engine: EngineKind, engine_cache_bytes: usize) -> Result<Builder> {
        let (directory, found) = Directory::open(dir, engine)?;
        if found != Found::Fresh {
            let place = dir.display().to_string();
            return Err(Error::corrupt(place, "there is a store already"));
        }
        let engine = backend::open(engine, &directory.generation_dir(), engine_cache_bytes)?;
        Ok(Builder {
            directory,
            engine,
            filler: Filler::default(),
        })
    }

    /// Adds a record: the encoded `mvccpb.KeyValue` of a revision, which is after those before.
    ///
    /// Errors: [`Error::Corrupt`] when it is not, and this machine's faults.
    pub fn record(&mut self, key: RevKey, value: &[u8]) -> Result<()> {
        self.filler.record(&*self.engine, key, value)
    }

    /// Writes the tables and the position, makes everything durable and closes the store.
    ///
    /// Errors: this machine's faults; the directory is no store then.
    pub fn finish(self, tables: &[(Table, Bytes, Bytes)], position: Position) -> Result<()> {
        self.filler.finish(&*self.engine, tables, position)?;
        self.engine.close()?;
        self.directory.finish_creation()?;
        self.directory.mark_clean()
    }
}
