//! `/health`, `/livez`, `/readyz`: is the member well.
//!
//! `/health` stops at the first trouble: an alarm, no leader, a read that fails. `/livez` and
//! `/readyz` run every check of theirs and list the results; each check also has a path of its
//! own. A probe answers within [`Member::request_timeout`], whatever the member does.
//!
//! Source: etcd `etcdhttp/health.go`.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::Response;
use axum::routing::any;
use futures_util::future::BoxFuture;
use http::{Method, header};
use kvd_api::pb::etcdserverpb::AlarmType;
use tokio::time::Instant;

use crate::error::{self, NOSNIFF, TEXT};
use crate::member::{Check, Member, Probe};

/// The checks of `/livez`.
const LIVEZ: &[Check] = &[Check::SerializableRead];
/// The checks of `/readyz`.
const READYZ: &[Check] = &[
    Check::DataCorruption,
    Check::SerializableRead,
    Check::LinearizableRead,
    Check::NonLearner,
];

/// The query's parameters, in order; a query that cannot be read counts as none.
type Parameters = Result<Query<Vec<(String, String)>>, QueryRejection>;

/// The routes of all probes.
pub(crate) fn router(member: &Arc<dyn Member>) -> Router {
    let mut router = Router::new()
        .route("/health", any(health))
        .with_state(member.clone());
    for (probe, checks) in [(Probe::Livez, LIVEZ), (Probe::Readyz, READYZ)] {
        let root = format!("/{}", probe.name());
        for check in checks {
            let path = format!("{root}/{}", check.name());
            router = router.route(
                &path,
                probe_route(member, probe, std::slice::from_ref(check), false),
            );
        }
        router = router.route(&root, probe_route(member, probe, checks, true));
    }
    router
}

/// A route that runs `checks`; only at the `root` of a probe may a request exclude some.
fn probe_route(
    member: &Arc<dyn Member>,
    probe: Probe,
    checks: &'static [Check],
    root: bool,
) -> axum::routing::MethodRouter {
    let member = member.clone();
    let serve = move |method: Method, query: Parameters| async move {
        if method != Method::GET {
            return error::only_get();
        }
        let parameters = query.map(|query| query.0).unwrap_or_default();
        let excluded = if root {
            values(&parameters, "exclude")
        } else {
            Vec::new()
        };
        let verbose = parameters.iter().any(|(name, _)| name == "verbose");
        let checks = checks
            .iter()
            .filter(|check| !excluded.contains(&check.name()));
        run(&*member, probe, checks, verbose).await
    };
    any(serve)
}

/// `/health`: `{"health":"true","reason":""}`, or 503 with the first reason found.
async fn health(
    State(member): State<Arc<dyn Member>>,
    method: Method,
    query: Parameters,
) -> Response {
    if method != Method::GET {
        return error::only_get();
    }
    let parameters = query.map(|query| query.0).unwrap_or_default();
    let excluded = values(&parameters, "exclude");
    let serializable = values(&parameters, "serializable").first() == Some(&"true");
    match find_trouble(&*member, &excluded, serializable).await {
        None => {
            member.count_health(true);
            let mut response = Response::new(Body::from(r#"{"health":"true","reason":""}"#));
            response.headers_mut().insert(header::CONTENT_TYPE, TEXT);
            response
        }
        Some(reason) => {
            member.count_health(false);
            tracing::warn!(reason, "/health is false");
            let reason = serde_json::Value::String(reason);
            error::unhealthy(&format!("{{\"health\":\"false\",\"reason\":{reason}}}"))
        }
    }
}

/// Why the member is not healthy, or `None`.
async fn find_trouble(
    member: &dyn Member,
    excluded: &[&str],
    serializable: bool,
) -> Option<String> {
    let alarms = member.alarms();
    let alarm = alarms
        .iter()
        .find(|alarm| !excluded.contains(&alarm.as_str_name()));
    match alarm {
        Some(AlarmType::Nospace) => return Some("ALARM NOSPACE".into()),
        Some(AlarmType::Corrupt) => return Some("ALARM CORRUPT".into()),
        Some(AlarmType::None) => return Some("ALARM UNKNOWN".into()),
        None => {}
    }
    if !serializable && member.leader() == 0 {
        return Some("RAFT NO LEADER".into());
    }
    let deadline = Instant::now() + member.request_timeout();
    let read = if serializable {
        member.serializable_read()
    } else {
        member.linearizable_read()
    };
    let read = bounded(deadline, read).await;
    read.err().map(|error| format!("RANGE ERROR:{error}"))
}

/// Runs `checks` and answers with their results: all of them if `verbose` or if one failed.
async fn run(
    member: &dyn Member,
    probe: Probe,
    checks: impl Iterator<Item = &Check>,
    verbose: bool,
) -> Response {
    let deadline = Instant::now() + member.request_timeout();
    let mut output = String::new();
    let mut all_ok = true;
    for check in checks {
        let result = run_check(member, *check, deadline).await;
        member.count_check(probe, *check, result.is_ok());
        match result {
            Ok(()) => output.push_str(&format!("[+]{} ok\n", check.name())),
            Err(reason) => {
                all_ok = false;
                output.push_str(&format!("[-]{} failed: {reason}\n", check.name()));
            }
        }
    }
    if !all_ok {
        tracing::warn!(probe = probe.name(), output, "a health check failed");
        return error::unhealthy(&output);
    }
    if !verbose {
        output.clear();
    }
    output.push_str("ok\n");
    let mut response = Response::new(Body::from(output));
    response.headers_mut().insert(header::CONTENT_TYPE, TEXT);
    response
        .headers_mut()
        .insert(header::X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    response
}

/// Runs one check.
async fn run_check(member: &dyn Member, check: Check, deadline: Instant) -> Result<(), String> {
    match check {
        Check::DataCorruption => match member.alarms().contains(&AlarmType::Corrupt) {
            true => Err("alarm activated: CORRUPT".into()),
            false => Ok(()),
        },
        Check::SerializableRead => bounded(deadline, member.serializable_read()).await,
        Check::LinearizableRead => bounded(deadline, member.linearizable_read()).await,
        Check::NonLearner => match member.is_learner() {
            true => Err("not supported for learner".into()),
            false => Ok(()),
        },
    }
}

/// Waits for a read, at most until `deadline`.
async fn bounded(deadline: Instant, read: BoxFuture<'_, Result<(), String>>) -> Result<(), String> {
    match tokio::time::timeout_at(deadline, read).await {
        Ok(result) => result,
        Err(_) => Err("context deadline exceeded".into()),
    }
}

/// The values of a parameter that are not empty.
fn values<'a>(parameters: &'a [(String, String)], name: &str) -> Vec<&'a str> {
    let named = parameters
        .iter()
        .filter(|(key, value)| key == name && !value.is_empty());
    named.map(|(_, value)| value.as_str()).collect()
}
