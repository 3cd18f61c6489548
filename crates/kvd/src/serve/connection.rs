//! One connection: which protocol it speaks, and which service each request belongs to.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Request, Response, Version};
use http_body_util::Either;
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use kvd_raft::Connection;
use kvd_server::peer_info::PeerInfo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tower_service::Service;
use tracing::debug;

use super::cork;
use super::greeting::{Protocol, greet};
use super::limits;
use super::pending::{Pending, Ticket};
use super::refusal;
use super::rewind::Rewind;
use crate::tls::{Closing, Live};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Requests that a client may give up before they are looked at; one more costs it the connection.
/// The library allows 20: a process that was paused finds more, of a client whose requests timed
/// out meanwhile, and would cut off all else that the client does. etcd has no bound.
const GIVEN_UP_MAX: usize = 10_000;

/// The two services behind a listener.
#[derive(Clone)]
pub struct Services<G, H> {
    /// Takes HTTP/2 requests whose content type starts with `application/grpc`.
    pub grpc: G,
    /// Takes all other requests.
    pub http: H,
}

impl<S: Clone> Services<S, S> {
    /// One service for all requests.
    pub fn alike(service: S) -> Services<S, S> {
        Services {
            grpc: service.clone(),
            http: service,
        }
    }
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

/// TLS of a listener.
#[derive(Clone, Debug)]
pub struct Secure {
    /// How hands are shaken now.
    pub live: Arc<Live>,
    /// Whether a client's certificate must fit its address.
    pub check_client_san: bool,
}

/// Bounds of a connection.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the listener speaks.
    pub protocols: Protocols,
    /// TLS of the listeners whose URLs want it; there must be one when any does.
    pub tls: Option<Secure>,
    /// Streams that a client may open at a time on one connection.
    pub max_concurrent_streams: u32,
    /// Time between pings that check whether an HTTP/2 client is there; `None`: never.
    pub keepalive_interval: Option<Duration>,
    /// Time to answer a ping.
    pub keepalive_timeout: Duration,
    /// Time to say which protocol is spoken.
    pub first_bytes_timeout: Duration,
    /// Time for a TLS handshake.
    pub handshake_timeout: Duration,
    /// Connections that may be shaking hands, or have said nothing yet.
    pub pending_max: usize,
    /// Whether one that has not asked for anything yet counts as well.
    pub pending_until_request: bool,
    /// Time to send a whole HTTP/1 head, also the next one on the same connection.
    pub head_timeout: Duration,
    /// Largest set of headers of a request.
    pub head_bytes_max: u32,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            protocols: Protocols::Both,
            tls: None,
            max_concurrent_streams: u32::MAX,
            keepalive_interval: Some(Duration::from_secs(2 * 3600)),
            keepalive_timeout: Duration::from_secs(20),
            first_bytes_timeout: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(10),
            pending_max: limits::PENDING,
            pending_until_request: false,
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

impl Stop {
    /// The same for one connection. It is looked at each time that the connection is polled, which
    /// takes a lock: better one that no other connection wants.
    fn child(&self) -> Stop {
        Stop {
            drain: self.drain.child_token(),
            cut: self.cut.child_token(),
        }
    }
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

/// How connections come in.
pub(super) struct Entry {
    pub(super) options: Arc<Options>,
    /// Whether this listener has a URL without TLS.
    pub(super) plain: bool,
    /// Whether it has one with TLS.
    pub(super) tls: bool,
    pub(super) pending: Arc<Pending>,
}

/// Serves one connection, from `address`, until either side ends it.
pub(super) async fn run<S, G, H, GB, HB>(
    mut stream: S,
    address: Option<SocketAddr>,
    services: Services<G, H>,
    entry: &Entry,
    stop: &Stop,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    G: Serve<GB>,
    H: Serve<HB>,
    GB: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    HB: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let options = &entry.options;
    let ticket = entry.pending.enter();
    let greeting = greet(&mut stream, options.first_bytes_timeout, stop, &ticket).await;
    let Some((protocol, read)) = greeting else {
        return;
    };
    let secure = options.tls.as_ref().filter(|_| entry.tls);
    match (protocol, secure) {
        (Protocol::Tls, Some(secure)) => {
            // Boxed: these connections pay for encryption, the others need not carry its state.
            let stream: Box<dyn Connection> = Box::new(Rewind::new(read, stream));
            let handshake = secured(stream, address, services, (options, secure), stop, ticket);
            Box::pin(handshake).await;
        }
        (Protocol::Tls, None) => {
            drop(ticket);
            refusal::tls_to_plain(&mut stream, address).await;
        }
        (Protocol::Http1 | Protocol::Http2, Some(secure)) if !entry.plain => {
            drop(ticket);
            refusal::plain_to_tls(&mut stream, protocol, address, &secure.live).await;
        }
        _ => {
            let ticket = until_request(ticket, options);
            let info = PeerInfo {
                address,
                ..PeerInfo::default()
            };
            let stream = Rewind::new(read, stream);
            let stop = stop.child();
            serve(protocol, stream, services, (options, &stop), info, ticket).await;
        }
    }
}

/// The ticket, if it is to be kept until the first request.
fn until_request(ticket: Ticket, options: &Options) -> Option<Ticket> {
    options.pending_until_request.then_some(ticket)
}

/// Shakes hands and serves what is inside.
async fn secured<G, H, GB, HB>(
    stream: Box<dyn Connection>,
    address: Option<SocketAddr>,
    services: Services<G, H>,
    (options, secure): (&Options, &Secure),
    stop: &Stop,
    ticket: Ticket,
) where
    G: Serve<GB>,
    H: Serve<HB>,
    GB: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    HB: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let live = &secure.live;
    let Stop { drain, cut } = stop.child();
    let closing = Closing { drain, cut };
    let handshake = live.accept(stream, address, secure.check_client_san, closing);
    let accepted = tokio::select! {
        accepted = tokio::time::timeout(options.handshake_timeout, handshake) => accepted,
        () = stop.drain.cancelled() => return,
        () = ticket.pushed_out() => return refusal::slow_handshake(address, live, true),
    };
    let mut accepted = match accepted {
        Ok(Ok(accepted)) => accepted,
        Ok(Err(rejected)) => {
            drop(ticket);
            return refusal::handshake(rejected, address, live).await;
        }
        Err(_) => return refusal::slow_handshake(address, live, false),
    };
    let stop = Stop {
        drain: accepted.closing.drain.clone(),
        cut: accepted.closing.cut.clone(),
    };
    let limit = options.first_bytes_timeout;
    let greeting = greet(&mut accepted.stream, limit, &stop, &ticket).await;
    let ticket = until_request(ticket, options);
    let Some((protocol, read)) = greeting else {
        return;
    };
    let info = PeerInfo {
        address,
        common_name: accepted.common_name,
        tls: true,
        ..PeerInfo::default()
    };
    let stream = Rewind::new(read, accepted.stream);
    serve(protocol, stream, services, (options, &stop), info, ticket).await;
    drop(accepted.open);
}

/// Serves HTTP on a connection of which the first bytes were read. It may have to make room until
/// its first request, if it has a ticket.
async fn serve<S, G, H, GB, HB>(
    protocol: Protocol,
    stream: Rewind<S>,
    services: Services<G, H>,
    (options, stop): (&Options, &Stop),
    info: PeerInfo,
    ticket: Option<Ticket>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    G: Serve<GB>,
    H: Serve<HB>,
    GB: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    HB: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let allowed = match protocol {
        Protocol::Http2 => true,
        Protocol::Http1 => options.protocols != Protocols::GrpcOnly,
        Protocol::Tls | Protocol::Unknown => false,
    };
    if !allowed {
        return debug!(
            ?protocol,
            "connection closed: it speaks no protocol of this port"
        );
    }
    let split = options.protocols;
    let out = ticket.as_ref().map(Ticket::out);
    let ticket = Cell::new(ticket);
    let service = service_fn(move |mut request: Request<Incoming>| {
        drop(ticket.take());
        request.extensions_mut().insert(info.clone());
        dispatch(&services, split, request)
    });
    let result = if protocol == Protocol::Http2 {
        let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(options.max_concurrent_streams)
            .max_pending_accept_reset_streams(GIVEN_UP_MAX)
            .max_header_list_size(options.head_bytes_max)
            .keep_alive_interval(options.keepalive_interval)
            .keep_alive_timeout(options.keepalive_timeout);
        let connection = cork::corked(stream, |stream| {
            builder.serve_connection(TokioIo::new(stream), service)
        });
        until_stopped(std::pin::pin!(connection), stop, out, |mut connection| {
            connection.connection().graceful_shutdown();
        })
        .await
    } else {
        let io = TokioIo::new(stream);
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(options.head_timeout)
            .max_buf_size(options.head_bytes_max as usize);
        let connection = std::pin::pin!(builder.serve_connection(io, service));
        until_stopped(connection, stop, out, |connection| {
            connection.graceful_shutdown()
        })
        .await
    };
    if let Err(error) = result {
        debug!(%error, "connection ended with an error");
    }
}

/// Polls `connection` to its end, starting a graceful shutdown when told to drain. It ends at once
/// when `out` says that it must make room.
async fn until_stopped<C>(
    mut connection: std::pin::Pin<&mut C>,
    stop: &Stop,
    out: Option<CancellationToken>,
    shut_down: impl FnOnce(std::pin::Pin<&mut C>),
) -> Result<(), hyper::Error>
where
    C: Future<Output = Result<(), hyper::Error>>,
{
    tokio::select! {
        biased;
        result = connection.as_mut() => return result,
        () = stop.drain.cancelled() => shut_down(connection.as_mut()),
        () = made_room(out) => {
            debug!("connection closed: it asked for nothing while too many others came");
            return Ok(());
        }
    }
    tokio::select! {
        result = connection => result,
        () = stop.cut.cancelled() => Ok(()),
    }
}

async fn made_room(out: Option<CancellationToken>) {
    match out {
        Some(out) => out.cancelled().await,
        None => std::future::pending().await,
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
