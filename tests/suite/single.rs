//! One member, as a user starts and stops it.
#![allow(missing_docs)]

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use kvd_api::pb::etcdserverpb::{PutRequest, RangeRequest};
use kvd_tests::cluster::Cluster;

fn put(key: &str, value: &str) -> PutRequest {
    PutRequest {
        key: Bytes::from(key.to_owned()),
        value: Bytes::from(value.to_owned()),
        ..PutRequest::default()
    }
}

fn all() -> RangeRequest {
    RangeRequest {
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
        ..RangeRequest::default()
    }
}

#[tokio::test]
async fn what_was_put_is_got_by_kvctl() -> Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let member = &cluster.members[0];
    let output = member.kvctl(&["put", "foo", "bar"])?;
    ensure!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "OK\n");
    let output = member.kvctl(&["get", "foo"])?;
    assert_eq!(String::from_utf8_lossy(&output.stdout), "foo\nbar\n");
    let output = member.kvctl(&["member", "list"])?;
    let line = String::from_utf8_lossy(&output.stdout).into_owned();
    let expected = format!(
        ", started, m0, {}, {}, false",
        member.peer_url(),
        member.client_url()
    );
    ensure!(
        line.trim_end().ends_with(&expected),
        "{line:?} does not end with {expected:?}"
    );
    Ok(())
}

#[tokio::test]
async fn sigkill_loses_nothing_that_was_acknowledged() -> Result<()> {
    for (engine, fsync) in [("sled", true), ("redb", true), ("redb", false)] {
        // What was written without fsync is the system's, and survives the process as well.
        let no_fsync = format!("--unsafe-no-fsync={}", !fsync);
        let arguments = ["--storage-engine", engine, &no_fsync];
        let mut cluster = Cluster::start(1, &arguments).await?;
        let mut acknowledged = 0;
        for round in 0..4 {
            let mut kv = cluster.members[0].kv().await?;
            for number in 0..50 {
                kv.put(put(&format!("{round}/{number}"), "x")).await?;
                acknowledged += 1;
            }
            let before = cluster.members[0].hash_kv(0).await?;
            cluster.members[0].kill()?;
            cluster.restart(0).await?;
            let after = cluster.members[0].hash_kv(0).await?;
            assert_eq!(
                (before.hash, before.hash_revision),
                (after.hash, after.hash_revision),
                "{engine}"
            );
            let mut kv = cluster.members[0].kv().await?;
            let count = kv.range(all()).await?.into_inner().count;
            assert_eq!(count, acknowledged, "{engine}, after round {round}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn sigterm_ends_it_with_zero_within_five_seconds() -> Result<()> {
    let mut cluster = Cluster::start(1, &[]).await?;
    cluster.members[0].kv().await?.put(put("a", "b")).await?;
    let status = cluster.members[0].terminate(Duration::from_secs(5)).await?;
    assert_eq!(status.code(), Some(0));
    cluster.restart(0).await?;
    let response = cluster.members[0]
        .kv()
        .await?
        .range(all())
        .await?
        .into_inner();
    assert_eq!(response.count, 1);
    Ok(())
}

#[tokio::test]
async fn compaction_survives_sigkill() -> Result<()> {
    let mut cluster = Cluster::start(1, &[]).await?;
    let member = &cluster.members[0];
    let mut kv = member.kv().await?;
    for number in 0..100 {
        kv.put(put("one", &number.to_string())).await?;
    }
    let request = kvd_api::pb::etcdserverpb::CompactionRequest {
        revision: 60,
        physical: true,
    };
    kv.compact(request).await?;
    let before = member.hash_kv(0).await?;
    assert_eq!(before.compact_revision, 60);
    cluster.members[0].kill()?;
    cluster.restart(0).await?;
    let after = cluster.members[0].hash_kv(0).await?;
    assert_eq!(
        (before.hash, before.compact_revision),
        (after.hash, after.compact_revision)
    );
    let mut kv = cluster.members[0].kv().await?;
    let old = RangeRequest {
        revision: 59,
        ..all()
    };
    let status = kv
        .range(old)
        .await
        .err()
        .context("revision 59 is compacted")?;
    assert_eq!(
        status.message(),
        "etcdserver: mvcc: required revision has been compacted"
    );
    let kept = RangeRequest {
        revision: 60,
        ..all()
    };
    assert_eq!(kv.range(kept).await?.into_inner().count, 1);
    Ok(())
}

#[tokio::test]
async fn a_full_store_refuses_puts_until_the_alarm_is_disarmed() -> Result<()> {
    let cluster = Cluster::start(1, &["--quota-backend-bytes", "4000000"]).await?;
    let member = &cluster.members[0];
    let mut kv = member.kv().await?;
    let value = "v".repeat(100_000);
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut number = 0;
    let status = loop {
        number += 1;
        match kv.put(put(&format!("k{number}"), &value)).await {
            Ok(_) => ensure!(Instant::now() < deadline, "the quota never held"),
            Err(status) => break status,
        }
    };
    assert_eq!(
        status.message(),
        "etcdserver: mvcc: database space exceeded"
    );
    let output = member.kvctl(&["alarm", "list"])?;
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(listed.contains("alarm:NOSPACE"), "{listed}");
    // Reading and deleting still work.
    ensure!(kv.range(all()).await?.into_inner().count > 10, "reads work");
    let output = member.kvctl(&["del", "k1"])?;
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1\n");
    let output = member.kvctl(&["alarm", "disarm"])?;
    ensure!(output.status.success(), "{output:?}");
    let output = member.kvctl(&["alarm", "list"])?;
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    Ok(())
}

#[tokio::test]
async fn a_member_that_was_idle_for_many_election_timeouts_still_leads() -> Result<()> {
    let arguments = ["--heartbeat-interval", "10", "--election-timeout", "50"];
    let cluster = Cluster::start(1, &arguments).await?;
    let mut kv = cluster.members[0].kv().await?;
    for number in 0..3 {
        // Idleness is what is tested; nothing is waited for.
        tokio::time::sleep(Duration::from_millis(300)).await;
        kv.put(put("idle", &number.to_string())).await?;
        assert_eq!(kv.range(all()).await?.into_inner().count, 1);
    }
    let status = cluster.members[0].status().await?;
    assert_eq!(
        (status.raft_term, status.errors.len()),
        (1, 0),
        "{status:?}"
    );
    Ok(())
}
