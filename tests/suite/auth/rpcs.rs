//! Every RPC of the descriptors by every kind of caller: a new one without a row fails.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::{Buf, BufMut, Bytes};
use kvd_api::pb::authpb::permission::Type;
use kvd_api::pb::etcdserverpb::watch_request::RequestUnion;
use kvd_api::pb::etcdserverpb::*;
use kvd_api::pb::v3electionpb::{
    CampaignRequest, LeaderKey, LeaderRequest, ProclaimRequest, ResignRequest,
};
use kvd_api::pb::v3lockpb::{LockRequest, UnlockRequest};
use kvd_api::wire::WatchResponse;
use kvd_tests::member::Member;
use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Status};

use super::session::{Session, one_member};

/// The lease whose only key is the one that the exact permission is for.
const LEASE: i64 = 77;

/// Who may call, as etcd has it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum May {
    /// Anyone, whatever is shown.
    Open,
    /// Anyone, but not with a bad token.
    Anyone,
    /// Every user.
    User,
    /// Who may read and write the key `k`, and the keys below `k/`.
    Keys,
    /// Root.
    Admin,
}

/// Messages as they are.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

/// One row for each RPC: who may call it, and a request.
fn row(rpc: &str) -> Option<(May, Vec<u8>)> {
    let (service, method) = rpc.split_once('/')?;
    let (_, service) = service.split_once('.')?;
    match service {
        "KV" => kv_row(method),
        "Watch" | "Lease" => stream_or_lease_row(method),
        "Cluster" | "Maintenance" => admin_row(method),
        "Auth" => auth_row(method),
        _ => lock_row(method),
    }
}

fn kv_row(method: &str) -> Option<(May, Vec<u8>)> {
    let range = RangeRequest {
        key: bytes("k"),
        ..RangeRequest::default()
    };
    let put = PutRequest {
        key: bytes("k"),
        value: bytes("v"),
        prev_kv: true,
        lease: LEASE,
        ..PutRequest::default()
    };
    let delete = DeleteRangeRequest {
        key: bytes("k"),
        ..DeleteRangeRequest::default()
    };
    Some(match method {
        "Range" | "RangeStream" => (May::Keys, range.encode_to_vec()),
        "Put" => (May::Keys, put.encode_to_vec()),
        "DeleteRange" => (May::Keys, delete.encode_to_vec()),
        "Txn" => {
            let put = RequestOp {
                request: Some(request_op::Request::RequestPut(put)),
            };
            let txn = TxnRequest {
                success: vec![put],
                ..TxnRequest::default()
            };
            (May::Keys, txn.encode_to_vec())
        }
        "Compact" => (May::Admin, CompactionRequest::default().encode_to_vec()),
        _ => return None,
    })
}

fn stream_or_lease_row(method: &str) -> Option<(May, Vec<u8>)> {
    Some(match method {
        "Watch" => {
            let create = WatchCreateRequest {
                key: bytes("k"),
                ..WatchCreateRequest::default()
            };
            let request = WatchRequest {
                request_union: Some(RequestUnion::CreateRequest(create)),
            };
            (May::Keys, request.encode_to_vec())
        }
        "LeaseGrant" => {
            let grant = LeaseGrantRequest { ttl: 60, id: 0 };
            (May::User, grant.encode_to_vec())
        }
        "LeaseRevoke" => (May::Keys, LeaseRevokeRequest { id: LEASE }.encode_to_vec()),
        "LeaseKeepAlive" => (
            May::Keys,
            LeaseKeepAliveRequest { id: LEASE }.encode_to_vec(),
        ),
        "LeaseTimeToLive" => {
            let ask = LeaseTimeToLiveRequest {
                id: LEASE,
                keys: true,
            };
            (May::Keys, ask.encode_to_vec())
        }
        "LeaseLeases" => (May::Keys, Vec::new()),
        _ => return None,
    })
}

fn admin_row(method: &str) -> Option<(May, Vec<u8>)> {
    Some(match method {
        "MemberList" | "Status" => (May::User, Vec::new()),
        // Asks for the alarms; to raise or clear one is tried in another test.
        "Alarm" => (May::User, Vec::new()),
        // Requests that root is refused for what they ask.
        "MemberAdd" => {
            let add = MemberAddRequest {
                peer_ur_ls: vec!["nonsense".into()],
                ..MemberAddRequest::default()
            };
            (May::Admin, add.encode_to_vec())
        }
        "MemberRemove" => (May::Admin, MemberRemoveRequest { id: 1 }.encode_to_vec()),
        "MemberUpdate" | "MemberPromote" => (May::Admin, vec![8, 1]),
        "MoveLeader" => (
            May::Admin,
            MoveLeaderRequest { target_id: 1 }.encode_to_vec(),
        ),
        "Downgrade" => {
            let validate = DowngradeRequest {
                version: "nonsense".into(),
                ..DowngradeRequest::default()
            };
            (May::Admin, validate.encode_to_vec())
        }
        "Defragment" | "Hash" | "HashKV" | "Snapshot" => (May::Admin, Vec::new()),
        _ => return None,
    })
}

fn auth_row(method: &str) -> Option<(May, Vec<u8>)> {
    // One field with a name that nobody has.
    let nobody = vec![10, 6, b'n', b'o', b'b', b'o', b'd', b'y'];
    Some(match method {
        "Authenticate" => (May::Open, nobody),
        "AuthStatus" => (May::Anyone, Vec::new()),
        "UserGet" => {
            let name = "exact".into();
            (May::Keys, AuthUserGetRequest { name }.encode_to_vec())
        }
        "RoleGet" => {
            let role = "exact".into();
            (May::Keys, AuthRoleGetRequest { role }.encode_to_vec())
        }
        "AuthEnable"
        | "AuthDisable"
        | "UserAdd"
        | "UserDelete"
        | "UserChangePassword"
        | "UserGrantRole"
        | "UserRevokeRole"
        | "RoleAdd"
        | "RoleDelete"
        | "RoleGrantPermission"
        | "RoleRevokePermission"
        | "UserList"
        | "RoleList" => (May::Admin, nobody),
        _ => return None,
    })
}

fn lock_row(method: &str) -> Option<(May, Vec<u8>)> {
    let leader = Some(LeaderKey {
        name: bytes("k"),
        key: bytes("k/1"),
        rev: 1,
        lease: LEASE,
    });
    Some(match method {
        "Lock" => {
            let name = bytes("k");
            (
                May::Keys,
                LockRequest { name, lease: LEASE }.encode_to_vec(),
            )
        }
        "Unlock" => (
            May::Keys,
            UnlockRequest { key: bytes("k/1") }.encode_to_vec(),
        ),
        "Campaign" => {
            let campaign = CampaignRequest {
                name: bytes("k"),
                lease: LEASE,
                value: bytes("v"),
            };
            (May::Keys, campaign.encode_to_vec())
        }
        "Proclaim" => {
            let value = bytes("v");
            (May::Keys, ProclaimRequest { leader, value }.encode_to_vec())
        }
        "Leader" | "Observe" => {
            let name = bytes("k");
            (May::Keys, LeaderRequest { name }.encode_to_vec())
        }
        "Resign" => (May::Keys, ResignRequest { leader }.encode_to_vec()),
        _ => return None,
    })
}

/// Calls an RPC with one message and returns how it is answered first.
async fn call(session: &Session, rpc: &str, message: Vec<u8>) -> Result<Bytes, Status> {
    let mut client = tonic::client::Grpc::new(session.channel.clone());
    let ready = client.ready().await;
    ready.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = format!("/{rpc}").try_into();
    let path = path.map_err(|error| Status::internal(format!("{rpc}: {error}")))?;
    // Streams stay open, so that what is asked for is not taken back.
    let message = Bytes::from(message);
    let messages = futures_util::stream::StreamExt::chain(
        futures_util::stream::iter([message]),
        futures_util::stream::pending(),
    );
    let is_stream = ["Watch/Watch", "LeaseKeepAlive"]
        .iter()
        .any(|stream| rpc.ends_with(stream));
    let answer = async {
        let mut answers = if is_stream {
            client
                .streaming(session.with(messages), path, Raw)
                .await?
                .into_inner()
        } else {
            let once = futures_util::stream::StreamExt::take(messages, 1);
            client
                .streaming(session.with(once), path, Raw)
                .await?
                .into_inner()
        };
        let first = answers.message().await?.unwrap_or_default();
        Ok(first)
    };
    // What waits for others is admitted.
    match tokio::time::timeout(Duration::from_secs(3), answer).await {
        Ok(answer) => answer,
        Err(_) => Ok(Bytes::new()),
    }
}

/// The refusal of a call by auth; none when it was admitted.
async fn refusal(session: &Session, rpc: &str, message: Vec<u8>) -> Result<Option<String>> {
    const REFUSALS: [&str; 3] = [
        "etcdserver: user name is empty",
        "etcdserver: invalid auth token",
        "etcdserver: permission denied",
    ];
    let text = match call(session, rpc, message).await {
        Ok(answer) if rpc.ends_with("Watch/Watch") => WatchResponse::decode(answer)?.cancel_reason,
        Ok(_) => return Ok(None),
        Err(status) => status.message().to_owned(),
    };
    let found = REFUSALS.iter().find(|refusal| text.ends_with(**refusal));
    Ok(found.map(|refusal| (*refusal).to_owned()))
}

fn rpcs() -> Result<BTreeSet<String>> {
    let files = FileDescriptorSet::decode(kvd_api::DESCRIPTORS)?;
    let mut rpcs = BTreeSet::new();
    for file in &files.file {
        for service in &file.service {
            for method in &service.method {
                let (package, service) = (file.package(), service.name());
                rpcs.insert(format!("{package}.{service}/{}", method.name()));
            }
        }
    }
    Ok(rpcs)
}

/// The key with its lease, whatever the calls before have done to them.
async fn restore(root: &Session) -> Result<()> {
    let grant = LeaseGrantRequest {
        ttl: 600,
        id: LEASE,
    };
    match root.lease().lease_grant(root.with(grant)).await {
        Err(status) if status.code() != Code::FailedPrecondition => return Err(status.into()),
        _ => {}
    }
    let put = PutRequest {
        key: bytes("k"),
        lease: LEASE,
        ..PutRequest::default()
    };
    root.kv().put(root.with(put)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rpc_admits_whom_it_should() -> Result<()> {
    let (cluster, root, plain) = one_member().await?;
    let member: &Member = &cluster.members[0];
    root.add_role("exact").await?;
    root.permit("exact", Type::Readwrite, "k", "").await?;
    root.permit("exact", Type::Readwrite, "k/", "k0").await?;
    root.add_user("exact", "exact").await?;
    let exact = Session::of(member, "exact").await?;
    let nobody = Session::anonymous(member).await?;
    let mut wrong = nobody.clone();
    wrong.token = Some("abcdefghijklmnop.1".into());

    let (empty, invalid, denied) = (
        Some("etcdserver: user name is empty"),
        Some("etcdserver: invalid auth token"),
        Some("etcdserver: permission denied"),
    );
    let mut failures = Vec::new();
    // Turning auth off comes last.
    let (last, others): (Vec<_>, Vec<_>) = rpcs()?
        .into_iter()
        .partition(|rpc| rpc.ends_with("AuthDisable"));
    for rpc in others.iter().chain(&last) {
        let (may, message) = row(rpc).with_context(|| format!("{rpc} has no row in this test"))?;
        let wanted = match may {
            May::Open => [None, None, None, None, None],
            May::Anyone => [None, invalid, None, None, None],
            May::User => [empty, invalid, None, None, None],
            May::Keys => [empty, invalid, denied, None, None],
            May::Admin => [empty, invalid, denied, denied, None],
        };
        let callers = [&nobody, &wrong, &plain, &exact, &root];
        let names = [
            "no token",
            "a wrong token",
            "no permission",
            "the permission",
            "root",
        ];
        for ((caller, name), wanted) in callers.iter().zip(names).zip(wanted) {
            restore(&root).await?;
            let got = refusal(caller, rpc, message.clone()).await?;
            if got.as_deref() != wanted {
                failures.push(format!("{rpc} with {name}: {got:?}, not {wanted:?}"));
            }
        }
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}
