//! etcd's v2 API: `/v2/keys`, `/v2/members`, `/v2/machines`, `/v2/stats`, `/v2/auth`.
//!
//! ```text
//! PUT /v2/keys/a?prevExist=false   value=x&ttl=5
//!   form     query and body as Go's net/http reads them
//!   request  the parameters, checked in etcd's order
//!   guard    may the caller, while users are in force
//!   keys     a V2 of the member carries it out
//!   json     the event, or the error with its code, as etcd writes them
//! ```
//!
//! The members are those of the gRPC Cluster service, called in process.
//!
//! Source: etcd 3.4 `etcdserver/api/v2http`.

mod error;
mod form;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod guard;
mod json;
mod keys;
mod members;
mod pages;
mod request;

use std::sync::Arc;

use axum::Router;
use axum::routing::any;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use http::HeaderValue;
use kvd_api::pb::kvdcommandpb::{V2Error, V2Event, V2Reply, V2Request};

use crate::call::GrpcService;
use crate::member::Member;

/// The v2 tree behind the endpoints. The errors are the text of the reply's cause.
pub trait V2: Send + Sync + 'static {
    /// Changes the tree; time and lease are filled in below. `as_root`: the client is root.
    fn write(&self, request: V2Request, as_root: bool) -> BoxFuture<'_, Result<V2Reply, String>>;

    /// Reads a node, confirmed by a quorum if so wanted.
    fn get(
        &self,
        path: Bytes,
        recursive: bool,
        quorum: bool,
    ) -> BoxFuture<'_, Result<V2Reply, String>>;

    /// Watches a path from the index `since` on; zero means what comes next. `as_root`: the client
    /// is root.
    fn watch(
        &self,
        path: Bytes,
        recursive: bool,
        since: u64,
        as_root: bool,
    ) -> BoxFuture<'_, Result<V2Watching, String>>;

    /// The committed log index and the term.
    fn raft(&self) -> (u64, u64);

    /// Whether a member has been removed from the cluster for good.
    fn is_removed(&self, member_id: u64) -> bool;

    /// `/v2/stats/store`, as JSON.
    fn store_stats(&self) -> String;

    /// `/v2/stats/self`, as JSON.
    fn self_stats(&self) -> String;

    /// `/v2/stats/leader`, as JSON; none unless this member leads.
    fn leader_stats(&self) -> Option<String>;
}

/// A watch that was asked for.
pub struct V2Watching {
    /// The store's index when it began.
    pub index: u64,
    /// What happens, until the member stops or the client is too slow; or why there is no watch.
    pub events: Result<BoxStream<'static, V2Event>, V2Error>,
}

/// What the handlers share.
pub(crate) struct Api {
    tree: Arc<dyn V2>,
    member: Arc<dyn Member>,
    service: GrpcService,
}

impl Api {
    /// The value of `X-Etcd-Cluster-Id`.
    fn cluster_id(&self) -> HeaderValue {
        // Hexadecimal digits are always a header's value.
        HeaderValue::from_str(&format!("{:x}", self.member.cluster_id()))
            .unwrap_or(HeaderValue::from_static("0"))
    }
}

/// The routes under `/v2`.
pub(crate) fn router(tree: Arc<dyn V2>, member: Arc<dyn Member>, service: GrpcService) -> Router {
    Router::new()
        .route("/v2/keys", any(keys::serve))
        .route("/v2/keys/", any(keys::serve))
        .route("/v2/keys/{*path}", any(keys::serve))
        .route("/v2/members", any(members::serve))
        .route("/v2/members/", any(members::serve))
        .route("/v2/members/{*id}", any(members::serve))
        .route("/v2/machines", any(pages::machines))
        .route("/v2/stats/store", any(pages::store_stats))
        .route("/v2/stats/self", any(pages::self_stats))
        .route("/v2/stats/leader", any(pages::leader_stats))
        .route("/v2/auth/enable", any(pages::auth_enable))
        .route("/v2/auth/users", any(pages::auth_unbuilt))
        .route("/v2/auth/users/{*name}", any(pages::auth_unbuilt))
        .route("/v2/auth/roles", any(pages::auth_unbuilt))
        .route("/v2/auth/roles/{*name}", any(pages::auth_unbuilt))
        .with_state(Arc::new(Api {
            tree,
            member,
            service,
        }))
}
