//! Changes of the membership between members, on the peer port: `Members` in `proto/peer.proto`.

use std::sync::Arc;

use kvd_api::error::{WireError, peer_malformed};
use kvd_api::pb::kvdpeerpb as pb;
use kvd_api::pb::kvdpeerpb::member_change_request::Change as Message;
use kvd_api::pb::kvdpeerpb::members_client::MembersClient;
use kvd_api::pb::kvdpeerpb::members_server::{Members, MembersServer};
use kvd_raft::Change;
use tonic::{Request, Response, Status};

use super::change::{Done, as_leader};
use crate::core::Core;
use crate::error::{Error, Result};

/// Asks `leader` to make a change.
///
/// Errors: [`WireError::NotLeader`] when nothing was done and another try may help; what the
/// leader answered; [`WireError::TimeoutDueToConnectionLost`] when it did not.
pub(super) async fn ask(core: &Core, leader: u64, change: &Change) -> Result<Done> {
    let Some(peer) = core.node().peer(leader) else {
        return Err(WireError::NotLeader.into());
    };
    let mut client = MembersClient::new(peer.channel());
    let request = pb::MemberChangeRequest {
        change: Some(to_message(change)),
    };
    match client.change(peer.request(request)).await {
        Ok(reply) => {
            let reply = reply.into_inner();
            Ok(Done {
                index: reply.index,
                members: reply.members,
            })
        }
        Err(status) if kvd_raft::was_not_sent(&status) => Err(WireError::NotLeader.into()),
        Err(status) => Err(match WireError::of(&status) {
            Some(error) => error.into(),
            None if std::error::Error::source(&status).is_some() => {
                tracing::warn!(error = %status, "lost the leader's answer to a change of members");
                WireError::TimeoutDueToConnectionLost.into()
            }
            None => Error::Peer(Box::new(status)),
        }),
    }
}

fn to_message(change: &Change) -> Message {
    match change.clone() {
        Change::Add(member) => Message::Add(pb::MemberAdd {
            id: member.id,
            peer_urls: member.peer_urls,
            learner: !member.voter,
        }),
        Change::Promote(id) => Message::Promote(id),
        Change::Remove(id) => Message::Remove(id),
        Change::Update { id, peer_urls } => Message::Update(pb::MemberUpdate { id, peer_urls }),
    }
}

fn from_message(message: Message) -> Change {
    match message {
        Message::Add(add) => Change::Add(kvd_raft::Member {
            id: add.id,
            name: String::new(),
            peer_urls: add.peer_urls,
            voter: !add.learner,
        }),
        Message::Promote(id) => Change::Promote(id),
        Message::Remove(id) => Change::Remove(id),
        Message::Update(pb::MemberUpdate { id, peer_urls }) => Change::Update { id, peer_urls },
    }
}

/// Makes changes for other members, as far as this member leads.
#[derive(Clone)]
pub struct MembersService {
    core: Arc<Core>,
}

impl MembersService {
    /// The service of the member `core`; mount it on the peer port.
    pub fn server(core: Arc<Core>) -> MembersServer<MembersService> {
        MembersServer::new(MembersService { core })
    }
}

#[tonic::async_trait]
impl Members for MembersService {
    async fn change(
        &self,
        request: Request<pb::MemberChangeRequest>,
    ) -> std::result::Result<Response<pb::MemberChangeReply>, Status> {
        self.core.node().check_sender(request.metadata())?;
        let Some(message) = request.into_inner().change else {
            return Err(peer_malformed("a change of members without content"));
        };
        let done = as_leader(&self.core, &from_message(message)).await?;
        Ok(Response::new(pb::MemberChangeReply {
            index: done.index,
            members: done.members,
        }))
    }
}
