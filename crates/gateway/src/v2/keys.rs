//! `/v2/keys`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use kvd_api::pb::kvdcommandpb::v2_reply::Outcome;
use kvd_api::pb::kvdcommandpb::{V2Error, V2Event, V2Reply};

use super::error::{self, ETCD_INDEX, INVALID_FORM, RAFT_INTERNAL, UNAUTHORIZED};
use super::form::{self, Form};
use super::guard::Passed;
use super::request::{self, Asked};
use super::{Api, V2Watching, guard, json};
use crate::error::JSON;

const PREFIX: &str = "/v2/keys";
const CLUSTER_ID: HeaderName = HeaderName::from_static("x-etcd-cluster-id");
const RAFT_INDEX: HeaderName = HeaderName::from_static("x-raft-index");
const RAFT_TERM: HeaderName = HeaderName::from_static("x-raft-term");
/// Most bytes of a form. Go: 10 MiB.
const FORM_BYTES_MAX: usize = 10 << 20;

/// Answers every request under `/v2/keys`.
pub(super) async fn serve(State(api): State<Arc<Api>>, request: Request) -> Response {
    let method = request.method().clone();
    let is_known = [
        Method::HEAD,
        Method::GET,
        Method::PUT,
        Method::POST,
        Method::DELETE,
    ]
    .contains(&method);
    if !is_known {
        return error::method_not_allowed("HEAD,GET,PUT,POST,DELETE");
    }
    let headers = request.headers().clone();
    let asked = asked(request).await;
    // Behind the body, which may take as long as the client likes: what is shown must hold now.
    let passed = guard::admit(&api, &headers).await;
    let mut response = match (asked, passed) {
        (Err(error), _) => error::of_keys(&error, 0),
        (Ok(_), None) => {
            let cause = Bytes::from_static(b"Insufficient credentials");
            let code = UNAUTHORIZED;
            error::of_keys(&V2Error { code, cause }, 0)
        }
        (Ok(asked), Some(passed)) => match answer(&api, asked, &passed).await {
            Ok(response) => response,
            Err(cause) => {
                let error = V2Error {
                    code: RAFT_INTERNAL,
                    cause: cause.into(),
                };
                error::of_keys(&error, 0)
            }
        },
    };
    response.headers_mut().insert(CLUSTER_ID, api.cluster_id());
    response
}

async fn asked(request: Request) -> Result<Asked, V2Error> {
    let invalid = |cause: String| V2Error {
        code: INVALID_FORM,
        cause: cause.into(),
    };
    let (head, body) = request.into_parts();
    let mut form = Form::default();
    let is_form = head
        .headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|kind| {
            kind.trim()
                .eq_ignore_ascii_case("application/x-www-form-urlencoded")
        });
    if is_form && [Method::PUT, Method::POST].contains(&head.method) {
        let body = Limited::new(body, FORM_BYTES_MAX).collect().await;
        let body = body.map_err(|error| {
            invalid(if error.is::<http_body_util::LengthLimitError>() {
                "http: POST too large".to_owned()
            } else {
                error.to_string()
            })
        })?;
        form.parse(&body.to_bytes()).map_err(invalid)?;
    }
    form.parse(head.uri.query().unwrap_or_default().as_bytes())
        .map_err(invalid)?;
    let path = head.uri.path().strip_prefix(PREFIX).unwrap_or_default();
    let path = form::unescape(path.as_bytes(), false).map_err(invalid)?;
    request::parse(&head.method, path.into(), &form)
}

async fn answer(api: &Api, asked: Asked, passed: &Passed) -> Result<Response, String> {
    let as_root = matches!(passed, Passed::Root(_));
    Ok(match asked {
        Asked::Get {
            path,
            recursive,
            quorum,
        } => reply(api, &api.tree.get(path, recursive, quorum).await?, false),
        Asked::Write(request, no_value) => {
            reply(api, &api.tree.write(request, as_root).await?, no_value)
        }
        Asked::Watch {
            path,
            recursive,
            stream,
            since,
        } => {
            let watching = api.tree.watch(path, recursive, since, as_root);
            watch(api, watching.await?, stream)
        }
    })
}

fn reply(api: &Api, reply: &V2Reply, no_value: bool) -> Response {
    match &reply.outcome {
        Some(Outcome::Event(event)) => {
            let body = Body::from(json::event(event, no_value));
            let mut response = with_headers(api, body, reply.index);
            if is_creation(event) {
                *response.status_mut() = StatusCode::CREATED;
            }
            response
        }
        Some(Outcome::Error(error)) => error::of_keys(error, reply.index),
        None => {
            let cause = Bytes::from_static(b"received response with no Event/Watcher");
            let code = RAFT_INTERNAL;
            error::of_keys(&V2Error { code, cause }, 0)
        }
    }
}

fn is_creation(event: &V2Event) -> bool {
    event.action == "create" || (event.action == "set" && event.prev_node.is_none())
}

/// The events as they come, one in a line; only the first unless `stream`.
fn watch(api: &Api, watching: V2Watching, stream: bool) -> Response {
    let events = match watching.events {
        Ok(events) => events,
        Err(error) => return error::of_keys(&error, watching.index),
    };
    let most = if stream { usize::MAX } else { 1 };
    let lines = events.take(most).map(|event| {
        let line = Bytes::from(json::event(&event, false));
        Ok::<_, std::convert::Infallible>(line)
    });
    with_headers(api, Body::from_stream(lines), watching.index)
}

fn with_headers(api: &Api, body: Body, index: u64) -> Response {
    let mut response = Response::new(body);
    let (raft_index, term) = api.tree.raft();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, JSON);
    headers.insert(ETCD_INDEX, HeaderValue::from(index));
    headers.insert(RAFT_INDEX, HeaderValue::from(raft_index));
    headers.insert(RAFT_TERM, HeaderValue::from(term));
    response
}
