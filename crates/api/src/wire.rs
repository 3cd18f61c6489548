//! Messages written by hand because their stored encoding is sent as it is.

use bytes::Bytes;
use prost::Message;

use crate::pb::etcdserverpb::ResponseHeader;
use crate::pb::mvccpb::{Event, KeyValue};

/// etcd's `RangeResponse` with every pair left in its encoding.
///
/// On the wire a repeated message and a repeated `bytes` field are the same, so the server answers
/// with the bytes that the store holds: no pair is decoded and encoded again.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct RangeResponse {
    /// Who answered, and the store's current revision.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// Encoded [`KeyValue`]s.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub kvs: Vec<Bytes>,
    /// Whether the limit left pairs out.
    #[prost(bool, tag = "3")]
    pub more: bool,
    /// Number of keys in the range, whatever the limit.
    #[prost(int64, tag = "4")]
    pub count: i64,
}

impl RangeResponse {
    /// Decodes the pairs.
    ///
    /// Errors: a [`prost::DecodeError`] when a pair is not a valid `KeyValue`.
    pub fn decode_kvs(&self) -> Result<Vec<KeyValue>, prost::DecodeError> {
        self.kvs
            .iter()
            .map(|kv| KeyValue::decode(kv.clone()))
            .collect()
    }
}

impl prost::Name for RangeResponse {
    const NAME: &'static str = "RangeResponse";
    const PACKAGE: &'static str = "etcdserverpb";
}

/// etcd's `WatchResponse` with every event left in its encoding, which all watchers share.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct WatchResponse {
    /// Who answered, and the store's revision.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// The watcher; -1 when none was made, or all of the stream are meant.
    #[prost(int64, tag = "2")]
    pub watch_id: i64,
    /// Answers a create request.
    #[prost(bool, tag = "3")]
    pub created: bool,
    /// The watcher is over.
    #[prost(bool, tag = "4")]
    pub canceled: bool,
    /// The compacted revision, when that is why the watcher is over.
    #[prost(int64, tag = "5")]
    pub compact_revision: i64,
    /// Why the watcher is over, when it was not asked to be.
    #[prost(string, tag = "6")]
    pub cancel_reason: String,
    /// The next response belongs to the same revisions.
    #[prost(bool, tag = "7")]
    pub fragment: bool,
    /// Encoded [`Event`]s.
    #[prost(bytes = "bytes", repeated, tag = "11")]
    pub events: Vec<Bytes>,
}

impl WatchResponse {
    /// Decodes the events.
    ///
    /// Errors: a [`prost::DecodeError`] when one is not a valid `Event`.
    pub fn decode_events(&self) -> Result<Vec<Event>, prost::DecodeError> {
        self.events
            .iter()
            .map(|event| Event::decode(event.clone()))
            .collect()
    }
}

impl prost::Name for WatchResponse {
    const NAME: &'static str = "WatchResponse";
    const PACKAGE: &'static str = "etcdserverpb";
}
