//! Asking other members for a hash, and answering them, on the peer port.

use std::sync::Arc;

use kvd_api::error::{peer_malformed, peer_refused};
use kvd_api::pb::etcdserverpb::Member;
use kvd_api::pb::kvdpeerpb::integrity_client::IntegrityClient;
use kvd_api::pb::kvdpeerpb::integrity_server::{Integrity, IntegrityServer};
use kvd_api::pb::kvdpeerpb::{
    HashKvPeerReply, HashKvPeerRequest, HashOutcome, LeaseAddress as Address,
};
use kvd_mvcc::HashKv;
use tonic::{Request, Response, Status};

use super::tally::{PeerHash, Refusal};
use crate::apply;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::lease::peer_channel;
use crate::services::kv::off_thread;

/// Asks all other members for their hash at `revision`, at the same time.
pub(super) async fn hashes(core: &Core, revision: i64) -> Result<Vec<PeerHash>> {
    let members = apply::members(core.store())?;
    let others = members
        .into_iter()
        .filter(|member| member.id != core.member_id() && !member.peer_ur_ls.is_empty());
    let asked = others.map(|member| async move {
        let id = member.id;
        let answer = tokio::time::timeout(core.request_timeout(), ask(core, member, revision));
        let answer = answer.await.unwrap_or_else(|_| {
            let why = "no answer in time".to_owned();
            Err(Refusal::Silent(why))
        });
        if let Err(refusal) = &answer {
            tracing::warn!(
                peer = format!("{id:x}"),
                revision,
                ?refusal,
                "a peer gave no hash of its data"
            );
        }
        PeerHash { id, answer }
    });
    Ok(futures_util::future::join_all(asked).await)
}

async fn ask(core: &Core, member: Member, revision: i64) -> Result<HashKv, Refusal> {
    let request = HashKvPeerRequest {
        address: Some(Address {
            cluster_id: core.cluster_id(),
            to: member.id,
        }),
        revision,
    };
    let mut client = IntegrityClient::new(peer_channel(
        member.id,
        member.peer_ur_ls,
        std::sync::Arc::clone(&core.config().dialer),
    ));
    let reply = client.hash_kv(request).await;
    let reply = reply.map_err(|status| Refusal::Silent(status.message().to_owned()))?;
    let reply = reply.into_inner();
    match reply.outcome() {
        HashOutcome::HashMade => Ok(HashKv {
            hash: reply.hash,
            compact_revision: reply.compact_revision,
            revision: reply.hash_revision,
            current_revision: reply.current_revision,
        }),
        HashOutcome::HashCompacted => Err(Refusal::Compacted),
        HashOutcome::HashFuture => Err(Refusal::Future),
    }
}

/// Answers other members about this one's data.
#[derive(Clone)]
pub struct IntegrityService {
    core: Arc<Core>,
}

impl IntegrityService {
    /// The service of the member `core`; mount it on the peer port.
    pub fn server(core: Arc<Core>) -> IntegrityServer<IntegrityService> {
        IntegrityServer::new(IntegrityService { core })
    }
}

#[tonic::async_trait]
impl Integrity for IntegrityService {
    async fn hash_kv(
        &self,
        request: Request<HashKvPeerRequest>,
    ) -> Result<Response<HashKvPeerReply>, Status> {
        let HashKvPeerRequest { address, revision } = request.into_inner();
        let Some(address) = address else {
            return Err(peer_malformed("a request for a hash names no receiver"));
        };
        if address.cluster_id != self.core.cluster_id() || address.to != self.core.member_id() {
            return Err(peer_refused("a request for the hash of another member"));
        }
        let hashed = off_thread(self.core.store(), move |store| Ok(store.hash_kv(revision)?)).await;
        let refused = |outcome: HashOutcome| HashKvPeerReply {
            outcome: outcome.into(),
            ..HashKvPeerReply::default()
        };
        Ok(Response::new(match hashed {
            Ok(hash) => HashKvPeerReply {
                outcome: HashOutcome::HashMade.into(),
                hash: hash.hash,
                compact_revision: hash.compact_revision,
                hash_revision: hash.revision,
                current_revision: hash.current_revision,
            },
            Err(Error::Store(kvd_mvcc::Error::Compacted { .. })) => {
                refused(HashOutcome::HashCompacted)
            }
            Err(Error::Store(kvd_mvcc::Error::FutureRevision { .. })) => {
                refused(HashOutcome::HashFuture)
            }
            Err(error) => return Err(error.into()),
        }))
    }
}
