//! How a store is opened, and the log positions it remembers.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::error::Error;

/// The storage engine under the records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineKind {
    /// sled 1.0.
    Sled,
    /// redb 4: the default, since sled failed power cuts (ARCHITECTURE.md).
    #[default]
    Redb,
    /// Nothing on disk: for tests and benchmarks.
    Memory,
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EngineKind::Sled => "sled",
            EngineKind::Redb => "redb",
            EngineKind::Memory => "memory",
        })
    }
}

impl FromStr for EngineKind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "sled" => Ok(EngineKind::Sled),
            "redb" => Ok(EngineKind::Redb),
            "memory" => Ok(EngineKind::Memory),
            _ => Err(format!("unknown engine {name:?}: sled, redb or memory")),
        }
    }
}

/// Called from the flush thread with the log index up to which the log may be purged, and the time
/// that the engine's flush took.
pub type OnFlush = Arc<dyn Fn(u64, Duration) + Send + Sync>;
/// Called once, from the thread that met it, with the fault after which nothing more is written.
pub type OnFault = Arc<dyn Fn(&Error) + Send + Sync>;

/// What a compaction has just done, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompactionStep {
    /// The index forgot what it had to; it took so long.
    Index(Duration),
    /// A batch of records was looked through; it took so long.
    Batch(Duration),
    /// The compaction has ended.
    Finished {
        /// How long it took, pauses among it.
        took: Duration,
        /// How many records it removed.
        removed: usize,
    },
}

/// Called from the compaction thread.
pub type OnCompaction = Arc<dyn Fn(CompactionStep) + Send + Sync>;

/// How a store is opened.
#[derive(Clone)]
pub struct Options {
    /// The engine. A directory keeps the one it was created with.
    pub engine: EngineKind,
    /// Bound of the value cache, in bytes.
    pub cache_bytes: usize,
    /// Bound of the engine's own page cache, in bytes.
    pub engine_cache_bytes: usize,
    /// Longest time that a committed unit waits for its flush.
    pub flush_interval: Duration,
    /// Unflushed bytes that start a flush before `flush_interval` is over.
    pub flush_bytes: usize,
    /// Bytes of committed units that may wait for the flush thread; past it, the writer waits.
    pub unflushed_bytes_max: usize,
    /// Most records that a compaction looks at between two pauses.
    pub compaction_batch_limit: usize,
    /// The pause between two batches of a compaction.
    pub compaction_sleep: Duration,
    /// Told after each flush how far the log may be purged.
    pub on_flush: Option<OnFlush>,
    /// Told of the steps of compactions.
    pub on_compaction: Option<OnCompaction>,
    /// Told of the first fault of a background thread.
    pub on_fault: Option<OnFault>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            engine: EngineKind::default(),
            cache_bytes: 16 << 20,
            engine_cache_bytes: 8 << 20,
            flush_interval: Duration::from_secs(1),
            flush_bytes: 32 << 20,
            unflushed_bytes_max: 64 << 20,
            compaction_batch_limit: 1000,
            compaction_sleep: Duration::from_millis(10),
            on_flush: None,
            on_compaction: None,
            on_fault: None,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("engine", &self.engine)
            .field("cache_bytes", &self.cache_bytes)
            .field("flush_interval", &self.flush_interval)
            .field("flush_bytes", &self.flush_bytes)
            .field("compaction_batch_limit", &self.compaction_batch_limit)
            .field("compaction_sleep", &self.compaction_sleep)
            .finish_non_exhaustive()
    }
}

/// The place in the log up to which a unit of changes goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The log index.
    pub index: u64,
    /// Whatever else the log wants to find again; stored as it is.
    pub bytes: Bytes,
}
