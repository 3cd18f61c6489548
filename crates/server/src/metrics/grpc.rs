//! Counts RPCs: started, handled by code, messages and bytes each way.
//!
//! The layer looks at bodies as they pass: the prefix of each message tells its length, so nothing
//! is buffered or decoded. The series of every method exist from the start, at zero, as a rate
//! over a series that appears with its first failure would miss that failure.
//!
//! Source: go-grpc-prometheus, as etcd registers it; etcd `v3rpc/codec.go` for the bytes.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use prometheus::{
    DEFAULT_BUCKETS, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts,
    Registry,
};
use prost::Message;
use tonic::body::Body;
use tower::{Layer, Service};

use super::slow::Slow;
use crate::peer_info::PeerInfo;

/// gRPC's codes by number, under the names that Go gives them.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];
const CANCELED: usize = 1;
const UNKNOWN: usize = 2;
/// The health service, which is not among our descriptors.
const HEALTH: [(&str, bool); 3] = [("Check", false), ("List", false), ("Watch", true)];
/// Bytes before each message: one for compression, four for the length.
const PREFIX_BYTES: usize = 5;

/// The counters of every RPC.
pub struct GrpcMetrics {
    slow: Arc<Slow>,
    /// By path: `/pkg.Service/Method`.
    methods: HashMap<String, Arc<Method>>,
    received_bytes: IntCounter,
    sent_bytes: IntCounter,
}

/// The counters of one RPC.
struct Method {
    path: String,
    is_stream: bool,
    started: IntCounter,
    received: IntCounter,
    sent: IntCounter,
    /// By code.
    handled: Vec<IntCounter>,
    handling: Option<Histogram>,
}

/// The families that methods take their series from.
struct Families {
    started: IntCounterVec,
    received: IntCounterVec,
    sent: IntCounterVec,
    handled: IntCounterVec,
    handling: Option<HistogramVec>,
}

const METHOD_LABELS: [&str; 3] = ["grpc_type", "grpc_service", "grpc_method"];

impl Families {
    fn register(registry: &Registry, extensive: bool) -> Families {
        let counter = |name, help, labels: &[&str]| {
            let family =
                IntCounterVec::new(Opts::new(name, help), labels).expect("the name is well formed");
            registry
                .register(Box::new(family.clone()))
                .expect("names of metrics are unique");
            family
        };
        let labels = &METHOD_LABELS;
        let with_code = ["grpc_type", "grpc_service", "grpc_method", "grpc_code"];
        let handling = extensive.then(|| {
            let options = HistogramOpts::new(
                "grpc_server_handling_seconds",
                "Time until an RPC was handled by the server, in seconds.",
            );
            let options = options.buckets(DEFAULT_BUCKETS.to_vec());
            let family = HistogramVec::new(options, labels).expect("the name is well formed");
            registry
                .register(Box::new(family.clone()))
                .expect("names of metrics are unique");
            family
        });
        Families {
            started: counter(
                "grpc_server_started_total",
                "Total number of RPCs started on the server.",
                labels,
            ),
            received: counter(
                "grpc_server_msg_received_total",
                "Total number of messages received by the server.",
                labels,
            ),
            sent: counter(
                "grpc_server_msg_sent_total",
                "Total number of messages sent by the server.",
                labels,
            ),
            handled: counter(
                "grpc_server_handled_total",
                "Total number of RPCs completed on the server, whatever their result.",
                &with_code,
            ),
            handling,
        }
    }

    fn method(&self, service: &str, method: &str, client: bool, server: bool) -> Method {
        let kind = match (client, server) {
            (false, false) => "unary",
            (true, false) => "client_stream",
            (false, true) => "server_stream",
            (true, true) => "bidi_stream",
        };
        let labels = [kind, service, method];
        let handled = |code| {
            self.handled
                .with_label_values(&[kind, service, method, code])
        };
        Method {
            path: format!("/{service}/{method}"),
            is_stream: client || server,
            started: self.started.with_label_values(&labels),
            received: self.received.with_label_values(&labels),
            sent: self.sent.with_label_values(&labels),
            handled: CODES.iter().map(|code| handled(*code)).collect(),
            handling: self
                .handling
                .as_ref()
                .map(|family| family.with_label_values(&labels)),
        }
    }
}

impl GrpcMetrics {
    /// Makes the counters of every public RPC and registers them.
    pub(super) fn register(registry: &Registry, extensive: bool, slow: Arc<Slow>) -> GrpcMetrics {
        let families = Families::register(registry, extensive);
        let mut methods = HashMap::new();
        for (service, method) in public_methods() {
            let (client, server) = (method.client_streaming, method.server_streaming);
            let counters = families.method(&service, &method.name, client, server);
            methods.insert(counters.path.clone(), Arc::new(counters));
        }
        for (method, streams) in HEALTH {
            let service = "grpc.health.v1.Health";
            let counters = families.method(service, method, false, streams);
            methods.insert(counters.path.clone(), Arc::new(counters));
        }
        let bytes = |name, help| {
            let counter =
                IntCounter::with_opts(Opts::new(name, help)).expect("the name is well formed");
            registry
                .register(Box::new(counter.clone()))
                .expect("names of metrics are unique");
            counter
        };
        GrpcMetrics {
            slow,
            methods,
            received_bytes: bytes(
                "etcd_network_client_grpc_received_bytes_total",
                "The total number of bytes received from grpc clients.",
            ),
            sent_bytes: bytes(
                "etcd_network_client_grpc_sent_bytes_total",
                "The total number of bytes sent to grpc clients.",
            ),
        }
    }

    /// Whether the RPC at `path` is a stream in either direction.
    pub(super) fn is_stream(&self, path: &str) -> bool {
        self.methods
            .get(path)
            .is_some_and(|method| method.is_stream)
    }
}

/// The part of a file descriptor that names RPCs. Source: `google/protobuf/descriptor.proto`.
#[derive(Clone, PartialEq, Message)]
struct FileSet {
    #[prost(message, repeated, tag = "1")]
    files: Vec<File>,
}

#[derive(Clone, PartialEq, Message)]
struct File {
    #[prost(string, tag = "2")]
    package: String,
    #[prost(message, repeated, tag = "6")]
    services: Vec<ServiceDescriptor>,
}

#[derive(Clone, PartialEq, Message)]
struct ServiceDescriptor {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    methods: Vec<MethodDescriptor>,
}

#[derive(Clone, PartialEq, Message)]
struct MethodDescriptor {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bool, tag = "5")]
    client_streaming: bool,
    #[prost(bool, tag = "6")]
    server_streaming: bool,
}

/// Every public RPC with the full name of its service.
fn public_methods() -> Vec<(String, MethodDescriptor)> {
    let set = FileSet::decode(kvd_api::DESCRIPTORS).expect("descriptors come from our own build");
    let mut methods = Vec::new();
    for file in set.files {
        for service in file.services {
            let name = format!("{}.{}", file.package, service.name);
            methods.extend(
                service
                    .methods
                    .into_iter()
                    .map(|method| (name.clone(), method)),
            );
        }
    }
    methods
}

/// Counts every RPC of the services inside.
#[derive(Clone)]
pub struct GrpcMetricsLayer {
    metrics: Arc<GrpcMetrics>,
}

impl GrpcMetricsLayer {
    pub(super) fn new(metrics: Arc<GrpcMetrics>) -> GrpcMetricsLayer {
        GrpcMetricsLayer { metrics }
    }
}

impl<S> Layer<S> for GrpcMetricsLayer {
    type Service = GrpcMetricsService<S>;

    fn layer(&self, inner: S) -> GrpcMetricsService<S> {
        GrpcMetricsService {
            inner,
            metrics: Arc::clone(&self.metrics),
        }
    }
}

/// The services that [`GrpcMetricsLayer`] is put around.
#[derive(Clone)]
pub struct GrpcMetricsService<S> {
    inner: S,
    metrics: Arc<GrpcMetrics>,
}

/// The reply of a service inside, counted when it ends.
pub struct Reply<F> {
    inner: F,
    /// None for a method that is not known, which is not counted.
    counting: Option<Counting>,
}

/// What counts a reply that has yet to come.
struct Counting {
    call: OpenCall,
    sent: IntCounter,
    sent_bytes: IntCounter,
}

impl<F> Future for Reply<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>> + Unpin,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let response = ready!(Pin::new(&mut self.inner).poll(context))?;
        let Some(mut counting) = self.counting.take() else {
            return Poll::Ready(Ok(response));
        };
        if let Some(code) = code(response.headers()) {
            counting.call.handled(code);
            return Poll::Ready(Ok(response));
        }
        let Counting {
            call,
            sent,
            sent_bytes,
        } = counting;
        Poll::Ready(Ok(response.map(|body| {
            Body::new(Counted::new(body, sent, sent_bytes, Some(call)))
        })))
    }
}

/// Futures are not boxed on the way, since every call passes here: those inside must be `Unpin`.
impl<S, B> Service<Request<B>> for GrpcMetricsService<S>
where
    S: Service<Request<Counted<B>>, Response = Response<Body>, Error = Infallible>,
    S::Future: Unpin,
    B: HttpBody<Data = Bytes> + Unpin,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Reply<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Reply<S::Future> {
        let Some(method) = self.metrics.methods.get(request.uri().path()) else {
            let request = request.map(|body| Counted {
                inner: body,
                counters: None,
                call: None,
            });
            return Reply {
                inner: self.inner.call(request),
                counting: None,
            };
        };
        method.started.inc();
        let counting = Counting {
            sent: method.sent.clone(),
            sent_bytes: self.metrics.sent_bytes.clone(),
            call: OpenCall(Some(Call {
                start: Instant::now(),
                remote: request
                    .extensions()
                    .get::<PeerInfo>()
                    .and_then(|peer| peer.address),
                method: Arc::clone(method),
                slow: Arc::clone(&self.metrics.slow),
            })),
        };
        let request = request.map(|body| {
            let bytes = self.metrics.received_bytes.clone();
            Counted::new(body, method.received.clone(), bytes, None)
        });
        Reply {
            inner: self.inner.call(request),
            counting: Some(counting),
        }
    }
}

/// An RPC that has started.
struct Call {
    method: Arc<Method>,
    start: Instant,
    /// Whose it is; none for a Unix socket.
    remote: Option<SocketAddr>,
    slow: Arc<Slow>,
}

/// Sees to it that a call is counted as handled once, also when nobody waits for its end.
struct OpenCall(Option<Call>);

impl OpenCall {
    fn handled(&mut self, code: usize) {
        let Some(call) = self.0.take() else { return };
        if let Some(counter) = call
            .method
            .handled
            .get(code)
            .or(call.method.handled.get(UNKNOWN))
        {
            counter.inc();
        }
        let took = call.start.elapsed();
        if let Some(histogram) = &call.method.handling {
            histogram.observe(took.as_secs_f64());
        }
        if !call.method.is_stream {
            call.slow.request(&call.method.path, call.remote, took);
        }
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.handled(CANCELED);
    }
}

/// The code in headers or trailers, if they hold one.
fn code(headers: &HeaderMap) -> Option<usize> {
    let value = headers.get("grpc-status")?;
    Some(
        value
            .to_str()
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(UNKNOWN),
    )
}

/// A body whose messages are counted as they pass.
pub struct Counted<B> {
    inner: B,
    /// None counts nothing.
    counters: Option<Counters>,
    /// The call that ends with this body, if it is a reply's.
    call: Option<OpenCall>,
}

struct Counters {
    scanner: PrefixScanner,
    messages: IntCounter,
    bytes: IntCounter,
}

impl<B> Counted<B> {
    fn new(inner: B, messages: IntCounter, bytes: IntCounter, call: Option<OpenCall>) -> Self {
        let counters = Some(Counters {
            scanner: PrefixScanner::default(),
            messages,
            bytes,
        });
        Counted {
            inner,
            counters,
            call,
        }
    }
}

impl<B> HttpBody for Counted<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        let frame = ready!(Pin::new(&mut this.inner).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    if let Some(counters) = &mut this.counters {
                        let (messages, bytes) = counters.scanner.scan(data);
                        counters.messages.inc_by(messages);
                        counters.bytes.inc_by(bytes);
                    }
                } else if let (Some(trailers), Some(call)) = (frame.trailers_ref(), &mut this.call)
                {
                    call.handled(code(trailers).unwrap_or(UNKNOWN));
                }
            }
            Some(Err(_)) | None => {
                if let Some(call) = &mut this.call {
                    call.handled(UNKNOWN);
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Finds the messages in a body that arrives in pieces of any size.
#[derive(Default)]
struct PrefixScanner {
    prefix: [u8; PREFIX_BYTES],
    prefix_filled: usize,
    /// Bytes of the current message still to come.
    left: usize,
}

impl PrefixScanner {
    /// Returns how many messages begin in `data`, and their length in all.
    fn scan(&mut self, mut data: &[u8]) -> (u64, u64) {
        let (mut messages, mut bytes) = (0, 0);
        while !data.is_empty() {
            if self.left > 0 {
                let passed = self.left.min(data.len());
                self.left -= passed;
                data = &data[passed..];
                continue;
            }
            let taken = (PREFIX_BYTES - self.prefix_filled).min(data.len());
            let filled = self.prefix_filled + taken;
            self.prefix[self.prefix_filled..filled].copy_from_slice(&data[..taken]);
            self.prefix_filled = filled;
            data = &data[taken..];
            if filled == PREFIX_BYTES {
                let [_, length @ ..] = self.prefix;
                let length = u32::from_be_bytes(length);
                messages += 1;
                bytes += u64::from(length);
                self.left = length as usize;
                self.prefix_filled = 0;
            }
        }
        (messages, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_messages_however_they_are_cut() {
        let mut body = Vec::new();
        for length in [0_usize, 1, 300, 5] {
            body.push(0);
            body.extend_from_slice(&(length as u32).to_be_bytes());
            body.resize(body.len() + length, 7);
        }
        for piece in 1..=body.len() {
            let mut scanner = PrefixScanner::default();
            let counts = body.chunks(piece).map(|data| scanner.scan(data));
            let total = counts.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
            assert_eq!(total, (4, 306), "in pieces of {piece}");
        }
    }
}
