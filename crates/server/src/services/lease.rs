//! etcd's Lease service.
//!
//! Source: etcd `server/etcdserver/api/v3rpc/lease.go`.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::FutureExt;
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
use super::open;
use crate::apply::Applied;
use crate::auth::{Access, Caller, Credentials, LeaseKeys, View};
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

    async fn grant(
        &self,
        caller: Option<Caller>,
        mut request: LeaseGrantRequest,
    ) -> Result<LeaseGrantResponse> {
        self.core.check_quota(quota::LEASE_COST).await?;
        let chooses = request.id == 0;
        // Raised here, as members may be started with different timeouts.
        request.ttl = request.ttl.max(self.core.config().lease_ttl_min_seconds());
        loop {
            if chooses {
                request.id = self.core.new_lease_id();
            }
            let grant = command::Request::LeaseGrant(request);
            match self.core.propose_for(caller.clone(), grant).await {
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

    async fn revoke(
        &self,
        caller: Option<Caller>,
        request: LeaseRevokeRequest,
    ) -> Result<LeaseRevokeResponse> {
        let check = |view: &View| view.lease(caller.as_ref(), request.id, self.core.leases());
        self.core.authorize(check).await?;
        let request = command::Request::LeaseRevoke(request);
        match self.core.propose_for(caller, request).await? {
            Applied::LeaseRevoked => Ok(LeaseRevokeResponse {
                header: self.header(),
            }),
            other => Err(mismatch("lease revoke", &other)),
        }
    }

    async fn time_to_live(
        &self,
        caller: Option<Caller>,
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
        // Those that are about to be told, which are the leader's: it may know of more than this
        // member does.
        let check = |view: &View| view.each_key(caller.as_ref(), Access::Read, &keys);
        self.core.authorize(check).await?;
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
async fn keep_alive(
    core: &Arc<Core>,
    credentials: &Credentials,
    id: i64,
) -> Result<LeaseKeepAliveResponse> {
    let header = header(core);
    let caller = core.identify(credentials).await?;
    let check = |view: &View| {
        view.somebody(caller.as_ref())?;
        view.lease(caller.as_ref(), id, core.leases())
    };
    core.authorize(check).await?;
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
        let (caller, request) = open(request);
        let grant = self.grant(caller, request);
        Ok(Response::new(grant.await?))
    }

    async fn lease_revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        let (caller, request) = open(request);
        let revoke = self.revoke(caller, request);
        Ok(Response::new(revoke.await?))
    }

    type LeaseKeepAliveStream = KeepAlives;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<KeepAlives>, Status> {
        let leader = LeaderCheck::wanted(&self.core, request.metadata());
        let credentials = self.core.credentials(&request);
        let state = (Arc::clone(&self.core), credentials, request.into_inner());
        // Boxed, as it is moved with every reply. An error is the last item: the client opens
        // another stream.
        let replies = stream::unfold(Some(Box::new(state)), |state| async move {
            let mut state = state?;
            let (core, credentials, requests) = &mut *state;
            let id = match requests.message().await {
                Ok(request) => request?.id,
                Err(error) => return Some((Err(error), None)),
            };
            match keep_alive(core, credentials, id).await {
                Ok(reply) => Some((Ok(reply), Some(state))),
                Err(error) => Some((Err(error.into()), None)),
            }
        });
        let core = Arc::clone(&self.core);
        let stopped = async move {
            core.stopped().await;
            WireError::ServerStopped.into()
        };
        let replies = leader_check::until([stopped.boxed()], Box::pin(replies));
        let replies = leader_check::guard(leader, replies);
        Ok(Response::new(replies))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        let (caller, request) = open(request);
        let time_to_live = self.time_to_live(caller, request);
        Ok(Response::new(time_to_live.await?))
    }

    async fn lease_leases(
        &self,
        request: Request<LeaseLeasesRequest>,
    ) -> Result<Response<LeaseLeasesResponse>, Status> {
        let ids = self.core.leases().ids();
        let caller = Caller::of(request.extensions());
        let reading = self.core.auth().reading(caller, |view, caller| {
            if view.admin(caller).is_ok() {
                return Ok(());
            }
            let mut keys = ids.iter().map(|id| self.core.leases().lease_keys(*id));
            keys.try_for_each(|keys| view.each_key(caller, Access::Read, &keys))
        });
        let reading = reading.map_err(Error::from)?;
        reading.finish(self.core.auth()).map_err(Error::from)?;
        let leases = ids.into_iter().map(|id| LeaseStatus { id });
        Ok(Response::new(LeaseLeasesResponse {
            header: self.header(),
            leases: leases.collect(),
        }))
    }
}
