//! etcd's election service: the oldest key of a queue leads, and its value is what the leader says.
//!
//! Source: etcd `server/etcdserver/api/v3election/election.go`,
//! `client/v3/concurrency/election.go`.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use kvd_api::error::{WireError, internal};
use kvd_api::pb::etcdserverpb::ResponseHeader;
use kvd_api::pb::mvccpb::{self, KeyValue};
use kvd_api::pb::v3electionpb::election_server::Election;
use kvd_api::pb::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
    ProclaimResponse, ResignRequest, ResignResponse,
};
use kvd_mvcc::{Delivery, Event, WatchOptions, WatchStream};
use prost::Message;
use tonic::{Code, Request, Response, Status};

use super::leader_check::{self, LeaderCheck, Replies};
use super::on_behalf::{Inner, OnBehalf, pairs_of};
use super::queue::{self, Place, Waiting};
use crate::core::Core;

/// The service.
#[derive(Clone)]
pub struct ElectionService {
    inner: Inner,
}

impl ElectionService {
    /// The service of the member `core`.
    pub fn new(core: Arc<Core>) -> ElectionService {
        ElectionService {
            inner: Inner::new(core),
        }
    }
}

async fn campaign(caller: &OnBehalf, request: CampaignRequest) -> Result<CampaignResponse, Status> {
    let CampaignRequest { name, lease, value } = request;
    let lease = caller.session(lease).await?;
    let (place, entered) = queue::enter(caller, (&name, lease), value.clone(), None).await?;
    // From here on who gives up leaves the queue.
    let waiting = Waiting::new(caller, &place);
    let has_value = entered.succeeded
        || pairs_of(&entered, 0)?
            .pop()
            .is_some_and(|kv| kv.value == value);
    if !has_value && let Err(error) = proclaim_in(caller, &place, value).await {
        waiting.leave().await;
        return Err(error);
    }
    match queue::wait_for_turn(caller, &name, &place).await {
        Ok(Some(_)) => waiting.keep(),
        Ok(None) => {
            waiting.keep();
            return Err(WireError::ElectionNotLeader.into());
        }
        Err(error) if error.code() == Code::Unavailable => {
            waiting.leave().await;
            return Err(error);
        }
        // As in etcd, the candidate stays: it may campaign again.
        Err(error) => {
            waiting.keep();
            return Err(error);
        }
    }
    Ok(CampaignResponse {
        header: entered.header,
        leader: Some(LeaderKey {
            name,
            key: place.key,
            rev: place.revision,
            lease,
        }),
    })
}

async fn proclaim_in(
    caller: &OnBehalf,
    place: &Place,
    value: Bytes,
) -> Result<Option<ResponseHeader>, Status> {
    let written = queue::write(caller, place, value).await?;
    if !written.succeeded {
        return Err(WireError::ElectionNotLeader.into());
    }
    Ok(written.header)
}

async fn proclaim(caller: &OnBehalf, request: ProclaimRequest) -> Result<ProclaimResponse, Status> {
    let Some(leader) = request.leader else {
        return Err(WireError::ElectionLeaderMissing.into());
    };
    let place = Place {
        lease: caller.session(leader.lease).await?,
        key: leader.key,
        revision: leader.rev,
    };
    let header = proclaim_in(caller, &place, request.value).await?;
    Ok(ProclaimResponse { header })
}

async fn resign(caller: &OnBehalf, request: ResignRequest) -> Result<ResignResponse, Status> {
    let Some(leader) = request.leader else {
        return Err(WireError::ElectionLeaderMissing.into());
    };
    let place = Place {
        key: leader.key,
        revision: leader.rev,
        lease: leader.lease,
    };
    let header = queue::leave(caller, &place).await?.header;
    Ok(ResignResponse { header })
}

async fn leader(caller: &OnBehalf, request: LeaderRequest) -> Result<LeaderResponse, Status> {
    let (header, mut pairs) = caller.range(queue::oldest(&request.name)).await?;
    let Some(kv) = pairs.pop() else {
        return Err(WireError::ElectionNoLeader.into());
    };
    Ok(LeaderResponse {
        header: Some(header),
        kv: Some(kv),
    })
}

/// Tells every leader of an election, and all that it says.
struct Observation {
    caller: OnBehalf,
    name: Bytes,
    /// What the leader says; `None` while it is not known who leads.
    following: Option<WatchStream>,
    ready: VecDeque<LeaderResponse>,
}

impl Observation {
    /// Waits for the next thing to tell; an error ends the stream.
    async fn next(&mut self) -> Result<LeaderResponse, Status> {
        loop {
            if let Some(response) = self.ready.pop_front() {
                // The watch behind it asks nobody.
                let (prefix, end) = queue::bounds(&self.name);
                self.caller.still_reads(&prefix, &end)?;
                return Ok(response);
            }
            let Some(watches) = &self.following else {
                self.find_leader().await?;
                continue;
            };
            match next_events(&self.caller, watches).await? {
                Some((revision, events)) => self.follow(revision, &events)?,
                // What was said meanwhile is compacted: what stands now is told.
                None => self.following = None,
            }
        }
    }

    /// Tells of the leader, once there is one, and begins to follow it.
    async fn find_leader(&mut self) -> Result<(), Status> {
        let (header, mut pairs) = self.caller.range(queue::oldest(&self.name)).await?;
        let (revision, kv) = match pairs.pop() {
            Some(kv) => (header.revision, kv),
            None => match self.first_candidate(header.revision).await? {
                Some(kv) => (kv.mod_revision, kv),
                None => return Ok(()),
            },
        };
        self.following = Some(watch(
            &self.caller,
            kv.key.clone(),
            Bytes::new(),
            revision + 1,
        )?);
        self.tell(revision, kv);
        Ok(())
    }

    /// Waits for the first put after `revision`, at which there is no candidate.
    async fn first_candidate(&self, revision: i64) -> Result<Option<KeyValue>, Status> {
        let (prefix, end) = queue::bounds(&self.name);
        let watches = watch(&self.caller, prefix, end, revision + 1)?;
        loop {
            let Some((_, events)) = next_events(&self.caller, &watches).await? else {
                return Ok(None);
            };
            if let Some(put) = events.iter().find(|event| !event.is_delete()) {
                return pair(put).map(Some);
            }
        }
    }

    fn follow(&mut self, revision: i64, events: &[Arc<Event>]) -> Result<(), Status> {
        for event in events {
            if event.is_delete() {
                self.following = None;
                break;
            }
            self.tell(revision, pair(event)?);
        }
        Ok(())
    }

    fn tell(&mut self, revision: i64, kv: KeyValue) {
        self.ready.push_back(LeaderResponse {
            header: Some(self.caller.core().header(revision)),
            kv: Some(kv),
        });
    }
}

fn watch(
    caller: &OnBehalf,
    key: Bytes,
    range_end: Bytes,
    start_revision: i64,
) -> Result<WatchStream, Status> {
    let mut watches = caller.core().store().watch_stream();
    let options = WatchOptions {
        key,
        range_end,
        start_revision,
        ..WatchOptions::default()
    };
    let made = watches.watch(options);
    made.map_err(|error| internal(error.to_string()))?;
    Ok(watches)
}

/// The next events and their revision; `None` when they are compacted.
async fn next_events(
    caller: &OnBehalf,
    watches: &WatchStream,
) -> Result<Option<(i64, Arc<[Arc<Event>]>)>, Status> {
    loop {
        let delivery = tokio::select! {
            delivery = watches.next() => delivery,
            () = caller.core().stopped() => None,
        };
        match delivery {
            Some(Delivery::Events {
                revision, events, ..
            }) => return Ok(Some((revision, events))),
            Some(Delivery::Compacted { .. }) => return Ok(None),
            Some(Delivery::Progress { .. }) => {}
            None => return Err(WireError::ServerStopped.into()),
        }
    }
}

fn pair(event: &Event) -> Result<KeyValue, Status> {
    let decoded = mvccpb::Event::decode(event.encoded())
        .map_err(|error| internal(format!("an event cannot be decoded: {error}")))?;
    decoded.kv.ok_or_else(|| internal("an event has no pair"))
}

#[tonic::async_trait]
impl Election for ElectionService {
    async fn campaign(
        &self,
        request: Request<CampaignRequest>,
    ) -> Result<Response<CampaignResponse>, Status> {
        let (caller, request) = OnBehalf::of(&self.inner, request);
        let won = caller.in_time(campaign(&caller, request)).await?;
        Ok(Response::new(won))
    }

    async fn proclaim(
        &self,
        request: Request<ProclaimRequest>,
    ) -> Result<Response<ProclaimResponse>, Status> {
        let (caller, request) = OnBehalf::of(&self.inner, request);
        let said = caller.in_time(proclaim(&caller, request)).await?;
        Ok(Response::new(said))
    }

    async fn leader(
        &self,
        request: Request<LeaderRequest>,
    ) -> Result<Response<LeaderResponse>, Status> {
        let (caller, request) = OnBehalf::of(&self.inner, request);
        let found = caller.in_time(leader(&caller, request)).await?;
        Ok(Response::new(found))
    }

    type ObserveStream = Replies<LeaderResponse>;

    async fn observe(
        &self,
        request: Request<LeaderRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        let (caller, request) = OnBehalf::of(&self.inner, request);
        let leader = LeaderCheck::wanted(caller.core(), caller.metadata());
        let observation = Observation {
            caller,
            name: request.name,
            following: None,
            ready: VecDeque::new(),
        };
        let told = stream::unfold(Some(observation), |observation| async move {
            let mut observation = observation?;
            match observation.next().await {
                Ok(response) => Some((Ok(response), Some(observation))),
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok(Response::new(leader_check::guard(leader, Box::pin(told))))
    }

    async fn resign(
        &self,
        request: Request<ResignRequest>,
    ) -> Result<Response<ResignResponse>, Status> {
        let (caller, request) = OnBehalf::of(&self.inner, request);
        let resigned = caller.in_time(resign(&caller, request)).await?;
        Ok(Response::new(resigned))
    }
}
