//! `/v2/members`, on top of the gRPC Cluster service.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use http::{HeaderMap, HeaderName, Method, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use kvd_api::error::WireError;
use kvd_api::pb::etcdserverpb::cluster_client::ClusterClient;
use kvd_api::pb::etcdserverpb::{
    Member, MemberAddRequest, MemberListRequest, MemberRemoveRequest, MemberUpdateRequest,
};
use serde::{Deserialize, Serialize};
use tonic::metadata::MetadataValue;

use super::guard::{self, Passed};
use super::{Api, error};
use crate::error::JSON;

const PREFIX: &str = "/v2/members";
/// Most bytes of a request.
const BODY_BYTES_MAX: usize = 1 << 20;

#[derive(Serialize)]
struct Shown {
    id: String,
    name: String,
    #[serde(rename = "peerURLs")]
    peer_urls: Vec<String>,
    #[serde(rename = "clientURLs")]
    client_urls: Vec<String>,
}

impl From<Member> for Shown {
    fn from(member: Member) -> Shown {
        Shown {
            id: format!("{:x}", member.id),
            name: member.name,
            peer_urls: member.peer_ur_ls,
            client_urls: member.client_ur_ls,
        }
    }
}

#[derive(Deserialize)]
struct Urls {
    #[serde(default, rename = "peerURLs")]
    peer_urls: Vec<String>,
}

/// Answers every request under `/v2/members`.
pub(super) async fn serve(State(api): State<Arc<Api>>, request: Request) -> Response {
    let method = request.method().clone();
    if ![Method::GET, Method::POST, Method::DELETE, Method::PUT].contains(&method) {
        return error::method_not_allowed("GET,POST,DELETE,PUT");
    }
    let Some(passed) = guard::admit(&api, request.headers()).await else {
        return error::of_members(StatusCode::UNAUTHORIZED, "Insufficient credentials");
    };
    let below = request.uri().path().strip_prefix(PREFIX);
    let below = below.unwrap_or_default().trim_matches('/').to_owned();
    let call = Call { api: &api, passed };
    let answered = match method {
        Method::GET => call.get(&below).await,
        Method::POST => call.add(request).await,
        Method::DELETE => call.remove(&below).await,
        _ => call.update(&below, request).await,
    };
    let mut response = answered.unwrap_or_else(|refusal| refusal);
    let name = HeaderName::from_static("x-etcd-cluster-id");
    response.headers_mut().insert(name, api.cluster_id());
    response
}

struct Call<'a> {
    api: &'a Api,
    passed: Passed,
}

impl Call<'_> {
    /// A request to the Cluster service in the caller's name.
    fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        if let Passed::Root(token) = &self.passed
            && let Ok(token) = MetadataValue::try_from(token)
        {
            request.metadata_mut().insert("token", token);
        }
        request
    }

    async fn list(&self) -> Result<Vec<Member>, Response> {
        let mut cluster = ClusterClient::new(self.api.service.clone());
        let request = self.request(MemberListRequest {
            linearizable: false,
        });
        let listed = cluster.member_list(request).await;
        let mut members = listed.map_err(failed)?.into_inner().members;
        members.sort_unstable_by_key(|member| member.id);
        Ok(members)
    }

    async fn get(&self, below: &str) -> Result<Response, Response> {
        match below {
            "" => {
                let members: Vec<Shown> = self.list().await?.into_iter().map(Shown::from).collect();
                match serde_json::to_string(&members) {
                    Ok(list) => Ok(json(StatusCode::OK, format!("{{\"members\":{list}}}\n"))),
                    Err(_) => Err(internal()),
                }
            }
            "leader" => {
                let leader = self.api.member.leader();
                let members = self.list().await?;
                let leader = members.into_iter().find(|member| member.id == leader);
                match leader {
                    Some(leader) => Ok(shown(StatusCode::OK, leader)),
                    None => Err(error::of_members(
                        StatusCode::SERVICE_UNAVAILABLE,
                        "During election",
                    )),
                }
            }
            _ => Err(error::of_members(StatusCode::NOT_FOUND, "Not found")),
        }
    }

    async fn add(&self, request: Request) -> Result<Response, Response> {
        let peer_urls = peer_urls(request).await?;
        let mut cluster = ClusterClient::new(self.api.service.clone());
        let request = self.request(MemberAddRequest {
            peer_ur_ls: peer_urls,
            is_learner: false,
        });
        let added = cluster.member_add(request).await.map_err(failed)?;
        match added.into_inner().member {
            Some(member) => Ok(shown(StatusCode::CREATED, member)),
            None => Err(internal()),
        }
    }

    async fn remove(&self, below: &str) -> Result<Response, Response> {
        let id = member_id(below).ok_or_else(|| bad_id(below))?;
        if self.api.tree.is_removed(id) {
            let message = format!("Member permanently removed: {id:x}");
            return Err(error::of_members(StatusCode::GONE, &message));
        }
        let mut cluster = ClusterClient::new(self.api.service.clone());
        let request = self.request(MemberRemoveRequest { id });
        match cluster.member_remove(request).await {
            Ok(_) => Ok(no_content()),
            Err(status) => Err(failed_for(id, status)),
        }
    }

    async fn update(&self, below: &str, request: Request) -> Result<Response, Response> {
        let id = member_id(below).ok_or_else(|| bad_id(below))?;
        let peer_urls = peer_urls(request).await?;
        let mut cluster = ClusterClient::new(self.api.service.clone());
        let request = self.request(MemberUpdateRequest {
            id,
            peer_ur_ls: peer_urls,
        });
        match cluster.member_update(request).await {
            Ok(_) => Ok(no_content()),
            Err(status) => Err(failed_for(id, status)),
        }
    }
}

fn json(status: StatusCode, body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

fn shown(status: StatusCode, member: Member) -> Response {
    match serde_json::to_string(&Shown::from(member)) {
        Ok(body) => json(status, body + "\n"),
        Err(_) => internal(),
    }
}

fn no_content() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

fn internal() -> Response {
    error::of_members(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error")
}

/// What the Cluster service's refusal is here. As in etcd, what is not about the request itself is
/// not explained; the log has it.
fn failed(status: tonic::Status) -> Response {
    let is = |error: WireError| status.message() == error.message();
    if is(WireError::PeerUrlsAlreadyExists) {
        return error::of_members(StatusCode::CONFLICT, "membership: peerURL exists");
    }
    if is(WireError::MemberIdAlreadyExist) {
        return error::of_members(StatusCode::CONFLICT, "membership: ID exists");
    }
    if is(WireError::MemberBadUrls) {
        return error::of_members(StatusCode::BAD_REQUEST, status.message());
    }
    tracing::warn!(
        reason = status.message(),
        "a change of the members over the v2 API failed"
    );
    internal()
}

fn failed_for(id: u64, status: tonic::Status) -> Response {
    if status.message() == WireError::MemberNotFound.message() {
        return no_such(&format!("{id:x}"));
    }
    failed(status)
}

fn no_such(id: &str) -> Response {
    error::of_members(StatusCode::NOT_FOUND, &format!("No such member: {id}"))
}

fn member_id(below: &str) -> Option<u64> {
    let is_hex = below.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex
        .then(|| u64::from_str_radix(below, 16).ok())
        .flatten()
}

fn bad_id(below: &str) -> Response {
    match below {
        "" => error::method_not_allowed(""),
        below => no_such(below),
    }
}

/// The URLs in a request's body.
async fn peer_urls(request: Request) -> Result<Vec<String>, Response> {
    let (head, body) = request.into_parts();
    let kind = content_type(&head.headers);
    if kind != "application/json" {
        let message = format!("Bad Content-Type {kind}, accept application/json");
        return Err(error::of_members(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            &message,
        ));
    }
    let bad = |message: String| error::of_members(StatusCode::BAD_REQUEST, &message);
    let body = Limited::new(body, BODY_BYTES_MAX).collect().await;
    let body = body.map_err(|error| bad(error.to_string()))?.to_bytes();
    let urls: Urls = serde_json::from_slice(&body).map_err(|error| bad(error.to_string()))?;
    if urls.peer_urls.is_empty() {
        return Err(bad("no valid URLs given".to_owned()));
    }
    for url in &urls.peer_urls {
        check_url(url).map_err(bad)?;
    }
    Ok(urls.peer_urls)
}

/// Whether a member can have the URL; in etcd's words why not. Source: etcd 3.4 `types.NewURLs`.
fn check_url(url: &str) -> Result<(), String> {
    let known = ["http", "https", "unix", "unixs"];
    let (scheme, rest) = url.trim().split_once("://").unwrap_or(("", ""));
    if !known.contains(&scheme) {
        return Err(format!(
            "URL scheme must be http, https, unix, or unixs: {url}"
        ));
    }
    let (address, below) = rest.split_once('/').unwrap_or((rest, ""));
    let port = address
        .rsplit_once(':')
        .map(|(_, port)| port.parse::<u16>());
    if !matches!(port, Some(Ok(_))) && !scheme.starts_with("unix") {
        return Err(format!(
            "URL address does not have the form \"host:port\": {url}"
        ));
    }
    if !below.is_empty() {
        return Err(format!("URL must not contain a path: {url}"));
    }
    Ok(())
}

fn content_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE);
    let value = value.and_then(|value| value.to_str().ok());
    let kind = value.and_then(|value| value.split(';').next());
    kind.unwrap_or_default().trim().to_ascii_lowercase()
}
