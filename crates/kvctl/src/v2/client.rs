//! Requests that go from endpoint to endpoint until one answers.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use kvd_client::TlsOptions;
use rand::seq::SliceRandom;
use serde::Deserialize;
use tokio::time::Instant;

use super::args::Words;
use super::exchange::{self, Access, Action, Answer, NoAnswer};
use super::failure::{BAD_CONNECTION, Failure, Outcome, SERVER_ERROR};
use crate::commands::{Discovery, discovery, prompt};
use crate::print::Streams;

/// etcdctl's default of `--endpoints`.
const ENDPOINTS: &str = "http://127.0.0.1:2379,http://127.0.0.1:4001";
/// etcdctl's default of `--timeout`.
const TIMEOUT: Duration = Duration::from_secs(2);
/// etcdctl's default of `--total-timeout`.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(5);

/// A member as `/v2/members` shows it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Member {
    pub(super) id: String,
    pub(super) name: String,
    #[serde(rename = "peerURLs")]
    pub(super) peer_urls: Vec<String>,
    #[serde(rename = "clientURLs")]
    pub(super) client_urls: Vec<String>,
}

/// Why a request failed.
#[derive(Clone, Debug)]
pub(super) enum Error {
    /// One endpoint's error, or one about the answer.
    One(NoAnswer),
    /// What each endpoint said.
    All(Vec<NoAnswer>),
}

impl Error {
    pub(super) fn other(text: impl Into<String>) -> Error {
        Error::One(NoAnswer::other(text))
    }

    fn is_connection(&self) -> bool {
        match self {
            Error::One(error) => error.is_connection,
            Error::All(errors) => errors.iter().all(|error| error.is_connection),
        }
    }

    /// What etcdctl says after `Error:`; without it where it says only that.
    pub(super) fn text(&self) -> String {
        match self {
            Error::One(error) => error.text.clone(),
            Error::All(errors) => {
                let mut text = "client: etcd cluster is unavailable or misconfigured".to_owned();
                for (number, error) in errors.iter().enumerate() {
                    text.push_str(&format!("; error #{number}: {}\n", error.text));
                }
                text
            }
        }
    }

    /// As etcdctl ends with it.
    pub(super) fn into_failure(self, code: u8) -> Failure {
        let mut failure = Failure::error(code, &self.text());
        if let Error::All(errors) = &self {
            for (number, error) in errors.iter().enumerate() {
                let line = format!("error #{number}: {}\n", error.text);
                failure.text.push_str(&line);
            }
            failure.text.push('\n');
        }
        failure
    }
}

/// The endpoints, and which of them answered last.
pub(super) struct Client {
    endpoints: Vec<String>,
    pinned: usize,
    access: Access,
    limit: Option<Duration>,
    total: Option<Duration>,
    debug: bool,
}

impl Client {
    /// A client of the endpoints that the flags or the domain name, without asking them for others.
    ///
    /// Errors: the domain has no endpoints, the files do not fit together, or there is no password.
    pub(super) async fn without_sync(words: &Words, to: &mut Streams<'_>) -> Outcome<Client> {
        let mut endpoints = discovered(words, to).await?;
        if endpoints.is_empty() {
            endpoints = given(words);
        }
        endpoints.shuffle(&mut rand::rng());
        let access = Access {
            tls: tls(words)?,
            authorization: authorization(words, to).await?,
        };
        let client = Client {
            endpoints,
            pinned: 0,
            access,
            limit: words.duration("timeout", TIMEOUT),
            total: words.duration("total-timeout", TOTAL_TIMEOUT),
            debug: words.is("debug"),
        };
        if client.debug && words.command == "cluster-health" {
            let endpoints = client.endpoints.join(", ");
            writeln!(to.err, "Cluster-Endpoints: {endpoints}")?;
        }
        Ok(client)
    }

    /// How endpoints with `https://` are spoken to.
    pub(super) fn tls(&self) -> &TlsOptions {
        &self.access.tls
    }

    /// A client of all members' endpoints, unless `--no-sync` says otherwise.
    ///
    /// Errors: no endpoint can be reached, or the members publish none.
    pub(super) async fn new(words: &Words, to: &mut Streams<'_>) -> Outcome<Client> {
        let mut client = Client::without_sync(words, to).await?;
        if !words.is("no-sync") {
            if client.debug {
                let endpoints = client.endpoints.join(",");
                writeln!(to.err, "start to sync cluster using endpoints({endpoints})")?;
            }
            match client.members(to).await {
                Ok(members) => {
                    let urls = members.into_iter().flat_map(|member| member.client_urls);
                    let mut urls: Vec<String> = urls.collect();
                    if urls.is_empty() {
                        let endpoints = client.endpoints.join(",");
                        return Err(Failure::new(
                            SERVER_ERROR,
                            format!(
                                "etcd cluster has no published client endpoints.\nTry '--no-sync' \
                                 if you want to access non-published client \
                                 endpoints({endpoints}).\nError:  client: no endpoints available\n"
                            ),
                        ));
                    }
                    urls.shuffle(&mut rand::rng());
                    client.endpoints = urls;
                    client.pinned = 0;
                }
                Err(error) if error.is_connection() => {
                    return Err(error.into_failure(BAD_CONNECTION));
                }
                // As etcdctl: the command itself will meet the trouble.
                Err(_) => {}
            }
            if client.debug {
                let endpoints = client.endpoints.join(",");
                writeln!(to.err, "got endpoints({endpoints}) after sync")?;
            }
        }
        if client.debug {
            let endpoints = client.endpoints.join(", ");
            writeln!(to.err, "Cluster-Endpoints: {endpoints}")?;
        }
        Ok(client)
    }

    /// Sends a request to the endpoints in turn, until one answers. `once`: what has an effect
    /// each time is not sent again after an error.
    pub(super) async fn send(
        &mut self,
        action: &Action,
        once: bool,
        to: &mut Streams<'_>,
    ) -> Result<Answer, Error> {
        let deadline = self
            .total
            .filter(|_| !action.waits)
            .map(|total| Instant::now() + total);
        let mut errors = Vec::new();
        for turn in 0..self.endpoints.len() {
            let place = (self.pinned + turn) % self.endpoints.len();
            let endpoint = self.endpoints[place].clone();
            if self.debug {
                // What cannot be told does not stop the command.
                let _ = writeln!(to.err, "cURL Command: {}", curl(&endpoint, action));
            }
            let sent = exchange::send(&endpoint, action, &self.access, self.limit);
            let answer = match deadline {
                Some(deadline) => match tokio::time::timeout_at(deadline, sent).await {
                    Ok(answer) => answer,
                    Err(_) => return Err(Error::other("context deadline exceeded")),
                },
                None => sent.await,
            };
            let error = match answer {
                Ok(answer) if !answer.status.is_server_error() => {
                    self.pinned = place;
                    return Ok(answer);
                }
                Ok(answer) => NoAnswer::other(match answer.status.as_u16() {
                    500 | 503 => format!("client: etcd member {endpoint} has no leader"),
                    _ => format!(
                        "client: etcd member {endpoint} returns server error [{}]",
                        answer.status.canonical_reason().unwrap_or_default()
                    ),
                }),
                Err(error) => error,
            };
            if once {
                self.pinned = (place + 1) % self.endpoints.len();
                return Err(Error::One(error));
            }
            errors.push(error);
        }
        Err(Error::All(errors))
    }

    /// The members, in order of ID.
    pub(super) async fn members(&mut self, to: &mut Streams<'_>) -> Result<Vec<Member>, Error> {
        #[derive(Deserialize)]
        struct Members {
            members: Vec<Member>,
        }
        let action = Action::new(Method::GET, "/v2/members");
        let answer = self.send(&action, false, to).await?;
        expect(&answer, &[200])?;
        let members: Members = serde_json::from_slice(&answer.body)
            .map_err(|error| Error::other(error.to_string()))?;
        Ok(members.members)
    }
}

/// What `--discovery-srv` finds; nothing when it is not given.
async fn discovered(words: &Words, to: &mut Streams<'_>) -> Outcome<Vec<String>> {
    let domain = words.text("discovery-srv");
    if domain.is_empty() {
        return Ok(Vec::new());
    }
    let discovery = Discovery {
        domain,
        name: "",
        is_insecure: words.is("insecure-discovery"),
    };
    let found = discovery::endpoints(discovery, to).await;
    found.map_err(|failure| Failure::bad_args(failure.message))
}

/// What `--endpoints` and its old names say, or etcdctl's default.
fn given(words: &Words) -> Vec<String> {
    let given = ["endpoints", "endpoint", "peers"]
        .into_iter()
        .map(|flag| words.text(flag))
        .find(|text| !text.is_empty());
    let endpoints = given.unwrap_or(ENDPOINTS).split(',');
    let endpoints = endpoints.map(|endpoint| {
        let endpoint = endpoint.trim().trim_end_matches('/');
        // Differs from etcdctl, which refuses an address without `http://`.
        match endpoint.contains("://") {
            true => endpoint.to_owned(),
            false => format!("http://{endpoint}"),
        }
    });
    endpoints.collect()
}

/// `--ca-file`, `--cert-file` and `--key-file`.
fn tls(words: &Words) -> Outcome<TlsOptions> {
    let mut tls = TlsOptions::new();
    let [ca, cert, key] = ["ca-file", "cert-file", "key-file"].map(|flag| words.text(flag));
    if !ca.is_empty() {
        tls = tls.ca(ca);
    }
    match (cert, key) {
        ("", "") => {}
        ("", _) | (_, "") => {
            return Err(Failure::bad_args(format!(
                "KeyFile and CertFile must both be present[key: {key}, cert: {cert}]"
            )));
        }
        (cert, key) => tls = tls.identity(cert, key),
    }
    Ok(tls)
}

/// `--username`, asking for a password that lacks.
async fn authorization(words: &Words, to: &mut Streams<'_>) -> Outcome<Option<String>> {
    let user = match words.text("username") {
        "" => return Ok(None),
        user if user.contains(':') => user.to_owned(),
        name => {
            let password = prompt::password("Password: ", to).await;
            let password = password.map_err(|failure| match failure.message.is_empty() {
                true => Failure::new(failure.code, ""),
                false => Failure::bad_args(failure.message),
            })?;
            format!("{name}:{password}")
        }
    };
    Ok(Some(format!("Basic {}", STANDARD.encode(user))))
}

/// Refuses an answer with another status.
pub(super) fn expect(answer: &Answer, statuses: &[u16]) -> Result<(), Error> {
    let status = answer.status.as_u16();
    match statuses.contains(&status) {
        true => Ok(()),
        false => Err(Error::other(format!("unexpected status code {status}"))),
    }
}

fn curl(endpoint: &str, action: &Action) -> String {
    let (method, target) = (&action.method, &action.target);
    let mut command = format!("curl -X {method} {endpoint}{target}");
    if let Some((_, body)) = action.body.as_ref().filter(|(_, body)| !body.is_empty()) {
        command.push_str(&format!(" -d {body:?}"));
    }
    command
}
