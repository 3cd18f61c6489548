//! Membership.
//!
//! Source: etcd `Cluster` service.

use kvd_api::pb::etcdserverpb::{MemberListRequest, MemberListResponse};

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
}
