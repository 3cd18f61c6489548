//! `cluster-health`.

use std::time::Duration;

use http::Method;
use serde::Deserialize;

use super::args::Words;
use super::client::{Client, Member};
use super::exchange::{self, Access, Action};
use super::failure::{CLUSTER_NOT_HEALTHY, Failure, Outcome, SERVER_ERROR};
use crate::print::Streams;

/// Time between checks with `--forever`.
const PAUSE: Duration = Duration::from_secs(10);
/// Most time for one member's answer. etcdctl waits for ever once it is connected.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);

/// `health` as text, or as etcd before 3.0 wrote it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Health {
    Text { health: String },
    Flag { health: bool },
}

/// `cluster-health`: exit code 5 unless every member is healthy.
pub(super) async fn cluster_health(words: &Words, to: &mut Streams<'_>) -> Outcome {
    let mut client = Client::without_sync(words, to).await?;
    let members = match client.members(to).await {
        Ok(members) => members,
        Err(error) => {
            writeln!(to.out, "cluster may be unhealthy: failed to list members")?;
            return Err(error.into_failure(SERVER_ERROR));
        }
    };
    // The probe needs no user.
    let access = Access {
        tls: client.tls().clone(),
        authorization: None,
    };
    loop {
        let mut healthy = 0;
        for member in &members {
            healthy += usize::from(is_healthy(member, &access, to).await?);
        }
        let all = healthy == members.len();
        writeln!(
            to.out,
            "cluster is {}",
            match healthy {
                _ if all => "healthy",
                0 => "unavailable",
                _ => "degraded",
            }
        )?;
        to.out.flush()?;
        if !words.is("forever") {
            return match all {
                true => Ok(()),
                false => Err(Failure::new(CLUSTER_NOT_HEALTHY, "")),
            };
        }
        writeln!(to.out, "\nnext check after 10 second...\n")?;
        to.out.flush()?;
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
    }
}

/// Asks a member at its URLs in turn, until one answers.
async fn is_healthy(member: &Member, access: &Access, to: &mut Streams<'_>) -> Outcome<bool> {
    let id = &member.id;
    if member.client_urls.is_empty() {
        writeln!(
            to.out,
            "member {id} is unreachable: no available published client urls"
        )?;
        return Ok(false);
    }
    for url in &member.client_urls {
        match health(url, access).await {
            Ok(true) => {
                writeln!(
                    to.out,
                    "member {id} is healthy: got healthy result from {url}"
                )?;
                return Ok(true);
            }
            Ok(false) => {
                writeln!(
                    to.out,
                    "member {id} is unhealthy: got unhealthy result from {url}"
                )?;
                return Ok(false);
            }
            Err(error) => writeln!(
                to.out,
                "failed to check the health of member {id} on {url}: {error}"
            )?,
        }
    }
    let urls = member.client_urls.join(" ");
    writeln!(
        to.out,
        "member {id} is unreachable: [{urls}] are all unreachable"
    )?;
    Ok(false)
}

async fn health(url: &str, access: &Access) -> Result<bool, String> {
    let action = Action::new(Method::GET, "/health");
    let answer = exchange::send(url, &action, access, Some(ANSWER_DEADLINE)).await;
    let answer = answer.map_err(|error| format!("Get \"{url}/health\": {}", error.text))?;
    match serde_json::from_slice(&answer.body) {
        Ok(Health::Text { health }) => Ok(health == "true"),
        Ok(Health::Flag { health }) => Ok(health),
        Err(error) => Err(error.to_string()),
    }
}
