//! `/v2/machines`, `/v2/stats/*`, `/v2/auth/*`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::{HeaderName, Method, StatusCode, header};

use super::{Api, error};
use crate::error::{JSON, TEXT};

/// The clients' URLs of all members.
pub(super) async fn machines(State(api): State<Arc<Api>>, method: Method) -> Response {
    if method != Method::GET && method != Method::HEAD {
        return error::method_not_allowed("GET,HEAD");
    }
    let members = api.member.members().into_iter();
    let mut urls: Vec<String> = members.flat_map(|member| member.client_urls).collect();
    urls.sort_unstable();
    let mut response = Response::new(Body::from(urls.join(", ")));
    response.headers_mut().insert(header::CONTENT_TYPE, TEXT);
    response
}

fn json(body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

/// Operations counted by this member.
pub(super) async fn store_stats(State(api): State<Arc<Api>>, method: Method) -> Response {
    match method {
        Method::GET => json(api.tree.store_stats()),
        _ => error::method_not_allowed("GET"),
    }
}

/// This member and its leader.
pub(super) async fn self_stats(State(api): State<Arc<Api>>, method: Method) -> Response {
    match method {
        Method::GET => json(api.tree.self_stats()),
        _ => error::method_not_allowed("GET"),
    }
}

/// The leader's followers.
pub(super) async fn leader_stats(State(api): State<Arc<Api>>, method: Method) -> Response {
    if method != Method::GET {
        return error::method_not_allowed("GET");
    }
    match api.tree.leader_stats() {
        Some(stats) => json(stats),
        None => error::of_members(StatusCode::FORBIDDEN, "not current leader"),
    }
}

/// Whether users are in force. v2 cannot change it.
pub(super) async fn auth_enable(State(api): State<Arc<Api>>, method: Method) -> Response {
    let mut response = match method {
        Method::GET => json(format!("{{\"enabled\":{}}}\n", api.member.auth_enabled())),
        Method::PUT | Method::DELETE => unbuilt(),
        _ => return error::method_not_allowed("GET,PUT,DELETE"),
    };
    insert_cluster_id(&api, &mut response);
    response
}

/// v2's users and roles are not built.
pub(super) async fn auth_unbuilt(State(api): State<Arc<Api>>, method: Method) -> Response {
    if ![Method::GET, Method::PUT, Method::DELETE].contains(&method) {
        return error::method_not_allowed("GET,PUT,DELETE");
    }
    let mut response = unbuilt();
    insert_cluster_id(&api, &mut response);
    response
}

fn insert_cluster_id(api: &Api, response: &mut Response) {
    let name = HeaderName::from_static("x-etcd-cluster-id");
    response.headers_mut().insert(name, api.cluster_id());
}

fn unbuilt() -> Response {
    let message = "kvd has no users and roles of v2; use those of v3 (kvctl user, role, auth): \
                   while they are in force, root alone may use the v2 API";
    error::of_members(StatusCode::NOT_IMPLEMENTED, message)
}
