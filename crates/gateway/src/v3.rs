//! The JSON gateway: `/v3/*` to gRPC and back.
//!
//! Source: etcd's generated gateway, grpc-gateway v2.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use prost_reflect::{DescriptorPool, MessageDescriptor};

use crate::call::{self, GrpcService, Replies};
use crate::error::{self, Error, Result};
use crate::routes::ROUTES;
use crate::{json, router, v3_stream};

/// What a member takes beyond the largest request, for the rest of the message around it. Source:
/// etcd `embed.grpcOverheadBytes`.
const OVERHEAD_BYTES: usize = 512 * 1024;
/// How much larger than its protobuf form a request's JSON may be: base64 takes a third more.
const JSON_FACTOR: usize = 2;
/// The header that grpc-gateway makes of the RPC's content type.
const GRPC_CONTENT_TYPE: HeaderName = HeaderName::from_static("grpc-metadata-content-type");

/// The gateway: the routes, and the services that they lead to.
pub(crate) struct Gateway {
    service: GrpcService,
    routes: HashMap<&'static str, Rpc>,
    max_message_bytes: usize,
}

/// One RPC as a route needs it.
pub(crate) struct Rpc {
    /// `/pkg.Service/Method`.
    path: PathAndQuery,
    /// The request's type.
    input: MessageDescriptor,
    /// The reply's type.
    output: MessageDescriptor,
    client_streams: bool,
    server_streams: bool,
}

impl Gateway {
    /// A gateway to `service`, for requests of at most `max_request_bytes`.
    pub(crate) fn new(service: GrpcService, max_request_bytes: usize) -> Gateway {
        let pool = DescriptorPool::decode(kvd_api::DESCRIPTORS)
            .expect("the descriptors come from the build of kvd-api");
        let routes = ROUTES.iter().map(|(path, service, method)| {
            let rpc = Rpc::find(&pool, service, method)
                .expect("a test compares every route with the descriptors");
            (*path, rpc)
        });
        Gateway {
            service,
            routes: routes.collect(),
            max_message_bytes: max_request_bytes.saturating_add(OVERHEAD_BYTES),
        }
    }

    /// Most bytes of one JSON request.
    pub(crate) fn max_body_bytes(&self) -> usize {
        self.max_message_bytes.saturating_mul(JSON_FACTOR)
    }

    /// Reads one JSON request of type `input` and frames it for the call.
    pub(crate) fn frame(&self, input: &MessageDescriptor, body: &[u8]) -> Result<Bytes> {
        let message = json::decode(input, body)?;
        if message.len() > self.max_message_bytes {
            let (size, max) = (message.len(), self.max_message_bytes);
            return Err(Error::MessageTooLarge { size, max });
        }
        call::frame(&message)
    }

    /// Calls `rpc` with `body`, for an HTTP request that began with `parts`.
    pub(crate) async fn call(
        &self,
        rpc: &Rpc,
        parts: &Parts,
        body: tonic::body::Body,
    ) -> Result<Replies> {
        let deadline = call::deadline(&parts.headers)?;
        let metadata = call::metadata(&parts.headers);
        let extensions = parts.extensions.clone();
        let service = self.service.clone();
        call::call(service, &rpc.path, metadata, extensions, body, deadline).await
    }

    /// The RPC of a request's path, if it may be called so.
    fn rpc(&self, request: &Request) -> Result<&Rpc> {
        let path = request.uri().path();
        // As etcd does: the gateway's beta paths mean the ones of today.
        let rpc = match path.strip_prefix("/v3beta/") {
            Some(rest) => self.routes.get(format!("/v3/{rest}").as_str()),
            None => self.routes.get(path),
        };
        let rpc = rpc.ok_or(Error::NotFound)?;
        if request.method() != Method::POST {
            return Err(Error::MethodNotAllowed);
        }
        Ok(rpc)
    }

    /// The whole body, if it is within bounds.
    async fn read(&self, body: Body) -> Result<Bytes> {
        let max = self.max_body_bytes();
        match Limited::new(body, max).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(Error::BodyTooLarge { max }),
            Err(error) => Err(Error::Body(error.to_string())),
        }
    }

    /// One request, one reply.
    async fn unary(&self, rpc: &Rpc, request: Request) -> Result<Response> {
        let (parts, body) = request.into_parts();
        let frame = self.frame(&rpc.input, &self.read(body).await?)?;
        let body = tonic::body::Body::new(http_body_util::Full::new(frame));
        let mut replies = self.call(rpc, &parts, body).await?;
        let Some(message) = replies.next().await? else {
            return Err(Error::BadReply("the call ended without a reply".into()));
        };
        // The status comes after the message: an error there takes the message's place.
        while replies.next().await?.is_some() {}
        let mut out = Vec::with_capacity(message.len() * JSON_FACTOR);
        json::encode(&rpc.output, message, &mut out)?;
        let mut response = Response::new(Body::from(out));
        set_headers(&mut response);
        Ok(response)
    }

    /// One request, a stream of replies.
    async fn server_stream(&self, rpc: &Rpc, request: Request) -> Result<Response> {
        let (parts, body) = request.into_parts();
        let frame = self.frame(&rpc.input, &self.read(body).await?)?;
        let body = tonic::body::Body::new(http_body_util::Full::new(frame));
        let replies = self.call(rpc, &parts, body).await;
        Ok(v3_stream::respond(rpc.output.clone(), replies).await)
    }

    /// A stream of requests, a stream of replies.
    async fn bidi_stream(self: Arc<Self>, rpc: &Rpc, request: Request) -> Result<Response> {
        let (parts, body) = request.into_parts();
        let mut requests = v3_stream::Requests::new(body, self.max_body_bytes());
        // A first request that cannot be read is answered as in a call with one request.
        let first = match requests.next().await? {
            Some(object) => Some(self.frame(&rpc.input, &object)?),
            None => None,
        };
        let body = v3_stream::frames(self.clone(), rpc.input.clone(), first, requests);
        let replies = self.call(rpc, &parts, body).await;
        Ok(v3_stream::respond(rpc.output.clone(), replies).await)
    }
}

impl Rpc {
    fn find(pool: &DescriptorPool, service: &str, method: &str) -> Option<Rpc> {
        let service = pool.get_service_by_name(service)?;
        let method = service.methods().find(|m| m.name() == method)?;
        Some(Rpc {
            path: format!("/{}/{}", service.full_name(), method.name())
                .parse()
                .ok()?,
            input: method.input(),
            output: method.output(),
            client_streams: method.is_client_streaming(),
            server_streams: method.is_server_streaming(),
        })
    }
}

/// Answers any request under `/v3/` and `/v3beta/`.
pub(crate) async fn serve(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    if let Some(location) = router::cleaned(request.uri()) {
        return error::elsewhere(location);
    }
    let path = request.uri().path().to_string();
    let answer = match gateway.rpc(&request) {
        Ok(rpc) if rpc.client_streams => gateway.clone().bidi_stream(rpc, request).await,
        Ok(rpc) if rpc.server_streams => gateway.server_stream(rpc, request).await,
        Ok(rpc) => gateway.unary(rpc, request).await,
        Err(error) => Err(error),
    };
    answer.unwrap_or_else(|error| {
        tracing::debug!(path, %error, "a call through the gateway failed");
        error.into_response()
    })
}

/// The headers of an answer that came from an RPC.
pub(crate) fn set_headers(response: &mut Response) {
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, error::JSON);
    headers.insert(
        GRPC_CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
}
