//! `/debug/pprof/`: what of Go's profiles means something here. Off unless `--enable-pprof`.
//!
//! Go's runtime samples itself; this process does not, so its profiles have no counterpart and are
//! refused by name. The page says so, and what shows the same.
//!
//! Source: etcd `pkg/debugutil/pprof.go`; Go `net/http/pprof`.

use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::any;
use http::{Method, StatusCode, header};

use crate::error::{self, NOSNIFF, TEXT};
use crate::member::Member;

/// Go's profiles, none of which is served.
const PROFILES: &[&str] = &[
    "allocs",
    "block",
    "goroutine",
    "heap",
    "mutex",
    "profile",
    "symbol",
    "threadcreate",
    "trace",
];

/// The routes.
pub(crate) fn router(member: &Arc<dyn Member>) -> Router {
    Router::new()
        .route("/debug/pprof/", any(index))
        .route("/debug/pprof/cmdline", any(command_line))
        .route("/debug/pprof/{profile}", any(profile))
        .with_state(member.clone())
}

fn text(body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, TEXT);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    response
}

/// What there is, and the process's memory in bytes.
async fn index(State(member): State<Arc<dyn Member>>, method: Method) -> Response {
    if method != Method::GET {
        return error::only_get();
    }
    let stats = member.process_stats();
    text(format!(
        "/debug/pprof/cmdline  the command line, a NUL byte between its words\n\
         /debug/vars           file descriptors and memory, as JSON\n\
         \n\
         resident memory: {} bytes, {} of them not backed by a file\n\
         \n\
         Profiles of Go's runtime are not served: {}.\n\
         `perf record -g -p PID` shows where this process spends its time.\n",
        stats.resident_bytes,
        stats.private_bytes,
        PROFILES.join(", ")
    ))
}

async fn command_line(method: Method) -> Response {
    if method != Method::GET {
        return error::only_get();
    }
    let words: Vec<Vec<u8>> = std::env::args_os()
        .map(|word| word.as_bytes().to_vec())
        .collect();
    let mut response = text(String::new());
    *response.body_mut() = Body::from(words.join(&0));
    response
}

async fn profile(Path(name): Path<String>, method: Method) -> Response {
    if method != Method::GET {
        return error::only_get();
    }
    if PROFILES.contains(&name.as_str()) {
        let line = format!("{name} is a profile of Go's runtime, which this process does not have");
        return error::page_text(StatusCode::NOT_IMPLEMENTED, &line);
    }
    error::page_text(StatusCode::NOT_FOUND, "Unknown profile")
}
