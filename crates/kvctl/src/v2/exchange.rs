//! One HTTP request to one endpoint.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use kvd_client::{Endpoint, TlsOptions, connect_http1};
use tokio::time::timeout;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NoAnswer {
    /// In Go's words.
    pub(super) text: String,
    /// Whether the endpoint cannot be reached.
    pub(super) is_connection: bool,
}

impl NoAnswer {
    pub(super) fn other(text: impl Into<String>) -> NoAnswer {
        NoAnswer {
            text: text.into(),
            is_connection: false,
        }
    }

    fn connection(text: impl Into<String>) -> NoAnswer {
        NoAnswer {
            text: text.into(),
            is_connection: true,
        }
    }
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// `X-Etcd-Index`.
    pub(super) index: u64,
    pub(super) body: Bytes,
}

/// A request without an endpoint.
#[derive(Clone, Debug)]
pub(super) struct Action {
    pub(super) method: Method,
    /// Path and query, encoded.
    pub(super) target: String,
    /// The body with its content type.
    pub(super) body: Option<(&'static str, String)>,
    /// It is answered when something happens, so that nothing limits the time.
    pub(super) waits: bool,
}

impl Action {
    pub(super) fn new(method: Method, target: impl Into<String>) -> Action {
        Action {
            method,
            target: target.into(),
            body: None,
            waits: false,
        }
    }
}

/// What is shown to every endpoint.
#[derive(Clone, Debug, Default)]
pub(super) struct Access {
    /// For endpoints with `https://`.
    pub(super) tls: TlsOptions,
    /// The value of `Authorization`.
    pub(super) authorization: Option<String>,
}

/// Sends a request to an endpoint, `http://host:port`, and reads the answer.
///
/// `limit`: most time until its headers are there.
pub(super) async fn send(
    endpoint: &str,
    action: &Action,
    access: &Access,
    limit: Option<Duration>,
) -> Result<Answer, NoAnswer> {
    let headers = exchange(endpoint, action, access);
    let response = match limit.filter(|_| !action.waits) {
        Some(limit) => match timeout(limit, headers).await {
            Ok(response) => response?,
            Err(_) => {
                return Err(NoAnswer::other(format!(
                    "client: endpoint {endpoint} exceeded header timeout"
                )));
            }
        },
        None => headers.await?,
    };
    let status = response.status();
    let index = response.headers().get("x-etcd-index");
    let index = index.and_then(|value| value.to_str().ok()?.parse().ok());
    let body = response.into_body().collect().await;
    let body = body.map_err(|error| NoAnswer::connection(error.to_string()))?;
    Ok(Answer {
        status,
        index: index.unwrap_or(0),
        body: body.to_bytes(),
    })
}

async fn exchange(
    endpoint: &str,
    action: &Action,
    access: &Access,
) -> Result<http::Response<hyper::body::Incoming>, NoAnswer> {
    let uri: Uri = endpoint
        .parse()
        .map_err(|error| NoAnswer::other(format!("parse {endpoint:?}: {error}")))?;
    let port = match uri.scheme_str() {
        Some("http") => uri.port_u16().unwrap_or(80),
        Some("https") => uri.port_u16().unwrap_or(443),
        other => {
            return Err(NoAnswer::other(format!(
                "unsupported protocol scheme {:?}",
                other.unwrap_or_default()
            )));
        }
    };
    let address = format!("{}:{port}", uri.host().unwrap_or_default());
    let place = Endpoint::parse(endpoint).map_err(|error| NoAnswer::other(error.to_string()))?;
    let stream = connect_http1(&place, &access.tls).await.map_err(|error| {
        NoAnswer::connection(match is_unknown_name(&error) {
            true => format!(
                "dial tcp: lookup {}: no such host",
                uri.host().unwrap_or_default()
            ),
            false => format!("dial tcp {address}: connect: {}", go_words(&error)),
        })
    })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| NoAnswer::connection(whole(&error)))?;
    tokio::spawn(connection);
    let mut request = http::Request::builder()
        .method(action.method.clone())
        .uri(&action.target)
        .header(header::HOST, uri.authority().map_or("", |at| at.as_str()))
        .header(header::USER_AGENT, "kvctl");
    if let Some(authorization) = &access.authorization {
        request = request.header(header::AUTHORIZATION, authorization);
    }
    let mut body = Bytes::new();
    if let Some((kind, content)) = &action.body {
        request = request.header(header::CONTENT_TYPE, *kind);
        body = Bytes::from(content.clone());
    }
    let request = request
        .body(Full::new(body))
        .map_err(|error| NoAnswer::other(error.to_string()))?;
    let response = sender.send_request(request).await;
    response.map_err(|error| NoAnswer::connection(whole(&error)))
}

/// An error with what lies behind it: hyper's own words say little.
fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}

/// Whether the host's name is not known: the system's resolver says so in words alone.
fn is_unknown_name(error: &std::io::Error) -> bool {
    error
        .to_string()
        .starts_with("failed to lookup address information")
}

/// What Go calls the system's errors.
fn go_words(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        std::io::ErrorKind::TimedOut => "connection timed out".to_owned(),
        _ => error.to_string(),
    }
}

/// A key as a path.
pub(super) fn path(key: &str) -> String {
    encode(key, b"/$&+,:;=@-_.~", false)
}

/// Names and values as a query or form, in order of name as Go writes them.
pub(super) fn form(mut pairs: Vec<(&str, String)>) -> String {
    pairs.sort_by_key(|(name, _)| *name);
    let pairs = pairs.iter().map(|(name, value)| {
        let value = encode(value, b"-_.~", true);
        format!("{name}={value}")
    });
    pairs.collect::<Vec<_>>().join("&")
}

fn encode(text: &str, kept: &[u8], is_form: bool) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' ' if is_form => encoded.push('+'),
            byte if byte.is_ascii_alphanumeric() || kept.contains(&byte) => {
                encoded.push(char::from(byte));
            }
            byte => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_and_paths_are_encoded_as_in_go() {
        let pairs = vec![("value", "a b&c".to_owned()), ("ttl", "5".to_owned())];
        assert_eq!(form(pairs), "ttl=5&value=a+b%26c");
        assert_eq!(path("/a b/ü?#"), "/a%20b/%C3%BC%3F%23");
    }
}
