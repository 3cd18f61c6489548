//! The errors of the v2 API: codes with their messages and statuses, and those of the members.
//!
//! Source: etcd 3.4 `etcdserver/api/v2error`, `etcdserver/api/v2http/httptypes`.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderName, HeaderValue, StatusCode, header};
use kvd_api::pb::kvdcommandpb::V2Error;

use super::json;
use crate::error::{JSON, page_text};

pub(super) const UNAUTHORIZED: u32 = 110;
pub(super) const PREV_VALUE_REQUIRED: u32 = 201;
pub(super) const TTL_NAN: u32 = 202;
pub(super) const INDEX_NAN: u32 = 203;
pub(super) const INVALID_FIELD: u32 = 209;
pub(super) const INVALID_FORM: u32 = 210;
pub(super) const REFRESH_VALUE: u32 = 211;
pub(super) const REFRESH_TTL_REQUIRED: u32 = 212;
pub(super) const RAFT_INTERNAL: u32 = 300;

pub(super) const ETCD_INDEX: HeaderName = HeaderName::from_static("x-etcd-index");

fn message(code: u32) -> &'static str {
    match code {
        100 => "Key not found",
        101 => "Compare failed",
        102 => "Not a file",
        104 => "Not a directory",
        105 => "Key already exists",
        107 => "Root is read only",
        108 => "Directory not empty",
        UNAUTHORIZED => "The request requires user authentication",
        PREV_VALUE_REQUIRED => "PrevValue is Required in POST form",
        TTL_NAN => "The given TTL in POST form is not a number",
        INDEX_NAN => "The given index in POST form is not a number",
        INVALID_FIELD => "Invalid field",
        INVALID_FORM => "Invalid POST form",
        REFRESH_VALUE => "Value provided on refresh",
        REFRESH_TTL_REQUIRED => "A TTL must be provided on refresh",
        RAFT_INTERNAL => "Raft Internal Error",
        301 => "During Leader Election",
        400 => "watcher is cleared due to etcd recovery",
        401 => "The event in requested index is outdated and cleared",
        _ => "",
    }
}

fn status(code: u32) -> StatusCode {
    match code {
        100 => StatusCode::NOT_FOUND,
        101 | 105 => StatusCode::PRECONDITION_FAILED,
        102 | 108 => StatusCode::FORBIDDEN,
        UNAUTHORIZED => StatusCode::UNAUTHORIZED,
        RAFT_INTERNAL | 301 => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_REQUEST,
    }
}

/// An error of the endpoint of the keys, at an index.
pub(super) fn of_keys(error: &V2Error, index: u64) -> Response {
    let mut body = format!(
        "{{\"errorCode\":{},\"message\":\"{}\"",
        error.code,
        message(error.code)
    );
    if !error.cause.is_empty() {
        body.push_str(",\"cause\":");
        json::string(&error.cause, &mut body);
    }
    body.push_str(&format!(",\"index\":{index}}}\n"));
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status(error.code);
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
        .headers_mut()
        .insert(ETCD_INDEX, HeaderValue::from(index));
    response
}

/// An error of the other endpoints: `{"message":"..."}`.
pub(super) fn of_members(status: StatusCode, message: &str) -> Response {
    let mut body = String::from("{\"message\":");
    json::string(message.as_bytes(), &mut body);
    body.push('}');
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

/// The endpoint does not answer the method; `allowed` are those it does.
pub(super) fn method_not_allowed(allowed: &'static str) -> Response {
    let mut response = page_text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    if !allowed.is_empty() {
        response
            .headers_mut()
            .insert(header::ALLOW, HeaderValue::from_static(allowed));
    }
    response
}
