//! The redb engine: a copy-on-write B-tree in one file.
//!
//! A batch is a transaction with no durability of its own; [`flush`](Backend::flush) commits an
//! empty durable one, which carries all before it. With *quick repair* that commit also saves the
//! allocator's state, so that opening after a crash does not walk the file.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ::redb::{Database, Durability, ReadableDatabase, StorageBackend, TableDefinition};
use bytes::Bytes;
use parking_lot::RwLock;

use super::{BLOCK, Backend, Batch, Page};
use crate::error::{Error, Result};

const FILE: &str = "data.redb";
/// What a nearly empty file measures after some commits: page tables, the saved state of the
/// allocator, and the pages of the commit before, twice. Found by measuring 53 to 114 KB.
const OVERHEAD: u64 = 128 << 10;
const PAIRS: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("kvd");

/// A [`Backend`] over one redb file.
pub struct Redb {
    /// The file; none over a storage that the caller supplied.
    file: Option<PathBuf>,
    /// None once closed. Held for writing by close only.
    database: RwLock<Option<Database>>,
}

impl fmt::Debug for Redb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redb")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

impl Redb {
    /// Opens or creates `data.redb` in `dir`.
    ///
    /// Errors: [`Error::Engine`] when redb cannot read it.
    pub fn open(dir: &Path, cache_bytes: usize) -> Result<Self> {
        let file = dir.join(FILE);
        let database = Database::builder()
            .set_cache_size(cache_bytes)
            .create(&file)
            .map_err(|error| failed("open", error.into()))?;
        Self::with_table(Some(file), database)
    }

    /// Opens over `storage` instead of a file: the seam through which tests cut the power.
    pub fn open_storage(storage: impl StorageBackend, cache_bytes: usize) -> Result<Self> {
        let database = Database::builder()
            .set_cache_size(cache_bytes)
            .create_with_backend(storage)
            .map_err(|error| failed("open", error.into()))?;
        Self::with_table(None, database)
    }

    /// Creates the table if it is not there, so that reading may rely on it.
    fn with_table(file: Option<PathBuf>, database: Database) -> Result<Self> {
        let engine = Redb {
            file,
            database: RwLock::new(Some(database)),
        };
        let exists = engine.with("open", |database| {
            let read = database.begin_read()?;
            match read.open_table(PAIRS) {
                Ok(_) => Ok(true),
                Err(::redb::TableError::TableDoesNotExist(_)) => Ok(false),
                Err(error) => Err(error.into()),
            }
        })?;
        if !exists {
            engine.commit("create", Durability::Immediate, &Batch::default())?;
        }
        Ok(engine)
    }

    fn with<T>(
        &self,
        action: &'static str,
        call: impl FnOnce(&Database) -> std::result::Result<T, ::redb::Error>,
    ) -> Result<T> {
        let guard = self.database.read();
        let database = guard.as_ref().ok_or(Error::Closed)?;
        call(database).map_err(|error| failed(action, error))
    }

    fn commit(&self, action: &'static str, durability: Durability, batch: &Batch) -> Result<()> {
        self.with(action, |database| {
            let mut txn = database.begin_write()?;
            txn.set_durability(durability)?;
            txn.set_quick_repair(matches!(durability, Durability::Immediate));
            {
                let mut pairs = txn.open_table(PAIRS)?;
                for change in batch.changes() {
                    match &change.value {
                        Some(value) => pairs.insert(&change.key[..], &value[..])?,
                        None => pairs.remove(&change.key[..])?,
                    };
                }
            }
            Ok(txn.commit()?)
        })
    }
}

impl Backend for Redb {
    fn write(&self, batch: &Batch) -> Result<()> {
        self.commit("write a batch", Durability::None, batch)
    }

    fn flush(&self) -> Result<()> {
        self.commit("flush", Durability::Immediate, &Batch::default())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.with("read", |database| {
            let pairs = database.begin_read()?.open_table(PAIRS)?;
            Ok(pairs
                .get(key)?
                .map(|value| Bytes::copy_from_slice(value.value())))
        })
    }

    fn scan(&self, from: &[u8], to: &[u8], page: Page) -> Result<Vec<(Bytes, Bytes)>> {
        if from >= to {
            return Ok(Vec::new());
        }
        self.with("scan", |database| {
            let pairs = database.begin_read()?.open_table(PAIRS)?;
            let (mut found, mut bytes) = (Vec::new(), 0);
            let mut range = pairs.range::<&[u8]>(from..to)?;
            while page.has_room(found.len(), bytes)
                && let Some((key, value)) = range.next().transpose()?
            {
                bytes += value.value().len();
                let key = Bytes::copy_from_slice(key.value());
                found.push((key, Bytes::copy_from_slice(value.value())));
            }
            Ok(found)
        })
    }

    fn size(&self) -> Result<u64> {
        match &self.file {
            Some(file) => fs::metadata(file)
                .map(|metadata| metadata.blocks() * BLOCK)
                .map_err(|source| Error::io(file, source)),
            None => Ok(0),
        }
    }

    fn overhead(&self) -> u64 {
        OVERHEAD
    }

    fn close(&self) -> Result<()> {
        let flushed = match self.flush() {
            Err(Error::Closed) => return Ok(()),
            other => other,
        };
        drop(self.database.write().take());
        flushed
    }
}

fn failed(action: &'static str, error: ::redb::Error) -> Error {
    match error {
        ::redb::Error::Corrupted(problem) => Error::corrupt(FILE, problem),
        ::redb::Error::Io(error) => Error::Engine {
            action,
            message: format!("redb: {error}"),
        },
        error => Error::Engine {
            action,
            message: format!("redb: {error}"),
        },
    }
}
