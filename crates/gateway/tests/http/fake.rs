//! A member that answers what a test tells it to, and services with one habit per method.

use std::future::pending;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::Stream;
use futures_util::future::BoxFuture;
use kvd_api::error::{WireError, unimplemented, unknown};
use kvd_api::pb::etcdserverpb::kv_server::{Kv, KvServer};
use kvd_api::pb::etcdserverpb::watch_request::RequestUnion;
use kvd_api::pb::etcdserverpb::watch_server::{Watch, WatchServer};
use kvd_api::pb::etcdserverpb::*;
use kvd_api::pb::mvccpb::KeyValue;
use kvd_api::pb::v3electionpb::election_server::{Election, ElectionServer};
use kvd_api::pb::v3electionpb::*;
use kvd_api::wire::{RangeResponse, WatchResponse};
use kvd_gateway::{
    Answer, Check, DataHash, Member, MemberInfo, Probe, ProcessStats, Standing, Versions,
};
use prost::Message;
use tokio_stream::StreamExt;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

/// What the fake member says.
#[derive(Clone, Default)]
pub(crate) struct Says {
    pub(crate) cluster_version: Option<String>,
    pub(crate) alarms: Vec<AlarmType>,
    pub(crate) leader: u64,
    pub(crate) is_learner: bool,
    pub(crate) auth_enabled: bool,
    /// The result of either read; `None` means it never comes.
    pub(crate) linearizable: Option<Result<(), String>>,
    pub(crate) serializable: Option<Result<(), String>>,
}

/// A member in the state that a test set.
pub(crate) struct FakeMember {
    pub(crate) says: Mutex<Says>,
    /// Calls of `count_health` and `count_check`, as text.
    pub(crate) counted: Mutex<Vec<String>>,
}

impl FakeMember {
    /// A healthy leader.
    pub(crate) fn healthy() -> Arc<FakeMember> {
        let says = Says {
            leader: 7,
            linearizable: Some(Ok(())),
            serializable: Some(Ok(())),
            ..Says::default()
        };
        Arc::new(FakeMember {
            says: Mutex::new(says),
            counted: Mutex::default(),
        })
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Says)) {
        change(
            &mut self
                .says
                .lock()
                .expect("no test panics while it holds this"),
        );
    }

    fn says(&self) -> Says {
        self.says
            .lock()
            .expect("no test panics while it holds this")
            .clone()
    }

    pub(crate) fn take_counted(&self) -> Vec<String> {
        std::mem::take(
            &mut self
                .counted
                .lock()
                .expect("no test panics while it holds this"),
        )
    }

    fn count(&self, what: String) {
        self.counted
            .lock()
            .expect("no test panics while it holds this")
            .push(what);
    }
}

async fn read(result: Option<Result<(), String>>) -> Result<(), String> {
    match result {
        Some(result) => result,
        None => pending().await,
    }
}

impl Member for FakeMember {
    fn is_removed(&self, id: u64) -> bool {
        id == 0xdead
    }

    fn hash_kv(&self, revision: i64) -> BoxFuture<'_, Result<DataHash, String>> {
        Box::pin(async move {
            match revision {
                0..=5 => Ok(DataHash {
                    hash: 4_000_000_000,
                    compact_revision: -1,
                    revision: if revision == 0 { 5 } else { revision },
                    current_revision: 5,
                }),
                _ => Err("mvcc: required revision is a future revision".into()),
            }
        })
    }

    fn downgrade_enabled(&self) -> BoxFuture<'_, Result<bool, String>> {
        let read = read(self.says().linearizable);
        Box::pin(async { read.await.map(|()| false) })
    }

    fn versions(&self) -> Versions {
        let server = "3.7.1".to_string();
        Versions {
            server,
            cluster: self.says().cluster_version,
            storage: None,
        }
    }

    fn alarms(&self) -> Vec<AlarmType> {
        self.says().alarms
    }

    fn id(&self) -> u64 {
        7
    }

    fn leader(&self) -> u64 {
        self.says().leader
    }

    fn is_learner(&self) -> bool {
        self.says().is_learner
    }

    fn linearizable_read(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(read(self.says().linearizable))
    }

    fn serializable_read(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(read(self.says().serializable))
    }

    fn metrics_text(&self) -> String {
        "up 1\n".into()
    }

    fn count_health(&self, healthy: bool) {
        self.count(format!("health {healthy}"));
    }

    fn count_check(&self, probe: Probe, check: Check, ok: bool) {
        self.count(format!("{} {} {ok}", probe.name(), check.name()));
    }

    fn members(&self) -> Vec<MemberInfo> {
        vec![
            MemberInfo {
                id: 10221683743416816908,
                peer_urls: vec!["http://127.0.0.1:2380".into()],
                name: "default".into(),
                client_urls: vec!["http://127.0.0.1:2379".into()],
                is_learner: false,
            },
            MemberInfo {
                id: 2,
                peer_urls: vec!["http://b:2380".into()],
                is_learner: true,
                ..MemberInfo::default()
            },
        ]
    }

    fn standings(&self) -> BoxFuture<'_, Result<Vec<Standing>, String>> {
        let leader = Answer {
            status: StatusResponse {
                version: "3.7.1".into(),
                leader: 7,
                header: Some(ResponseHeader {
                    member_id: 7,
                    revision: 4,
                    ..ResponseHeader::default()
                }),
                raft_index: 12,
                raft_applied_index: 12,
                ..StatusResponse::default()
            },
            kvd_version: "0.1.0".into(),
        };
        let mut follower = leader.clone();
        follower.status.raft_applied_index = 9;
        follower.status.errors = vec!["memberID:8 alarm:NOSPACE".into()];
        let standing = |id, name: &str, is_learner, answer| Standing {
            id,
            name: name.into(),
            is_learner,
            answer,
        };
        let standings = vec![
            standing(7, "a", false, Ok(leader.clone())),
            standing(8, "b", false, Ok(follower)),
            standing(9, "", true, Err("cannot connect".into())),
        ];
        Box::pin(std::future::ready(Ok(standings)))
    }

    fn cluster_id(&self) -> u64 {
        0x8c2f_f406_32fd_55ca
    }

    fn process_stats(&self) -> ProcessStats {
        ProcessStats {
            fd_limit: 1024,
            resident_bytes: 2000,
            private_bytes: 1000,
        }
    }

    fn auth_enabled(&self) -> bool {
        self.says().auth_enabled
    }

    fn request_timeout(&self) -> Duration {
        Duration::from_secs(7)
    }
}

/// KV, Watch and Election; every other service is missing.
pub(crate) fn services() -> Routes {
    Routes::new(KvServer::new(FakeKv))
        .add_service(WatchServer::new(FakeWatch))
        .add_service(ElectionServer::new(FakeElection))
}

fn header() -> Option<ResponseHeader> {
    Some(ResponseHeader {
        cluster_id: 1,
        member_id: u64::MAX,
        revision: 2,
        raft_term: 3,
    })
}

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

struct FakeKv;

#[tonic::async_trait]
impl Kv for FakeKv {
    /// Answers with the request's metadata: one pair each.
    async fn range(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<RangeResponse>, Status> {
        let mut kvs = Vec::new();
        for name in ["authorization", "hasleader", "cookie"] {
            if let Some(value) = request.metadata().get(name) {
                let value = value.to_str().expect("text").to_string().into();
                let kv = KeyValue {
                    key: name.into(),
                    value,
                    version: 1,
                    ..KeyValue::default()
                };
                kvs.push(kv.encode_to_vec().into());
            }
        }
        let key = request.into_inner().key;
        if key.is_empty() {
            return Err(WireError::EmptyKey.into());
        }
        let kv = KeyValue {
            key,
            mod_revision: i64::MAX,
            ..KeyValue::default()
        };
        kvs.push(kv.encode_to_vec().into());
        let count = kvs.len() as i64;
        Ok(Response::new(RangeResponse {
            header: header(),
            kvs,
            count,
            ..RangeResponse::default()
        }))
    }

    type RangeStreamStream = Replies<RangeStreamResponse>;

    async fn range_stream(
        &self,
        _request: Request<RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        Err(unimplemented("RangeStream"))
    }

    /// Answers with the size of the value as the revision.
    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let revision = request.into_inner().value.len() as i64;
        let header = Some(ResponseHeader {
            revision,
            ..ResponseHeader::default()
        });
        Ok(Response::new(PutResponse {
            header,
            prev_kv: None,
        }))
    }

    async fn delete_range(
        &self,
        _request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        Err(WireError::InvalidAuthToken.into())
    }

    /// An error whose text needs encoding on its way.
    async fn txn(&self, _request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        Err(unknown("100% na\u{ef}ve\n\"quoted\""))
    }

    /// Never answers.
    async fn compact(
        &self,
        _request: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        pending().await
    }
}

struct FakeWatch;

#[tonic::async_trait]
impl Watch for FakeWatch {
    type WatchStream = Replies<WatchResponse>;

    /// Answers each create request with its watch ID; a watch ID of 13 ends the stream badly.
    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let replies = request.into_inner().map(|request| {
            let Some(RequestUnion::CreateRequest(create)) = request?.request_union else {
                return Ok(WatchResponse::default());
            };
            match create.watch_id {
                13 => Err(WireError::NoLeader.into()),
                watch_id => Ok(WatchResponse {
                    watch_id,
                    created: true,
                    ..Default::default()
                }),
            }
        });
        Ok(Response::new(Box::pin(replies)))
    }
}

struct FakeElection;

#[tonic::async_trait]
impl Election for FakeElection {
    async fn campaign(
        &self,
        _request: Request<CampaignRequest>,
    ) -> Result<Response<CampaignResponse>, Status> {
        Err(unimplemented("Campaign"))
    }

    async fn proclaim(
        &self,
        _request: Request<ProclaimRequest>,
    ) -> Result<Response<ProclaimResponse>, Status> {
        Err(unimplemented("Proclaim"))
    }

    async fn leader(
        &self,
        _request: Request<LeaderRequest>,
    ) -> Result<Response<LeaderResponse>, Status> {
        Err(unimplemented("Leader"))
    }

    type ObserveStream = Replies<LeaderResponse>;

    /// Two leaders and the end; with the name `bad` an error before any of it.
    async fn observe(
        &self,
        request: Request<LeaderRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        if request.into_inner().name == "bad".as_bytes() {
            return Err(WireError::UserNameIsEmpty.into());
        }
        let leader = |name: &'static str| {
            let kv = Some(KeyValue {
                key: name.into(),
                ..KeyValue::default()
            });
            Ok(LeaderResponse { header: None, kv })
        };
        Ok(Response::new(Box::pin(tokio_stream::iter([
            leader("a"),
            leader("b"),
        ]))))
    }

    async fn resign(
        &self,
        _request: Request<ResignRequest>,
    ) -> Result<Response<ResignResponse>, Status> {
        Err(unimplemented("Resign"))
    }
}
