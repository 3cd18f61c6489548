//! `/v1/autopilot`, what members that look for a cluster ask over the peer port, and everything that
//! a process answers before it is a member.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use axum::routing::any;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Method, StatusCode, header};
use kvd_api::error::WireError;

use crate::error::{self, JSON};
use crate::member::Member;
use crate::router::with_not_found;

/// Most bytes of a request to be added; axum's own bound is far above.
const JOIN_BYTES_MAX: usize = 64 * 1024;

/// What members ask of each other before there is a cluster, or to be added to one. Texts are JSON.
pub trait AutopilotPeer: Send + Sync + 'static {
    /// Who this process is.
    fn identity(&self) -> String;

    /// A request to be added. The error says why it cannot be read.
    fn join(&self, request: Bytes) -> BoxFuture<'_, Result<String, String>>;

    /// The status as this member alone knows it.
    fn status(&self) -> String;
}

/// A process that is no member yet.
pub trait Waiting: Send + Sync + 'static {
    /// The JSON of `/v1/autopilot`.
    fn status(&self) -> String;

    /// What it waits for, in a line.
    fn reason(&self) -> String;
}

/// `/autopilot/…` on the peer port, to be merged with what else is there.
pub fn autopilot_peer_router(peer: Arc<dyn AutopilotPeer>) -> Router {
    Router::new()
        .route("/autopilot/identity", any(identity))
        .route("/autopilot/status", any(local_status))
        .route("/autopilot/join", any(join))
        .with_state(peer)
}

/// The client and metrics ports of a process that is no member yet: it lives and is not ready.
pub fn waiting_router(process: Arc<dyn Waiting>) -> Router {
    Router::new()
        .route("/v1/autopilot", any(waiting_status))
        .route("/livez", any(alive))
        .fallback(not_yet)
        .with_state(process)
}

/// The peer port of such a process.
pub fn waiting_peer_router(peer: Arc<dyn AutopilotPeer>) -> Router {
    with_not_found(autopilot_peer_router(peer))
}

fn json(body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, JSON);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, error::NOSNIFF);
    headers.insert(
        header::CACHE_CONTROL,
        http::HeaderValue::from_static("no-store"),
    );
    response
}

/// `/v1/autopilot` of a member.
pub(crate) async fn status(State(member): State<Arc<dyn Member>>, method: Method) -> Response {
    match method {
        Method::GET => json(member.autopilot().await),
        _ => error::only_get(),
    }
}

async fn identity(State(peer): State<Arc<dyn AutopilotPeer>>, method: Method) -> Response {
    match method {
        Method::GET => json(peer.identity()),
        _ => error::only_get(),
    }
}

async fn local_status(State(peer): State<Arc<dyn AutopilotPeer>>, method: Method) -> Response {
    match method {
        Method::GET => json(peer.status()),
        _ => error::only_get(),
    }
}

async fn join(
    State(peer): State<Arc<dyn AutopilotPeer>>,
    method: Method,
    request: Bytes,
) -> Response {
    if method != Method::POST {
        return error::page_text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    }
    if request.len() > JOIN_BYTES_MAX {
        return error::page_text(StatusCode::PAYLOAD_TOO_LARGE, "the request is too large");
    }
    match peer.join(request).await {
        Ok(reply) => json(reply),
        Err(why) => error::page_text(StatusCode::BAD_REQUEST, &why),
    }
}

async fn waiting_status(State(process): State<Arc<dyn Waiting>>, method: Method) -> Response {
    match method {
        Method::GET => json(process.status()),
        _ => error::only_get(),
    }
}

async fn alive(method: Method) -> Response {
    match method {
        Method::GET => error::page_text(StatusCode::OK, "ok"),
        _ => error::only_get(),
    }
}

/// gRPC clients are told what a member without a leader tells them: to go elsewhere.
async fn not_yet(State(process): State<Arc<dyn Waiting>>, headers: HeaderMap) -> Response {
    let kind = headers.get(header::CONTENT_TYPE);
    if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
        return tonic::Status::from(WireError::NoLeader).into_http::<Body>();
    }
    let line = format!("this process is no member yet: {}", process.reason());
    error::page_text(StatusCode::SERVICE_UNAVAILABLE, &line)
}
