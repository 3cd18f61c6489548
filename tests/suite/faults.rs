//! Three members under load and faults, where the answer to one question decides: is a read
//! stale, does a request without a quorum end, do the members agree.
#![allow(missing_docs)]

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use kvd_api::pb::etcdserverpb::lease_client::LeaseClient;
use kvd_api::pb::etcdserverpb::{
    LeaseTimeToLiveRequest, MoveLeaderRequest, PutRequest, RangeRequest,
};
use kvd_tests::cluster::Cluster;
use kvd_tests::wait;
use rustix::process::Signal;
use tonic::Code;

fn put(key: &str, value: &str) -> PutRequest {
    PutRequest {
        key: Bytes::from(key.to_owned()),
        value: Bytes::from(value.to_owned()),
        ..PutRequest::default()
    }
}

fn get(key: &str) -> RangeRequest {
    RangeRequest {
        key: Bytes::from(key.to_owned()),
        ..RangeRequest::default()
    }
}

/// Puts through `member` until one is acknowledged.
async fn put_soon(cluster: &Cluster, member: usize, request: PutRequest) -> Result<()> {
    wait::until("a write", Duration::from_secs(20), || async {
        let mut kv = cluster.members[member].kv().await?;
        let write = kv.put(request.clone());
        tokio::time::timeout(Duration::from_millis(700), write).await??;
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_paused_never_answers_a_read_with_what_is_old() -> Result<()> {
    let cluster = Cluster::start(3, &[]).await?;
    for round in 0..3 {
        let leader = cluster.leader().await?;
        let other = (leader + 1) % 3;
        let (old, new) = (format!("old{round}"), format!("new{round}"));
        put_soon(&cluster, leader, put("k", &old)).await?;
        let kv = cluster.members[leader].kv().await?;
        cluster.members[leader].signal(Signal::STOP)?;
        put_soon(&cluster, other, put("k", &new)).await?;
        // These lie in the socket of the paused member, which believes that it leads.
        let mut reads = Vec::new();
        for _ in 0..16 {
            let mut kv = kv.clone();
            reads.push(tokio::spawn(async move { kv.range(get("k")).await }));
        }
        tokio::task::yield_now().await;
        cluster.members[leader].signal(Signal::CONT)?;
        for read in reads {
            // A refusal is honest; an old value is not.
            if let Ok(response) = read.await? {
                let kvs = response.into_inner().decode_kvs()?;
                let value = kvs.first().context("the key is there")?.value.clone();
                assert_eq!(value, new.as_bytes(), "a stale read in round {round}");
            }
        }
        let now = wait::until("a read", Duration::from_secs(20), || async {
            let response = cluster.members[leader].kv().await?.range(get("k")).await?;
            Ok(response.into_inner().decode_kvs()?)
        })
        .await?;
        assert_eq!(now[0].value, new.as_bytes());
    }
    cluster.equal_hashes(Duration::from_secs(20)).await?;
    Ok(())
}

/// The third member takes the lead over in place of one that does not run: that is not what was
/// asked for.
#[tokio::test(flavor = "multi_thread")]
async fn a_lead_that_goes_to_another_member_than_the_target_is_no_success() -> Result<()> {
    let cluster = Cluster::start(3, &[]).await?;
    let leader = cluster.leader().await?;
    let target = (leader + 1) % 3;
    let header = cluster.members[target].status().await?.header;
    let target_id = header.context("a header")?.member_id;
    let mut maintenance = cluster.members[leader].maintenance().await?;
    cluster.members[target].signal(Signal::STOP)?;
    let moved = maintenance.move_leader(MoveLeaderRequest { target_id });
    let moved = tokio::time::timeout(Duration::from_secs(20), moved).await?;
    cluster.members[target].signal(Signal::CONT)?;
    let refusal = moved.err().context("it is said to lead")?;
    ensure!(
        refusal.message().contains("leader transfer took too long"),
        "{refusal}"
    );
    put_soon(&cluster, target, put("k", "v")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_requests_end_in_time_and_with_it_they_work_again() -> Result<()> {
    let mut cluster = Cluster::start(3, &[]).await?;
    put_soon(&cluster, 0, put("k", "before")).await?;
    cluster.members[1].kill()?;
    cluster.members[2].kill()?;
    let mut kv = cluster.members[0].kv().await?;
    let started = Instant::now();
    let mut writing = kv.clone();
    let write = async {
        let ended = writing.put(put("k", "lost")).await;
        (ended.err(), started.elapsed())
    };
    let read = async {
        let ended = kv.range(get("k")).await;
        (ended.err(), started.elapsed())
    };
    let mut leases = LeaseClient::new(cluster.members[0].channel().await?);
    let ask = leases.lease_time_to_live(LeaseTimeToLiveRequest { id: 7, keys: false });
    let (write, read, asked) = tokio::join!(write, read, ask);
    let status = asked.err().context("nobody can tell of a lease")?;
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unavailable, "etcdserver: no leader")
    );
    for (what, (status, took)) in [("write", write), ("read", read)] {
        let status = status.with_context(|| format!("a {what} without a quorum"))?;
        assert_eq!(status.code(), Code::Unavailable, "{what}: {status:?}");
        ensure!(
            status
                .message()
                .starts_with("etcdserver: request timed out")
                || status.message() == "etcdserver: leader changed"
                || status.message() == "etcdserver: no leader",
            "{what}: {status:?}"
        );
        // Five seconds and two election timeouts of one, and what a loaded machine adds.
        ensure!(took < Duration::from_secs(9), "the {what} took {took:?}");
    }
    let serializable = RangeRequest {
        serializable: true,
        ..get("k")
    };
    let mut kv = cluster.members[0].kv().await?;
    let kvs = kv.range(serializable).await?.into_inner().decode_kvs()?;
    assert_eq!(kvs[0].value, &b"before"[..]);

    cluster.restart(1).await?;
    put_soon(&cluster, 0, put("k", "after")).await?;
    let kvs = kv.range(get("k")).await?.into_inner().decode_kvs()?;
    assert_eq!(kvs[0].value, &b"after"[..]);
    cluster.restart(2).await?;
    cluster.equal_hashes(Duration::from_secs(20)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_clients_of_one_member_leave_equal_members() -> Result<()> {
    const CLIENTS: usize = 200;
    const PUTS: usize = 20;
    let cluster = Cluster::start(3, &[]).await?;
    let leader = cluster.leader().await?;
    // A follower: everything is forwarded.
    let member = (leader + 1) % 3;
    let mut clients = Vec::new();
    for client in 0..CLIENTS {
        let mut kv = cluster.members[member].kv().await?;
        clients.push(tokio::spawn(async move {
            for number in 0..PUTS {
                kv.put(put(&format!("{client}/{number}"), "v")).await?;
            }
            Ok::<(), tonic::Status>(())
        }));
    }
    for client in clients {
        client.await??;
    }
    let all = RangeRequest {
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
        count_only: true,
        ..RangeRequest::default()
    };
    for reader in &cluster.members {
        let count = reader
            .kv()
            .await?
            .range(all.clone())
            .await?
            .into_inner()
            .count;
        assert_eq!(count, (CLIENTS * PUTS) as i64, "on {}", reader.name());
    }
    let hash = cluster.equal_hashes(Duration::from_secs(20)).await?;
    assert_eq!(hash.hash_revision, (CLIENTS * PUTS) as i64 + 1);
    Ok(())
}
