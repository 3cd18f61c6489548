//! What a watch is told of.

use bytes::Bytes;
use kvd_api::pb::etcdserverpb::WatchCreateRequest;
use kvd_api::pb::etcdserverpb::watch_create_request::FilterType;

use crate::kv::Span;

/// What a watch is told of. The default is one key, from now on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WatchOptions {
    span: Span,
    request: WatchCreateRequest,
}

impl WatchOptions {
    /// One key, from now on.
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

    /// From this revision on, which may lie in the past; zero means from now on.
    pub fn revision(mut self, revision: i64) -> Self {
        self.request.start_revision = revision;
        self
    }

    /// With the pair that each event replaced or deleted, unless it is compacted.
    pub fn prev_kv(mut self) -> Self {
        self.request.prev_kv = true;
        self
    }

    /// With a response without events from time to time: nothing up to its revision was missed.
    pub fn progress_notify(mut self) -> Self {
        self.request.progress_notify = true;
        self
    }

    /// Without puts.
    pub fn without_puts(self) -> Self {
        self.filter(FilterType::Noput)
    }

    /// Without deletes.
    pub fn without_deletes(self) -> Self {
        self.filter(FilterType::Nodelete)
    }

    fn filter(mut self, filter: FilterType) -> Self {
        self.request.filters.push(filter.into());
        self
    }

    /// etcd's message.
    pub fn into_request(self, key: impl Into<Bytes>) -> WatchCreateRequest {
        let (key, range_end) = self.span.bounds(key.into());
        WatchCreateRequest {
            key,
            range_end,
            fragment: true,
            ..self.request
        }
    }
}
