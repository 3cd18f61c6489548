//! `/v1/members`: how every member is, as JSON.
//!
//! A page reaches the member that it came from and no other, so this member asks the others. Who
//! may see it is who may call `Maintenance.Status`: that is called first, in process, with the
//! credentials of the request, and its refusal is the answer.
//!
//! ```text
//! {"cluster_id":"ea3…","member_id":"8e9…","leader_id":"8e9…","alarms":[{"member_id":"91b…","alarm":"NOSPACE"}],"members":[
//!   {"id":"8e9…","name":"m0","role":"leader","healthy":true,"problems":[],"version":"3.7.1",
//!    "kvd_version":"0.1.0","revision":7,"db_size":73728,"db_size_in_use":24576,
//!    "db_size_quota":2147483648,"raft_term":2,"raft_index":9,"raft_applied_index":9,"lag":0},
//!   {"id":"91b…","name":"m1","role":"unknown","healthy":false,"problems":["cannot connect"]}]}
//! ```
//!
//! IDs are hexadecimal, as `etcdctl member list` prints them: numbers of 64 bits do not survive a
//! browser. Sizes are in bytes. `lag` is how many log entries the member still has to apply of those
//! that any member knows to be committed. `problems` are a member's own; alarms, which every member
//! reports, stand with the member that raised them.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, header};
use serde_json::{Value, json};
use tokio::time::Instant;
use tonic::Code;

use crate::call::{self, GrpcService};
use crate::error::{self, Error, JSON, Result};
use crate::member::{Member, Standing};

/// The RPC whose callers may see how the members are.
const STATUS: &str = "/etcdserverpb.Maintenance/Status";

struct Members {
    service: GrpcService,
    member: Arc<dyn Member>,
}

/// The routes under `/v1`.
pub(crate) fn router(service: GrpcService, member: Arc<dyn Member>) -> Router {
    Router::new()
        .route("/v1/members", any(serve))
        .with_state(Arc::new(Members { service, member }))
}

async fn serve(State(members): State<Arc<Members>>, request: Request) -> Response {
    if request.method() != Method::GET {
        return error::only_get();
    }
    match members.standings(request).await {
        Ok(body) => {
            let mut response = Response::new(Body::from(body));
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, JSON);
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            response
        }
        Err(error) => error.into_response(),
    }
}

impl Members {
    async fn standings(&self, request: Request) -> Result<String> {
        self.authorize(request).await?;
        let standings = self.member.standings().await;
        let standings = standings.map_err(|message| Error::Rpc {
            code: Code::Unavailable,
            message,
        })?;
        let body = json!({
            "cluster_id": id(self.member.cluster_id()),
            "member_id": id(self.member.id()),
            "leader_id": id(self.member.leader()),
            "alarms": alarms(&standings),
            "members": list(&standings),
        });
        Ok(format!("{body}\n"))
    }

    /// Whether the caller may call [`STATUS`].
    async fn authorize(&self, request: Request) -> Result<()> {
        let (parts, _) = request.into_parts();
        let deadline = Instant::now() + self.member.request_timeout();
        let body = tonic::body::Body::new(http_body_util::Full::new(call::frame(&[])?));
        let mut replies = call::call(
            self.service.clone(),
            &PathAndQuery::from_static(STATUS),
            call::metadata(&parts.headers),
            parts.extensions,
            body,
            Some(deadline),
        )
        .await?;
        while replies.next().await?.is_some() {}
        Ok(())
    }
}

fn id(id: u64) -> String {
    format!("{id:x}")
}

fn list(standings: &[Standing]) -> Vec<Value> {
    let answers = standings
        .iter()
        .filter_map(|standing| standing.answer.as_ref().ok());
    let committed = answers.map(|answer| answer.status.raft_index).max();
    let committed = committed.unwrap_or(0);
    standings
        .iter()
        .map(|standing| one(standing, committed))
        .collect()
}

/// An alarm as `Maintenance.Status` words it among the errors.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Alarm<'a> {
    member: u64,
    kind: &'a str,
}

impl Alarm<'_> {
    /// Reads `memberID:1 alarm:NOSPACE`; a member ID of zero is left out there.
    fn parse(text: &str) -> Option<Alarm<'_>> {
        let (member, kind) = text.split_once("alarm:")?;
        let member = match member.trim_end() {
            "" => 0,
            text => text.strip_prefix("memberID:")?.parse().ok()?,
        };
        Some(Alarm { member, kind })
    }
}

/// The alarms that any member reports, each once.
fn alarms(standings: &[Standing]) -> Vec<Value> {
    let answers = standings
        .iter()
        .filter_map(|standing| standing.answer.as_ref().ok());
    let alarms: BTreeSet<Alarm<'_>> = answers
        .flat_map(|answer| &answer.status.errors)
        .filter_map(|text| Alarm::parse(text))
        .collect();
    alarms
        .iter()
        .map(|alarm| json!({ "member_id": id(alarm.member), "alarm": alarm.kind }))
        .collect()
}

/// One member; `committed` is the highest index that any member knows to be committed.
fn one(standing: &Standing, committed: u64) -> Value {
    let answer = match &standing.answer {
        Ok(answer) => answer,
        Err(problem) => {
            return json!({
                "id": id(standing.id),
                "name": standing.name,
                "role": if standing.is_learner { "learner" } else { "unknown" },
                "healthy": false,
                "problems": [problem],
            });
        }
    };
    let status = &answer.status;
    let problems: Vec<String> = status
        .errors
        .iter()
        .filter_map(|text| match Alarm::parse(text) {
            Some(alarm) => (alarm.member == standing.id).then(|| format!("alarm {}", alarm.kind)),
            None => Some(text.clone()),
        })
        .collect();
    let role = match status.leader {
        leader if leader == standing.id => "leader",
        _ if status.is_learner => "learner",
        _ => "follower",
    };
    let revision = status.header.as_ref().map_or(0, |header| header.revision);
    json!({
        "id": id(standing.id),
        "name": standing.name,
        "role": role,
        "healthy": problems.is_empty(),
        "problems": problems,
        "version": status.version,
        "kvd_version": answer.kvd_version,
        "revision": revision,
        "db_size": status.db_size,
        "db_size_in_use": status.db_size_in_use,
        "db_size_quota": status.db_size_quota,
        "raft_term": status.raft_term,
        "raft_index": status.raft_index,
        "raft_applied_index": status.raft_applied_index,
        "lag": committed.saturating_sub(status.raft_applied_index),
    })
}
