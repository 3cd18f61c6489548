//! One gRPC call to the member's own services, in process.
//!
//! A message is framed as on the wire: one byte for compression (always 0 here), four for the
//! length, big end first, then the message. A call ends with `grpc-status` and `grpc-message`, in
//! the trailers or, when there is no message at all, in the headers.

use std::convert::Infallible;
use std::time::Duration;

use base64::Engine;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::uri::PathAndQuery;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, Uri, Version, header};
use http_body_util::BodyExt;
use tokio::time::Instant;
use tonic::Code;
use tonic::body::Body;
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;

use crate::error::{Error, Result};

/// The member's gRPC services, cheap to clone.
pub(crate) type GrpcService =
    BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Infallible>;

/// Bytes before each message.
const PREFIX_BYTES: usize = 5;
/// What grpc-gateway prepends to headers that it passes on as metadata.
const METADATA_PREFIX: &str = "grpc-metadata-";

/// Frames one message.
pub(crate) fn frame(message: &[u8]) -> Result<Bytes> {
    let length = u32::try_from(message.len()).map_err(|_| Error::MessageTooLarge {
        size: message.len(),
        max: u32::MAX as usize,
    })?;
    let mut frame = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    frame.put_u8(0);
    frame.put_u32(length);
    frame.put_slice(message);
    Ok(frame.freeze())
}

/// Calls the method at `path`, and returns once its headers are here.
///
/// `metadata`: see [`metadata`]. `extensions`: what is known of the client's connection, for the
/// services. `deadline`: when to give up, also while reading the replies.
///
/// Errors: [`Error::DeadlineExceeded`]; [`Error::Rpc`] when the call ended at once.
pub(crate) async fn call(
    service: GrpcService,
    path: &PathAndQuery,
    mut metadata: HeaderMap,
    extensions: Extensions,
    body: Body,
    deadline: Option<Instant>,
) -> Result<Replies> {
    metadata.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    metadata.insert(header::TE, HeaderValue::from_static("trailers"));
    let mut request = http::Request::new(body);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from(path.clone());
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = metadata;
    *request.extensions_mut() = extensions;
    let response = match before(deadline, service.oneshot(request)).await? {
        Ok(response) => response,
        Err(never) => match never {},
    };
    if let Some(error) = status(response.headers()) {
        error?;
        // Status OK in the headers: a call that ended well without any message.
        return Ok(Replies {
            body: Body::empty(),
            buffer: BytesMut::new(),
            deadline,
            ended: true,
        });
    }
    let body = response.into_body();
    Ok(Replies {
        body,
        buffer: BytesMut::new(),
        deadline,
        ended: false,
    })
}

/// The messages of a call, one by one.
pub(crate) struct Replies {
    body: Body,
    /// What has arrived and is not yet a whole message.
    buffer: BytesMut,
    deadline: Option<Instant>,
    /// Whether the call's status has been seen.
    ended: bool,
}

impl Replies {
    /// Returns the next message, or `None` after the last of a call that went well.
    ///
    /// Errors: the status with which the call ended; [`Error::BadReply`] when it is not gRPC.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(message) = self.take_message()? {
                return Ok(Some(message));
            }
            if self.ended {
                return Ok(None);
            }
            let frame = match before(self.deadline, self.body.frame()).await? {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Err(Error::BadReply(error.to_string())),
                None => return Err(Error::BadReply("the reply ended without a status".into())),
            };
            match frame.into_data() {
                Ok(data) => self.buffer.extend_from_slice(&data),
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    self.ended = true;
                    match status(&trailers) {
                        Some(Ok(())) => {}
                        Some(Err(error)) => return Err(error),
                        None => {
                            return Err(Error::BadReply("the trailers have no status".into()));
                        }
                    }
                }
            }
        }
    }

    /// Cuts a whole message off the buffer, if there is one.
    fn take_message(&mut self) -> Result<Option<Bytes>> {
        let Some(mut prefix) = self.buffer.get(..PREFIX_BYTES) else {
            return Ok(None);
        };
        if prefix.get_u8() != 0 {
            return Err(Error::BadReply("the reply is compressed".into()));
        }
        let length = prefix.get_u32() as usize;
        if self.buffer.len() < PREFIX_BYTES + length {
            return Ok(None);
        }
        self.buffer.advance(PREFIX_BYTES);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }
}

/// Waits for `future`, at most until `deadline`.
async fn before<F: Future>(deadline: Option<Instant>, future: F) -> Result<F::Output> {
    match deadline {
        Some(deadline) => tokio::time::timeout_at(deadline, future)
            .await
            .map_err(|_| Error::DeadlineExceeded),
        None => Ok(future.await),
    }
}

/// The status in headers or trailers, if they hold one.
fn status(headers: &HeaderMap) -> Option<Result<()>> {
    let status = tonic::Status::from_header_map(headers)?;
    Some(match status.code() {
        Code::Ok => Ok(()),
        code => Err(Error::Rpc {
            code,
            message: status.message().to_string(),
        }),
    })
}

/// The metadata that goes with a call made by an HTTP request with `headers`.
///
/// As grpc-gateway does: `Grpc-Metadata-X: v` becomes `x: v`, and `Authorization` is passed on
/// under its own name. Names that gRPC keeps for itself are left out.
pub(crate) fn metadata(headers: &HeaderMap) -> HeaderMap {
    let mut metadata = HeaderMap::new();
    for value in headers.get_all(header::AUTHORIZATION) {
        metadata.append(header::AUTHORIZATION, value.clone());
    }
    for (name, value) in headers {
        let Some(name) = name.as_str().strip_prefix(METADATA_PREFIX) else {
            continue;
        };
        let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else {
            continue;
        };
        if is_reserved(&name) || !is_value(&name, value) {
            tracing::debug!(%name, "metadata is not passed on");
            continue;
        }
        metadata.append(name, value.clone());
    }
    metadata
}

/// Whether a name means something to gRPC or HTTP/2 themselves.
fn is_reserved(name: &HeaderName) -> bool {
    let hop_by_hop = [
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::HOST,
        header::TE,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ];
    name.as_str().starts_with("grpc-") || hop_by_hop.contains(name)
}

/// Whether gRPC lets metadata of this name have this value.
fn is_value(name: &HeaderName, value: &HeaderValue) -> bool {
    if name.as_str().ends_with("-bin") {
        let standard = base64::engine::general_purpose::STANDARD;
        let unpadded = base64::engine::general_purpose::STANDARD_NO_PAD;
        return standard.decode(value).is_ok() || unpadded.decode(value).is_ok();
    }
    value
        .as_bytes()
        .iter()
        .all(|byte| (0x20..=0x7e).contains(byte))
}

/// When a request must be answered, by its `Grpc-Timeout` header: up to eight digits and a unit.
///
/// Errors: [`Error::BadTimeout`].
pub(crate) fn deadline(headers: &HeaderMap) -> Result<Option<Instant>> {
    let Some(value) = headers.get("grpc-timeout") else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(value.as_bytes());
    let bad = || Error::BadTimeout(text.to_string());
    let unit = text.chars().last().ok_or_else(bad)?;
    let digits = text.strip_suffix(unit).unwrap_or_default();
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad());
    }
    let number: u64 = digits.parse().map_err(|_| bad())?;
    let timeout = match unit {
        'H' => Duration::from_secs(number * 3600),
        'M' => Duration::from_secs(number * 60),
        'S' => Duration::from_secs(number),
        'm' => Duration::from_millis(number),
        'u' => Duration::from_micros(number),
        'n' => Duration::from_nanos(number),
        _ => return Err(bad()),
    };
    // A moment that the clock cannot name is never.
    Ok(Instant::now().checked_add(timeout))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(rows: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in rows {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a header name");
            headers.append(name, HeaderValue::from_str(value).expect("a header value"));
        }
        headers
    }

    #[test]
    fn passes_on_what_is_metadata_and_nothing_else() {
        let got = metadata(&headers(&[
            ("authorization", "token"),
            ("grpc-metadata-hasleader", "true"),
            ("grpc-metadata-grpc-timeout", "1S"),
            ("grpc-metadata-content-type", "text/plain"),
            ("grpc-metadata-blob-bin", "not base64!"),
            ("cookie", "no"),
        ]));
        let want = headers(&[("authorization", "token"), ("hasleader", "true")]);
        assert_eq!(got, want);
    }

    #[test]
    fn reads_timeouts() {
        assert!(deadline(&headers(&[])).expect("none").is_none());
        assert!(
            deadline(&headers(&[("grpc-timeout", "5S")]))
                .expect("five")
                .is_some()
        );
        for bad in ["", "S", "5", "5x", "123456789S", "-1S", "1.5S", "5\u{e9}"] {
            let bad = headers(&[("grpc-timeout", bad)]);
            assert!(
                matches!(deadline(&bad), Err(Error::BadTimeout(_))),
                "{bad:?}"
            );
        }
    }
}
