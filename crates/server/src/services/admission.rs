//! What is decided about a gRPC call before any service sees it: whether this version has the
//! RPC, whether a learner may answer it, whether the caller wants a leader to exist.
//!
//! Source: etcd `server/etcdserver/api/v3rpc/interceptor.go`.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use kvd_api::error::{WireError, internal, too_large, unimplemented};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use crate::core::Core;
use crate::limits;

/// Services of etcd that this version does not have.
const UNBUILT: [&str; 1] = ["/etcdserverpb.Auth/"];

/// What the paths of etcd's services begin with.
const ETCD: [&str; 3] = ["/etcdserverpb.", "/v3lockpb.", "/v3electionpb."];

/// What a member without a vote answers. A Range must also be serializable, which its handler
/// checks.
const LEARNER_MAY: [&str; 3] = [
    "/etcdserverpb.KV/Range",
    "/etcdserverpb.Maintenance/Status",
    "/etcdserverpb.Maintenance/Snapshot",
];

/// Puts [`Admission`] before every service.
#[derive(Clone)]
pub struct AdmissionLayer {
    core: Arc<Core>,
}

impl AdmissionLayer {
    /// Admission to the member `core`.
    pub fn new(core: Arc<Core>) -> AdmissionLayer {
        AdmissionLayer { core }
    }
}

impl<S> Layer<S> for AdmissionLayer {
    type Service = Admission<S>;

    fn layer(&self, inner: S) -> Admission<S> {
        Admission {
            core: Arc::clone(&self.core),
            inner,
        }
    }
}

/// Checks each call, then hands it on.
#[derive(Clone)]
pub struct Admission<S> {
    core: Arc<Core>,
    inner: S,
}

impl<S> Admission<S> {
    fn refusal<B>(&self, request: &Request<B>) -> Option<Status> {
        let path = request.uri().path();
        if !path.starts_with("/etcdserverpb.KV/")
            && let Some(prefix) = UNBUILT.iter().find(|prefix| path.starts_with(**prefix))
        {
            tracing::debug!(prefix, "a call of a service that is not built");
            return Some(unimplemented(path.trim_start_matches('/')));
        }
        let headers = request.headers();
        if headers
            .get("hasleader")
            .is_some_and(|value| value == "true")
            && self.core.leader() == 0
        {
            return Some(WireError::NoLeader.into());
        }
        let is_etcd = ETCD.iter().any(|prefix| path.starts_with(prefix));
        if is_etcd && self.core.is_learner() && !LEARNER_MAY.contains(&path) {
            return Some(WireError::NotSupportedForLearner.into());
        }
        None
    }
}

/// The reply of a service inside, or a refusal.
pub enum Reply<F> {
    /// Refused before any service saw the call; taken out when polled.
    Refused(Option<Status>),
    /// Under way; with the largest message that is accepted.
    Admitted(F, usize),
}

impl<F> Future for Reply<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>> + Unpin,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let (response, limit) = match &mut *self {
            Reply::Refused(status) => {
                let status = status
                    .take()
                    .unwrap_or_else(|| internal("a refusal was polled twice"));
                return Poll::Ready(Ok(status.into_http()));
            }
            Reply::Admitted(reply, limit) => (ready!(Pin::new(reply).poll(context))?, *limit),
        };
        // gRPC for Go says this differently from tonic, and clients look for its words.
        Poll::Ready(Ok(match too_large(response.headers(), limit) {
            Some(status) => status.into_http(),
            None => response,
        }))
    }
}

/// Futures are not boxed on the way, since every call passes here: those inside must be `Unpin`.
impl<S, B> Service<Request<B>> for Admission<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
    S::Future: Unpin,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Reply<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Reply<S::Future> {
        let version = request.headers().get("client-api-version");
        let version = version
            .and_then(|value| value.to_str().ok())
            .unwrap_or("unknown");
        self.core
            .metrics()
            .client_request(request.uri().path(), version);
        if let Some(status) = self.refusal(&request) {
            return Reply::Refused(Some(status));
        }
        let limit = self.core.config().request_bytes_max + limits::REQUEST_OVERHEAD_BYTES;
        Reply::Admitted(self.inner.call(request), limit)
    }
}
