//! Messages written by hand because their stored encoding is sent as it is.

use bytes::Bytes;
use prost::Message;

use crate::pb::etcdserverpb::ResponseHeader;
use crate::pb::mvccpb::KeyValue;

/// etcd's `RangeResponse` with every pair left in its encoding.
///
/// On the wire a repeated message and a repeated `bytes` field are the same, so the server answers
/// with the bytes that the store holds: no pair is decoded and encoded again.
#[derive(Clone, PartialEq, Message)]
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
