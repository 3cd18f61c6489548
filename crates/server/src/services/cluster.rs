//! etcd's Cluster service. Only MemberList is built.

use std::sync::Arc;

use kvd_api::pb::etcdserverpb::cluster_server::Cluster;
use kvd_api::pb::etcdserverpb::{
    MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
    MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse,
    MemberUpdateRequest, MemberUpdateResponse,
};
use tonic::{Request, Response, Status};

use crate::apply;
use crate::core::Core;
use crate::error::Error;

/// The service.
#[derive(Clone)]
pub struct ClusterService {
    core: Arc<Core>,
}

impl ClusterService {
    /// The service of the member `core`.
    pub fn new(core: Arc<Core>) -> ClusterService {
        ClusterService { core }
    }
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn member_list(
        &self,
        request: Request<MemberListRequest>,
    ) -> Result<Response<MemberListResponse>, Status> {
        if request.get_ref().linearizable {
            self.core.read_barrier().await?;
        }
        Ok(Response::new(MemberListResponse {
            // etcd leaves the revision out of every reply of this service.
            header: Some(self.core.header(0)),
            members: apply::members(self.core.store())?,
        }))
    }

    async fn member_add(
        &self,
        _: Request<MemberAddRequest>,
    ) -> Result<Response<MemberAddResponse>, Status> {
        Err(Error::Unbuilt("etcdserverpb.Cluster/MemberAdd").into())
    }

    async fn member_remove(
        &self,
        _: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        Err(Error::Unbuilt("etcdserverpb.Cluster/MemberRemove").into())
    }

    async fn member_update(
        &self,
        _: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        Err(Error::Unbuilt("etcdserverpb.Cluster/MemberUpdate").into())
    }

    async fn member_promote(
        &self,
        _: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        Err(Error::Unbuilt("etcdserverpb.Cluster/MemberPromote").into())
    }
}
