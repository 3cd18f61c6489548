//! How every member is: asking each over the peer port, and answering those who ask.
//!
//! A page or a command can reach one member alone and wants to know of all. `Standing` in
//! `proto/peer.proto` is the whole protocol.

use std::sync::Arc;
use std::time::Instant;

use kvd_api::pb::etcdserverpb::{Member, StatusResponse};
use kvd_api::pb::kvdpeerpb::standing_client::StandingClient;
use kvd_api::pb::kvdpeerpb::standing_server::{Standing, StandingServer};
use kvd_api::pb::kvdpeerpb::{StandingReply, StandingRequest};
use tokio::sync::Mutex;
use tonic::{Request, Response, Status};

use crate::apply;
use crate::core::Core;
use crate::error::Result;
use crate::limits;
use crate::services::maintenance;

/// One member, and what it says of itself.
#[derive(Clone, Debug)]
pub struct MemberStanding {
    /// Its record.
    pub member: Member,
    /// What it answered; the error says why there is no answer.
    pub answer: std::result::Result<Answer, String>,
}

/// What a member says of itself.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// As `Maintenance.Status` answers.
    pub status: StatusResponse,
    /// kvd's own version.
    pub kvd_version: String,
}

/// The last look at all members, which is shared by whoever asks within
/// [`limits::STANDING_FRESH`]: many pages cost the other members no more than one.
#[derive(Default)]
pub struct Standings {
    last: Mutex<Option<(Instant, Arc<[MemberStanding]>)>>,
}

impl Standings {
    /// How every member is, in order of ID. A member that does not answer within
    /// [`limits::STANDING_TIMEOUT`] is in the list with the reason.
    ///
    /// Errors: when this member's own records cannot be read.
    pub async fn get(&self, core: &Core) -> Result<Arc<[MemberStanding]>> {
        let mut last = self.last.lock().await;
        if let Some((taken, standings)) = &*last
            && taken.elapsed() < limits::STANDING_FRESH
        {
            return Ok(Arc::clone(standings));
        }
        let members = apply::members(core.store())?;
        let asked = members.into_iter().map(|member| async move {
            let answer = ask(core, &member).await;
            MemberStanding { member, answer }
        });
        let standings: Arc<[MemberStanding]> = futures_util::future::join_all(asked).await.into();
        // By the end, so that those who waited for a member that does not answer do not ask it again.
        *last = Some((Instant::now(), Arc::clone(&standings)));
        Ok(standings)
    }
}

async fn ask(core: &Core, member: &Member) -> std::result::Result<Answer, String> {
    if member.id == core.member_id() {
        let status = maintenance::status(core).map_err(|error| error.to_string())?;
        return Ok(Answer {
            status,
            kvd_version: core.config().version.to_owned(),
        });
    }
    let Some(peer) = core.node().peer(member.id) else {
        return Err("not known as a peer yet".to_owned());
    };
    let mut client = StandingClient::new(peer.channel());
    let asking = client.tell(peer.request(StandingRequest {}));
    match tokio::time::timeout(limits::STANDING_TIMEOUT, asking).await {
        Ok(Ok(reply)) => {
            let StandingReply {
                status,
                kvd_version,
            } = reply.into_inner();
            let status = status.ok_or_else(|| "it answered without a status".to_owned())?;
            Ok(Answer {
                status,
                kvd_version,
            })
        }
        Ok(Err(status)) => Err(explain(&status)),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

/// Why a member gave no answer, without the words of the layers in between.
fn explain(status: &Status) -> String {
    if kvd_raft::was_not_sent(status) {
        return "cannot connect".to_owned();
    }
    status.message().to_owned()
}

/// Tells other members how this one is.
#[derive(Clone)]
pub struct StandingService {
    core: Arc<Core>,
}

impl StandingService {
    /// The service of the member `core`; mount it on the peer port.
    pub fn server(core: Arc<Core>) -> StandingServer<StandingService> {
        StandingServer::new(StandingService { core })
    }
}

#[tonic::async_trait]
impl Standing for StandingService {
    async fn tell(
        &self,
        request: Request<StandingRequest>,
    ) -> std::result::Result<Response<StandingReply>, Status> {
        self.core.node().check_sender(request.metadata())?;
        Ok(Response::new(StandingReply {
            status: Some(maintenance::status(&self.core)?),
            kvd_version: self.core.config().version.to_owned(),
        }))
    }
}
