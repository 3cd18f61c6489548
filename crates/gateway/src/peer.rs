//! What members ask of each other over HTTP: who is in the cluster.
//!
//! Source: etcd `etcdhttp/peer.go`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, Method, header};

use crate::error::{self, Error, JSON};
use crate::member::Member;

/// Names the cluster, so that a member that joins sees at once if it asked the wrong one.
const CLUSTER_ID: HeaderName = HeaderName::from_static("x-etcd-cluster-id");

/// Tells a member that joins that this is kvd, with which it can form a cluster, and not etcd.
pub const KVD_VERSION: HeaderName = HeaderName::from_static("x-kvd-version");

/// `/members`: every member of the cluster.
pub(crate) async fn members(State(member): State<Arc<dyn Member>>, method: Method) -> Response {
    if method != Method::GET {
        return error::only_get();
    }
    let mut body = match serde_json::to_string(&member.members()) {
        Ok(body) => body,
        Err(error) => return Error::BadReply(error.to_string()).into_response(),
    };
    body.push('\n');
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, JSON);
    headers.insert(
        KVD_VERSION,
        HeaderValue::from_static(env!("CARGO_PKG_VERSION")),
    );
    let id = HeaderValue::from_str(&format!("{:x}", member.cluster_id()))
        .expect("hexadecimal digits are a header value");
    headers.insert(CLUSTER_ID, id);
    response
}
