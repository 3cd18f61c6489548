//! Streams through the gateway.
//!
//! Requests are JSON objects one after the other in the POST body, sent on as they arrive. Replies
//! are lines: `{"result":{...}}` each, and when the call fails a last one `{"error":{...}}`. If it
//! fails before the first reply, the HTTP status says so too; hence nothing is answered, not even
//! headers, until the first reply is here.
//!
//! When a client goes away its body is dropped, which ends the call.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use kvd_api::error::unknown;
use prost_reflect::MessageDescriptor;

use crate::call::Replies;
use crate::error::{Error, Result};
use crate::json::{self, ObjectScanner};
use crate::v3::{Gateway, set_headers};

/// The JSON objects in a request's body.
pub(crate) struct Requests {
    body: Body,
    buffer: BytesMut,
    scanner: ObjectScanner,
    max_bytes: usize,
}

impl Requests {
    /// The objects in `body`, each of at most `max_bytes`.
    pub(crate) fn new(body: Body, max_bytes: usize) -> Requests {
        Requests {
            body,
            buffer: BytesMut::new(),
            scanner: ObjectScanner::default(),
            max_bytes,
        }
    }

    /// Returns the next object, or `None` at the end of the body.
    ///
    /// Errors: [`Error::BadJson`] when it is cut short or no object; [`Error::BodyTooLarge`].
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(end) = self.scanner.next_end(&self.buffer)? {
                return Ok(Some(self.buffer.split_to(end).freeze()));
            }
            if self.buffer.len() > self.max_bytes {
                return Err(Error::BodyTooLarge {
                    max: self.max_bytes,
                });
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Err(Error::Body(error.to_string())),
                None if self.buffer.iter().all(u8::is_ascii_whitespace) => return Ok(None),
                None => return Err(Error::BadJson("unexpected EOF".into())),
            }
        }
    }
}

/// The body of a call: `first`, then what `requests` hold, each read as a message of type `input`.
///
/// As in etcd, a request after the first that cannot be read ends the requests, not the call: what
/// was asked before it is still answered. But when the body itself breaks off, the client is gone:
/// nothing else says so while there is no reply to write, and a watch would stay open for ever.
pub(crate) fn frames(
    gateway: Arc<Gateway>,
    input: MessageDescriptor,
    first: Option<Bytes>,
    requests: Requests,
) -> tonic::body::Body {
    let state = (gateway, input, first, requests);
    let frames = stream::unfold(state, |(gateway, input, first, mut requests)| async move {
        let frame = match first {
            Some(first) => first,
            None => {
                let next = requests.next().await.and_then(|object| {
                    object
                        .map(|object| gateway.frame(&input, &object))
                        .transpose()
                });
                match next {
                    Ok(next) => next?,
                    Err(Error::Body(cause)) => {
                        // Not CANCELLED, which tonic takes for the end of the requests.
                        return Some((Err(unknown(cause)), (gateway, input, None, requests)));
                    }
                    Err(error) => {
                        tracing::debug!(%error, "a request in a stream ended it");
                        return None;
                    }
                }
            }
        };
        let frame = Ok::<_, tonic::Status>(Frame::data(frame));
        Some((frame, (gateway, input, None, requests)))
    });
    tonic::body::Body::new(StreamBody::new(frames))
}

/// Answers with the replies of a call, as lines, each a message of type `output`.
pub(crate) async fn respond(output: MessageDescriptor, replies: Result<Replies>) -> Response {
    let mut replies = match replies {
        Ok(replies) => replies,
        Err(error) => return error.into_stream_response(),
    };
    let first = match replies.next().await {
        Ok(first) => first,
        Err(error) => return error.into_stream_response(),
    };
    let Some(first) = first else {
        return Response::new(Body::empty());
    };
    let first = line(&output, first);
    let lines = stream::unfold(Some((output, replies, Some(first))), |state| async move {
        let (output, mut replies, first) = state?;
        let next = match first {
            Some(first) => first,
            None => match replies.next().await {
                Ok(next) => line(&output, next?),
                Err(error) => Err(error),
            },
        };
        Some(match next {
            Ok(line) => (
                Ok::<_, std::convert::Infallible>(line),
                Some((output, replies, None)),
            ),
            Err(error) => (Ok(Bytes::from(error.to_stream_line())), None),
        })
    });
    let mut response = Response::new(Body::from_stream(lines));
    set_headers(&mut response);
    response
}

/// One reply as a line.
fn line(output: &MessageDescriptor, message: Bytes) -> Result<Bytes> {
    let mut line = Vec::with_capacity(message.len() * 2 + 16);
    line.extend_from_slice(b"{\"result\":");
    json::encode(output, message, &mut line)?;
    line.extend_from_slice(b"}\n");
    Ok(line.into())
}
