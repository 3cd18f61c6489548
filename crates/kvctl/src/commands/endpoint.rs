//! endpoint health, status, hashkv: one answer per endpoint.

use std::time::Instant;

use kvd_api::error::WireError;
use kvd_client::pb::AlarmType;
use kvd_client::{Client, Error, GetOptions};
use tokio::task::JoinSet;

use super::Session;
use crate::args::{EndpointArgs, EndpointCommand, Globals, HashKvArgs};
use crate::failure::{self, Failure, Outcome};
use crate::go_text::duration;
use crate::print::{EndpointHashKv, EndpointHealth, EndpointStatus, Streams};

pub(super) async fn run(globals: &Globals, args: &EndpointArgs, to: &mut Streams<'_>) -> Outcome {
    match &args.command {
        Some(EndpointCommand::Health(_)) => health(globals, args.cluster, to).await,
        Some(EndpointCommand::Status(_)) => status(globals, args.cluster, to).await,
        Some(EndpointCommand::Hashkv(hash)) => hashkv(globals, args.cluster, hash, to).await,
        None => Err(Failure::error("a subcommand is needed")),
    }
}

/// The endpoints asked about: those given, or with `--cluster` the client URLs of all members.
pub(super) async fn endpoints(session: &Session, cluster: bool) -> Result<Vec<String>, Failure> {
    if !cluster {
        return Ok(session.client.endpoints().map(str::to_owned).collect());
    }
    let what = "failed to fetch endpoints from etcd cluster member list";
    let listed = session.client.member_list(true).await;
    let members = listed.map_err(|err| Failure::because(what, &err))?.members;
    Ok(members
        .into_iter()
        .flat_map(|member| member.client_ur_ls)
        .collect())
}

async fn health(globals: &Globals, cluster: bool, to: &mut Streams<'_>) -> Outcome {
    let session = Session::open(globals, to).await?;
    let mut probes = JoinSet::new();
    for endpoint in endpoints(&session, cluster).await? {
        let one = session.another(globals, vec![endpoint.clone()])?;
        probes.spawn(probe(one, endpoint));
    }
    let mut all = Vec::new();
    let mut is_unhealthy = false;
    let mut advice = String::new();
    while let Some(probed) = probes.join_next().await {
        let (health, more) =
            probed.map_err(|err| Failure::error(format!("a probe ended early: {err}")))?;
        is_unhealthy |= !health.error.is_empty();
        advice.push_str(&more);
        all.push(health);
    }
    session.printer.endpoint_health(to, &all)?;
    if is_unhealthy {
        return Err(Failure::error("unhealthy cluster").with_details(advice));
    }
    Ok(())
}

/// Asks for a key, linearizable: an answer, whatever it is, went through consensus. Then for
/// alarms.
async fn probe(client: Client, endpoint: String) -> (EndpointHealth, String) {
    let started = Instant::now();
    let answer = client.get("health", GetOptions::new()).await;
    let took = duration::format(started.elapsed());
    let (error, advice) = match answer {
        Err(err) if err.wire() != Some(WireError::PermissionDenied) => {
            (failure::text(&err), failure::advice(&err))
        }
        _ => (alarms(&client).await, String::new()),
    };
    (
        EndpointHealth {
            endpoint,
            is_healthy: error.is_empty(),
            took,
            error,
        },
        advice,
    )
}

async fn alarms(client: &Client) -> String {
    let Ok(answer) = client.alarm_list().await else {
        return "Unable to fetch the alarm list".to_owned();
    };
    if answer.alarms.is_empty() {
        return String::new();
    }
    let mut text = "Active Alarm(s): ".to_owned();
    for alarm in &answer.alarms {
        text.push_str(match alarm.alarm() {
            AlarmType::Nospace => "NOSPACE ",
            AlarmType::Corrupt => "CORRUPT ",
            AlarmType::None => "UNKNOWN ",
        });
    }
    text
}

async fn status(globals: &Globals, cluster: bool, to: &mut Streams<'_>) -> Outcome {
    let session = Session::open(globals, to).await?;
    let mut all = Vec::new();
    let mut last_error = None;
    for endpoint in endpoints(&session, cluster).await? {
        match session.client.status(&endpoint).await {
            Ok(status) => all.push(EndpointStatus { endpoint, status }),
            Err(err) => last_error = Some(missed(to, "status", &endpoint, err)?),
        }
    }
    session.printer.endpoint_status(to, &all)?;
    match last_error {
        Some(_) => Err(Failure::silent(failure::ERROR)),
        None => Ok(()),
    }
}

async fn hashkv(
    globals: &Globals,
    cluster: bool,
    args: &HashKvArgs,
    to: &mut Streams<'_>,
) -> Outcome {
    let session = Session::open(globals, to).await?;
    let mut all = Vec::new();
    let mut last_error = None;
    for endpoint in endpoints(&session, cluster).await? {
        match session.client.hash_kv(&endpoint, args.rev).await {
            Ok(hash) => all.push(EndpointHashKv { endpoint, hash }),
            Err(err) => last_error = Some(missed(to, "hash", &endpoint, err)?),
        }
    }
    session.printer.endpoint_hashkv(to, &all)?;
    match last_error {
        Some(err) => Err(Failure::error(failure::text(&err))),
        None => Ok(()),
    }
}

/// Tells that one endpoint gave no answer; the others are asked all the same.
fn missed(to: &mut Streams<'_>, what: &str, endpoint: &str, err: Error) -> Result<Error, Failure> {
    if failure::is_refused_login(&err) {
        return Err(err.into());
    }
    let why = failure::text(&err);
    writeln!(
        to.err,
        "Failed to get the {what} of endpoint {endpoint} ({why})"
    )?;
    to.err.write_all(failure::advice(&err).as_bytes())?;
    Ok(err)
}
