//! Get, put, delete and compact.
//!
//! Source: etcd `KV` service; `client/v3/op.go` for the options.

use bytes::Bytes;
use kvd_api::pb::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest,
    PutResponse, RangeRequest, RangeStreamResponse, ResponseHeader,
};
use kvd_api::pb::mvccpb::KeyValue;
use kvd_api::wire::RangeResponse;
use tokio::time::{Instant, timeout_at};
use tonic::Streaming;

use crate::client::Client;
use crate::error::{Error, Result};
use crate::retry::{Rule, stream_error};
use crate::{SortOrder, SortTarget};

/// Which keys an operation is about, given its key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Span {
    /// The key alone.
    #[default]
    Key,
    /// From the key to this one, exclusive; empty means the key alone.
    Range(Bytes),
    /// All keys that begin with the key; all keys when it is empty.
    Prefix,
    /// All keys from the key on; all keys when it is empty.
    FromKey,
}

impl Span {
    /// The `key` and `range_end` of etcd's messages.
    pub fn bounds(&self, key: Bytes) -> (Bytes, Bytes) {
        const ZERO: Bytes = Bytes::from_static(&[0]);
        match self {
            Span::Key => (key, Bytes::new()),
            Span::Range(end) => (key, end.clone()),
            Span::Prefix | Span::FromKey if key.is_empty() => (ZERO, ZERO),
            Span::Prefix => {
                let end = prefix_end(&key);
                (key, end)
            }
            Span::FromKey => (key, ZERO),
        }
    }
}

/// The smallest key that is larger than every key with this prefix; `\0` ("no end") when there is
/// none.
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    match prefix.iter().rposition(|byte| *byte < 0xff) {
        None => Bytes::from_static(&[0]),
        Some(last) => {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            Bytes::from(end)
        }
    }
}

/// What a get returns. The default is one key, at the current revision, linearizable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GetOptions {
    span: Span,
    request: RangeRequest,
}

impl GetOptions {
    /// One key, at the current revision, linearizable.
    pub fn new() -> Self {
        Self::default()
    }

    /// Which keys.
    pub fn span(mut self, span: Span) -> Self {
        self.span = span;
        self
    }

    /// All keys that begin with the key.
    pub fn prefix(self) -> Self {
        self.span(Span::Prefix)
    }

    /// All keys from the key on.
    pub fn from_key(self) -> Self {
        self.span(Span::FromKey)
    }

    /// The keys in `[key, end)`.
    pub fn range(self, end: impl Into<Bytes>) -> Self {
        self.span(Span::Range(end.into()))
    }

    /// At most so many pairs; zero means all.
    pub fn limit(mut self, pairs_max: i64) -> Self {
        self.request.limit = pairs_max;
        self
    }

    /// As of this revision; zero means the current one.
    pub fn revision(mut self, revision: i64) -> Self {
        self.request.revision = revision;
        self
    }

    /// Sorted by `target`. Ascending by key is the order of the store and costs nothing.
    pub fn sort(mut self, target: SortTarget, order: SortOrder) -> Self {
        let natural = target == SortTarget::Key && order == SortOrder::Ascend;
        let order = if natural { SortOrder::None } else { order };
        self.request.sort_target = target.into();
        self.request.sort_order = order.into();
        self
    }

    /// Answered by the member asked from what it has, which may be stale.
    pub fn serializable(mut self) -> Self {
        self.request.serializable = true;
        self
    }

    /// Without the values.
    pub fn keys_only(mut self) -> Self {
        self.request.keys_only = true;
        self
    }

    /// Only how many keys there are.
    pub fn count_only(mut self) -> Self {
        self.request.count_only = true;
        self
    }

    /// Leaves out keys last changed before this revision.
    pub fn min_mod_revision(mut self, revision: i64) -> Self {
        self.request.min_mod_revision = revision;
        self
    }

    /// Leaves out keys last changed after this revision.
    pub fn max_mod_revision(mut self, revision: i64) -> Self {
        self.request.max_mod_revision = revision;
        self
    }

    /// Leaves out keys created before this revision.
    pub fn min_create_revision(mut self, revision: i64) -> Self {
        self.request.min_create_revision = revision;
        self
    }

    /// Leaves out keys created after this revision.
    pub fn max_create_revision(mut self, revision: i64) -> Self {
        self.request.max_create_revision = revision;
        self
    }

    /// etcd's message.
    pub fn into_request(self, key: impl Into<Bytes>) -> RangeRequest {
        let (key, range_end) = self.span.bounds(key.into());
        RangeRequest {
            key,
            range_end,
            ..self.request
        }
    }
}

/// How a put behaves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PutOptions {
    request: PutRequest,
}

impl PutOptions {
    /// No lease, no previous pair in the answer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Attaches the key to a lease, by its ID.
    pub fn lease(mut self, lease_id: i64) -> Self {
        self.request.lease = lease_id;
        self
    }

    /// Returns the pair that was replaced.
    pub fn prev_kv(mut self) -> Self {
        self.request.prev_kv = true;
        self
    }

    /// Keeps the value; the one given must be empty.
    pub fn ignore_value(mut self) -> Self {
        self.request.ignore_value = true;
        self
    }

    /// Keeps the lease.
    pub fn ignore_lease(mut self) -> Self {
        self.request.ignore_lease = true;
        self
    }

    /// etcd's message.
    pub fn into_request(self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> PutRequest {
        PutRequest {
            key: key.into(),
            value: value.into(),
            ..self.request
        }
    }
}

/// What a delete removes and returns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    span: Span,
    prev_kv: bool,
}

impl DeleteOptions {
    /// One key, no previous pairs in the answer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Which keys.
    pub fn span(mut self, span: Span) -> Self {
        self.span = span;
        self
    }

    /// All keys that begin with the key.
    pub fn prefix(self) -> Self {
        self.span(Span::Prefix)
    }

    /// All keys from the key on.
    pub fn from_key(self) -> Self {
        self.span(Span::FromKey)
    }

    /// The keys in `[key, end)`.
    pub fn range(self, end: impl Into<Bytes>) -> Self {
        self.span(Span::Range(end.into()))
    }

    /// Returns the pairs that were deleted.
    pub fn prev_kv(mut self) -> Self {
        self.prev_kv = true;
        self
    }

    /// etcd's message.
    pub fn into_request(self, key: impl Into<Bytes>) -> DeleteRangeRequest {
        let (key, range_end) = self.span.bounds(key.into());
        DeleteRangeRequest {
            key,
            range_end,
            prev_kv: self.prev_kv,
        }
    }
}

/// The answer to a get, with its pairs decoded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GetResponse {
    /// Who answered, and the store's current revision.
    pub header: Option<ResponseHeader>,
    /// The pairs, in the order asked for.
    pub kvs: Vec<KeyValue>,
    /// Whether the limit left pairs out.
    pub more: bool,
    /// Number of keys in the span, whatever the limit.
    pub count: i64,
}

impl TryFrom<RangeResponse> for GetResponse {
    type Error = Error;

    fn try_from(wire: RangeResponse) -> Result<Self> {
        let kvs = wire.decode_kvs()?;
        Ok(GetResponse {
            header: wire.header,
            kvs,
            more: wire.more,
            count: wire.count,
        })
    }
}

impl Client {
    /// Returns the pairs that `options` describe.
    ///
    /// Source: etcd `KV.Range`.
    pub async fn get(&self, key: impl Into<Bytes>, options: GetOptions) -> Result<GetResponse> {
        self.range(options.into_request(key)).await?.try_into()
    }

    /// [`Client::get`] with the pairs left in their encoding.
    pub async fn range(&self, request: RangeRequest) -> Result<RangeResponse> {
        self.unary(Rule::Repeatable, request, |channel, request| {
            let mut stub = self.kv_stub(channel);
            async move { stub.range(request).await }
        })
        .await
    }

    /// Answers as [`Client::range`], but fetched in pieces: for spans too large for one message.
    ///
    /// The whole stream stands at one revision. Source: etcd `KV.RangeStream` (3.7).
    pub async fn range_streamed(&self, request: RangeRequest) -> Result<RangeResponse> {
        let deadline = self.deadline();
        let mut stream = self.range_stream(request).await?;
        let mut whole = RangeResponse::default();
        loop {
            let next = timeout_at(deadline, stream.message()).await;
            let piece = match next {
                Err(_) => return Err(Error::DeadlineExceeded),
                Ok(Err(status)) => {
                    let endpoints: Vec<&str> = self.endpoints().collect();
                    return Err(stream_error(status, &endpoints.join(","), deadline));
                }
                Ok(Ok(None)) => return Ok(whole),
                Ok(Ok(Some(piece))) => piece,
            };
            let Some(part) = piece.range_response else {
                continue;
            };
            whole.kvs.extend(part.kvs);
            if part.header.is_some() {
                whole.header = part.header;
                whole.more = part.more;
                whole.count = part.count;
            }
        }
    }

    /// Opens a stream of pieces; header, `more` and `count` come with the last one.
    pub async fn range_stream(
        &self,
        request: RangeRequest,
    ) -> Result<Streaming<RangeStreamResponse>> {
        self.unary(Rule::Repeatable, request, |channel, request| {
            let mut stub = self.kv_stub(channel);
            async move { stub.range_stream(request).await }
        })
        .await
    }

    /// Stores a value; durable on a majority when it returns.
    ///
    /// Source: etcd `KV.Put`.
    pub async fn put(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        options: PutOptions,
    ) -> Result<PutResponse> {
        let request = options.into_request(key, value);
        self.unary(Rule::AtMostOnce, request, |channel, request| {
            let mut stub = self.kv_stub(channel);
            async move { stub.put(request).await }
        })
        .await
    }

    /// Deletes keys; durable on a majority when it returns.
    ///
    /// Source: etcd `KV.DeleteRange`.
    pub async fn delete(
        &self,
        key: impl Into<Bytes>,
        options: DeleteOptions,
    ) -> Result<DeleteRangeResponse> {
        let request = options.into_request(key);
        self.unary(Rule::AtMostOnce, request, |channel, request| {
            let mut stub = self.kv_stub(channel);
            async move { stub.delete_range(request).await }
        })
        .await
    }

    /// Forgets history below `revision`. `physical` waits until it is gone from the disk of the
    /// member that answers.
    ///
    /// Source: etcd `KV.Compact`.
    pub async fn compact(&self, revision: i64, physical: bool) -> Result<CompactionResponse> {
        let request = CompactionRequest { revision, physical };
        self.unary(Rule::AtMostOnce, request, |channel, request| {
            let mut stub = self.kv_stub(channel);
            async move { stub.compact(request).await }
        })
        .await
    }

    /// How long the current request may take.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.request_timeout()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_after_its_last_key() {
        assert_eq!(&prefix_end(b"foo")[..], b"fop");
        assert_eq!(&prefix_end(b"a\xff\xff")[..], b"b");
        assert_eq!(&prefix_end(b"\xff")[..], b"\0");
    }

    #[test]
    fn spans_become_key_and_range_end() {
        let whole: (Bytes, Bytes) = (Bytes::from_static(b"\0"), Bytes::from_static(b"\0"));
        assert_eq!(Span::Prefix.bounds(Bytes::new()), whole);
        assert_eq!(Span::FromKey.bounds(Bytes::new()), whole);
        assert_eq!(
            Span::FromKey.bounds("a".into()),
            ("a".into(), Bytes::from_static(b"\0"))
        );
        assert_eq!(
            Span::Range("b".into()).bounds("a".into()),
            ("a".into(), "b".into())
        );
        assert_eq!(Span::Key.bounds("a".into()), ("a".into(), Bytes::new()));
    }

    #[test]
    fn ascending_by_key_is_not_asked_for() {
        let request = GetOptions::new()
            .sort(SortTarget::Key, SortOrder::Ascend)
            .into_request("a");
        assert_eq!(request.sort_order(), SortOrder::None);
        let request = GetOptions::new()
            .sort(SortTarget::Mod, SortOrder::Ascend)
            .into_request("a");
        assert_eq!(request.sort_order(), SortOrder::Ascend);
    }
}
