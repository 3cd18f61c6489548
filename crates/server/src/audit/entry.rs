//! What is written of one request, gathered on its way.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use http::{Extensions, Request};
use kvd_api::pb::etcdserverpb::request_op::Request as OpRequest;
use kvd_api::pb::etcdserverpb::*;
use kvd_api::pb::v3electionpb::{
    CampaignRequest, LeaderKey, LeaderRequest, ProclaimRequest, ResignRequest,
};
use kvd_api::pb::v3lockpb::{LockRequest, UnlockRequest};
use parking_lot::Mutex;
use tonic::Code;

use super::Audit;
use super::line;
use crate::auth::Caller;
use crate::peer_info::PeerInfo;

/// Most operations of a transaction that are written; the rest is counted.
const OPS_MAX: usize = 128;

/// One thing that a request does to keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    pub(super) op: &'static str,
    pub(super) key: Bytes,
    pub(super) range_end: Bytes,
}

/// What a request is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    pub(super) ops: Vec<Op>,
    /// Operations beyond the most that are written.
    pub(super) more: usize,
    pub(super) names: Vec<String>,
    pub(super) lease: i64,
}

impl About {
    fn op(mut self, op: &'static str, key: &Bytes, range_end: &Bytes) -> About {
        if self.ops.len() < OPS_MAX {
            self.ops.push(Op {
                op,
                key: key.clone(),
                range_end: range_end.clone(),
            });
        } else {
            self.more += 1;
        }
        self
    }

    fn names<const N: usize>(names: [&str; N]) -> About {
        About {
            names: names.map(str::to_owned).into(),
            ..About::default()
        }
    }

    fn lease(mut self, id: i64) -> About {
        self.lease = id;
        self
    }

    fn leader(self, op: &'static str, leader: Option<&LeaderKey>) -> About {
        match leader {
            Some(leader) => self.op(op, &leader.key, &Bytes::new()).lease(leader.lease),
            None => self,
        }
    }

    fn txn(mut self, txn: &TxnRequest) -> About {
        for compare in &txn.compare {
            self = self.op("compare", &compare.key, &compare.range_end);
        }
        for op in txn.success.iter().chain(&txn.failure) {
            self = match &op.request {
                Some(OpRequest::RequestRange(range)) => {
                    self.op("range", &range.key, &range.range_end)
                }
                Some(OpRequest::RequestPut(put)) => self.op("put", &put.key, &Bytes::new()),
                Some(OpRequest::RequestDeleteRange(delete)) => {
                    self.op("delete", &delete.key, &delete.range_end)
                }
                Some(OpRequest::RequestTxn(txn)) => self.txn(txn),
                None => self,
            };
        }
        self
    }
}

/// A message that says what it is about.
pub trait Describe {
    /// What an audit line says of it.
    fn about(&self) -> About;
}

macro_rules! describe {
    ($($type:ident($message:pat) => $about:expr;)*) => {
        $(impl Describe for $type {
            fn about(&self) -> About {
                let $message = self;
                $about
            }
        })*
    };
}

describe! {
    RangeRequest(r) => About::default().op("range", &r.key, &r.range_end);
    PutRequest(r) => About::default().op("put", &r.key, &Bytes::new()).lease(r.lease);
    DeleteRangeRequest(r) => About::default().op("delete", &r.key, &r.range_end);
    TxnRequest(r) => About::default().txn(r);
    WatchCreateRequest(r) => About::default().op("watch", &r.key, &r.range_end);
    CompactionRequest(_) => About::default();
    LeaseGrantRequest(r) => About::default().lease(r.id);
    LeaseRevokeRequest(r) => About::default().lease(r.id);
    LeaseTimeToLiveRequest(r) => About::default().lease(r.id);
    LeaseLeasesRequest(_) => About::default();
    AlarmRequest(_) => About::default();
    LockRequest(r) => About::default().op("lock", &r.name, &Bytes::new()).lease(r.lease);
    UnlockRequest(r) => About::default().op("unlock", &r.key, &Bytes::new());
    CampaignRequest(r) => About::default().op("campaign", &r.name, &Bytes::new()).lease(r.lease);
    ProclaimRequest(r) => About::default().leader("proclaim", r.leader.as_ref());
    LeaderRequest(r) => About::default().op("leader", &r.name, &Bytes::new());
    ResignRequest(r) => About::default().leader("resign", r.leader.as_ref());
    AuthEnableRequest(_) => About::default();
    AuthDisableRequest(_) => About::default();
    AuthStatusRequest(_) => About::default();
    AuthenticateRequest(r) => About::names([&r.name]);
    AuthUserAddRequest(r) => About::names([&r.name]);
    AuthUserGetRequest(r) => About::names([&r.name]);
    AuthUserListRequest(_) => About::default();
    AuthUserDeleteRequest(r) => About::names([&r.name]);
    AuthUserChangePasswordRequest(r) => About::names([&r.name]);
    AuthUserGrantRoleRequest(r) => About::names([&r.user, &r.role]);
    AuthUserRevokeRoleRequest(r) => About::names([&r.name, &r.role]);
    AuthRoleAddRequest(r) => About::names([&r.name]);
    AuthRoleGetRequest(r) => About::names([&r.role]);
    AuthRoleListRequest(_) => About::default();
    AuthRoleDeleteRequest(r) => About::names([&r.role]);
    AuthRoleGrantPermissionRequest(r) => {
        let about = About::names([&r.name]);
        match &r.perm {
            Some(perm) => about.op("permit", &perm.key, &perm.range_end),
            None => about,
        }
    };
    AuthRoleRevokePermissionRequest(r) => {
        About::names([&r.role]).op("forbid", &r.key, &r.range_end)
    };
}

/// One request: who sent it, for what, and when it came.
pub struct Entry {
    pub(super) rpc: String,
    pub(super) peer: PeerInfo,
    pub(super) came: SystemTime,
    pub(super) known: Mutex<Known>,
}

/// What is learnt on the way.
#[derive(Default)]
pub(super) struct Known {
    pub(super) user: Option<Arc<str>>,
    pub(super) about: About,
}

impl Entry {
    fn of<B>(request: &Request<B>) -> Entry {
        let peer = request.extensions().get::<PeerInfo>();
        Entry {
            rpc: request.uri().path().trim_start_matches('/').to_owned(),
            peer: peer.cloned().unwrap_or_default(),
            came: SystemTime::now(),
            known: Mutex::default(),
        }
    }

    /// Notes what the request with these extensions is about.
    pub fn note(extensions: &Extensions, message: &impl Describe) {
        if let Some(entry) = extensions.get::<Arc<Entry>>() {
            entry.known.lock().about = message.about();
        }
    }

    /// Notes who the request comes from.
    pub fn called_by(extensions: &Extensions, caller: Option<&Caller>) {
        if let (Some(entry), Some(caller)) = (extensions.get::<Arc<Entry>>(), caller) {
            entry.known.lock().user = Some(Arc::clone(&caller.user));
        }
    }
}

/// A request that is under way. It is written down when this is dropped, so also when the client
/// gives up.
pub struct Pending {
    audit: Audit,
    entry: Arc<Entry>,
    began: Instant,
    code: Option<Code>,
}

impl Pending {
    /// Begins to write down a request; what is learnt of it goes into its extensions.
    pub fn begin<B>(audit: &Audit, request: &mut Request<B>) -> Option<Pending> {
        if !audit.is_on() {
            return None;
        }
        let entry = Arc::new(Entry::of(request));
        request.extensions_mut().insert(Arc::clone(&entry));
        Some(Pending {
            audit: audit.clone(),
            entry,
            began: Instant::now(),
            code: None,
        })
    }

    /// A part of a stream, such as one watcher.
    pub fn part(
        audit: &Audit,
        stream: &Arc<Entry>,
        caller: Option<&Caller>,
        message: &impl Describe,
    ) -> Pending {
        let known = Known {
            user: caller.map(|caller| Arc::clone(&caller.user)),
            about: message.about(),
        };
        Pending {
            audit: audit.clone(),
            entry: Arc::new(Entry {
                rpc: stream.rpc.clone(),
                peer: stream.peer.clone(),
                came: SystemTime::now(),
                known: Mutex::new(known),
            }),
            began: Instant::now(),
            code: None,
        }
    }

    /// How the request was answered.
    pub fn answered(&mut self, code: Code) {
        self.code = Some(code);
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        line::with(&self.entry, self.code, self.began.elapsed(), |line| {
            self.audit.write(line);
        });
    }
}
