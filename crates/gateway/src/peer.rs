//! What members, and tools that check a cluster, ask on the peer port over HTTP.
//!
//! Source: etcd `etcdhttp/peer.go`, `server/etcdserver/corrupt.go` (`hashKVHandler`),
//! `server/etcdserver/server.go` (`downgradeEnabledHandler`).

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use serde_json::{Value, json};

use crate::error::{self, Error, JSON};
use crate::member::Member;

/// Names the cluster, so that a member that joins sees at once if it asked the wrong one.
const CLUSTER_ID: HeaderName = HeaderName::from_static("x-etcd-cluster-id");

/// Tells a member that joins that this is kvd, with which it can form a cluster, and not etcd.
pub const KVD_VERSION: HeaderName = HeaderName::from_static("x-kvd-version");

/// Says which member asks, by its ID in hexadecimal; one that was removed is told so by 410, as by
/// etcd's `/raft`.
pub const FROM_MEMBER: HeaderName = HeaderName::from_static("x-server-from");

/// `/members`: every member of the cluster.
pub(crate) async fn members(
    State(member): State<Arc<dyn Member>>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    if method != Method::GET {
        return error::only_get();
    }
    let is_own = said(&headers, &CLUSTER_ID).is_none_or(|id| id == member.cluster_id());
    let mut response = match said(&headers, &FROM_MEMBER) {
        Some(id) if is_own && member.is_removed(id) => error::removed(),
        _ => match serde_json::to_string(&member.members()) {
            Ok(body) => json_page(body + "\n"),
            Err(error) => return Error::BadReply(error.to_string()).into_response(),
        },
    };
    let headers = response.headers_mut();
    headers.insert(
        KVD_VERSION,
        HeaderValue::from_static(env!("CARGO_PKG_VERSION")),
    );
    name_cluster(&mut response, member.as_ref());
    response
}

/// `/members/hashkv`: the hash of this member's data at the revision in the body,
/// `{"revision":5}`.
pub(crate) async fn hash_kv(
    State(member): State<Arc<dyn Member>>,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if method != Method::GET {
        return error::only_get();
    }
    let wanted = headers.get(&CLUSTER_ID).filter(|id| !id.is_empty());
    if wanted.is_some() && said(&headers, &CLUSTER_ID) != Some(member.cluster_id()) {
        return error::other_cluster();
    }
    let Some(revision) = revision(&body) else {
        return error::refused("error unmarshalling request");
    };
    let hashed = tokio::time::timeout(member.request_timeout(), member.hash_kv(revision)).await;
    let hash = match hashed {
        Ok(Ok(hash)) => hash,
        Ok(Err(reason)) => return error::refused(&reason),
        Err(_) => return error::failed("the hash took too long"),
    };
    let mut fields = json!({"header": {"revision": hash.current_revision}});
    // As Go writes it: what is zero is left out.
    for (name, value) in [
        ("hash", i64::from(hash.hash)),
        ("compact_revision", hash.compact_revision),
        ("hash_revision", hash.revision),
    ] {
        if value != 0 {
            fields[name] = value.into();
        }
    }
    let mut response = json_page(fields.to_string());
    name_cluster(&mut response, member.as_ref());
    response
}

/// `/downgrade/enabled`: whether a downgrade job is under way.
pub(crate) async fn downgrade_enabled(
    State(member): State<Arc<dyn Member>>,
    method: Method,
) -> Response {
    if method != Method::GET {
        return error::only_get();
    }
    let asked = tokio::time::timeout(member.request_timeout(), member.downgrade_enabled()).await;
    let mut response = match asked {
        Ok(Ok(enabled)) => {
            let mut response = Response::new(Body::from(enabled.to_string()));
            let text = HeaderValue::from_static("text/plain");
            response.headers_mut().insert(header::CONTENT_TYPE, text);
            response
        }
        Ok(Err(reason)) => error::failed(&format!("failed linearized read: {reason}")),
        Err(_) => error::failed("failed linearized read: context deadline exceeded"),
    };
    name_cluster(&mut response, member.as_ref());
    response
}

/// The revision that a body asks for; none when it is no such request.
fn revision(body: &[u8]) -> Option<i64> {
    let request: Value = serde_json::from_slice(body).ok()?;
    match request.as_object()?.get("revision") {
        None | Some(Value::Null) => Some(0),
        Some(revision) => revision.as_i64(),
    }
}

/// The ID in a header.
fn said(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    let text = headers.get(name)?.to_str().ok()?;
    u64::from_str_radix(text, 16).ok()
}

fn json_page(body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

fn name_cluster(response: &mut Response, member: &dyn Member) {
    let id = HeaderValue::from_str(&format!("{:x}", member.cluster_id()))
        .expect("hexadecimal digits are a header value");
    response.headers_mut().insert(CLUSTER_ID, id);
}
