//! `member list`, `add`, `remove`, `update`.

use http::Method;
use serde::Deserialize;

use super::args::Words;
use super::client::{Client, Error, Member, expect};
use super::exchange::{Action, path};
use super::failure::{BAD_ARGS, Failure, Outcome};
use crate::go_text::json::{Object, array, string};
use crate::print::Streams;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Refusal {
    message: String,
}

/// These commands print their errors bare.
fn bare(error: Error) -> Failure {
    Failure::new(BAD_ARGS, format!("{}\n", error.text()))
}

fn said(text: impl Into<String>) -> Failure {
    Failure::new(BAD_ARGS, text.into() + "\n")
}

/// `member list`.
pub(super) async fn list(words: &Words, to: &mut Streams<'_>) -> Outcome {
    if !words.args.is_empty() {
        return Err(said("No arguments accepted"));
    }
    let mut client = Client::new(words, to).await?;
    let members = client.members(to).await.map_err(bare)?;
    let leader = leader(&mut client, to).await.map_err(|error| {
        Failure::new(
            BAD_ARGS,
            format!("Failed to get leader:  {}\n", error.text()),
        )
    })?;
    for member in members {
        let Member { id, name, .. } = &member;
        let peers = member.peer_urls.join(",");
        if name.is_empty() {
            writeln!(to.out, "{id}[unstarted]: peerURLs={peers}")?;
        } else {
            let clients = member.client_urls.join(",");
            let leads = *id == leader.id;
            writeln!(
                to.out,
                "{id}: name={name} peerURLs={peers} clientURLs={clients} isLeader={leads}"
            )?;
        }
    }
    Ok(())
}

async fn leader(client: &mut Client, to: &mut Streams<'_>) -> Result<Member, Error> {
    let action = Action::new(Method::GET, "/v2/members/leader");
    let answer = client.send(&action, false, to).await?;
    expect(&answer, &[200])?;
    serde_json::from_slice(&answer.body).map_err(|error| Error::other(error.to_string()))
}

/// `member add NAME URL`.
pub(super) async fn add(words: &Words, to: &mut Streams<'_>) -> Outcome {
    let [name, url] = &words.args[..] else {
        return Err(said("Provide a name and a single member peerURL"));
    };
    let mut client = Client::new(words, to).await?;
    check_url(url).map_err(said)?;
    let mut action = Action::new(Method::POST, "/v2/members");
    action.body = Some(("application/json", urls([url.as_str()])));
    let answer = client.send(&action, false, to).await.map_err(bare)?;
    expect(&answer, &[201, 409]).map_err(bare)?;
    if answer.status.as_u16() != 201 {
        return Err(refused(&answer.body));
    }
    let added: Member =
        serde_json::from_slice(&answer.body).map_err(|error| said(error.to_string()))?;
    writeln!(
        to.out,
        "Added member named {name} with ID {} to cluster",
        added.id
    )?;
    let mut initial = Vec::new();
    for member in client.members(to).await.map_err(bare)? {
        let known = if member.id == added.id {
            name
        } else {
            &member.name
        };
        for url in &member.peer_urls {
            initial.push(format!("{known}={url}"));
        }
    }
    writeln!(
        to.out,
        "\nETCD_NAME={name:?}\nETCD_INITIAL_CLUSTER={:?}\nETCD_INITIAL_CLUSTER_STATE=\"existing\"",
        initial.join(",")
    )?;
    Ok(())
}

/// `member remove ID`.
pub(super) async fn remove(words: &Words, to: &mut Streams<'_>) -> Outcome {
    let [id] = &words.args[..] else {
        return Err(said("Provide a single member ID"));
    };
    let mut client = Client::new(words, to).await?;
    let members = client.members(to).await.map_err(|error| {
        said(format!(
            "Error while verifying ID against known members: {}",
            error.text()
        ))
    })?;
    for member in members.iter().filter(|member| member.name == *id) {
        writeln!(
            to.err,
            "Found a member named {}; if this is correct, please use its ID, eg:\n\tkvctl member \
             remove {}\n",
            member.name, member.id
        )?;
    }
    if !members.iter().any(|member| member.id == *id) {
        return Err(said(format!(
            "Couldn't find a member in the cluster with an ID of {id}."
        )));
    }
    let action = Action::new(Method::DELETE, format!("/v2/members/{}", path(id)));
    let removed = client.send(&action, false, to).await;
    removed
        .and_then(|answer| expect(&answer, &[204, 410]))
        .map_err(|error| {
            Failure::new(
                BAD_ARGS,
                format!(
                    "Received an error trying to remove member {id}: {}",
                    error.text()
                ),
            )
        })?;
    writeln!(to.out, "Removed member {id} from cluster")?;
    Ok(())
}

/// `member update ID URLS`.
pub(super) async fn update(words: &Words, to: &mut Streams<'_>) -> Outcome {
    let [id, given] = &words.args[..] else {
        return Err(said(
            "Provide an ID and a list of comma separated peerURL (0xabcd \
             http://example.com,http://example1.com)",
        ));
    };
    let mut client = Client::new(words, to).await?;
    for url in given.split(',') {
        check_url(url).map_err(said)?;
    }
    let mut action = Action::new(Method::PUT, format!("/v2/members/{}", path(id)));
    action.body = Some(("application/json", urls(given.split(','))));
    let answer = client.send(&action, false, to).await.map_err(bare)?;
    expect(&answer, &[204, 404, 409]).map_err(bare)?;
    if answer.status.as_u16() != 204 {
        return Err(refused(&answer.body));
    }
    writeln!(to.out, "Updated member with ID {id} in cluster")?;
    Ok(())
}

fn refused(body: &[u8]) -> Failure {
    match serde_json::from_slice::<Refusal>(body) {
        Ok(refusal) => said(refusal.message),
        Err(error) => said(error.to_string()),
    }
}

fn urls<'a>(urls: impl IntoIterator<Item = &'a str>) -> String {
    let list = array(urls.into_iter().map(string));
    Object::new().raw("peerURLs", &list).finish()
}

/// Whether a member can have the URL for its peers; in etcd's words why not.
fn check_url(url: &str) -> Result<(), String> {
    let Some((scheme, rest)) = url.trim().split_once("://") else {
        return Err(format!(
            "URL scheme must be http, https, unix, or unixs: {url}"
        ));
    };
    if !["http", "https", "unix", "unixs"].contains(&scheme) {
        return Err(format!(
            "URL scheme must be http, https, unix, or unixs: {url}"
        ));
    }
    if scheme.starts_with("unix") {
        return Ok(());
    }
    let (address, below) = rest.split_once('/').unwrap_or((rest, ""));
    if !below.is_empty() {
        return Err(format!("URL must not contain a path: {url}"));
    }
    match address.rsplit_once(':') {
        Some((_, port)) if port.parse::<u16>().is_ok() => Ok(()),
        _ => Err(format!(
            "URL address does not have the form \"host:port\": {url}"
        )),
    }
}
