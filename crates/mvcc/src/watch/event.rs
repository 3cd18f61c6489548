//! One change, encoded once for all who hear of it.

use std::sync::OnceLock;

use bytes::{BufMut, Bytes, BytesMut};
use kvd_api::pb::mvccpb::KeyValue;
use prost::Message;
use prost::encoding::{decode_varint, encode_varint, encoded_len_varint};

use crate::revision::RevKey;

/// `KeyValue.key`, length-delimited.
const KEY_TAG: u8 = 1 << 3 | 2;
/// `KeyValue.mod_revision`, a varint.
const MOD_REVISION_TAG: u8 = 3 << 3;
/// `Event.type` and its value DELETE.
const TYPE_DELETE: [u8; 2] = [1 << 3, 1];
/// `Event.kv`, length-delimited.
const KV_TAG: u8 = 2 << 3 | 2;
/// `Event.prev_kv`, length-delimited.
const PREV_KV_TAG: u8 = 3 << 3 | 2;

/// A put or a deletion of one key, as `mvccpb.Event`.
#[derive(Debug)]
pub struct Event {
    record: RevKey,
    kv: Bytes,
    encoded: Bytes,
    with_prev: OnceLock<Bytes>,
}

impl Event {
    /// The event that a stored record stands for.
    pub(crate) fn new(record: RevKey, kv: Bytes) -> Event {
        let revision = record.revision().main as u64;
        let deletion = record.is_tombstone();
        // A tombstone's record is the key alone; its event also says when.
        let extra = if deletion {
            1 + encoded_len_varint(revision)
        } else {
            0
        };
        let length = kv.len() + extra;
        let mut encoded = BytesMut::with_capacity(length + 16);
        if deletion {
            encoded.put_slice(&TYPE_DELETE);
        }
        encoded.put_u8(KV_TAG);
        encode_varint(length as u64, &mut encoded);
        encoded.put_slice(&kv);
        if deletion {
            encoded.put_u8(MOD_REVISION_TAG);
            encode_varint(revision, &mut encoded);
        }
        Event {
            record,
            kv,
            encoded: encoded.freeze(),
            with_prev: OnceLock::new(),
        }
    }

    /// The key that changed.
    pub fn key(&self) -> Bytes {
        record_key(&self.kv)
    }

    /// The revision of the change.
    pub fn mod_revision(&self) -> i64 {
        self.record.revision().main
    }

    /// Whether the key was deleted.
    pub fn is_delete(&self) -> bool {
        self.record.is_tombstone()
    }

    /// The event as `mvccpb.Event`, without the pair before.
    pub fn encoded(&self) -> Bytes {
        self.encoded.clone()
    }

    /// The event with the pair before, which `look_up` is asked for once, unless the event created
    /// the key. Whoever asks later gets the same bytes.
    pub(crate) fn encoded_with_prev(&self, look_up: impl FnOnce() -> Option<Bytes>) -> Bytes {
        let encode = || {
            let prev = if self.is_create() { None } else { look_up() };
            let Some(prev) = prev else {
                return self.encoded.clone();
            };
            let mut encoded = BytesMut::with_capacity(self.encoded.len() + prev.len() + 8);
            encoded.put_slice(&self.encoded);
            encoded.put_u8(PREV_KV_TAG);
            encode_varint(prev.len() as u64, &mut encoded);
            encoded.put_slice(&prev);
            encoded.freeze()
        };
        self.with_prev.get_or_init(encode).clone()
    }

    fn is_create(&self) -> bool {
        !self.is_delete()
            && KeyValue::decode(self.kv.clone())
                .is_ok_and(|kv| kv.create_revision == kv.mod_revision)
    }
}

/// The key in a stored record, without decoding the rest. Keys are never empty, and come first.
pub(crate) fn record_key(record: &Bytes) -> Bytes {
    let mut rest = &record[..];
    if rest.first() != Some(&KEY_TAG) {
        return Bytes::new();
    }
    rest = &rest[1..];
    let Ok(length) = decode_varint(&mut rest) else {
        return Bytes::new();
    };
    let start = record.len() - rest.len();
    match usize::try_from(length)
        .ok()
        .and_then(|l| start.checked_add(l))
    {
        Some(end) if end <= record.len() => record.slice(start..end),
        _ => Bytes::new(),
    }
}

#[cfg(test)]
mod tests {
    use kvd_api::pb::mvccpb::{self, event::EventType};

    use super::*;
    use crate::read::encode_tombstone;
    use crate::revision::Revision;

    #[test]
    fn the_encoding_is_that_of_the_message() {
        let kv = KeyValue {
            key: vec![b'k'; 200].into(),
            create_revision: 3,
            mod_revision: 300,
            version: 2,
            value: vec![b'v'; 500].into(),
            lease: 7,
        };
        let prev = KeyValue {
            mod_revision: 299,
            ..kv.clone()
        };
        let event = Event::new(
            RevKey::new(Revision::new(300, 1), false),
            kv.encode_to_vec().into(),
        );
        let mut message = mvccpb::Event {
            r#type: EventType::Put as i32,
            kv: Some(kv.clone()),
            prev_kv: None,
        };
        assert_eq!(event.encoded(), message.encode_to_vec());
        assert_eq!(event.key(), kv.key);
        message.prev_kv = Some(prev.clone());
        let encoded = event.encoded_with_prev(|| Some(prev.encode_to_vec().into()));
        assert_eq!(encoded, message.encode_to_vec());

        let (record, _) = encode_tombstone(&kv.key);
        let event = Event::new(RevKey::new(Revision::new(300, 1), true), record);
        let message = mvccpb::Event {
            r#type: EventType::Delete as i32,
            kv: Some(KeyValue {
                key: kv.key.clone(),
                mod_revision: 300,
                ..KeyValue::default()
            }),
            prev_kv: None,
        };
        assert_eq!(event.encoded(), message.encode_to_vec());
        assert_eq!(event.key(), kv.key);
    }

    #[test]
    fn a_creation_has_no_pair_before() {
        let kv = KeyValue {
            key: "k".into(),
            create_revision: 5,
            mod_revision: 5,
            version: 1,
            ..KeyValue::default()
        };
        let event = Event::new(
            RevKey::new(Revision::new(5, 0), false),
            kv.encode_to_vec().into(),
        );
        let asked = event.encoded_with_prev(|| unreachable!("a creation asks nobody"));
        assert_eq!(asked, event.encoded());
    }
}
