//! The multi-version store: every change gets a revision, and every key can be read as it stood at
//! any revision that is not compacted yet. What a revision, a generation and a compaction are is
//! etcd's; `HashKV` of the same history is the same number.
//!
//! # A put's way through this crate
//!
//! ```text
//!  Writer::txn ── WriteTxn::put            one revision (main) for the whole transaction
//!                   │  encode KeyValue once
//!                   ├─► index     key → head (mod, version, create, lease), older revisions aside
//!                   └─► records   revision → encoded KeyValue, in memory, readable at once
//!  WriteTxn::end ── the revision is published: readers see all of it or none
//!  Writer::commit(position) ── closes the unit: what the log says up to `position`
//!                   │
//!                   └─► flush thread ── engine: whole units with their position, in one batch each
//! ```
//!
//! A read takes the heads it needs from the [index](Store::range) under a short read lock, lets go
//! of it, and then fetches the encoded pairs by revision: from what is not flushed yet, else from
//! the value cache, else from the engine. Nothing is decoded on the way out.
//!
//! # Terms
//!
//! - *revision*: `main` is the store-wide counter, `sub` the place inside one transaction.
//! - *generation*: one life of a key, from its creation to the tombstone that ends it.
//! - *tombstone*: the record of a deletion, its key marked with `t`.
//! - *unit*: everything between two [`Writer::commit`]s. A crash never tears one.
//! - *position*: what the log calls the place up to which a unit goes; opaque here.
//!
//! # Layers
//!
//! [`Store`] (shared, reads) and [`Writer`] (one, changes) stand on the key index, which knows which
//! revisions exist, and on the records, which know what they hold; the records stand on a
//! backend. This crate knows nothing of consensus, clients, permissions or quotas.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod backend;
mod build;
mod compaction;
mod content;
mod defrag;
mod directory;
mod error;
mod flush;
mod hash;
mod index;
mod inspect;
mod io;
mod key_index;
pub mod lanes;
mod lease;
mod ledger;
mod options;
mod pipeline;
mod read;
mod records;
mod recovery;
mod revision;
mod snapshot;
mod snapshot_file;
mod store;
mod tail;
mod watch;
mod write;

pub use backend::schema::Table;
pub use build::Builder;
pub use content::Content;
pub use defrag::Defragmented;
pub use directory::engine_of;
pub use error::{Error, Result};
pub use hash::HashKv;
pub use inspect::{Inspection, inspect};
pub use lease::{Expiry, Lease, LeaseChange, Lessor};
pub use options::{CompactionStep, EngineKind, OnCompaction, OnFault, OnFlush, Options, Position};
pub use read::{RangeOptions, RangeResult};
pub use revision::{RevKey, Revision};
pub use snapshot::SnapshotReader;
pub use store::{Store, open};
pub use watch::{
    Delivery, Event, WatchError, WatchLag, WatchOptions, WatchStats, WatchStream, Watching,
};
pub use write::{PrevKv, WriteTxn, Writer};
