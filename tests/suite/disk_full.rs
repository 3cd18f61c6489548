//! A disk that is full: the member stops and says what to do, and nothing acknowledged is lost.
#![allow(missing_docs)]

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use kvd_api::pb::etcdserverpb::{MoveLeaderRequest, PutRequest, RangeRequest};
use kvd_tests::cluster::Cluster;
use kvd_tests::tmpfs::Tmpfs;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use tonic::Status;

/// The first segment of the log takes 64 MiB; what is left is soon full.
const SMALL: u32 = 72;
/// For a store alone.
const TINY: u32 = 16;
const LARGE: u32 = 400;
const VALUE: usize = 1_000_000;
const ADVICE: &str = "nothing acknowledged is lost: free some space and start the member again";

/// A value that no engine can compress.
fn value(number: u64) -> Bytes {
    let mut bytes = vec![0; VALUE];
    StdRng::seed_from_u64(number).fill_bytes(&mut bytes);
    Bytes::from(bytes)
}

fn key(number: u64) -> Bytes {
    Bytes::from(format!("k{number}"))
}

async fn put(cluster: &Cluster, member: usize, number: u64) -> Result<(), Status> {
    let mut kv = cluster.members[member]
        .kv()
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    let request = PutRequest {
        key: key(number),
        value: value(number),
        ..PutRequest::default()
    };
    kv.put(request).await.map(drop)
}

async fn has(cluster: &Cluster, member: usize, number: u64) -> Result<()> {
    let request = RangeRequest {
        key: key(number),
        ..RangeRequest::default()
    };
    let response = cluster.members[member].kv().await?.range(request).await?;
    let kvs = response.into_inner().decode_kvs()?;
    let found = kvs
        .first()
        .with_context(|| format!("k{number} was acknowledged and is gone"))?;
    ensure!(
        found.value == value(number),
        "k{number} has another value than the acknowledged one"
    );
    Ok(())
}

/// Fills the disk of a single member until it stops, gives it space, and looks for everything.
/// `mounted`: what lies on that disk, `data` or `wal`; the other has all the space of the machine.
async fn fill(mounted: &str, mebibytes: u32, arguments: &[&str]) -> Result<()> {
    let mut cluster = Cluster::prepare(1, arguments)?;
    let disk = cluster.folder().join("m0").join(mounted);
    let Some(disk) = Tmpfs::mount(&disk, mebibytes)? else {
        return Ok(());
    };
    let wal = cluster.folder().join("m0/wal/log").display().to_string();
    cluster.members[0].add_arguments(&["--wal-dir", &wal]);
    cluster.start_all().await?;
    let mut acknowledged = Vec::new();
    for number in 0.. {
        match put(&cluster, 0, number).await {
            Ok(()) => acknowledged.push(number),
            Err(status) => {
                println!("after {} MB: {status}", acknowledged.len());
                break;
            }
        }
        ensure!(number < 200, "the disk is never full");
    }
    ensure!(!acknowledged.is_empty(), "nothing was acknowledged");
    let status = cluster.members[0]
        .wait_exit(Duration::from_secs(20))
        .await?;
    let log = cluster.members[0].log();
    assert_eq!(status.code(), Some(1), "{log}");
    ensure!(log.contains(ADVICE), "{log}");
    ensure!(!log.contains("panicked"), "{log}");

    disk.resize(LARGE)?;
    cluster.start_all().await?;
    for number in &acknowledged {
        has(&cluster, 0, *number).await?;
    }
    put(&cluster, 0, 1000).await?;
    has(&cluster, 0, 1000).await?;
    cluster.members[0].kill()?;
    drop(disk);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_stops_the_member_and_loses_nothing_with_sled() -> Result<()> {
    fill("data", TINY, &["--storage-engine", "sled"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_stops_the_member_and_loses_nothing_with_redb() -> Result<()> {
    fill("data", TINY, &["--storage-engine", "redb"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_log_stops_the_member_and_loses_nothing() -> Result<()> {
    fill("wal", SMALL, &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_goes_on_when_the_disk_of_a_follower_is_full() -> Result<()> {
    let mut cluster = Cluster::prepare(3, &[])?;
    let Some(disk) = Tmpfs::mount(&cluster.members[0].data_dir(), SMALL)? else {
        return Ok(());
    };
    cluster.start_all().await?;
    if cluster.leader().await? == 0 {
        let header = cluster.members[1].status().await?.header;
        let target_id = header.context("a header")?.member_id;
        let request = MoveLeaderRequest { target_id };
        let mut maintenance = cluster.members[0].maintenance().await?;
        maintenance.move_leader(request).await?;
        ensure!(cluster.leader().await? != 0, "leadership was not moved");
    }
    let leader = cluster.leader().await?;
    let mut number = 0;
    while cluster.members[0].kv().await.is_ok() {
        put(&cluster, leader, number).await?;
        number += 1;
        if number > 200 {
            bail!("the disk is never full");
        }
    }
    let status = cluster.members[0]
        .wait_exit(Duration::from_secs(20))
        .await?;
    let log = cluster.members[0].log();
    assert_eq!(status.code(), Some(1), "{log}");
    ensure!(log.contains(ADVICE), "{log}");
    for _ in 0..5 {
        put(&cluster, leader, number).await?;
        number += 1;
    }
    disk.resize(LARGE)?;
    cluster.restart(0).await?;
    cluster.equal_hashes(Duration::from_secs(20)).await?;
    has(&cluster, 0, 0).await?;
    has(&cluster, 0, number - 1).await?;
    cluster.members[0].kill()?;
    drop(disk);
    Ok(())
}
