//! Ranges of keys at a revision.
//!
//! The index says which revisions to read; the records are fetched after its lock is gone. A
//! compaction may remove one of them in between, and then the range is taken again: either the
//! compacted revision has passed the one asked for, or there is a newer state to show.

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{encode_varint, encoded_len_varint};

use crate::error::{Error, Result};
use crate::index::{Index, KeyRange, Most, Visited};
use crate::key_index::Found;
use crate::revision::Revision;

/// How often a range is taken again when compaction removed what it was about to fetch.
const ATTEMPTS: usize = 8;
/// How often the current state is visited again when a compaction overtakes the visit. The last
/// time the index is locked throughout.
const VISITS: usize = 4;

/// What to read of a range of keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RangeOptions {
    /// The revision to read at; zero or less means the current one.
    pub revision: i64,
    /// Most pairs returned; zero means all.
    pub limit: usize,
    /// Return no pairs, only their number.
    pub count_only: bool,
    /// Return pairs without value and lease, read from the index alone.
    pub keys_only: bool,
    /// Stop counting keys here, once the limit is reached; zero counts all. It bounds the work of
    /// a range that is cut short: a [`RangeResult::count`] of at least this much is a lower bound.
    pub count_max: usize,
}

/// What a range of keys holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeResult {
    /// Encoded `mvccpb.KeyValue`s in byte order of key.
    pub kvs: Vec<Bytes>,
    /// Number of keys in the range, whatever the limit.
    pub count: i64,
    /// The store's current revision.
    pub revision: i64,
}

/// The state of the index that a range looks at.
#[derive(Clone, Copy, Debug)]
pub(crate) enum View {
    /// As it stood at a revision; zero or less is the current one.
    At(i64),
    /// Everything that the writer did so far, which is at this revision.
    Pending(i64),
}

impl View {
    /// Visits the range's keys: `each` folds as many as `most` says into the state returned.
    fn visit<T: Default>(
        self,
        index: &Index,
        range: KeyRange<'_>,
        most: Most,
        each: impl Fn(&mut T, &[u8], Found),
    ) -> Result<(T, Visited)> {
        let mut state = T::default();
        let at = match self {
            View::At(revision) => revision,
            View::Pending(current) => {
                let visit = |key: &[u8], found, _| each(&mut state, key, found);
                let count = index.visit_latest(range, most.visited, visit);
                return Ok((state, Visited { count, current }));
            }
        };
        for _ in 1..VISITS {
            match index.visit(range, at, most, false, |key, found| {
                each(&mut state, key, found)
            }) {
                Err(Error::Compacted { .. }) if at <= 0 => state = T::default(),
                visited => return visited.map(|visited| (state, visited)),
            }
        }
        let visited = index.visit(range, at, most, true, |k, found| each(&mut state, k, found))?;
        Ok((state, visited))
    }
}

/// Reads `range`; `fetch` returns the record of a revision, `None` when it is compacted.
///
/// Errors: [`Error::Compacted`], [`Error::FutureRevision`], and those of `fetch`.
pub(crate) fn range(
    index: &Index,
    view: View,
    range: KeyRange<'_>,
    options: &RangeOptions,
    mut fetch: impl FnMut(Revision) -> Result<Option<Bytes>>,
) -> Result<RangeResult> {
    let unless_zero = |most: usize| Some(most).filter(|most| *most > 0);
    let mut most = Most {
        visited: unless_zero(options.limit),
        counted: unless_zero(options.count_max),
    };
    if options.count_only {
        most.visited = Some(0);
        let ((), visited) = view.visit(index, range, most, |(), _, _| {})?;
        let Visited { count, current } = visited;
        return Ok(RangeResult {
            kvs: Vec::new(),
            count,
            revision: current,
        });
    }
    if options.keys_only {
        return keys_only(index, view, range, most);
    }
    let mut missing = None;
    for _ in 0..ATTEMPTS {
        let (revisions, Visited { count, current }) =
            view.visit(index, range, most, |revisions: &mut Vec<_>, _, found| {
                revisions.push(found.modified);
            })?;
        let mut kvs = Vec::with_capacity(revisions.len());
        missing = None;
        for revision in revisions {
            match fetch(revision)? {
                Some(kv) => kvs.push(kv),
                None => {
                    missing = Some(revision);
                    break;
                }
            }
        }
        if missing.is_none() {
            return Ok(RangeResult {
                kvs,
                count,
                revision: current,
            });
        }
    }
    let place = missing.map_or_else(String::new, |revision| format!("the record of {revision}"));
    Err(Error::corrupt(
        place,
        "the index has it, the engine does not",
    ))
}

fn keys_only(index: &Index, view: View, range: KeyRange<'_>, most: Most) -> Result<RangeResult> {
    let ((buffer, ends), Visited { count, current }) = view.visit(
        index,
        range,
        most,
        |(buffer, ends): &mut (BytesMut, Vec<_>), key, found| {
            encode_key(key, found, buffer);
            ends.push(buffer.len());
        },
    )?;
    let buffer = buffer.freeze();
    let mut start = 0;
    let slice = |end| {
        let kv = buffer.slice(start..end);
        start = end;
        kv
    };
    Ok(RangeResult {
        kvs: ends.into_iter().map(slice).collect(),
        count,
        revision: current,
    })
}

/// Writes a `KeyValue` without value and lease.
fn encode_key(key: &[u8], found: Found, buffer: &mut BytesMut) {
    encode_bytes(key, buffer);
    for (field, value) in [
        (2, found.created),
        (3, found.modified.main),
        (4, found.version),
    ] {
        if value != 0 {
            buffer.put_u8(field << 3);
            encode_varint(value as u64, buffer);
        }
    }
}

fn encode_bytes(key: &[u8], buffer: &mut impl BufMut) {
    if !key.is_empty() {
        buffer.put_u8(1 << 3 | 2);
        encode_varint(key.len() as u64, buffer);
        buffer.put_slice(key);
    }
}

/// The record of a deletion, a `KeyValue` with nothing but the key, and the key in it.
pub(crate) fn encode_tombstone(key: &[u8]) -> (Bytes, Bytes) {
    let mut buffer = Vec::with_capacity(1 + encoded_len_varint(key.len() as u64) + key.len());
    encode_bytes(key, &mut buffer);
    let record = Bytes::from(buffer);
    let key = record.slice(record.len() - key.len()..);
    (record, key)
}

#[cfg(test)]
mod tests {
    use kvd_api::pb::mvccpb::KeyValue;
    use prost::Message;

    use super::*;

    #[test]
    fn hand_made_encodings_are_those_of_the_message() {
        let key = vec![b'k'; 300];
        let found = Found {
            modified: Revision::new(1 << 40, 2),
            created: 7,
            version: 300,
        };
        let message = KeyValue {
            key: key.clone().into(),
            create_revision: 7,
            mod_revision: 1 << 40,
            version: 300,
            ..KeyValue::default()
        };
        let mut buffer = BytesMut::new();
        encode_key(&key, found, &mut buffer);
        assert_eq!(buffer, message.encode_to_vec());

        let message = KeyValue {
            key: key.clone().into(),
            ..KeyValue::default()
        };
        let (record, slice) = encode_tombstone(&key);
        assert_eq!(
            (record, slice),
            (message.encode_to_vec().into(), key.into())
        );
    }
}
