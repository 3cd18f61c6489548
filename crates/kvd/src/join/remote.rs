//! What a running member says of its cluster on its peer port: `GET /members`, `/version`,
//! `/downgrade/enabled`.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use kvd_gateway::{FROM_MEMBER, KVD_VERSION};
use kvd_raft::Dialer;
use serde_json::Value;

/// Names the cluster.
const CLUSTER_ID: HeaderName = HeaderName::from_static("x-etcd-cluster-id");
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
    let Answer {
        status,
        headers,
        body,
    } = get(dialer, url, "/members", &[], limit).await?;
    if status != StatusCode::OK {
        return Err(format!("it answered {status}"));
    }
    let id = cluster_id(&headers).ok_or("its answer does not name the cluster")?;
    let members = parse(&body).ok_or("its answer is not a list of members")?;
    if members.is_empty() {
        return Err("it knows no members yet".to_owned());
    }
    Ok(Cluster {
        url: url.to_owned(),
        id,
        is_kvd: headers.contains_key(KVD_VERSION),
        members,
    })
}

/// Whether the member at `url`, of the cluster `cluster_id`, knows that `member_id` was removed.
///
/// Errors: as [`cluster`].
pub async fn has_removed(
    dialer: &dyn Dialer,
    url: &str,
    (cluster, member): (u64, u64),
    limit: Duration,
) -> Result<bool, String> {
    let said = [
        (CLUSTER_ID, format!("{cluster:x}")),
        (FROM_MEMBER, format!("{member:x}")),
    ];
    let answer = get(dialer, url, "/members", &said, limit).await?;
    let is_own = cluster_id(&answer.headers) == Some(cluster);
    match answer.status {
        _ if !is_own => Err("it belongs to another cluster".to_owned()),
        StatusCode::GONE => Ok(true),
        StatusCode::OK => Ok(false),
        status => Err(format!("it answered {status}")),
    }
}

/// The cluster's version, as the member at `url` knows it; `not_decided` while there is none.
///
/// Errors: as [`cluster`].
pub async fn cluster_version(
    dialer: &dyn Dialer,
    url: &str,
    limit: Duration,
) -> Result<String, String> {
    let answer = get(dialer, url, "/version", &[], limit).await?;
    let versions: Option<Value> = serde_json::from_slice(&answer.body).ok();
    let version = versions.and_then(|versions| Some(versions["etcdcluster"].as_str()?.to_owned()));
    version.ok_or_else(|| format!("it answered {} and no versions", answer.status))
}

/// Whether the cluster is about to be downgraded.
///
/// Errors: as [`cluster`].
pub async fn is_downgrading(
    dialer: &dyn Dialer,
    url: &str,
    limit: Duration,
) -> Result<bool, String> {
    let answer = get(dialer, url, "/downgrade/enabled", &[], limit).await?;
    match (answer.status, &*answer.body) {
        (StatusCode::OK, b"true") => Ok(true),
        (StatusCode::OK, b"false") => Ok(false),
        (status, _) => Err(format!("it answered {status}")),
    }
}

fn cluster_id(headers: &HeaderMap) -> Option<u64> {
    u64::from_str_radix(headers.get(CLUSTER_ID)?.to_str().ok()?, 16).ok()
}

/// What came back.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

async fn get(
    dialer: &dyn Dialer,
    url: &str,
    path: &str,
    said: &[(HeaderName, String)],
    limit: Duration,
) -> Result<Answer, String> {
    match tokio::time::timeout(limit, ask(dialer, url, path, said)).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {limit:?}")),
    }
}

async fn ask(
    dialer: &dyn Dialer,
    url: &str,
    path: &str,
    said: &[(HeaderName, String)],
) -> Result<Answer, String> {
    // No ID yet: whoever listens there may answer.
    let connection = dialer.dial(0, vec![url.to_owned()]).await;
    let connection = connection.map_err(|error: io::Error| error.to_string())?;
    let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(connection))
        .await
        .map_err(|error| error.to_string())?;
    let host = url.split_once("://").map_or(url, |(_, host)| host);
    let mut request = http::Request::get(path).header(http::header::HOST, host);
    for (name, value) in said {
        request = request.header(name, value);
    }
    let request = request
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
    Ok(Answer {
        status: head.status,
        headers: head.headers,
        body: body.map_err(|error| error.to_string())?,
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
