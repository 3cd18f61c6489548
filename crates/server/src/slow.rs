//! What took too long, in the log: what was asked, for how long, and how much was answered. Never
//! values, passwords or tokens.
//!
//! - `apply request took too long`: a command while it was applied, or a read of keys from its
//!   call to its answer (`--warning-apply-duration`);
//! - `request stats`: any call that is no stream (`--warning-unary-request-duration`).
//!
//! A request that is fast pays for the time at its beginning and end, and for handles of its keys.
//! At most [`LINES_MAX`] lines a second are written; the next one says how many were left out.
//!
//! Source: etcd `server/etcdserver/txn/util.go`, `server/etcdserver/api/v3rpc/interceptor.go`.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::Uri;
use kvd_api::pb::etcdserverpb::response_op::Response as OpResponse;
use kvd_api::pb::etcdserverpb::{
    DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RequestOp,
    TxnRequest, TxnResponse,
};
use kvd_api::pb::kvdcommandpb::Command;
use kvd_api::wire::RangeResponse;
use parking_lot::Mutex;
use prost::Message;

use crate::apply::{Applied, is_read_only};
use crate::error::{Error, Result};
use crate::metrics::Metrics;
use crate::peer_info::PeerInfo;

/// Lines in a second; more are counted only: a disk that is slow makes everything slow.
const LINES_MAX: u32 = 10;
/// Calls whose service says more of them than their path.
const TOLD_BY_SERVICES: [&str; 4] = ["/Range", "/Put", "/DeleteRange", "/Txn"];
const KV: &str = "/etcdserverpb.KV";

/// Knows what is slow, and says so.
pub struct Slow {
    apply: Duration,
    unary: Duration,
    metrics: Arc<Metrics>,
    lines: Mutex<Lines>,
}

struct Lines {
    since: Instant,
    written: u32,
    left_out: u64,
}

/// A request whose service says what it was about when it turns out to be slow.
pub(crate) struct Seen<T> {
    started: Instant,
    from: Option<SocketAddr>,
    request: T,
}

impl<T: Clone> Seen<T> {
    /// A request that begins now.
    pub(crate) fn of(request: &tonic::Request<T>) -> Seen<T> {
        Seen {
            started: Instant::now(),
            from: address(request.extensions()),
            request: request.get_ref().clone(),
        }
    }
}

/// A call of which nothing but its path is known.
pub(crate) struct Timed {
    started: Instant,
    from: Option<SocketAddr>,
    uri: Uri,
}

impl Timed {
    /// A call that begins now; none for a stream, and where the service says more.
    pub(crate) fn begin<B>(metrics: &Metrics, request: &http::Request<B>) -> Option<Timed> {
        let path = request.uri().path();
        let is_told = path
            .strip_prefix(KV)
            .is_some_and(|method| TOLD_BY_SERVICES.contains(&method));
        if is_told || metrics.is_stream(path) {
            return None;
        }
        Some(Timed {
            started: Instant::now(),
            from: address(request.extensions()),
            uri: request.uri().clone(),
        })
    }
}

fn address(extensions: &http::Extensions) -> Option<SocketAddr> {
    extensions.get::<PeerInfo>().and_then(|peer| peer.address)
}

/// Counts and bytes of a request and its answer; -1 where etcd does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Measured {
    request_count: i64,
    request_size: i64,
    response_count: i64,
    response_size: i64,
}

const UNMEASURED: Measured = Measured {
    request_count: -1,
    request_size: -1,
    response_count: -1,
    response_size: -1,
};

fn bytes_of(message: &impl Message) -> i64 {
    i64::try_from(message.encoded_len()).unwrap_or(i64::MAX)
}

fn count(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

/// A request of the KV service that can be told of.
pub(crate) trait Measure: Debug + Message {
    /// What it is answered with.
    type Response: Message;
    /// Path of the RPC.
    const METHOD: &'static str;

    /// Request and response counts, as etcd has them.
    fn counts(&self, response: Option<&Self::Response>) -> (i64, i64);

    /// Bytes of what was asked for.
    fn size(&self, _: Option<&Self::Response>) -> i64 {
        bytes_of(self)
    }

    /// For what only reads: what stands before `apply request took too long` as its prefix, and
    /// what was answered.
    fn read(&self, _: Option<&Self::Response>) -> Option<(&'static str, String)> {
        None
    }
}

impl Measure for RangeRequest {
    type Response = RangeResponse;
    const METHOD: &'static str = "/etcdserverpb.KV/Range";

    fn counts(&self, response: Option<&RangeResponse>) -> (i64, i64) {
        (0, response.map_or(0, |response| response.count))
    }

    fn read(&self, response: Option<&RangeResponse>) -> Option<(&'static str, String)> {
        let told = response.map(|response| {
            let (count, size) = (response.kvs.len(), response.encoded_len());
            format!("range_response_count:{count} size:{size}")
        });
        Some(("read-only range ", told.unwrap_or_default()))
    }
}

impl Measure for PutRequest {
    type Response = PutResponse;
    const METHOD: &'static str = "/etcdserverpb.KV/Put";

    fn counts(&self, _: Option<&PutResponse>) -> (i64, i64) {
        (1, 0)
    }
}

impl Measure for DeleteRangeRequest {
    type Response = DeleteRangeResponse;
    const METHOD: &'static str = "/etcdserverpb.KV/DeleteRange";

    fn counts(&self, response: Option<&DeleteRangeResponse>) -> (i64, i64) {
        (0, response.map_or(0, |response| response.deleted))
    }
}

/// The branch that ran.
fn branch<'a>(txn: &'a TxnRequest, response: Option<&TxnResponse>) -> &'a [RequestOp] {
    match response {
        Some(response) if response.succeeded => &txn.success,
        Some(_) => &txn.failure,
        None => &[],
    }
}

impl Measure for TxnRequest {
    type Response = TxnResponse;
    const METHOD: &'static str = "/etcdserverpb.KV/Txn";

    fn counts(&self, response: Option<&TxnResponse>) -> (i64, i64) {
        (count(branch(self, response).len()), 0)
    }

    fn size(&self, response: Option<&TxnResponse>) -> i64 {
        branch(self, response).iter().map(bytes_of).sum()
    }

    fn read(&self, response: Option<&TxnResponse>) -> Option<(&'static str, String)> {
        if !is_read_only(self) {
            return None;
        }
        let told = response.map(|response| {
            let counts: Vec<String> = response
                .responses
                .iter()
                .map(|op| match &op.response {
                    Some(OpResponse::ResponseRange(range)) => {
                        format!("range_response_count:{}", range.kvs.len())
                    }
                    _ => "range_response:nil".to_owned(),
                })
                .collect();
            let size = response.encoded_len();
            format!("responses:<{}> size:{size}", counts.join(" "))
        });
        Some(("read-only txn ", told.unwrap_or_default()))
    }
}

impl Slow {
    /// Says what takes longer than `apply` to apply or read, or longer than `unary` to answer.
    pub fn new(apply: Duration, unary: Duration, metrics: Arc<Metrics>) -> Slow {
        Slow {
            apply,
            unary,
            metrics,
            lines: Mutex::new(Lines {
                since: Instant::now(),
                written: 0,
                left_out: 0,
            }),
        }
    }

    /// Whether there is room for a line; if so, how many were left out before it.
    fn line(&self) -> Option<u64> {
        let mut lines = self.lines.lock();
        if lines.since.elapsed() >= Duration::from_secs(1) {
            lines.since = Instant::now();
            lines.written = 0;
        }
        if lines.written >= LINES_MAX {
            lines.left_out += 1;
            return None;
        }
        lines.written += 1;
        Some(std::mem::take(&mut lines.left_out))
    }

    /// Whether a command that took so long to apply is to be told of.
    pub(crate) fn is_slow_apply(&self, took: Duration) -> bool {
        took > self.apply
    }

    /// Tells of a command, as it stands in the log, that took long to apply.
    pub(crate) fn applied(&self, command: &Bytes, took: Duration, result: &Result<Applied>) {
        let response = match result {
            Ok(Applied::Put(response)) => format!("size:{}", response.encoded_len()),
            Ok(Applied::DeleteRange(response)) => format!("size:{}", response.encoded_len()),
            Ok(Applied::Txn(response)) => format!("size:{}", response.encoded_len()),
            _ => String::new(),
        };
        let error = result.as_ref().err();
        self.took_too_long(took, ("", response), error, || {
            // It was decoded once already.
            let command = Command::decode(command.clone()).unwrap_or_default();
            let size = command.encoded_len();
            match command.request {
                Some(request) => format!("{request:?} size:{size}"),
                None => format!("size:{size}"),
            }
        });
    }

    fn took_too_long(
        &self,
        took: Duration,
        (prefix, response): (&str, String),
        error: Option<&Error>,
        request: impl FnOnce() -> String,
    ) {
        self.metrics.slow_apply.inc();
        let Some(left_out) = self.line() else { return };
        let request = shortened(request());
        let error = error.map(ToString::to_string);
        tracing::warn!(
            took = ?took,
            "expected-duration" = ?self.apply,
            prefix,
            request,
            response,
            error,
            left_out,
            "apply request took too long"
        );
    }

    /// Tells of a request and its answer if it took long.
    pub(crate) fn answered<T: Measure>(&self, seen: &Seen<T>, result: &Result<T::Response>) {
        let took = seen.started.elapsed();
        if took <= self.apply && took <= self.unary {
            return;
        }
        let response = result.as_ref().ok();
        if took > self.apply
            && let Some(told) = seen.request.read(response)
        {
            let request = || format!("{:?}", seen.request);
            self.took_too_long(took, told, result.as_ref().err(), request);
        }
        if took > self.unary {
            let (request_count, response_count) = seen.request.counts(response);
            let measured = Measured {
                request_count,
                request_size: seen.request.size(response),
                response_count,
                response_size: response.map_or(0, bytes_of),
            };
            self.stats((T::METHOD, seen.from), took, measured, || {
                format!("{:?}", seen.request)
            });
        }
    }

    /// Tells of any other call if it took long.
    pub(crate) fn called(&self, timed: &Timed) {
        let took = timed.started.elapsed();
        if took > self.unary {
            let call = (timed.uri.path(), timed.from);
            self.stats(call, took, UNMEASURED, String::new);
        }
    }

    fn stats(
        &self,
        (method, from): (&str, Option<SocketAddr>),
        took: Duration,
        measured: Measured,
        content: impl FnOnce() -> String,
    ) {
        let Some(left_out) = self.line() else { return };
        let began = SystemTime::now().checked_sub(took);
        let began = began.unwrap_or(SystemTime::UNIX_EPOCH);
        let remote = from.map_or_else(|| "No remote client info.".to_owned(), |a| a.to_string());
        tracing::warn!(
            "start time" = humantime::format_rfc3339_millis(began).to_string(),
            "time spent" = ?took,
            remote,
            "response type" = method,
            "request count" = measured.request_count,
            "request size" = measured.request_size,
            "response count" = measured.response_count,
            "response size" = measured.response_size,
            "request content" = shortened(content()),
            left_out,
            "request stats"
        );
    }

    /// Tells that a read found no quorum in time, and counts it.
    pub(crate) fn read_index_timed_out(&self, timeout: Duration) {
        self.metrics.slow_read_indexes.inc();
        if let Some(left_out) = self.line() {
            tracing::warn!(
                timeout = ?timeout,
                left_out,
                "timed out waiting for read index response (local node might have slow network)"
            );
        }
    }
}

/// Most bytes of a request in a line: a transaction may have many keys.
const CONTENT_BYTES_MAX: usize = 4096;

fn shortened(mut text: String) -> String {
    if text.len() > CONTENT_BYTES_MAX {
        let mut end = CONTENT_BYTES_MAX;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Level;

    #[test]
    fn requests_are_measured_as_in_etcd() {
        let put = PutRequest {
            key: "k".into(),
            value: "secret".into(),
            ..PutRequest::default()
        };
        assert_eq!(put.counts(None), (1, 0));
        assert_eq!(put.size(None), 11);
        let op = RequestOp {
            request: Some(kvd_api::pb::etcdserverpb::request_op::Request::RequestPut(
                put.clone(),
            )),
        };
        let txn = TxnRequest {
            success: vec![op.clone(), op],
            ..TxnRequest::default()
        };
        let succeeded = TxnResponse {
            succeeded: true,
            ..TxnResponse::default()
        };
        assert_eq!(txn.counts(Some(&succeeded)), (2, 0));
        assert_eq!(txn.size(Some(&succeeded)), 2 * 13);
        assert_eq!(txn.counts(Some(&TxnResponse::default())), (0, 0));
        assert_eq!(txn.read(Some(&succeeded)), None);
        let range = RangeRequest::default();
        let response = RangeResponse {
            kvs: vec!["pair".into()],
            count: 7,
            ..RangeResponse::default()
        };
        assert_eq!(range.counts(Some(&response)), (0, 7));
        let told = (
            "read-only range ",
            "range_response_count:1 size:8".to_owned(),
        );
        assert_eq!(range.read(Some(&response)), Some(told));
    }

    #[test]
    fn lines_are_few_and_the_rest_is_counted() {
        let metrics = Arc::new(Metrics::new(Level::Basic, "test"));
        let slow = Slow::new(Duration::ZERO, Duration::MAX, Arc::clone(&metrics));
        let result = Ok(Applied::LeaseRevoked);
        for _ in 0..25 {
            slow.applied(&Bytes::new(), Duration::from_secs(1), &result);
        }
        assert_eq!(metrics.slow_apply.get(), 25);
        let lines = slow.lines.lock();
        assert!(lines.written <= LINES_MAX, "{}", lines.written);
        assert!(lines.left_out >= 1, "{}", lines.left_out);
    }

    #[test]
    fn long_requests_are_cut() {
        assert_eq!(shortened("short".to_owned()), "short");
        let cut = shortened("é".repeat(CONTENT_BYTES_MAX));
        assert!(cut.len() <= CONTENT_BYTES_MAX + 3, "{}", cut.len());
    }
}
