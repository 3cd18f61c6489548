//! `/version` and `/debug/vars`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::{HeaderValue, Method, header};
use serde_json::json;

use crate::error::{self, JSON};
use crate::member::Member;

/// `/version`: etcd's three versions. Source: etcd `etcdhttp/version.go`.
pub(crate) async fn version(State(member): State<Arc<dyn Member>>, method: Method) -> Response {
    if method != Method::GET {
        return error::only_get();
    }
    let versions = member.versions();
    let server = json!(versions.server);
    let cluster = json!(
        versions
            .cluster
            .unwrap_or_else(|| "not_decided".to_string())
    );
    let storage = json!(versions.storage.unwrap_or_else(|| "unknown".to_string()));
    let body =
        format!("{{\"etcdserver\":{server},\"etcdcluster\":{cluster},\"storage\":{storage}}}");
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

/// `/debug/vars`: what Go's expvar shows of etcd, as far as it means something here.
///
/// `memstats` has the names of Go's heap with the process's own numbers: `Alloc`, `HeapAlloc` and
/// `HeapInuse` are the resident memory that no file backs; `Sys` and `HeapSys` all that is
/// resident. Go's counters of collections have no counterpart and are left out.
pub(crate) async fn vars(State(member): State<Arc<dyn Member>>, method: Method) -> Response {
    if method != Method::GET {
        return error::only_get();
    }
    let command_line: Vec<String> = std::env::args_os()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    let stats = member.process_stats();
    let memory = json!({
        "Alloc": stats.private_bytes,
        "HeapAlloc": stats.private_bytes,
        "HeapInuse": stats.private_bytes,
        "HeapSys": stats.resident_bytes,
        "Sys": stats.resident_bytes,
    });
    let mut vars = vec![
        ("cmdline", json!(command_line)),
        ("file_descriptor_limit", json!(stats.fd_limit)),
        ("memstats", memory),
    ];
    if let Some(status) = member.raft_status() {
        vars.push(("raft.status", status));
    }
    let lines: Vec<String> = vars
        .iter()
        .map(|(name, value)| format!("\"{name}\": {value}"))
        .collect();
    let mut response = Response::new(Body::from(format!("{{\n{}\n}}\n", lines.join(",\n"))));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json; charset=utf-8"),
    );
    response
}
