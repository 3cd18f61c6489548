//! Membership.
//!
//! Source: etcd `Cluster` service; `client/v3/cluster.go`.

use kvd_api::pb::etcdserverpb::{
    MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
    MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse,
    MemberUpdateRequest, MemberUpdateResponse,
};

use crate::client::Client;
use crate::error::Result;
use crate::retry::Rule;

impl Client {
    /// Lists the members. `linearizable` asks a majority first; else the member that answers says
    /// what it knows.
    pub async fn member_list(&self, linearizable: bool) -> Result<MemberListResponse> {
        let request = MemberListRequest { linearizable };
        self.unary(Rule::Repeatable, request, |channel, request| {
            let mut stub = self.cluster_stub(channel);
            async move { stub.member_list(request).await }
        })
        .await
    }

    /// Adds a member that other members will find at `peer_urls`; a learner has no vote yet.
    pub async fn member_add(
        &self,
        peer_urls: Vec<String>,
        is_learner: bool,
    ) -> Result<MemberAddResponse> {
        let request = MemberAddRequest {
            peer_ur_ls: peer_urls,
            is_learner,
        };
        self.unary(Rule::AtMostOnce, request, |channel, request| {
            let mut stub = self.cluster_stub(channel);
            async move { stub.member_add(request).await }
        })
        .await
    }

    /// Removes a member for good: its ID never comes back.
    pub async fn member_remove(&self, id: u64) -> Result<MemberRemoveResponse> {
        let request = MemberRemoveRequest { id };
        self.unary(Rule::AtMostOnce, request, |channel, request| {
            let mut stub = self.cluster_stub(channel);
            async move { stub.member_remove(request).await }
        })
        .await
    }

    /// Tells the others where a member is from now on.
    pub async fn member_update(
        &self,
        id: u64,
        peer_urls: Vec<String>,
    ) -> Result<MemberUpdateResponse> {
        let request = MemberUpdateRequest {
            id,
            peer_ur_ls: peer_urls,
        };
        self.unary(Rule::AtMostOnce, request, |channel, request| {
            let mut stub = self.cluster_stub(channel);
            async move { stub.member_update(request).await }
        })
        .await
    }

    /// Gives a learner that has caught up a vote.
    pub async fn member_promote(&self, id: u64) -> Result<MemberPromoteResponse> {
        let request = MemberPromoteRequest { id };
        self.unary(Rule::AtMostOnce, request, |channel, request| {
            let mut stub = self.cluster_stub(channel);
            async move { stub.member_promote(request).await }
        })
        .await
    }
}
