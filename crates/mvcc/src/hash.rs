//! Hashes of the store's content, by which members compare each other.
//!
//! [`HashKv`] is etcd's number for the same history (`storage/mvcc/hash.go`): CRC-32C over the name
//! of etcd's bucket and then over each record's key and value, in order, of
//!
//! - every revision above the compacted one, up to the hashed one, and
//! - those at or below the compacted one that are still visible at the hashed one,
//!
//! but never the tombstones of the compacted revision itself: some releases of etcd removed them.
//! It does not matter how far the compaction has got.

use parking_lot::Mutex;

use crate::revision::{RevKey, Revision};

/// etcd's bucket of revisions.
const BUCKET: &[u8] = b"key";
/// Most hashes of compactions remembered.
const KEPT: usize = 10;

/// The hash of all pairs up to a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKv {
    /// CRC-32C.
    pub hash: u32,
    /// The compacted revision that the hash starts from; -1 when there is none.
    pub compact_revision: i64,
    /// The revision hashed.
    pub revision: i64,
    /// The store's current revision when the hash was asked for.
    pub current_revision: i64,
}

/// A hash under construction. Records must come in order.
pub(crate) struct Hasher<'a> {
    hash: u32,
    compacted: i64,
    revision: i64,
    keep: &'a [Revision],
}

impl<'a> Hasher<'a> {
    /// Starts a hash of everything up to `revision`. `keep` are the revisions that count among
    /// those at or below `compacted`, sorted.
    pub(crate) fn new(compacted: i64, revision: i64, keep: &'a [Revision]) -> Self {
        Hasher {
            hash: crc32c::crc32c(BUCKET),
            compacted,
            revision,
            keep,
        }
    }

    /// Takes a record in, if it counts.
    pub(crate) fn write(&mut self, key: &RevKey, value: &[u8]) {
        let revision = key.revision();
        if revision.main > self.revision {
            return;
        }
        // An empty list means that nothing is known of a compaction, as in etcd.
        let is_old = revision.main <= self.compacted && !self.keep.is_empty();
        if is_old && self.keep.binary_search(&revision).is_err() {
            return;
        }
        if revision.main == self.compacted && key.is_tombstone() {
            return;
        }
        self.hash = crc32c::crc32c_append(self.hash, key.as_bytes());
        self.hash = crc32c::crc32c_append(self.hash, value);
    }

    /// The hash of everything taken in.
    pub(crate) fn finish(self, current_revision: i64) -> HashKv {
        HashKv {
            hash: self.hash,
            compact_revision: self.compacted,
            revision: self.revision,
            current_revision,
        }
    }
}

/// The hashes that compactions made on their way, each from the compaction before it.
#[derive(Debug, Default)]
pub(crate) struct CompactionHashes(Mutex<Vec<HashKv>>);

impl CompactionHashes {
    /// Remembers a hash; forgets the one of the lowest revision above [`KEPT`].
    pub(crate) fn store(&self, hash: HashKv) {
        let mut hashes = self.0.lock();
        hashes.push(hash);
        hashes.sort_by_key(|hash| hash.revision);
        let surplus = hashes.len().saturating_sub(KEPT);
        hashes.drain(..surplus);
    }

    /// All of them, by revision.
    pub(crate) fn all(&self) -> Vec<HashKv> {
        self.0.lock().clone()
    }

    /// The hash made when compacting at `revision`.
    pub(crate) fn get(&self, revision: i64) -> Option<HashKv> {
        self.0
            .lock()
            .iter()
            .find(|hash| hash.revision == revision)
            .copied()
    }
}
