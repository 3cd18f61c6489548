//! etcd's Lease service.
//!
//! Source: etcd `server/etcdserver/api/v3rpc/lease.go`.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream::{self, Stream};
use kvd_api::error::WireError;
use kvd_api::pb::etcdserverpb::ResponseHeader;
use kvd_api::pb::etcdserverpb::lease_server::Lease;
use kvd_api::pb::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseLeasesRequest, LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use kvd_api::pb::kvdcommandpb::command;
use tonic::{Request, Response, Status, Streaming};

use super::leader_check::{self, LeaderCheck};
use crate::apply::Applied;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::lease::{self, TimeToLive};
use crate::quota;

/// The service.
#[derive(Clone)]
pub struct LeaseService {
    core: Arc<Core>,
}

/// The replies of a keep-alive stream.
pub type KeepAlives = Pin<Box<dyn Stream<Item = Result<LeaseKeepAliveResponse, Status>> + Send>>;

impl LeaseService {
    /// The service of the member `core`.
    pub fn new(core: Arc<Core>) -> LeaseService {
        LeaseService { core }
    }

    fn header(&self) -> Option<ResponseHeader> {
        header(&self.core)
    }

    async fn grant(&self, mut request: LeaseGrantRequest) -> Result<LeaseGrantResponse> {
        self.core.check_quota(quota::LEASE_COST).await?;
        let chooses = request.id == 0;
        // Raised here, as members may be started with different timeouts.
        request.ttl = request.ttl.max(self.core.config().lease_ttl_min_seconds());
        loop {
            if chooses {
                request.id = self.core.new_lease_id();
            }
            let granted = self.core.propose(command::Request::LeaseGrant(request));
            match granted.await {
                Ok(Applied::LeaseGranted { id, ttl }) => {
                    return Ok(LeaseGrantResponse {
                        header: self.header(),
                        id,
                        ttl,
                        error: String::new(),
                    });
                }
                Err(Error::Wire(WireError::LeaseAlreadyExists)) if chooses => {}
                Ok(other) => return Err(mismatch("lease grant", &other)),
                Err(error) => return Err(error),
            }
        }
    }

    async fn revoke(&self, request: LeaseRevokeRequest) -> Result<LeaseRevokeResponse> {
        match self
            .core
            .propose(command::Request::LeaseRevoke(request))
            .await?
        {
            Applied::LeaseRevoked => Ok(LeaseRevokeResponse {
                header: self.header(),
            }),
            other => Err(mismatch("lease revoke", &other)),
        }
    }

    async fn time_to_live(
        &self,
        request: LeaseTimeToLiveRequest,
    ) -> Result<LeaseTimeToLiveResponse> {
        let LeaseTimeToLiveRequest { id, keys } = request;
        let (ttl, granted_ttl, keys) = match lease::time_to_live(&self.core, id, keys).await? {
            TimeToLive::Known {
                ttl,
                granted_ttl,
                keys,
            } => (ttl, granted_ttl, keys),
            TimeToLive::Unknown | TimeToLive::NotPrimary => (-1, 0, Vec::new()),
        };
        Ok(LeaseTimeToLiveResponse {
            header: self.header(),
            id,
            ttl,
            granted_ttl,
            keys,
        })
    }
}

fn header(core: &Core) -> Option<ResponseHeader> {
    Some(core.header(core.store().current_revision()))
}

fn mismatch(what: &str, applied: &Applied) -> Error {
    Error::Internal(format!("a {what} was answered with {applied:?}"))
}

/// Renews one lease. The header is taken before: a client must not see a keep-alive succeed at a
/// revision at which the lease was revoked already.
async fn keep_alive(core: &Core, id: i64) -> Result<LeaseKeepAliveResponse> {
    let header = header(core);
    let ttl = lease::renew(core, id).await?;
    Ok(LeaseKeepAliveResponse {
        header,
        id,
        ttl: ttl.unwrap_or(0),
    })
}

#[tonic::async_trait]
impl Lease for LeaseService {
    async fn lease_grant(
        &self,
        request: Request<LeaseGrantRequest>,
    ) -> Result<Response<LeaseGrantResponse>, Status> {
        Ok(Response::new(self.grant(request.into_inner()).await?))
    }

    async fn lease_revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        Ok(Response::new(self.revoke(request.into_inner()).await?))
    }

    type LeaseKeepAliveStream = KeepAlives;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<KeepAlives>, Status> {
        let leader = LeaderCheck::wanted(&self.core, request.metadata());
        let state = Some((Arc::clone(&self.core), request.into_inner()));
        // An error is the last item: the client opens another stream.
        let replies = stream::unfold(state, |state| async move {
            let (core, mut requests) = state?;
            let id = tokio::select! {
                request = requests.message() => match request {
                    Ok(request) => request?.id,
                    Err(error) => return Some((Err(error), None)),
                },
                () = core.stopped() => return Some((Err(WireError::ServerStopped.into()), None)),
            };
            match keep_alive(&core, id).await {
                Ok(reply) => Some((Ok(reply), Some((core, requests)))),
                Err(error) => Some((Err(error.into()), None)),
            }
        });
        let replies = leader_check::guard(leader, Box::pin(replies));
        Ok(Response::new(replies))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        let request = request.into_inner();
        Ok(Response::new(self.time_to_live(request).await?))
    }

    async fn lease_leases(
        &self,
        _: Request<LeaseLeasesRequest>,
    ) -> Result<Response<LeaseLeasesResponse>, Status> {
        let ids = self.core.leases().ids();
        let leases = ids.into_iter().map(|id| LeaseStatus { id });
        Ok(Response::new(LeaseLeasesResponse {
            header: self.header(),
            leases: leases.collect(),
        }))
    }
}
