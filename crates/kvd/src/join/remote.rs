//! What a running member says of its cluster: `GET /members` on its peer port.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use kvd_gateway::KVD_VERSION;
use kvd_raft::Dialer;
use serde_json::Value;

/// Most bytes of an answer.
const BODY_BYTES_MAX: usize = 16 << 20;

/// A cluster, as one of its members knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// The peer URL that answered.
    pub url: String,
    /// The cluster's ID.
    pub id: u64,
    /// Whether the member that answered is one of kvd.
    pub is_kvd: bool,
    /// Its members.
    pub members: Vec<Member>,
}

/// A member of a running cluster.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Member {
    /// Its ID.
    pub id: u64,
    /// Its name; empty until it has been started.
    pub name: String,
    /// Where its peers reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it; empty until it has been started.
    pub client_urls: Vec<String>,
}

/// Asks the member at `url`, for at most `limit`.
///
/// Errors: what kept it from answering, or what is wrong with the answer.
pub async fn cluster(dialer: &dyn Dialer, url: &str, limit: Duration) -> Result<Cluster, String> {
    match tokio::time::timeout(limit, ask(dialer, url)).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {limit:?}")),
    }
}

async fn ask(dialer: &dyn Dialer, url: &str) -> Result<Cluster, String> {
    // No ID yet: whoever listens there may answer.
    let connection = dialer.dial(0, vec![url.to_owned()]).await;
    let connection = connection.map_err(|error: io::Error| error.to_string())?;
    let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(connection))
        .await
        .map_err(|error| error.to_string())?;
    let host = url.split_once("://").map_or(url, |(_, host)| host);
    let request = http::Request::get("/members")
        .header(http::header::HOST, host)
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, BODY_BYTES_MAX).collect().await;
        Ok::<_, hyper::Error>((head, body.map(|body| body.to_bytes())))
    };
    let (head, body) = tokio::select! {
        answer = answer => answer.map_err(|error| error.to_string())?,
        // The driver ends first only when the connection breaks.
        driven = driver => {
            let why = driven.err().map_or("the connection was closed".into(), |e| e.to_string());
            return Err(why);
        }
    };
    let body = body.map_err(|error| error.to_string())?;
    if head.status != http::StatusCode::OK {
        return Err(format!("it answered {}", head.status));
    }
    let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
    let id = header("x-etcd-cluster-id")
        .and_then(|text| u64::from_str_radix(text, 16).ok())
        .ok_or("its answer does not name the cluster")?;
    let members = parse(&body).ok_or("its answer is not a list of members")?;
    if members.is_empty() {
        return Err("it knows no members yet".to_owned());
    }
    Ok(Cluster {
        url: url.to_owned(),
        id,
        is_kvd: head.headers.contains_key(KVD_VERSION),
        members,
    })
}

fn parse(body: &[u8]) -> Option<Vec<Member>> {
    let texts = |value: &Value| -> Option<Vec<String>> {
        match value {
            Value::Null => Some(Vec::new()),
            value => {
                let texts = value.as_array()?.iter().map(Value::as_str);
                texts.map(|text| text.map(str::to_owned)).collect()
            }
        }
    };
    let list: Value = serde_json::from_slice(body).ok()?;
    let member = |value: &Value| {
        Some(Member {
            id: value["id"].as_u64()?,
            name: value["name"].as_str().unwrap_or_default().to_owned(),
            peer_urls: texts(&value["peerURLs"])?,
            client_urls: texts(&value["clientURLs"])?,
        })
    };
    list.as_array()?.iter().map(member).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_etcd_and_of_kvd_is_read() {
        let body = br#"[{"id":9532542574593476645,"peerURLs":["http://a:1"],"name":"a",
            "clientURLs":["http://a:2"]},{"id":7,"peerURLs":["http://b:1"],"isLearner":true}]"#;
        let members = parse(body).expect("a list");
        assert_eq!(members[0].id, 9_532_542_574_593_476_645);
        assert_eq!(members[0].client_urls, ["http://a:2"]);
        assert_eq!(members[1].name, "");
        assert!(members[1].client_urls.is_empty());
        assert_eq!(parse(b"{}"), None);
        assert_eq!(parse(b"[1]"), None);
        assert_eq!(parse(b"<html>"), None);
    }
}
