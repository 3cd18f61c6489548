//! Every HTTP status that kvd sends, and the bodies that go with the bad ones.
//!
//! The v2 API has its own in `v2/error`. Two shapes, as etcd has them: the gateway answers `{"code":N,"message":"..."}` with the gRPC
//! code's HTTP status; everything else answers one line of text.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use tonic::Code;

/// A result of this crate.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Why a call through the JSON gateway failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum Error {
    /// The RPC answered with an error.
    #[error("{message}")]
    Rpc {
        /// Its gRPC code.
        code: Code,
        /// Its text.
        message: String,
    },
    /// The body is not the JSON of the RPC's request; the text says where and why.
    #[error("{0}")]
    BadJson(String),
    /// The body could not be read.
    #[error("reading the request body: {0}")]
    Body(String),
    /// The request's protobuf form is larger than the member takes.
    #[error("grpc: received message larger than max ({size} vs. {max})")]
    MessageTooLarge {
        /// Encoded size in bytes.
        size: usize,
        /// The bound in bytes.
        max: usize,
    },
    /// The JSON itself is larger than any request within bounds can be.
    #[error("request body is larger than max ({max} bytes)")]
    BodyTooLarge {
        /// The bound in bytes.
        max: usize,
    },
    /// The `Grpc-Timeout` header is not a duration.
    #[error("invalid grpc-timeout: {0}")]
    BadTimeout(String),
    /// The `Grpc-Timeout` ran out.
    #[error("context deadline exceeded")]
    DeadlineExceeded,
    /// The member's answer is not gRPC, or not the message that its descriptor names.
    #[error("{0}")]
    BadReply(String),
    /// No RPC has this path.
    #[error("Not Found")]
    NotFound,
    /// An RPC has this path, but it is called with POST.
    #[error("Method Not Allowed")]
    MethodNotAllowed,
}

impl Error {
    /// The gRPC code that the body carries.
    pub(crate) fn code(&self) -> Code {
        match self {
            Error::Rpc { code, .. } => *code,
            Error::BadJson(_) | Error::Body(_) | Error::BadTimeout(_) => Code::InvalidArgument,
            Error::MessageTooLarge { .. } | Error::BodyTooLarge { .. } => Code::ResourceExhausted,
            Error::DeadlineExceeded => Code::DeadlineExceeded,
            Error::BadReply(_) => Code::Internal,
            Error::NotFound => Code::NotFound,
            Error::MethodNotAllowed => Code::Unimplemented,
        }
    }

    /// The body: `{"code":N,"message":"..."}`.
    pub(crate) fn to_json(&self) -> String {
        let message = serde_json::Value::String(self.to_string());
        format!("{{\"code\":{},\"message\":{message}}}", self.code() as i32)
    }

    /// The same as a line of a stream: `{"error":{...}}`.
    pub(crate) fn to_stream_line(&self) -> String {
        format!("{{\"error\":{}}}\n", self.to_json())
    }

    /// The answer when a stream fails before its first message.
    pub(crate) fn into_stream_response(self) -> Response {
        let mut response = Response::new(Body::from(self.to_stream_line()));
        *response.status_mut() = http_status(self.code());
        response.headers_mut().insert(header::CONTENT_TYPE, JSON);
        response
    }
}

/// The content type of every JSON answer.
pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// The content type of every answer in text.
pub(crate) const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
/// The value of `X-Content-Type-Options`.
pub(crate) const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.to_json()));
        *response.status_mut() = http_status(self.code());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, JSON);
        if self.code() == Code::Unauthenticated {
            // A text that no header can carry is left out: the body has it in full.
            if let Ok(value) = HeaderValue::from_str(&self.to_string()) {
                headers.insert(header::WWW_AUTHENTICATE, value);
            }
        }
        response
    }
}

/// The HTTP status that stands for a gRPC code. Source: grpc-gateway v2, `runtime/errors.go`.
pub fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        // 499, which the registry of statuses does not name: the client went away.
        Code::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::REQUEST_TIMEOUT),
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => {
            StatusCode::BAD_REQUEST
        }
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// A bad status with one line of text, as Go's `http.Error` writes it.
pub(crate) fn page_text(status: StatusCode, line: &str) -> Response {
    let mut response = Response::new(Body::from(format!("{line}\n")));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, TEXT);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    response
}

/// No endpoint has this path.
pub(crate) fn page_not_found() -> Response {
    page_text(StatusCode::NOT_FOUND, "404 page not found")
}

/// The path is not clean: the client finds the endpoint, with method and body, at `location`.
pub(crate) fn elsewhere(location: HeaderValue) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    response.headers_mut().insert(header::LOCATION, location);
    response
}

/// The endpoint answers GET only.
pub(crate) fn only_get() -> Response {
    let mut response = page_text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    response
        .headers_mut()
        .insert(header::ALLOW, HeaderValue::from_static("GET"));
    response
}

/// The member is not healthy; `reason` says why.
pub(crate) fn unhealthy(reason: &str) -> Response {
    page_text(StatusCode::SERVICE_UNAVAILABLE, reason)
}

/// The request came under a host name that is not on the list.
pub(crate) fn misdirected(explanation: &str) -> Response {
    page_text(StatusCode::MISDIRECTED_REQUEST, explanation)
}

/// The request is meant for another cluster.
pub(crate) fn other_cluster() -> Response {
    page_text(StatusCode::PRECONDITION_FAILED, "cluster ID mismatch")
}

/// Whoever asks was removed from the cluster.
pub(crate) fn removed() -> Response {
    page_text(
        StatusCode::GONE,
        "the member has been permanently removed from the cluster",
    )
}

/// The member could not find the answer; `reason` says why.
pub(crate) fn failed(reason: &str) -> Response {
    page_text(StatusCode::INTERNAL_SERVER_ERROR, reason)
}

/// The request cannot be served as it stands; `reason` says why.
pub(crate) fn refused(reason: &str) -> Response {
    page_text(StatusCode::BAD_REQUEST, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_the_statuses_of_grpc_gateway() {
        let want = [
            200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401,
        ];
        for (code, status) in want.iter().enumerate() {
            let code = Code::from_i32(i32::try_from(code).expect("small"));
            assert_eq!(http_status(code).as_u16(), *status, "{code:?}");
        }
    }

    #[test]
    fn bodies_are_json_whatever_the_text() {
        let error = Error::Rpc {
            code: Code::Unknown,
            message: "a \"b\"\n\u{e9}".into(),
        };
        assert_eq!(
            error.to_json(),
            "{\"code\":2,\"message\":\"a \\\"b\\\"\\n\u{e9}\"}"
        );
        let line = Error::NotFound.to_stream_line();
        assert_eq!(line, "{\"error\":{\"code\":5,\"message\":\"Not Found\"}}\n");
    }
}
