//! `/metrics`: Prometheus' text format. Any method will do, as in etcd.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::{HeaderValue, header};

use crate::member::Member;

/// `/metrics`.
pub(crate) async fn metrics(State(member): State<Arc<dyn Member>>) -> Response {
    let mut response = Response::new(Body::from(member.metrics_text()));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"),
    );
    response
}
