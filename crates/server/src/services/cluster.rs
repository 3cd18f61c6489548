//! etcd's Cluster service. The work is in [`crate::members`].

use std::sync::Arc;

use kvd_api::error::WireError;
use kvd_api::pb::etcdserverpb::cluster_server::Cluster;
use kvd_api::pb::etcdserverpb::{
    Member, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
    MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse,
    MemberUpdateRequest, MemberUpdateResponse, ResponseHeader,
};
use kvd_raft::Change;
use tonic::{Request, Response, Status};

use crate::apply;
use crate::core::Core;
use crate::members::change::{added, change};
use crate::urls;

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

    /// etcd leaves the revision out of every reply of this service.
    fn header(&self) -> Option<ResponseHeader> {
        Some(self.core.header(0))
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
            header: self.header(),
            members: apply::members(self.core.store())?,
        }))
    }

    async fn member_add(
        &self,
        request: Request<MemberAddRequest>,
    ) -> Result<Response<MemberAddResponse>, Status> {
        let request = request.into_inner();
        let urls = urls::canonical(&request.peer_ur_ls).map_err(|error| {
            tracing::debug!(%error, "a member with invalid URLs was to be added");
            WireError::MemberBadUrls
        })?;
        let member = added(urls, !request.is_learner);
        let members = change(&self.core, Change::Add(member.clone())).await?;
        Ok(Response::new(MemberAddResponse {
            header: self.header(),
            member: Some(Member {
                id: member.id,
                peer_ur_ls: member.peer_urls,
                is_learner: !member.voter,
                ..Member::default()
            }),
            members,
        }))
    }

    async fn member_remove(
        &self,
        request: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        let id = request.into_inner().id;
        let members = change(&self.core, Change::Remove(id)).await?;
        Ok(Response::new(MemberRemoveResponse {
            header: self.header(),
            members,
        }))
    }

    async fn member_update(
        &self,
        request: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        let request = request.into_inner();
        let update = Change::Update {
            id: request.id,
            peer_urls: request.peer_ur_ls,
        };
        let members = change(&self.core, update).await?;
        Ok(Response::new(MemberUpdateResponse {
            header: self.header(),
            members,
        }))
    }

    async fn member_promote(
        &self,
        request: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        let id = request.into_inner().id;
        let members = change(&self.core, Change::Promote(id)).await?;
        Ok(Response::new(MemberPromoteResponse {
            header: self.header(),
            members,
        }))
    }
}
