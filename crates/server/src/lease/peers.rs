//! Asking the leader about leases, and answering as the leader, on the peer port.
//!
//! `Lessor` in `proto/peer.proto` is the whole protocol. The connection to the leader is made when
//! it is first needed and its name is resolved anew at each attempt.

use std::sync::Arc;

use hyper_util::rt::TokioIo;
use kvd_api::error::{peer_malformed, peer_refused};
use kvd_api::pb::kvdpeerpb::lessor_client::LessorClient;
use kvd_api::pb::kvdpeerpb::lessor_server::{Lessor, LessorServer};
use kvd_api::pb::kvdpeerpb::{
    LeaseAddress, LeaseOutcome, LeaseRenewReply, LeaseRenewRequest, LeaseTtlReply, LeaseTtlRequest,
};
use kvd_raft::Dialer;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Response, Status};

use super::leases::TimeToLive;
use super::renew::{self, Here};
use crate::apply;
use crate::core::Core;
use crate::limits;

type Client = LessorClient<Channel>;

/// The way to the leader, whoever that is.
pub struct Peers {
    /// Connections live here, whichever thread needs them first.
    runtime: Handle,
    known: Mutex<Option<Known>>,
}

/// The last leader asked.
struct Known {
    id: u64,
    urls: Vec<String>,
    /// The dialer's when the connection was made.
    generation: u64,
    client: Client,
}

impl Peers {
    /// Keeps its connections on the current runtime.
    pub fn new() -> Peers {
        Peers {
            runtime: Handle::current(),
            known: Mutex::new(None),
        }
    }

    /// Renews a lease at the leader; `None` when it cannot be asked now.
    pub(super) async fn renew(&self, core: &Core, id: i64) -> Option<Here<i64>> {
        let (mut client, address) = self.leader(core)?;
        let request = LeaseRenewRequest {
            address: Some(address),
            id,
        };
        let reply = answered(client.renew(request).await)?;
        Some(match reply.outcome() {
            LeaseOutcome::LeaseNotLeader => Here::NotLeader,
            LeaseOutcome::LeaseUnknown => Here::Unknown,
            LeaseOutcome::LeaseFound => Here::Known(reply.ttl),
        })
    }

    /// Asks the leader what is left of a lease; [`TimeToLive::NotPrimary`] when it cannot be asked
    /// now.
    pub(super) async fn time_to_live(&self, core: &Core, id: i64, keys: bool) -> TimeToLive {
        let Some((mut client, address)) = self.leader(core) else {
            return TimeToLive::NotPrimary;
        };
        let request = LeaseTtlRequest {
            address: Some(address),
            id,
            keys,
        };
        let Some(reply) = answered(client.time_to_live(request).await) else {
            return TimeToLive::NotPrimary;
        };
        match reply.outcome() {
            LeaseOutcome::LeaseNotLeader => TimeToLive::NotPrimary,
            LeaseOutcome::LeaseUnknown => TimeToLive::Unknown,
            LeaseOutcome::LeaseFound => TimeToLive::Known {
                ttl: reply.ttl,
                granted_ttl: reply.granted_ttl,
                keys: reply.keys,
            },
        }
    }

    fn leader(&self, core: &Core) -> Option<(Client, LeaseAddress)> {
        let to = core.leader();
        if to == 0 || to == core.member_id() {
            return None;
        }
        let address = LeaseAddress {
            cluster_id: core.cluster_id(),
            to,
        };
        let member = apply::member(core.store(), to).ok().flatten()?;
        let dialer = &core.config().dialer;
        let generation = dialer.generation();
        let mut known = self.known.lock();
        if let Some(known) = &*known
            && known.id == to
            && known.urls == member.peer_ur_ls
            && known.generation == generation
        {
            return Some((known.client.clone(), address));
        }
        let _context = self.runtime.enter();
        let channel = channel(to, member.peer_ur_ls.clone(), Arc::clone(dialer));
        let client =
            LessorClient::new(channel).max_decoding_message_size(limits::LEASE_REPLY_BYTES_MAX);
        *known = Some(Known {
            id: to,
            urls: member.peer_ur_ls,
            generation,
            client: client.clone(),
        });
        Some((client, address))
    }
}

impl Default for Peers {
    fn default() -> Peers {
        Peers::new()
    }
}

fn answered<T>(reply: Result<Response<T>, Status>) -> Option<T> {
    match reply {
        Ok(reply) => Some(reply.into_inner()),
        Err(error) => {
            tracing::debug!(%error, "the leader did not answer about a lease");
            None
        }
    }
}

/// A connection to a member's peer port, made when it is first needed.
pub(crate) fn channel(to: u64, urls: Vec<String>, dialer: Arc<dyn Dialer>) -> Channel {
    let connector = tower::service_fn(move |_: Uri| {
        let dialing = dialer.dial(to, urls.clone());
        async move { Ok::<_, std::io::Error>(TokioIo::new(dialing.await?)) }
    });
    // The URI is never dialled: the connector knows where to go.
    Endpoint::from_static("http://peer.kvd")
        .http2_keep_alive_interval(limits::LEASE_PEER_KEEPALIVE)
        .keep_alive_timeout(limits::LEASE_PEER_KEEPALIVE)
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(connector)
}

/// Answers other members about leases, as far as this member leads.
#[derive(Clone)]
pub struct LessorService {
    core: Arc<Core>,
}

impl LessorService {
    /// The service of the member `core`; mount it on the peer port.
    pub fn server(core: Arc<Core>) -> LessorServer<LessorService> {
        LessorServer::new(LessorService { core })
    }

    /// Refuses what is meant for somebody else.
    fn check(&self, address: Option<&LeaseAddress>) -> Result<(), Status> {
        let Some(address) = address else {
            return Err(peer_malformed("a request about a lease names no receiver"));
        };
        if address.cluster_id != self.core.cluster_id() || address.to != self.core.member_id() {
            return Err(peer_refused("a request about a lease for another member"));
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl Lessor for LessorService {
    async fn renew(
        &self,
        request: Request<LeaseRenewRequest>,
    ) -> Result<Response<LeaseRenewReply>, Status> {
        let request = request.into_inner();
        self.check(request.address.as_ref())?;
        let (outcome, ttl) = match renew::renew_here(&self.core, request.id).await? {
            Here::NotLeader => (LeaseOutcome::LeaseNotLeader, 0),
            Here::Unknown => (LeaseOutcome::LeaseUnknown, 0),
            Here::Known(ttl) => (LeaseOutcome::LeaseFound, ttl),
        };
        Ok(Response::new(LeaseRenewReply {
            outcome: outcome.into(),
            ttl,
        }))
    }

    async fn time_to_live(
        &self,
        request: Request<LeaseTtlRequest>,
    ) -> Result<Response<LeaseTtlReply>, Status> {
        let LeaseTtlRequest { address, id, keys } = request.into_inner();
        self.check(address.as_ref())?;
        let reply = match renew::time_to_live_here(&self.core, id, keys).await? {
            TimeToLive::NotPrimary => LeaseTtlReply::default(),
            TimeToLive::Unknown => LeaseTtlReply {
                outcome: LeaseOutcome::LeaseUnknown.into(),
                ..LeaseTtlReply::default()
            },
            TimeToLive::Known {
                ttl,
                granted_ttl,
                keys,
            } => LeaseTtlReply {
                outcome: LeaseOutcome::LeaseFound.into(),
                ttl,
                granted_ttl,
                keys,
            },
        };
        Ok(Response::new(reply))
    }
}
