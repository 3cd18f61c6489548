//! Which requests may be sent twice.
//!
//! | What happened | Fate | a read ([`Rule::Repeatable`]) | a write ([`Rule::AtMostOnce`]) |
//! |---|---|---|---|
//! | no connection could be made | not sent | again | again |
//! | the connection broke | unknown | again, elsewhere | reported |
//! | a server answered Unavailable | unknown | again | reported |
//! | a server answered anything else | answered | reported | reported |
//! | the deadline passed | unknown | reported | reported |
//!
//! An Unavailable answer to a write counts as unknown: etcd sends it for `request timed out`, after
//! which the entry may still commit. Only "no connection" is certain.
//!
//! Pauses: about 25 ms, with jitter, each time a majority of the endpoints was tried without luck;
//! at most 100 attempts; all inside the request's deadline.
//!
//! Source: etcd `client/v3/retry.go`, `retry_interceptor.go`.

use std::error::Error as StdError;
use std::time::Duration;

use rand::Rng;
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::transport::Channel;
use tonic::{Code, ConnectError, Status};

use crate::channel::Balancer;
use crate::error::{Error, Result};

/// Most times one request is sent.
const ATTEMPTS_MAX: usize = 100;
/// Pause between attempts, before jitter.
const BACKOFF: Duration = Duration::from_millis(25);

/// Whether a request may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Reads: doing it twice is the same as doing it once.
    Repeatable,
    /// Writes: sent again only when the first attempt certainly never left.
    AtMostOnce,
}

/// What is known about a request that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    NotSent,
    /// The connection broke underneath it.
    Lost,
    /// A server says that it cannot serve now.
    Unavailable,
    Answered,
}

/// The table above.
fn may_retry(rule: Rule, fate: Fate) -> bool {
    match (fate, rule) {
        (Fate::NotSent, _) => true,
        (Fate::Lost | Fate::Unavailable, Rule::Repeatable) => true,
        (Fate::Lost | Fate::Unavailable, Rule::AtMostOnce) => false,
        (Fate::Answered, _) => false,
    }
}

fn fate_of(status: &Status) -> Fate {
    let mut source = status.source();
    let sent_nothing = |err: &(dyn StdError + 'static)| err.is::<ConnectError>();
    if source.is_none() {
        // An answer of a server has no source. The one local failure without a source is
        // tonic's, when its own queue is gone before the request was put there.
        return match status.code() {
            Code::Unknown if status.message().starts_with("Service was not ready") => Fate::NotSent,
            Code::Unavailable => Fate::Unavailable,
            _ => Fate::Answered,
        };
    }
    while let Some(err) = source {
        if sent_nothing(err) {
            return Fate::NotSent;
        }
        source = err.source();
    }
    Fate::Lost
}

/// Whether the connection failed, rather than a server answered.
pub(crate) fn never_answered(status: &Status) -> bool {
    matches!(fate_of(status), Fate::NotSent | Fate::Lost)
}

/// Sends a request under `rule` until it is answered, must not be repeated, or `deadline` passes.
pub(crate) async fn run<T, F>(
    balancer: &Balancer,
    rule: Rule,
    deadline: Instant,
    send: impl Fn(Channel) -> F,
) -> Result<T>
where
    F: Future<Output = std::result::Result<T, Status>>,
{
    let started = Instant::now();
    let mut attempt = 0;
    loop {
        let connection = balancer.connect(deadline).await?;
        let sent = Instant::now();
        let Ok(outcome) = timeout_at(deadline, send(connection.channel.clone())).await else {
            // A server that keeps silent for long is passed over by the next request.
            if sent.elapsed() >= Duration::from_secs(1) {
                connection.failed();
            }
            return Err(Error::DeadlineExceeded);
        };
        let status = match outcome {
            Ok(answer) => return Ok(answer),
            Err(status) => status,
        };
        let fate = fate_of(&status);
        if matches!(fate, Fate::NotSent | Fate::Lost) {
            connection.failed();
        }
        attempt += 1;
        let exhausted = attempt >= ATTEMPTS_MAX;
        if exhausted || !may_retry(rule, fate) {
            return Err(into_error(
                status,
                fate,
                connection.endpoint(),
                deadline,
                started,
            ));
        }
        if attempt % balancer.quorum() == 0 {
            let wake = Instant::now() + jittered(BACKOFF);
            if wake >= deadline {
                return Err(into_error(
                    status,
                    fate,
                    connection.endpoint(),
                    deadline,
                    started,
                ));
            }
            sleep_until(wake).await;
        }
    }
}

fn into_error(
    status: Status,
    fate: Fate,
    endpoint: &str,
    deadline: Instant,
    started: Instant,
) -> Error {
    // tonic and the server keep the same deadline and may be a little early with it.
    let late = Instant::now() + Duration::from_millis(5) >= deadline
        && matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled);
    match fate {
        _ if late => Error::DeadlineExceeded,
        Fate::NotSent => Error::NoConnection {
            waited: started.elapsed(),
            tried: vec![crate::error::Attempt {
                endpoint: endpoint.to_owned(),
                reason: root_cause(&status),
            }],
        },
        Fate::Lost => Error::ConnectionLost {
            endpoint: endpoint.to_owned(),
            reason: root_cause(&status),
        },
        Fate::Unavailable | Fate::Answered => from_status(&status),
    }
}

/// A server's answer as an error.
pub(crate) fn from_status(status: &Status) -> Error {
    if let Some(text) = too_large(status) {
        return Error::Etcd {
            code: Code::ResourceExhausted,
            message: text,
        };
    }
    Error::Etcd {
        code: status.code(),
        message: status.message().to_owned(),
    }
}

/// An answer above our own limit, which tonic words differently from every other gRPC library.
fn too_large(status: &Status) -> Option<String> {
    let rest = status
        .message()
        .strip_prefix("Error, decoded message length too large: found ")?;
    let (found, rest) = rest.split_once(" bytes, the limit is: ")?;
    let limit = rest.strip_suffix(" bytes")?;
    Some(format!(
        "grpc: received message larger than max ({found} vs. {limit})"
    ))
}

/// What ended a stream that had begun.
pub(crate) fn stream_error(status: Status, endpoints: &str, deadline: Instant) -> Error {
    let fate = if status.source().is_some() {
        Fate::Lost
    } else {
        Fate::Answered
    };
    into_error(status, fate, endpoints, deadline, Instant::now())
}

/// As [`stream_error`], of a stream that no deadline ends.
pub(crate) fn stream_failed(status: &Status, endpoints: &str) -> Error {
    if status.source().is_some() {
        return Error::ConnectionLost {
            endpoint: endpoints.to_owned(),
            reason: root_cause(status),
        };
    }
    from_status(status)
}

/// `pause` give or take a tenth, so that clients that failed together do not come back together.
pub(crate) fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.9..1.1))
}

/// The innermost reason: "connection refused" says more than "transport error".
pub(crate) fn root_cause(err: &(dyn StdError + 'static)) -> String {
    let mut cause = err;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests;
