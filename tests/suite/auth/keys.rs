//! Which keys a user may touch, by every way to them that once was open in etcd.

use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use kvd_api::pb::authpb::UserAddOptions;
use kvd_api::pb::authpb::permission::Type;
use kvd_api::pb::etcdserverpb::alarm_request::AlarmAction;
use kvd_api::pb::etcdserverpb::{
    AlarmRequest, AlarmType, AuthUserAddRequest, Compare, DeleteRangeRequest, LeaseGrantRequest,
    LeaseLeasesRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest, PutRequest, RangeRequest,
    RequestOp, TxnRequest, request_op,
};

use kvd_tests::cluster::Cluster;

use super::session::{Session, one_member, refusal};

const DENIED: &str = "etcdserver: permission denied";

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn op(request: request_op::Request) -> RequestOp {
    RequestOp {
        request: Some(request),
    }
}

fn put_op(key: &str) -> RequestOp {
    op(request_op::Request::RequestPut(PutRequest {
        key: bytes(key),
        ..PutRequest::default()
    }))
}

fn nested(txn: TxnRequest) -> TxnRequest {
    TxnRequest {
        success: vec![op(request_op::Request::RequestTxn(txn))],
        ..TxnRequest::default()
    }
}

async fn txn(session: &Session, txn: TxnRequest) -> String {
    refusal(session.kv().txn(session.with(txn)).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_are_checked_in_every_branch_and_depth() -> Result<()> {
    let (_cluster, root, alice) = one_member().await?;
    root.permit("staff", Type::Readwrite, "mine", "").await?;
    root.put("secret", "s").await?;
    let secret = RangeRequest {
        key: bytes("secret"),
        ..RangeRequest::default()
    };
    let read = || op(request_op::Request::RequestRange(secret.clone()));
    let refused = [
        TxnRequest {
            compare: vec![Compare {
                key: bytes("secret"),
                ..Compare::default()
            }],
            ..TxnRequest::default()
        },
        TxnRequest {
            success: vec![put_op("secret")],
            ..TxnRequest::default()
        },
        // The branch that does not run counts, too.
        TxnRequest {
            success: vec![put_op("mine")],
            failure: vec![put_op("secret")],
            ..TxnRequest::default()
        },
        TxnRequest {
            success: vec![read()],
            ..TxnRequest::default()
        },
        TxnRequest {
            success: vec![op(request_op::Request::RequestDeleteRange(
                DeleteRangeRequest {
                    key: bytes("\0"),
                    range_end: bytes("\0"),
                    ..DeleteRangeRequest::default()
                },
            ))],
            ..TxnRequest::default()
        },
    ];
    for request in refused {
        assert_eq!(txn(&alice, request.clone()).await, DENIED, "{request:?}");
        let deep = nested(nested(request));
        assert_eq!(txn(&alice, deep.clone()).await, DENIED, "{deep:?}");
    }
    let allowed = nested(TxnRequest {
        success: vec![put_op("mine")],
        ..TxnRequest::default()
    });
    alice.kv().txn(alice.with(allowed)).await?;
    assert_eq!(root.get("secret").await?, 1);
    // A serializable read is as good as any.
    let serializable = RangeRequest {
        serializable: true,
        ..secret
    };
    let answer = alice.kv().range(alice.with(serializable)).await;
    assert_eq!(refusal(answer), DENIED);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn previous_pairs_need_the_permission_to_read() -> Result<()> {
    let (_cluster, root, alice) = one_member().await?;
    root.permit("staff", Type::Write, "w", "").await?;
    root.put("w", "secret").await?;
    let put = |prev_kv| PutRequest {
        key: bytes("w"),
        prev_kv,
        ..PutRequest::default()
    };
    let delete = |prev_kv| DeleteRangeRequest {
        key: bytes("w"),
        prev_kv,
        ..DeleteRangeRequest::default()
    };
    assert_eq!(refusal(alice.kv().put(alice.with(put(true))).await), DENIED);
    let answer = alice.kv().delete_range(alice.with(delete(true))).await;
    assert_eq!(refusal(answer), DENIED);
    for request in [
        request_op::Request::RequestPut(put(true)),
        request_op::Request::RequestDeleteRange(delete(true)),
    ] {
        let request = TxnRequest {
            success: vec![op(request)],
            ..TxnRequest::default()
        };
        assert_eq!(txn(&alice, request).await, DENIED);
    }
    alice.kv().put(alice.with(put(false))).await?;
    alice.kv().delete_range(alice.with(delete(false))).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_are_as_secret_and_as_safe_as_their_keys() -> Result<()> {
    let (_cluster, root, alice) = one_member().await?;
    root.permit("staff", Type::Readwrite, "mine", "").await?;
    let grant = LeaseGrantRequest { ttl: 600, id: 7 };
    alice.lease().lease_grant(alice.with(grant)).await?;
    let with_lease = |key: &str| PutRequest {
        key: bytes(key),
        lease: 7,
        ..PutRequest::default()
    };
    alice.kv().put(alice.with(with_lease("mine"))).await?;
    root.kv().put(root.with(with_lease("secret"))).await?;

    let attach = alice.kv().put(alice.with(with_lease("mine"))).await;
    assert_eq!(refusal(attach), DENIED);
    let revoke = LeaseRevokeRequest { id: 7 };
    let revoke = alice.lease().lease_revoke(alice.with(revoke)).await;
    assert_eq!(refusal(revoke), DENIED);
    let ask = |keys| LeaseTimeToLiveRequest { id: 7, keys };
    let told = alice
        .lease()
        .lease_time_to_live(alice.with(ask(true)))
        .await;
    assert_eq!(refusal(told), DENIED);
    let listed = alice
        .lease()
        .lease_leases(alice.with(LeaseLeasesRequest {}))
        .await;
    assert_eq!(refusal(listed), DENIED);
    let told = alice
        .lease()
        .lease_time_to_live(alice.with(ask(false)))
        .await?;
    assert_eq!(told.into_inner().granted_ttl, 600);

    root.permit("staff", Type::Read, "secret", "").await?;
    let told = alice
        .lease()
        .lease_time_to_live(alice.with(ask(true)))
        .await?;
    assert_eq!(told.into_inner().keys, [bytes("mine"), bytes("secret")]);
    let revoke = LeaseRevokeRequest { id: 7 };
    let revoke = alice.lease().lease_revoke(alice.with(revoke)).await;
    assert_eq!(refusal(revoke), DENIED);
    root.permit("staff", Type::Readwrite, "secret", "").await?;
    let revoke = LeaseRevokeRequest { id: 7 };
    alice.lease().lease_revoke(alice.with(revoke)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn alarms_are_raised_by_administrators_alone() -> Result<()> {
    let (cluster, root, alice) = one_member().await?;
    let raise = || AlarmRequest {
        action: AlarmAction::Activate as i32,
        member_id: 1,
        alarm: AlarmType::Nospace as i32,
    };
    let mut maintenance = cluster.members[0].maintenance().await?;
    assert_eq!(
        refusal(maintenance.alarm(alice.with(raise())).await),
        DENIED
    );
    let refused = maintenance.alarm(raise()).await;
    assert_eq!(refusal(refused), "etcdserver: user name is empty");
    let alarms = maintenance.alarm(root.with(raise())).await?.into_inner();
    assert_eq!(alarms.alarms.len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_refusal_tells_which_users_there_are() -> Result<()> {
    let (_cluster, root, alice) = one_member().await?;
    let add = AuthUserAddRequest {
        name: "cert-only".into(),
        options: Some(UserAddOptions { no_password: true }),
        ..AuthUserAddRequest::default()
    };
    root.auth().user_add(root.with(add)).await?;
    let mut answers = Vec::new();
    for user in ["alice", "nobody", "cert-only", ""] {
        let status = alice.authenticate(user, "wrong").await.err();
        answers.push(status.map(|status| (status.code(), status.message().to_owned())));
    }
    assert!(answers[0].is_some());
    assert!(
        answers.iter().all(|answer| *answer == answers[0]),
        "{answers:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_of_a_refusal_tells_no_user_either() -> Result<()> {
    // As dear as by default: a comparison that is left out shows.
    let cluster = Cluster::start(1, &["--bcrypt-cost", "10"]).await?;
    let root = Session::enable(&cluster.members[0]).await?;
    let add = AuthUserAddRequest {
        name: "cert-only".into(),
        options: Some(UserAddOptions { no_password: true }),
        ..AuthUserAddRequest::default()
    };
    root.auth().user_add(root.with(add)).await?;
    let users = ["root", "nobody", "cert-only", ""];
    let mut shortest = [Duration::MAX; 4];
    for _ in 0..5 {
        for (user, shortest) in users.iter().zip(&mut shortest) {
            let begun = Instant::now();
            let refused = root.authenticate(user, "wrong").await;
            *shortest = begun.elapsed().min(*shortest);
            assert!(refused.is_err(), "{user}");
        }
    }
    let [known, others @ ..] = shortest;
    // What a busy machine adds is in all of them; a comparison is a hundred times all else.
    let alike = |other: &Duration| *other < known * 3 && known < *other * 3;
    assert!(others.iter().all(alike), "{users:?}: {shortest:?}");
    Ok(())
}
