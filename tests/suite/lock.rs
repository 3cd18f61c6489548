//! Locks and elections on three members: one holder at a time, in order, and nobody left behind.
#![allow(missing_docs)]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures_util::StreamExt;
use kvd_api::pb::etcdserverpb::compare::{CompareTarget, TargetUnion};
use kvd_api::pb::etcdserverpb::lease_client::LeaseClient;
use kvd_api::pb::etcdserverpb::request_op::Request as Op;
use kvd_api::pb::etcdserverpb::watch_client::WatchClient;
use kvd_api::pb::etcdserverpb::watch_request::RequestUnion;
use kvd_api::pb::etcdserverpb::{
    Compare, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest,
    PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest, WatchRequest,
};
use kvd_api::pb::v3electionpb::election_client::ElectionClient;
use kvd_api::pb::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderRequest, LeaderResponse, ProclaimRequest,
    ResignRequest,
};
use kvd_api::pb::v3lockpb::lock_client::LockClient;
use kvd_api::pb::v3lockpb::{LockRequest, LockResponse, UnlockRequest};
use kvd_tests::cluster::Cluster;
use kvd_tests::member::Member;
use kvd_tests::{http, wait};
use tonic::{Code, Request, Status, Streaming};

const SECOND: Duration = Duration::from_secs(1);
const DEADLINE: Duration = Duration::from_secs(30);

async fn grant(member: &Member, ttl: i64, id: i64) -> Result<()> {
    let mut leases = LeaseClient::new(member.channel().await?);
    leases.lease_grant(LeaseGrantRequest { ttl, id }).await?;
    Ok(())
}

async fn revoke(member: &Member, id: i64) -> Result<()> {
    let mut leases = LeaseClient::new(member.channel().await?);
    leases.lease_revoke(LeaseRevokeRequest { id }).await?;
    Ok(())
}

fn lock_request(name: &'static str, lease: i64) -> LockRequest {
    LockRequest {
        name: Bytes::from_static(name.as_bytes()),
        lease,
    }
}

async fn lock(member: &Member, request: Request<LockRequest>) -> Result<LockResponse, Status> {
    let channel = member.channel().await;
    let channel = channel.map_err(|error| Status::unavailable(error.to_string()))?;
    let answer = LockClient::new(channel).lock(request).await?;
    Ok(answer.into_inner())
}

async fn unlock(member: &Member, key: Bytes) -> Result<()> {
    let mut locks = LockClient::new(member.channel().await?);
    locks.unlock(UnlockRequest { key }).await?;
    Ok(())
}

/// The keys below `prefix`, which ends with a slash, in byte order.
async fn keys(member: &Member, prefix: &str) -> Result<Vec<String>> {
    let end = format!("{}0", prefix.trim_end_matches('/'));
    let request = RangeRequest {
        key: Bytes::from(prefix.to_owned()),
        range_end: Bytes::from(end),
        ..RangeRequest::default()
    };
    let answer = member.kv().await?.range(request).await?.into_inner();
    let keys = answer.decode_kvs()?.into_iter();
    Ok(keys
        .map(|kv| String::from_utf8_lossy(&kv.key).into_owned())
        .collect())
}

/// Waits until so many keys stand below `prefix`.
async fn wait_keys(member: &Member, prefix: &str, count: usize) -> Result<Vec<String>> {
    wait::until("the queue", DEADLINE, || async {
        let keys = keys(member, prefix).await?;
        ensure!(keys.len() == count, "{keys:?}, not {count}");
        Ok(keys)
    })
    .await
}

/// A put of `key` that only who holds the lock with this token may do.
fn fenced_put(key: &'static str, lock: &LockResponse) -> TxnRequest {
    TxnRequest {
        compare: vec![Compare {
            key: lock.key.clone(),
            target: CompareTarget::Create as i32,
            target_union: Some(TargetUnion::CreateRevision(lock.fencing_token)),
            ..Compare::default()
        }],
        success: vec![RequestOp {
            request: Some(Op::RequestPut(PutRequest {
                key: Bytes::from_static(key.as_bytes()),
                ..PutRequest::default()
            })),
        }],
        failure: Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_goes_from_holder_to_holder_with_growing_tokens() -> Result<()> {
    let cluster = Cluster::start(3, &[]).await?;
    let members = &cluster.members;
    for id in 1..=4 {
        grant(&members[0], 60, id).await?;
    }
    let first = lock(&members[0], Request::new(lock_request("l", 1))).await?;
    assert_eq!(first.key, "l/1");
    let header = first.header.context("a header")?;
    assert_eq!(header.revision, first.fencing_token);
    let again = lock(&members[1], Request::new(lock_request("l", 1))).await?;
    assert_eq!(
        (again.key, again.fencing_token),
        (first.key.clone(), first.fencing_token)
    );

    // The others queue up one after the other, each at another member.
    let mut waiting = Vec::new();
    for (id, member) in (2_i64..).zip(members) {
        let channel = member.channel().await?;
        waiting.push(tokio::spawn(async move {
            LockClient::new(channel).lock(lock_request("l", id)).await
        }));
        wait_keys(member, "l/", waiting.len() + 1).await?;
    }
    let mut holder = first;
    let ends: [&str; 3] = ["unlock", "revoke", "unlock"];
    for (end, (id, waiter)) in ends.into_iter().zip((2_i64..).zip(waiting)) {
        ensure!(!waiter.is_finished(), "{id} did not wait");
        let mut kv = members[2].kv().await?;
        ensure!(
            kv.txn(fenced_put("out", &holder))
                .await?
                .into_inner()
                .succeeded
        );
        match end {
            "unlock" => unlock(&members[1], holder.key.clone()).await?,
            _ => revoke(&members[1], id - 1).await?,
        }
        let next = tokio::time::timeout(DEADLINE, waiter).await???.into_inner();
        assert_eq!(next.key, format!("l/{id}"));
        ensure!(
            next.fencing_token > holder.fencing_token,
            "{next:?} after {holder:?}"
        );
        ensure!(next.header.context("a header")?.revision > next.fencing_token);
        let late = kv.txn(fenced_put("out", &holder)).await?.into_inner();
        ensure!(!late.succeeded, "the former holder wrote");
        holder = next;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_gives_up_leaves_the_queue() -> Result<()> {
    let cluster = Cluster::start(3, &[]).await?;
    let members = &cluster.members;
    // The server grants a lease of 60 s, and the key is named for it.
    let holder = lock(&members[0], Request::new(lock_request("l", 0))).await?;
    let name = String::from_utf8(holder.key.to_vec())?;
    let id = i64::from_str_radix(name.strip_prefix("l/").context("a prefix")?, 16)?;
    let mut leases = LeaseClient::new(members[1].channel().await?);
    let told = leases
        .lease_time_to_live(LeaseTimeToLiveRequest { id, keys: true })
        .await?
        .into_inner();
    assert_eq!(
        (told.granted_ttl, told.keys),
        (60, vec![holder.key.clone()])
    );

    // One waiter's own time is up, another one goes away.
    let mut impatient = Request::new(lock_request("l", 0));
    impatient.set_timeout(SECOND);
    let answer = lock(&members[1], impatient).await;
    let code = answer.err().context("it waited")?.code();
    ensure!(
        matches!(code, Code::DeadlineExceeded | Code::Cancelled),
        "{code:?}"
    );
    wait_keys(&members[0], "l/", 1).await?;
    let channel = members[2].channel().await?;
    let waiter =
        tokio::spawn(async move { LockClient::new(channel).lock(lock_request("l", 0)).await });
    wait_keys(&members[0], "l/", 2).await?;
    waiter.abort();
    wait_keys(&members[0], "l/", 1).await?;
    // By the gateway: the client closes its connection.
    let stream = std::net::TcpStream::connect(members[1].client_address())?;
    let body = r#"{"name":"bA=="}"#;
    std::io::Write::write_all(
        &mut &stream,
        format!(
            "POST /v3/lock/lock HTTP/1.1\r\nHost: kvd\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .as_bytes(),
    )?;
    wait_keys(&members[0], "l/", 2).await?;
    drop(stream);
    wait_keys(&members[0], "l/", 1).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_loses_its_place_is_told_at_once() -> Result<()> {
    let cluster = Cluster::start(3, &[]).await?;
    let members = &cluster.members;
    for id in 1..=4 {
        grant(&members[0], 60, id).await?;
    }
    lock(&members[0], Request::new(lock_request("l", 1))).await?;
    campaign(&members[0], 3, "three").await?;
    let channel = members[1].channel().await?;
    let waiter =
        tokio::spawn(async move { LockClient::new(channel).lock(lock_request("l", 2)).await });
    let channel = members[1].channel().await?;
    let candidate = tokio::spawn(async move {
        ElectionClient::new(channel)
            .campaign(campaign_request(4, "four"))
            .await
    });
    wait_keys(&members[0], "l/", 2).await?;
    wait_keys(&members[0], "e/", 2).await?;
    revoke(&members[2], 2).await?;
    revoke(&members[2], 4).await?;
    let lost = tokio::time::timeout(DEADLINE, waiter)
        .await??
        .err()
        .context("it got the lock")?;
    assert_eq!(
        (lost.code(), lost.message()),
        (Code::Unknown, "mutex: session is expired")
    );
    let lost = tokio::time::timeout(DEADLINE, candidate)
        .await??
        .err()
        .context("it leads")?;
    assert_eq!(
        (lost.code(), lost.message()),
        (Code::Unknown, "election: not leader")
    );
    Ok(())
}

fn campaign_request(lease: i64, value: &'static str) -> CampaignRequest {
    CampaignRequest {
        name: Bytes::from_static(b"e"),
        lease,
        value: Bytes::from_static(value.as_bytes()),
    }
}

async fn campaign(member: &Member, lease: i64, value: &'static str) -> Result<CampaignResponse> {
    let mut elections = ElectionClient::new(member.channel().await?);
    let answer = elections.campaign(campaign_request(lease, value)).await?;
    Ok(answer.into_inner())
}

fn election() -> LeaderRequest {
    LeaderRequest {
        name: Bytes::from_static(b"e"),
    }
}

/// The next leader's key and value that an observer hears of.
async fn heard(stream: &mut Streaming<LeaderResponse>) -> Result<(String, String)> {
    let told = tokio::time::timeout(DEADLINE, stream.message()).await??;
    let kv = told.context("the stream ended")?.kv.context("a pair")?;
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    Ok((text(&kv.key), text(&kv.value)))
}

fn said(key: &str, value: &str) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_election_tells_every_leader_and_what_it_says() -> Result<()> {
    let cluster = Cluster::start(3, &[]).await?;
    let members = &cluster.members;
    for id in 1..=2 {
        grant(&members[0], 60, id).await?;
    }
    let mut elections = ElectionClient::new(members[2].channel().await?);
    let nobody = elections
        .leader(election())
        .await
        .err()
        .context("nobody leads")?;
    assert_eq!(
        (nobody.code(), nobody.message()),
        (Code::Unknown, "election: no leader")
    );
    // It opens before anybody leads: its headers come with the first leader.
    let channel = members[1].channel().await?;
    let observer =
        tokio::spawn(async move { ElectionClient::new(channel).observe(election()).await });
    let won = campaign(&members[0], 1, "one").await?;
    let first = won.leader.context("a leader")?;
    let revision = won.header.context("a header")?.revision;
    assert_eq!(
        (&first.key[..], first.rev, first.lease),
        (&b"e/1"[..], revision, 1)
    );
    let mut observed = tokio::time::timeout(DEADLINE, observer)
        .await???
        .into_inner();
    assert_eq!(heard(&mut observed).await?, said("e/1", "one"));
    let proclaim = |value: &'static str| ProclaimRequest {
        leader: Some(first.clone()),
        value: Bytes::from_static(value.as_bytes()),
    };
    elections.proclaim(proclaim("uno")).await?;
    assert_eq!(heard(&mut observed).await?, said("e/1", "uno"));
    // Who leads already and campaigns with another value proclaims it.
    campaign(&members[1], 1, "eins").await?;
    assert_eq!(heard(&mut observed).await?, said("e/1", "eins"));

    let channel = members[1].channel().await?;
    let next = tokio::spawn(async move {
        ElectionClient::new(channel)
            .campaign(campaign_request(2, "two"))
            .await
    });
    wait_keys(&members[0], "e/", 2).await?;
    let resign = ResignRequest {
        leader: Some(first.clone()),
    };
    elections.resign(resign.clone()).await?;
    let won = tokio::time::timeout(DEADLINE, next).await???.into_inner();
    let second = won.leader.context("a leader")?;
    ensure!(second.rev > first.rev && second.key == "e/2", "{second:?}");
    assert_eq!(heard(&mut observed).await?, said("e/2", "two"));
    let leader = elections.leader(election()).await?.into_inner();
    assert_eq!(leader.kv.context("a pair")?.create_revision, second.rev);
    let late = elections
        .proclaim(proclaim("late"))
        .await
        .err()
        .context("it was not led")?;
    assert_eq!(
        (late.code(), late.message()),
        (Code::Unknown, "election: not leader")
    );
    // Once more changes nothing.
    elections.resign(resign).await?;
    assert_eq!(wait_keys(&members[0], "e/", 1).await?, ["e/2"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiters_get_their_turn_when_the_leader_is_killed() -> Result<()> {
    let mut cluster =
        Cluster::start(3, &["--heartbeat-interval=50", "--election-timeout=500"]).await?;
    let leader = cluster.leader().await?;
    let (here, there) = ((leader + 1) % 3, (leader + 2) % 3);
    for id in 1..=2 {
        grant(&cluster.members[here], 60, id).await?;
    }
    let holder = lock(&cluster.members[here], Request::new(lock_request("l", 1))).await?;
    let channel = cluster.members[there].channel().await?;
    let waiter =
        tokio::spawn(async move { LockClient::new(channel).lock(lock_request("l", 2)).await });
    wait_keys(&cluster.members[here], "l/", 2).await?;
    cluster.members[leader].kill()?;
    cluster.leader().await?;
    wait::until("an unlock", DEADLINE, || async {
        unlock(&cluster.members[here], holder.key.clone()).await
    })
    .await?;
    let next = tokio::time::timeout(DEADLINE, waiter).await???.into_inner();
    ensure!(next.fencing_token > holder.fencing_token, "{next:?}");
    Ok(())
}

/// How a stream ends.
async fn end_of<T>(opened: Result<tonic::Response<Streaming<T>>, Status>) -> Result<Status> {
    let mut stream = opened?.into_inner();
    let end = tokio::time::timeout(DEADLINE, async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(status) => return Some(status),
            }
        }
    });
    end.await?.context("it ended well")
}

fn wants_leader<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value = tonic::metadata::MetadataValue::from_static("true");
    request.metadata_mut().insert("hasleader", value);
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_want_a_leader_end_without_one() -> Result<()> {
    let arguments = ["--heartbeat-interval=50", "--election-timeout=500"];
    let mut cluster = Cluster::start(3, &arguments).await?;
    let channel = cluster.members[0].channel().await?;
    let mut watches = WatchClient::new(channel.clone());
    let create = WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(WatchCreateRequest {
            key: Bytes::from_static(b"k"),
            ..WatchCreateRequest::default()
        })),
    };
    let open = futures_util::stream::iter([create]).chain(futures_util::stream::pending());
    let watching = watches.watch(wants_leader(open)).await;
    let mut leases = LeaseClient::new(channel.clone());
    let keep = LeaseKeepAliveRequest { id: 7 };
    let open = futures_util::stream::iter([keep]).chain(futures_util::stream::pending());
    let keeping = leases.lease_keep_alive(wants_leader(open)).await;
    campaign(&cluster.members[1], 0, "one").await?;
    let mut elections = ElectionClient::new(channel);
    let observing = elections.observe(wants_leader(election())).await;
    for member in &mut cluster.members[1..] {
        member.kill()?;
    }
    for (stream, end) in [
        ("watch", end_of(watching).await?),
        ("keep-alive", end_of(keeping).await?),
        ("observe", end_of(observing).await?),
    ] {
        let told = (end.code(), end.message());
        assert_eq!(
            told,
            (Code::Unavailable, "etcdserver: no leader"),
            "{stream}"
        );
    }
    // From now on such a call is refused at once.
    let refused = elections.leader(wants_leader(election())).await.err();
    assert_eq!(
        refused.context("it was answered")?.message(),
        "etcdserver: no leader"
    );
    Ok(())
}

/// Answers as they were recorded from etcd 3.7.1.
#[tokio::test]
async fn mistakes_are_answered_in_etcds_words() -> Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let address = cluster.members[0].client_address();
    let leader = r#"{"name":"bDE=","key":"bDEvYWJj","rev":9,"lease":12}"#;
    let unborn = leader.replace('9', "0");
    let rows = [
        (
            "lock/lock",
            r#"{"name":"bDE=","lease":77}"#.to_owned(),
            "etcdserver: requested lease not found",
        ),
        (
            "lock/lock",
            r#"{"name":"bDE=","lease":-1}"#.to_owned(),
            "etcdserver: requested lease not found",
        ),
        (
            "lock/unlock",
            "{}".to_owned(),
            "etcdserver: key is not provided",
        ),
        (
            "election/leader",
            r#"{"name":"bDE="}"#.to_owned(),
            "election: no leader",
        ),
        (
            "election/campaign",
            r#"{"name":"bDE=","lease":77}"#.to_owned(),
            "etcdserver: requested lease not found",
        ),
        (
            "election/proclaim",
            "{}".to_owned(),
            r#"\"leader\" field must be provided"#,
        ),
        (
            "election/resign",
            "{}".to_owned(),
            r#"\"leader\" field must be provided"#,
        ),
        (
            "election/proclaim",
            r#"{"leader":{}}"#.to_owned(),
            "etcdserver: key is not provided",
        ),
        (
            "election/resign",
            r#"{"leader":{}}"#.to_owned(),
            "etcdserver: key is not provided",
        ),
        (
            "election/proclaim",
            format!(r#"{{"leader":{leader}}}"#),
            "election: not leader",
        ),
        (
            "election/proclaim",
            format!(r#"{{"leader":{unborn}}}"#),
            "etcdserver: requested lease not found",
        ),
    ];
    for (path, body, message) in rows {
        let reply = http::post(&address, &format!("/v3/{path}"), &body)?;
        assert_eq!(reply.status, 500, "{path} {body}");
        assert_eq!(
            reply.body,
            format!(r#"{{"code":2,"message":"{message}"}}"#),
            "{path} {body}"
        );
    }
    let reply = http::post(&address, "/v3/lock/unlock", r#"{"key":"bm9wZQ=="}"#)?;
    assert_eq!(reply.status, 200, "{reply:?}");
    let resign = format!(r#"{{"leader":{leader}}}"#);
    assert_eq!(
        http::post(&address, "/v3/election/resign", &resign)?.status,
        200
    );
    Ok(())
}
