//! RangeStream: a range in chunks, each about as large as a request may be.
//!
//! The first chunk holds 10 keys. A chunk below half of `--max-request-bytes` doubles the number
//! for the next one, a chunk above twice of it halves the number: pairs of a few bytes soon come
//! by the thousand, pairs of a megabyte one or two at a time. All chunks show the store at the
//! revision of the first; header, count and `more` come with the last.
//!
//! Nothing is read ahead: the next chunk is made when the connection has room for it.
//!
//! Source: etcd `server/etcdserver/v3_server.go`, `rangeStream`.

use std::pin::Pin;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{Stream, stream};
use kvd_api::pb::etcdserverpb::{RangeRequest, RangeStreamResponse, ResponseHeader};
use kvd_api::pb::mvccpb::KeyValue;
use kvd_api::wire::RangeResponse;
use kvd_mvcc::Store;
use prost::Message;
use tonic::Status;

use super::kv::off_thread;
use crate::apply;
use crate::auth::Caller;
use crate::auth::Held;
use crate::core::Core;
use crate::error::{Error, Result};

/// Keys in the first chunk.
const FIRST_CHUNK_KEYS: i64 = 10;

/// The chunks of one range.
pub type ResponseStream = Pin<Box<dyn Stream<Item = Result<RangeStreamResponse, Status>> + Send>>;

/// Streams what `request`, already checked, asks for.
///
/// It ends when `caller` may no longer read the range.
pub(super) fn stream(
    core: Arc<Core>,
    caller: Option<Caller>,
    request: RangeRequest,
) -> ResponseStream {
    let held = Held::new(core.auth(), caller);
    let cursor = Cursor::new(request, core.config().request_bytes_max);
    Box::pin(stream::try_unfold(Some(cursor), move |cursor| {
        let core = Arc::clone(&core);
        let held = held.clone();
        async move {
            let Some(cursor) = cursor else {
                return Ok::<_, Status>(None);
            };
            let Cursor { request, .. } = &cursor;
            held.check(core.auth(), &request.key, &request.range_end)
                .map_err(Error::from)?;
            let (mut chunk, cursor) = off_thread(core.store(), |store| cursor.chunk(store)).await?;
            if let Some(header) = &mut chunk.header {
                *header = core.header(header.revision);
            }
            Ok(Some((
                RangeStreamResponse {
                    range_response: Some(chunk),
                },
                cursor,
            )))
        }
    }))
}

/// Where a streamed range stands.
struct Cursor {
    /// What is still to be read; its limit is that of the next chunk.
    request: RangeRequest,
    /// Keys asked for in all.
    limit: i64,
    /// Keys sent so far.
    sent: i64,
    /// The store's revision when the stream began; zero before the first chunk.
    revision: i64,
    /// What a chunk should measure, in bytes.
    chunk_bytes: usize,
}

impl Cursor {
    fn new(mut request: RangeRequest, chunk_bytes: usize) -> Cursor {
        let limit = if request.limit > 0 {
            request.limit
        } else {
            i64::MAX
        };
        request.limit = if request.count_only {
            0
        } else {
            FIRST_CHUNK_KEYS.min(limit)
        };
        Cursor {
            request,
            limit,
            sent: 0,
            revision: 0,
            chunk_bytes,
        }
    }

    /// Reads the next chunk; returns no cursor with the last one.
    fn chunk(mut self, store: &Store) -> Result<(RangeResponse, Option<Cursor>)> {
        if self.request.count_only {
            return Ok((apply::range(store, &self.request)?, None));
        }
        // Counting all that is left with each chunk would make a long stream quadratic.
        let mut chunk = apply::range_counting(store, &self.request, 1)?;
        let header = chunk.header.take();
        if self.revision == 0 {
            self.revision = header.as_ref().map_or(0, |header| header.revision);
            if self.request.revision <= 0 {
                self.request.revision = self.revision;
            }
        }
        self.sent += i64::try_from(chunk.kvs.len()).unwrap_or(i64::MAX);
        let next_key = match chunk.kvs.last() {
            Some(last) if chunk.more => Some(key_after(last)?),
            _ => None,
        };
        chunk.count = 0;
        match next_key {
            Some(next_key) if self.sent < self.limit => {
                chunk.more = false;
                self.request.limit =
                    next_limit(self.request.limit, chunk.encoded_len(), self.chunk_bytes)
                        .min(self.limit - self.sent);
                self.request.key = next_key;
                Ok((chunk, Some(self)))
            }
            next_key => {
                let revision = self.revision;
                chunk.header = header.map(|header| ResponseHeader { revision, ..header });
                chunk.count = self.sent;
                if let Some(next_key) = next_key {
                    self.request.key = next_key;
                    self.request.count_only = true;
                    chunk.count += apply::range(store, &self.request)?.count;
                }
                Ok((chunk, None))
            }
        }
    }
}

fn next_limit(limit: i64, chunk_bytes: usize, wanted_bytes: usize) -> i64 {
    if chunk_bytes < wanted_bytes / 2 {
        limit.saturating_mul(2)
    } else if chunk_bytes > wanted_bytes.saturating_mul(2) {
        (limit / 2).max(1)
    } else {
        limit
    }
}

/// The first key after that of an encoded pair.
fn key_after(encoded: &Bytes) -> Result<Bytes> {
    let kv = KeyValue::decode(encoded.clone())
        .map_err(|error| Error::Internal(format!("a stored pair is damaged: {error}")))?;
    let mut key = BytesMut::with_capacity(kv.key.len() + 1);
    key.put_slice(&kv.key);
    key.put_u8(0);
    Ok(key.freeze())
}

#[cfg(test)]
mod tests;
