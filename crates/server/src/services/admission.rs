//! What is decided about a gRPC call before any service sees it: whether this version has the
//! RPC, whether a learner may answer it, whether the caller wants a leader to exist; and while auth
//! is on, who calls and whether they may call it at all ([`crate::auth::RULES`]). That is asked
//! again at the end of the message ([`super::guarded`]).
//!
//! Source: etcd `server/etcdserver/api/v3rpc/interceptor.go`.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use kvd_api::error::{WireError, internal, too_large};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::guarded::{Guard, Guarded};
use crate::audit::{Entry, Pending};
use crate::auth::{Caller, Credentials, Rule, Unidentified};
use crate::core::Core;
use crate::limits;

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

/// Refuses a call that `caller` may not make; the services find the caller in its extensions.
fn admit<B>(
    core: &Core,
    rule: Rule,
    caller: Option<Caller>,
    request: &mut Request<B>,
) -> Result<(), Status> {
    Entry::called_by(request.extensions(), caller.as_ref());
    rule.check(&core.auth().view(), caller.as_ref())?;
    if let Some(caller) = caller {
        request.extensions_mut().insert(caller);
    }
    Ok(())
}

/// The call with `guard` at the end of its message.
fn guarded<B>(request: Request<B>, guard: Option<Guard>) -> Request<Guarded<B>> {
    request.map(|body| Guarded::new(body, guard))
}

impl<S> Admission<S> {
    /// What a call shows.
    fn shown<B>(&self, request: &Request<B>) -> Credentials {
        let by_certificate = self.core.auth().by_certificate();
        Credentials::of(request.headers(), request.extensions(), by_certificate)
    }

    fn identify(
        &self,
        rule: Rule,
        credentials: &Credentials,
    ) -> Result<Option<Caller>, Unidentified> {
        match rule {
            Rule::Open | Rule::Messages => Ok(None),
            Rule::Anyone | Rule::User | Rule::Admin => {
                let auth = self.core.auth();
                auth.identify(credentials, self.core.applied_index())
            }
        }
    }

    fn refusal<B>(&self, request: &Request<B>) -> Option<Status> {
        let path = request.uri().path();
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

/// The audit log's part of a call, if there is one. Boxed, since every call's reply has room for
/// it.
type Written = Option<Box<Pending>>;

/// The reply of a service inside, or a refusal.
pub enum Reply<F> {
    /// Refused before any service saw the call; taken out when polled.
    Refused(Option<Status>, Written),
    /// Under way; with the largest message that is accepted.
    Admitted(F, usize, Written),
    /// The token is waited for first.
    Waiting(
        Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>,
        usize,
        Written,
    ),
}

impl<F> Future for Reply<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>> + Unpin,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let (response, limit, written) = match &mut *self {
            Reply::Refused(status, written) => {
                let status = status
                    .take()
                    .unwrap_or_else(|| internal("a refusal was polled twice"));
                (status.into_http(), usize::MAX, written)
            }
            Reply::Admitted(reply, limit, written) => {
                let response = ready!(Pin::new(reply).poll(context))?;
                (response, *limit, written)
            }
            Reply::Waiting(reply, limit, written) => {
                let response = ready!(reply.as_mut().poll(context))?;
                (response, *limit, written)
            }
        };
        // gRPC for Go says this differently from tonic, and clients look for its words.
        let response = match too_large(response.headers(), limit) {
            Some(status) => status.into_http(),
            None => response,
        };
        if let Some(mut written) = written.take() {
            written.answered(code(&response));
        }
        Poll::Ready(Ok(response))
    }
}

/// How a call was answered, as far as its headers say: a call that fails later began well.
fn code(response: &Response<Body>) -> Code {
    match response.headers().get("grpc-status") {
        Some(code) => Code::from_bytes(code.as_bytes()),
        None => Code::Ok,
    }
}

/// Futures are not boxed on the way, since every call passes here: those inside must be `Unpin`.
impl<S, B> Service<Request<B>> for Admission<S>
where
    S: Service<Request<Guarded<B>>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Unpin + Send,
    B: HttpBody<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Reply<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Reply<S::Future> {
        let version = request.headers().get("client-api-version");
        let version = version
            .and_then(|value| value.to_str().ok())
            .unwrap_or("unknown");
        self.core
            .metrics()
            .client_request(request.uri().path(), version);
        let written = Pending::begin(self.core.audit(), &mut request).map(Box::new);
        if let Some(status) = self.refusal(&request) {
            return Reply::Refused(Some(status), written);
        }
        let limit = self.core.config().request_bytes_max + limits::REQUEST_OVERHEAD_BYTES;
        let rule = Rule::of(request.uri().path());
        if !self.core.auth().is_enabled() {
            let guard = Guard::new(&self.core, rule, Credentials::default(), None);
            let reply = self.inner.call(guarded(request, guard));
            return Reply::Admitted(reply, limit, written);
        }
        // Before it is asked who calls: a change in between is seen at the end of the message.
        let revision = Some(self.core.auth().view().revision());
        let credentials = self.shown(&request);
        match self.identify(rule, &credentials) {
            Ok(caller) => match admit(&self.core, rule, caller, &mut request) {
                Ok(()) => {
                    let guard = Guard::new(&self.core, rule, credentials, revision);
                    let reply = self.inner.call(guarded(request, guard));
                    Reply::Admitted(reply, limit, written)
                }
                Err(refusal) => Reply::Refused(Some(refusal), written),
            },
            Err(Unidentified::Invalid) => {
                Reply::Refused(Some(WireError::InvalidAuthToken.into()), written)
            }
            Err(Unidentified::NotApplied(_)) => {
                let (core, mut inner) = (Arc::clone(&self.core), self.inner.clone());
                let reply = async move {
                    let identified = core.identify(&credentials).await.map_err(Status::from);
                    let admitted =
                        identified.and_then(|caller| admit(&core, rule, caller, &mut request));
                    match admitted {
                        Ok(()) => {
                            let guard = Guard::new(&core, rule, credentials, revision);
                            inner.call(guarded(request, guard)).await
                        }
                        Err(refusal) => Ok(refusal.into_http()),
                    }
                };
                Reply::Waiting(Box::pin(reply), limit, written)
            }
        }
    }
}
