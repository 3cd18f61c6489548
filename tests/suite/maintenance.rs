//! Backups, defragmentation and the checks that members hold the same data.
#![allow(missing_docs)]

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use kvd_api::pb::etcdserverpb::lease_client::LeaseClient;
use kvd_api::pb::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmType, CompactionRequest, DefragmentRequest, LeaseGrantRequest,
    PutRequest, SnapshotRequest,
};
use kvd_mvcc::EngineKind;
use kvd_mvcc::backend::{self, Batch, Page};
use kvd_tests::cluster::Cluster;
use kvd_tests::http;
use kvd_tests::member::{Member, binary};
use kvd_tests::process::{Process, kvd};
use kvd_tests::tmpfs::Tmpfs;
use kvd_tests::wait;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use tonic::Code;

const DEADLINE: Duration = Duration::from_secs(30);

async fn put(member: &Member, key: &str, value: impl Into<Bytes>, lease: i64) -> Result<i64> {
    let request = PutRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: value.into(),
        lease,
        ..PutRequest::default()
    };
    let response = member.kv().await?.put(request).await?.into_inner();
    Ok(response.header.context("a header")?.revision)
}

async fn compact(member: &Member, revision: i64) -> Result<()> {
    let request = CompactionRequest {
        revision,
        physical: true,
    };
    member.kv().await?.compact(request).await?;
    Ok(())
}

/// Takes a snapshot as `etcdctl snapshot save` does.
async fn save(member: &Member, path: &Path) -> Result<u64> {
    let mut maintenance = member.maintenance().await?;
    let mut messages = maintenance.snapshot(SnapshotRequest {}).await?.into_inner();
    let mut file = File::create(path)?;
    let (mut bytes, mut total) = (0, None);
    while let Some(message) = messages.message().await? {
        ensure!(message.header.is_none(), "etcd sends no header");
        ensure!(message.version == "3.7.0", "{}", message.version);
        file.write_all(&message.blob)?;
        bytes += message.blob.len() as u64;
        let all = *total.get_or_insert(bytes + message.remaining_bytes);
        let is_hash = bytes == all + 32 && message.blob.len() == 32;
        ensure!(
            is_hash || bytes + message.remaining_bytes == all,
            "remaining_bytes is wrong"
        );
    }
    ensure!(
        Some(bytes) == total.map(|total| total + 32),
        "no hash at the end"
    );
    Ok(bytes)
}

fn kvutl(arguments: &[&str]) -> Result<Output> {
    Ok(Command::new(binary("kvutl")?).args(arguments).output()?)
}

fn restore(file: &Path, member: &Member, cluster: &Cluster) -> Result<()> {
    let (file, data) = (file.display().to_string(), member.data_dir());
    let (data, url) = (data.display().to_string(), member.peer_url());
    let output = kvutl(&[
        "snapshot",
        "restore",
        &file,
        "--data-dir",
        &data,
        "--name",
        member.name(),
        "--initial-advertise-peer-urls",
        &url,
        "--initial-cluster",
        cluster.initial_cluster(),
        "--initial-cluster-token",
        "test",
    ])?;
    ensure!(output.status.success(), "{output:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_starts_a_new_cluster_of_three() -> Result<()> {
    let old = Cluster::start(1, &[]).await?;
    let member = &old.members[0];
    let mut leases = LeaseClient::new(member.channel().await?);
    let grant = LeaseGrantRequest { ttl: 600, id: 77 };
    leases.lease_grant(grant).await?;
    let mut revision = 0;
    for number in 0..200 {
        let lease = if number % 10 == 0 { 77 } else { 0 };
        revision = put(
            member,
            &format!("k{}", number % 60),
            vec![b'v'; number],
            lease,
        )
        .await?;
    }
    compact(member, revision - 50).await?;
    let file = old.folder().join("snapshot.db");
    save(member, &file).await?;

    let mut new = Cluster::prepare(3, &[])?;
    for member in &new.members {
        restore(&file, member, &new)?;
    }
    new.start_all().await?;
    // Of the compacted revision itself, the old member tells the hash that it made on its way.
    for at in revision - 49..=revision {
        let expected = member.hash_kv(at).await?;
        for restored in &new.members {
            let found = restored.hash_kv(at).await?;
            ensure!(found.hash == expected.hash, "{} at {at}", restored.name());
            ensure!(found.compact_revision == revision - 50);
        }
    }
    ensure!(put(&new.members[1], "after", "x", 77).await? == revision + 1);
    new.equal_hashes(DEADLINE).await?;
    // A member starts again as usual.
    let leader = new.leader().await?;
    new.members[leader].terminate(DEADLINE).await?;
    new.restart(leader).await?;
    put(&new.members[leader], "again", "x", 0).await?;
    for member in &mut new.members {
        member.terminate(DEADLINE).await?;
        let data = member.data_dir().display().to_string();
        let output = kvutl(&["check", &data])?;
        ensure!(output.status.success(), "{output:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn space_comes_back_while_clients_write() -> Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let member = &cluster.members[0];
    let mut random = StdRng::seed_from_u64(1);
    let mut revision = 0;
    for number in 0..200 {
        let mut value = vec![0; 100_000];
        random.fill_bytes(&mut value);
        revision = put(member, &format!("k{}", number % 4), value, 0).await?;
    }
    compact(member, revision).await?;
    let before = member.status().await?.db_size;
    let hash = member.hash_kv(revision).await?.hash;
    let writing = async {
        for number in 0..50 {
            put(member, &format!("new{number}"), "x", 0).await?;
        }
        anyhow::Ok(())
    };
    let defragmenting = async {
        let mut maintenance = member.maintenance().await?;
        let answer = maintenance.defragment(DefragmentRequest {}).await?;
        ensure!(answer.into_inner().header.is_none(), "etcd sends no header");
        anyhow::Ok(())
    };
    let (written, defragmented) = tokio::join!(writing, defragmenting);
    written?;
    defragmented?;
    let after = member.status().await?.db_size;
    ensure!(after * 4 < before, "{before} bytes became {after}");
    ensure!(member.hash_kv(revision).await?.hash == hash);
    Ok(())
}

/// A defragmentation goes on when its caller gives up, and counts as under way until its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_defragmentation_that_nobody_waits_for_is_counted_to_its_end() -> Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let member = &cluster.members[0];
    for number in 0..200 {
        put(member, &format!("k{number}"), vec![b'v'; 100_000], 0).await?;
    }
    let has = |line: &str| {
        let metrics = http::get(&member.client_address(), "/metrics")?.body;
        anyhow::Ok(metrics.lines().any(|found| found == line))
    };
    let ended = || has("etcd_disk_backend_defrag_duration_seconds_count 1");
    let mut maintenance = member.maintenance().await?;
    let defragmenting =
        tokio::spawn(async move { maintenance.defragment(DefragmentRequest {}).await });
    wait::until("it is under way, or done", DEADLINE, || async {
        ensure!(has("etcd_disk_defrag_inflight 1")? || ended()?);
        Ok(())
    })
    .await?;
    defragmenting.abort();
    wait::until("its end", DEADLINE, || async {
        ensure!(ended()? && has("etcd_disk_defrag_inflight 0")?);
        Ok(())
    })
    .await
}

/// Changes a value in the store of a stopped member, and its checksum with it: the corruption that
/// only other members can find. The format is that of `crates/mvcc/src/backend/schema.rs`.
fn corrupt(data_dir: &Path) -> Result<()> {
    let store = data_dir.join("member").join("store");
    let generation = fs::read_to_string(store.join("CURRENT"))?;
    let dir = store.join("db").join(generation.trim());
    let engine = backend::open(EngineKind::Redb, &dir, 1 << 20)?;
    let records = engine.scan(b"k", b"l", Page::pairs(1_000))?;
    let (key, sealed) = records.last().context("a record")?;
    let mut value = sealed[4..].to_vec();
    *value.last_mut().context("a value")? ^= 1;
    let crc = crc32c::crc32c_append(crc32c::crc32c(key), &value);
    let mut batch = Batch::default();
    batch.put(key.clone(), [&crc.to_be_bytes()[..], &value].concat());
    engine.write(&batch)?;
    engine.flush()?;
    engine.close()?;
    Ok(())
}

async fn corrupt_alarms(member: &Member) -> Result<Vec<AlarmMember>> {
    let request = AlarmRequest {
        alarm: AlarmType::Corrupt as i32,
        ..AlarmRequest::default()
    };
    let answer = member.maintenance().await?.alarm(request).await?;
    Ok(answer.into_inner().alarms)
}

/// A cluster of three whose last member, which does not lead, is stopped and has other data.
async fn with_a_corrupt_member(arguments: &[&str]) -> Result<(Cluster, usize, u64)> {
    let mut cluster = Cluster::start(3, arguments).await?;
    for number in 0..20 {
        put(&cluster.members[0], &format!("k{number}"), "value", 0).await?;
    }
    cluster.equal_hashes(DEADLINE).await?;
    let victim = (cluster.leader().await? + 1) % 3;
    let status = cluster.members[victim].status().await?;
    let id = status.header.context("a header")?.member_id;
    cluster.members[victim].terminate(DEADLINE).await?;
    corrupt(&cluster.members[victim].data_dir())?;
    Ok((cluster, victim, id))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_with_other_data_does_not_start_and_is_alarmed_if_it_does() -> Result<()> {
    let (mut cluster, victim, id) = with_a_corrupt_member(&["--corrupt-check-time=1s"]).await?;
    let mut line = cluster.members[victim].command_line(cluster.initial_cluster());
    line.push("--feature-gates=InitialCorruptCheck=true".to_owned());
    let line: Vec<&str> = line.iter().map(String::as_str).collect();
    let mut process = Process::start(kvd(&line)?, cluster.folder(), "refused.log")?;
    let status = process.wait_exit(DEADLINE).await?;
    ensure!(status.code() == Some(1), "{status}");
    let text = format!("{id:x} found data inconsistency with peers");
    ensure!(process.log().contains(&text), "{}", process.log());

    cluster.restart(victim).await?;
    let member = &cluster.members[(victim + 1) % 3];
    let alarms = wait::until("the CORRUPT alarm", DEADLINE, || async {
        let alarms = corrupt_alarms(member).await?;
        ensure!(!alarms.is_empty(), "no alarm");
        Ok(alarms)
    })
    .await?;
    ensure!(alarms.len() == 1 && alarms[0].member_id == id, "{alarms:?}");
    let mut kv = member.kv().await?;
    let refused = kv.put(PutRequest {
        key: "k".into(),
        ..PutRequest::default()
    });
    let refused = refused
        .await
        .err()
        .context("a corrupt cluster takes no writes")?;
    ensure!(refused.code() == Code::DataLoss, "{refused}");
    ensure!(
        refused.message() == "etcdserver: corrupt cluster",
        "{refused}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compaction_finds_the_member_that_differs() -> Result<()> {
    let arguments = [
        "--feature-gates=CompactHashCheck=true",
        "--compact-hash-check-time=1s",
    ];
    let (mut cluster, victim, id) = with_a_corrupt_member(&arguments).await?;
    cluster.restart(victim).await?;
    let member = &cluster.members[(victim + 1) % 3];
    let revision = put(member, "more", "x", 0).await?;
    compact(member, revision).await?;
    let alarms = wait::until("the CORRUPT alarm", DEADLINE, || async {
        let alarms = corrupt_alarms(member).await?;
        ensure!(!alarms.is_empty(), "no alarm");
        Ok(alarms)
    })
    .await?;
    ensure!(alarms.len() == 1 && alarms[0].member_id == id, "{alarms:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_ends_a_snapshot_and_nothing_else() -> Result<()> {
    let mut cluster = Cluster::prepare(1, &[])?;
    let data = cluster.members[0].data_dir();
    fs::create_dir_all(&data)?;
    let Some(disk) = Tmpfs::mount(&data, 400)? else {
        return Ok(());
    };
    let wal = cluster.folder().join("m0/wal/log").display().to_string();
    cluster.members[0].add_arguments(&["--wal-dir", &wal]);
    cluster.start_all().await?;
    let member = &cluster.members[0];
    let mut random = StdRng::seed_from_u64(2);
    for number in 0..30 {
        let mut value = vec![0; 1_000_000];
        random.fill_bytes(&mut value);
        put(member, &format!("k{number}"), value, 0).await?;
    }
    let file = cluster.folder().join("snapshot.db");
    let whole = save(member, &file).await?;
    let used = rustix::fs::statvfs(&data)?;
    let used = (used.f_blocks - used.f_bfree) * used.f_frsize;
    disk.resize(u32::try_from(used / (1 << 20))? + 16)?;
    let error = save(member, &file).await.err().context("no room for it")?;
    let status = error.downcast::<tonic::Status>()?;
    ensure!(status.code() == Code::Internal, "{status}");
    ensure!(
        status.message().contains("No space left on device"),
        "{status}"
    );
    disk.resize(400)?;
    put(member, "after", "x", 0).await?;
    ensure!(save(member, &file).await? >= whole);
    Ok(())
}

/// etcdctl's table of `endpoint status` divides by it.
#[tokio::test]
async fn an_empty_store_has_a_size() -> Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let status = cluster.members[0].status().await?;
    ensure!(status.db_size > 0, "{status:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_gives_space_back_when_enough_would_be_free() -> Result<()> {
    let mut cluster = Cluster::start(1, &[]).await?;
    let mut random = StdRng::seed_from_u64(9);
    let mut revision = 0;
    for _ in 0..12 {
        let mut value = vec![0; 1_000_000];
        random.fill_bytes(&mut value);
        revision = put(&cluster.members[0], "k", value, 0).await?;
    }
    compact(&cluster.members[0], revision).await?;
    cluster.members[0].terminate(DEADLINE).await?;
    // The old name, and more than there is to free.
    let old = "--experimental-bootstrap-defrag-threshold-megabytes";
    cluster.members[0].add_arguments(&[old, "500"]);
    cluster.restart(0).await?;
    let log = cluster.members[0].log();
    ensure!(log.contains("Skipping defragmentation"), "{log}");
    let before = cluster.members[0].status().await?.db_size;
    cluster.members[0].terminate(DEADLINE).await?;
    cluster.members[0].add_arguments(&["--bootstrap-defrag-threshold-megabytes", "5"]);
    cluster.restart(0).await?;
    let log = cluster.members[0].log();
    ensure!(log.contains("defragmented the store"), "{log}");
    let after = cluster.members[0].status().await?.db_size;
    ensure!(after < before / 2, "{after} bytes of {before}");
    Ok(())
}
