//! One connection: which protocol it speaks, and which service each request belongs to.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{Request, Response, Version};
use http_body_util::Either;
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tower_service::Service;
use tracing::debug;

use super::rewind::Rewind;

/// What an HTTP/2 client sends first (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The two services behind a listener.
#[derive(Clone)]
pub struct Services<G, H> {
    /// Takes HTTP/2 requests whose content type starts with `application/grpc`.
    pub grpc: G,
    /// Takes all other requests.
    pub http: H,
}

/// What a listener speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocols {
    /// gRPC and HTTP on one port.
    #[default]
    Both,
    /// gRPC alone: a connection that does not start as HTTP/2 is closed.
    GrpcOnly,
    /// HTTP alone: gRPC requests reach the HTTP service.
    HttpOnly,
}

/// Bounds of a connection.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the listener speaks.
    pub protocols: Protocols,
    /// Streams that a client may open at a time on one connection.
    pub max_concurrent_streams: u32,
    /// Time between pings that check whether an HTTP/2 client is there; `None`: never.
    pub keepalive_interval: Option<Duration>,
    /// Time to answer a ping.
    pub keepalive_timeout: Duration,
    /// Time to say which protocol is spoken.
    pub first_bytes_timeout: Duration,
    /// Time to send a whole HTTP/1 head, also the next one on the same connection.
    pub head_timeout: Duration,
    /// Largest set of headers of a request.
    pub head_bytes_max: u32,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            protocols: Protocols::Both,
            max_concurrent_streams: u32::MAX,
            keepalive_interval: Some(Duration::from_secs(2 * 3600)),
            keepalive_timeout: Duration::from_secs(20),
            first_bytes_timeout: Duration::from_secs(10),
            head_timeout: Duration::from_secs(30),
            head_bytes_max: 64 * 1024,
        }
    }
}

/// When a connection must end.
#[derive(Clone, Debug, Default)]
pub(super) struct Stop {
    /// Finish the requests in flight, take no more.
    pub(super) drain: CancellationToken,
    /// End now.
    pub(super) cut: CancellationToken,
}

/// What the two services must be. They are called without being asked whether they are ready, so
/// they must always be.
pub(super) trait Serve<B>:
    Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<T, B> Serve<B> for T where
    T: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// Serves one connection until either side ends it.
pub(super) async fn run<S, G, H, GB, HB>(
    mut stream: S,
    services: Services<G, H>,
    options: &Options,
    stop: &Stop,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    G: Serve<GB>,
    H: Serve<HB>,
    GB: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    HB: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let sniffed = tokio::select! {
        sniffed = tokio::time::timeout(options.first_bytes_timeout, sniff(&mut stream)) => sniffed,
        () = stop.drain.cancelled() => return,
    };
    let (protocol, prefix) = match sniffed {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => return debug!(%error, "connection ended before its first request"),
        Err(_) => return debug!("connection closed: it said nothing"),
    };
    let allowed = match protocol {
        Protocol::Http2 => true,
        Protocol::Http1 => options.protocols != Protocols::GrpcOnly,
        Protocol::Unknown => false,
    };
    if !allowed {
        return debug!(
            ?protocol,
            "connection closed: it speaks no protocol of this port"
        );
    }
    let io = TokioIo::new(Rewind::new(prefix, stream));
    let split = options.protocols;
    let service = service_fn(move |request| dispatch(&services, split, request));
    let result = if protocol == Protocol::Http2 {
        let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(options.max_concurrent_streams)
            .max_header_list_size(options.head_bytes_max)
            .keep_alive_interval(options.keepalive_interval)
            .keep_alive_timeout(options.keepalive_timeout);
        let connection = std::pin::pin!(builder.serve_connection(io, service));
        until_stopped(connection, stop, |connection| {
            connection.graceful_shutdown()
        })
        .await
    } else {
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(options.head_timeout)
            .max_buf_size(options.head_bytes_max as usize);
        let connection = std::pin::pin!(builder.serve_connection(io, service));
        until_stopped(connection, stop, |connection| {
            connection.graceful_shutdown()
        })
        .await
    };
    if let Err(error) = result {
        debug!(%error, "connection ended with an error");
    }
}

/// Polls `connection` to its end, starting a graceful shutdown when told to drain.
async fn until_stopped<C>(
    mut connection: std::pin::Pin<&mut C>,
    stop: &Stop,
    shut_down: impl FnOnce(std::pin::Pin<&mut C>),
) -> Result<(), hyper::Error>
where
    C: Future<Output = Result<(), hyper::Error>>,
{
    tokio::select! {
        biased;
        result = connection.as_mut() => return result,
        () = stop.drain.cancelled() => shut_down(connection.as_mut()),
    }
    tokio::select! {
        result = connection => result,
        () = stop.cut.cancelled() => Ok(()),
    }
}

/// The reply of either service. Boxed, so that the task of a request is small: it is moved about.
enum Reply<G, H> {
    Grpc(Pin<Box<G>>),
    Http(Pin<Box<H>>),
}

impl<G, H, GB, HB> Future for Reply<G, H>
where
    G: Future<Output = Result<Response<GB>, Infallible>>,
    H: Future<Output = Result<Response<HB>, Infallible>>,
{
    type Output = Result<Response<Either<GB, HB>>, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Ok(match self.get_mut() {
            Reply::Grpc(reply) => ready!(reply.as_mut().poll(context))?.map(Either::Left),
            Reply::Http(reply) => ready!(reply.as_mut().poll(context))?.map(Either::Right),
        }))
    }
}

fn dispatch<G, H, GB, HB>(
    services: &Services<G, H>,
    protocols: Protocols,
    request: Request<Incoming>,
) -> Reply<G::Future, H::Future>
where
    G: Serve<GB>,
    H: Serve<HB>,
{
    let grpc = match protocols {
        Protocols::Both => is_grpc(&request),
        Protocols::GrpcOnly => true,
        Protocols::HttpOnly => false,
    };
    if grpc {
        Reply::Grpc(Box::pin(services.grpc.clone().call(request)))
    } else {
        Reply::Http(Box::pin(services.http.clone().call(request)))
    }
}

fn is_grpc(request: &Request<Incoming>) -> bool {
    request.version() == Version::HTTP_2
        && request
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
    Unknown,
}

/// Reads until it is clear what is spoken; what was read comes back with the answer.
async fn sniff(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<(Protocol, Bytes)> {
    let mut read = BytesMut::with_capacity(4096);
    loop {
        if stream.read_buf(&mut read).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let common = read.len().min(PREFACE.len());
        if read[..common] != PREFACE[..common] {
            // A method comes first in HTTP/1, in capitals; TLS and noise look otherwise.
            let method = read[0].is_ascii_uppercase();
            let protocol = if method {
                Protocol::Http1
            } else {
                Protocol::Unknown
            };
            return Ok((protocol, read.freeze()));
        }
        if common == PREFACE.len() {
            return Ok((Protocol::Http2, read.freeze()));
        }
    }
}
