//! Three members: what they agree on, and what survives when some of them die.
#![allow(missing_docs)]

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use kvd_api::pb::etcdserverpb::{PutRequest, RangeRequest};
use kvd_tests::cluster::Cluster;
use kvd_tests::wait;

const AGREE: Duration = Duration::from_secs(20);

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

/// Puts `count` keys with a prefix through one member.
async fn put_many(cluster: &Cluster, member: usize, prefix: &str, count: usize) -> Result<()> {
    let mut kv = cluster.members[member].kv().await?;
    for number in 0..count {
        kv.put(put(&format!("{prefix}/{number}"), "value")).await?;
    }
    Ok(())
}

async fn count(cluster: &Cluster, member: usize, serializable: bool) -> Result<i64> {
    let request = RangeRequest {
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
        count_only: true,
        serializable,
        ..RangeRequest::default()
    };
    Ok(cluster.members[member]
        .kv()
        .await?
        .range(request)
        .await?
        .into_inner()
        .count)
}

#[tokio::test]
async fn every_member_reads_what_any_member_wrote() -> Result<()> {
    let cluster = Cluster::start(3, &[]).await?;
    for writer in 0..3 {
        let value = format!("by {writer}");
        cluster.members[writer]
            .kv()
            .await?
            .put(put("foo", &value))
            .await?;
        for reader in &cluster.members {
            let response = reader.kv().await?.range(get("foo")).await?.into_inner();
            let kvs = response.decode_kvs()?;
            assert_eq!(
                kvs[0].value,
                value.as_bytes(),
                "read from {}",
                reader.name()
            );
        }
    }
    let mut ids = Vec::new();
    for member in &cluster.members {
        let output = member.kvctl(&["member", "list"])?;
        let text = String::from_utf8(output.stdout)?;
        assert_eq!(text.lines().count(), 3, "{text}");
        ids.push(text);
    }
    ensure!(
        ids.iter().all(|list| *list == ids[0]),
        "the members differ: {ids:?}"
    );
    cluster.equal_hashes(AGREE).await?;
    Ok(())
}

#[tokio::test]
async fn writes_go_on_when_the_leader_is_killed_and_it_catches_up() -> Result<()> {
    let mut cluster = Cluster::start(3, &[]).await?;
    put_many(&cluster, 0, "before", 50).await?;
    let leader = cluster.leader().await?;
    let other = (leader + 1) % 3;
    cluster.members[leader].kill()?;
    let killed = Instant::now();
    wait::until("a write", Duration::from_secs(10), || async {
        let mut kv = cluster.members[other].kv().await?;
        let write = kv.put(put("after", "x"));
        tokio::time::timeout(Duration::from_millis(500), write).await??;
        Ok(())
    })
    .await?;
    let stalled = killed.elapsed();
    println!("writes went on {stalled:?} after the leader was killed");
    // Two election timeouts of a second each, and what a loaded machine may add.
    ensure!(
        stalled < Duration::from_secs(4),
        "writes stalled for {stalled:?}"
    );
    put_many(&cluster, other, "without", 50).await?;
    cluster.restart(leader).await?;
    assert_eq!(count(&cluster, leader, false).await?, 101);
    cluster.equal_hashes(AGREE).await?;
    Ok(())
}

#[tokio::test]
async fn nothing_is_lost_when_all_are_killed_at_once() -> Result<()> {
    let mut cluster = Cluster::start(3, &[]).await?;
    for round in 1..=3 {
        put_many(&cluster, round % 3, &format!("round{round}"), 40).await?;
        for member in &mut cluster.members {
            member.kill()?;
        }
        cluster.start_all().await?;
        for member in 0..3 {
            assert_eq!(count(&cluster, member, false).await?, 40 * round as i64);
        }
    }
    cluster.equal_hashes(AGREE).await?;
    Ok(())
}

#[tokio::test]
async fn a_member_whose_log_is_gone_catches_up_by_snapshot() -> Result<()> {
    let arguments = [
        "--snapshot-count",
        "100",
        "--snapshot-catchup-entries",
        "50",
    ];
    let mut cluster = Cluster::start(3, &arguments).await?;
    put_many(&cluster, 0, "before", 20).await?;
    let leader = cluster.leader().await?;
    let victim = (leader + 1) % 3;
    cluster.members[victim].kill()?;
    put_many(&cluster, leader, "while", 1500).await?;
    let request = kvd_api::pb::etcdserverpb::CompactionRequest {
        revision: 500,
        physical: true,
    };
    cluster.members[leader].kv().await?.compact(request).await?;
    cluster.restart(victim).await?;
    assert_eq!(count(&cluster, victim, false).await?, 1520);
    cluster.equal_hashes(AGREE).await?;
    let log = cluster.members[victim].log();
    ensure!(
        log.contains("snapshot"),
        "it caught up by log, not by snapshot"
    );
    // And what it got by snapshot survives a crash.
    cluster.members[victim].kill()?;
    cluster.restart(victim).await?;
    assert_eq!(count(&cluster, victim, true).await?, 1520);
    cluster.equal_hashes(AGREE).await?;
    Ok(())
}

#[tokio::test]
async fn sigterm_of_the_leader_hands_leadership_over_at_the_next_term() -> Result<()> {
    let mut cluster = Cluster::start(3, &[]).await?;
    put_many(&cluster, 0, "k", 10).await?;
    let leader = cluster.leader().await?;
    let other = (leader + 1) % 3;
    let term = cluster.members[other].status().await?.raft_term;
    let old = cluster.members[other].status().await?.leader;
    cluster.members[leader].signal(rustix::process::Signal::TERM)?;
    let asked = Instant::now();
    let now = wait::until("a new leader", Duration::from_secs(5), || async {
        let status = cluster.members[other].status().await?;
        ensure!(
            status.leader != 0 && status.leader != old,
            "still {:x}",
            status.leader
        );
        Ok(status)
    })
    .await?;
    println!("a new leader {:?} after SIGTERM", asked.elapsed());
    assert_eq!(now.raft_term, term + 1);
    let status = cluster.members[leader]
        .wait_exit(Duration::from_secs(5))
        .await?;
    assert_eq!(status.code(), Some(0));
    Ok(())
}

#[tokio::test]
async fn a_minority_serves_serializable_reads_but_no_others() -> Result<()> {
    let mut cluster = Cluster::start(
        3,
        &["--heartbeat-interval", "50", "--election-timeout", "250"],
    )
    .await?;
    put_many(&cluster, 0, "k", 10).await?;
    cluster.equal_hashes(AGREE).await?;
    cluster.members[0].kill()?;
    cluster.members[1].kill()?;
    assert_eq!(count(&cluster, 2, true).await?, 10);
    let mut kv = cluster.members[2].kv().await?;
    let status = kv
        .range(get("k/1"))
        .await
        .err()
        .context("no quorum, no read")?;
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
    let status = kv
        .put(put("x", "y"))
        .await
        .err()
        .context("no quorum, no write")?;
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
    Ok(())
}

#[tokio::test]
async fn a_member_with_another_initial_cluster_is_kept_out() -> Result<()> {
    let mut cluster = Cluster::prepare(3, &[])?;
    let right = cluster.initial_cluster().to_owned();
    cluster.members[0].start(&right)?;
    cluster.members[1].start(&right)?;
    let wrong = right
        .replace("m1=", "mx=")
        .replace("m0=http://127.0.0.1", "m0=http://localhost");
    cluster.members[2].start(&wrong)?;
    for member in 0..2 {
        cluster.members[member]
            .wait_ready(kvd_tests::cluster::READY_DEADLINE)
            .await?;
    }
    put_many(&cluster, 0, "k", 5).await?;
    let stranger = &cluster.members[2];
    wait::until("a line that says why", Duration::from_secs(20), || async {
        let said = [0, 1, 2]
            .iter()
            .any(|m| cluster.members[*m].log().contains("cluster id"));
        ensure!(
            said,
            "nobody says that the cluster IDs differ:\n{}",
            stranger.log()
        );
        Ok(())
    })
    .await
}
