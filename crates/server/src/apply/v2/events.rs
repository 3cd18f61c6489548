//! The last events, in a ring of keys.

use bytes::Bytes;
use kvd_api::pb::kvdcommandpb::V2Event;
use kvd_api::pb::mvccpb::KeyValue;
use kvd_mvcc::{Error, RangeOptions, Result, Store, WriteTxn};
use prost::Message;

use super::keys;
use crate::apply::range::decode;

/// Events that are kept. etcd: 1,000.
const EVENTS_MAX: u16 = 1_000;

/// Writes an event into the ring, over the oldest one if it is full.
pub(super) fn record(txn: &mut WriteTxn<'_>, event: &V2Event) -> Result<()> {
    let head = keys::head_key();
    let written = txn.head(&head).map_or(0, |head| head.version);
    // Both fit: the remainder is below 1,000.
    let slot = u16::try_from(written.rem_euclid(i64::from(EVENTS_MAX))).unwrap_or(0);
    txn.put(keys::event_key(slot), event.encode_to_vec().into(), 0)?;
    txn.put(head, Bytes::new(), 0)?;
    Ok(())
}

/// The keys of the ring, for a watcher: the first one and the one behind the last.
pub fn ring() -> (Bytes, Bytes) {
    (keys::event_key(0), keys::event_key(EVENTS_MAX))
}

/// What the ring holds from an index on.
#[derive(Debug)]
pub enum History {
    /// Index and key of each event, in order.
    Kept(Vec<(i64, Bytes)>),
    /// Older events than the one with this index are gone.
    Cleared(i64),
}

/// What the ring holds at `revision`, from the index `since` on.
///
/// Errors: [`Error::Compacted`] when `revision` was compacted meanwhile: take a newer one.
pub fn history(store: &Store, revision: i64, since: i64) -> Result<History> {
    let (key, range_end) = ring();
    let options = RangeOptions {
        revision,
        keys_only: true,
        ..RangeOptions::default()
    };
    let found = store.range(&key, &range_end, &options)?.kvs;
    let pairs = found
        .iter()
        .map(decode)
        .collect::<Result<Vec<KeyValue>>>()?;
    let mut events: Vec<(i64, Bytes)> = pairs
        .into_iter()
        .map(|pair| (pair.mod_revision, pair.key))
        .collect();
    events.sort_unstable();
    let is_full = events.len() >= usize::from(EVENTS_MAX);
    if let Some((oldest, _)) = events.first()
        && is_full
        && since < *oldest
    {
        return Ok(History::Cleared(*oldest));
    }
    events.retain(|(index, _)| *index >= since);
    Ok(History::Kept(events))
}

/// The event that a pair of the ring holds.
///
/// Errors: [`Error::Corrupt`] when it holds none.
pub fn decode_event(pair: &KeyValue) -> Result<V2Event> {
    V2Event::decode(pair.value.clone()).map_err(|error| Error::Corrupt {
        place: "a stored event of the v2 tree".to_owned(),
        problem: error.to_string(),
    })
}
