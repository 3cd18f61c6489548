//! A member that lacks what the log no longer has gets the store: also when the sender dies
//! meanwhile, when its own disk is full, and as a learner.
#![allow(missing_docs)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use kvd_api::pb::etcdserverpb::{MemberAddRequest, MemberPromoteRequest, PutRequest, RangeRequest};
use kvd_tests::cluster::{Cluster, READY_DEADLINE};
use kvd_tests::http;
use kvd_tests::member::Member;
use kvd_tests::tmpfs::Tmpfs;
use kvd_tests::wait;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use rustix::process::Signal;

const AGREE: Duration = Duration::from_secs(60);
/// A log that is cut often, so that who is away needs a snapshot.
const SHORT_LOG: [&str; 4] = ["--snapshot-count", "10", "--snapshot-catchup-entries", "5"];
const VALUE_BYTES: usize = 1_000_000;

/// A value that no engine can compress.
fn value(number: u64) -> Bytes {
    let mut bytes = vec![0; VALUE_BYTES];
    StdRng::seed_from_u64(number).fill_bytes(&mut bytes);
    Bytes::from(bytes)
}

async fn put(member: &Member, number: u64) -> Result<()> {
    let request = PutRequest {
        key: Bytes::from(format!("k{number}")),
        value: value(number),
        ..PutRequest::default()
    };
    member.kv().await?.put(request).await?;
    Ok(())
}

async fn has(member: &Member, number: u64) -> Result<()> {
    let request = RangeRequest {
        key: Bytes::from(format!("k{number}")),
        serializable: true,
        ..RangeRequest::default()
    };
    let reply = member.kv().await?.range(request).await?.into_inner();
    let pairs = reply.decode_kvs()?;
    let found = pairs
        .first()
        .with_context(|| format!("k{number} is gone"))?;
    ensure!(found.value == value(number), "k{number} is another");
    Ok(())
}

/// The files that `member` is receiving.
fn parts(member: &Member) -> Vec<PathBuf> {
    let listed = std::fs::read_dir(member.data_dir().join("member/snap"));
    let entries = listed.into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths
        .filter(|path| path.extension().is_some_and(|part| part == "part"))
        .collect()
}

/// Writes `count` values by way of the leader `at`, and then goes on until its store has been made
/// durable often enough for the log to be cut behind them.
async fn fall_behind(cluster: &Cluster, at: usize, count: u64) -> Result<()> {
    let leader = &cluster.members[at];
    for number in 0..count {
        put(leader, number).await?;
    }
    let flushes = || metric(leader, "etcd_disk_backend_commit_duration_seconds_count");
    for _ in 0..4 {
        let before = flushes()?;
        wait::until("the store is made durable", AGREE, || async {
            let request = PutRequest {
                key: Bytes::from_static(b"tick"),
                ..PutRequest::default()
            };
            leader.kv().await?.put(request).await?;
            tokio::time::sleep(Duration::from_millis(200)).await;
            ensure!(flushes()? > before);
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// The value of a metric of `member`, whatever its labels; the largest if there are several.
fn metric(member: &Member, name: &str) -> Result<f64> {
    let text = http::get(&member.client_address(), "/metrics")?.body;
    let lines = text.lines().filter(|line| line.starts_with(name));
    let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    values
        .reduce(f64::max)
        .with_context(|| format!("no {name}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_dies_in_the_middle_is_replaced_and_leaves_nothing_behind() -> Result<()> {
    let mut cluster = Cluster::start(3, &SHORT_LOG).await?;
    let leader = cluster.leader().await?;
    let away = (leader + 1) % 3;
    cluster.members[away].kill()?;
    fall_behind(&cluster, leader, 60).await?;

    let initial = cluster.initial_cluster().to_owned();
    cluster.members[away].start(&initial)?;
    let end = Instant::now() + AGREE;
    let sender = loop {
        // As soon as something has come, nothing more is taken.
        let some = parts(&cluster.members[away]);
        if some
            .iter()
            .any(|part| part.metadata().is_ok_and(|part| part.len() > 0))
        {
            cluster.members[away].signal(Signal::STOP)?;
            break cluster.leader().await?;
        }
        ensure!(
            Instant::now() < end,
            "no snapshot: {}",
            cluster.members[away].log()
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    cluster.members[sender].kill()?;
    cluster.members[away].signal(Signal::CONT)?;
    // Without the sender, the two others are a quorum only with the one that waits for a snapshot.
    cluster.members[away].wait_ready(AGREE).await?;
    cluster.restart(sender).await?;
    cluster.equal_hashes(AGREE).await?;
    for number in [0, 59] {
        has(&cluster.members[away], number).await?;
    }
    wait::until("what was received is removed", AGREE, || async {
        let left = parts(&cluster.members[away]);
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await?;
    let log = cluster.members[away].log();
    ensure!(log.contains("receiving a snapshot"), "{log}");
    ensure!(log.contains("installed a snapshot"), "{log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_whose_disk_is_full_says_so_and_gets_it_when_there_is_room() -> Result<()> {
    let mut cluster = Cluster::prepare(3, &SHORT_LOG)?;
    // The log lies elsewhere: a segment of it alone would fill the small disk.
    let wal = cluster.folder().join("m0").join("wal");
    let Some(disk) = Tmpfs::mount(&cluster.members[0].data_dir(), 24)? else {
        return Ok(());
    };
    let wal = wal.display().to_string();
    cluster.members[0].add_arguments(&["--wal-dir", &wal]);
    cluster.start_all().await?;
    cluster.members[0].kill()?;
    let leader = cluster.leader().await?;
    fall_behind(&cluster, leader, 40).await?;
    let initial = cluster.initial_cluster().to_owned();
    cluster.members[0].start(&initial)?;
    wait::until("it says that its disk is full", AGREE, || async {
        let log = cluster.members[0].log();
        ensure!(log.contains("a snapshot cannot be received"), "{log}");
        ensure!(log.contains("free some space"), "{log}");
        Ok(())
    })
    .await?;
    // The others go on.
    put(&cluster.members[leader], 100).await?;
    ensure!(
        cluster.members[0].pid().is_some(),
        "{}",
        cluster.members[0].log()
    );
    disk.resize(400)?;
    cluster.members[0].wait_ready(AGREE).await?;
    cluster.equal_hashes(AGREE).await?;
    has(&cluster.members[0], 0).await?;
    has(&cluster.members[0], 100).await?;
    ensure!(
        metric(
            &cluster.members[0],
            "etcd_network_snapshot_receive_failures"
        )? >= 1.0
    );
    cluster.members[0].kill()?;
    drop(disk);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learner_begins_with_a_snapshot_and_its_progress_is_told() -> Result<()> {
    let mut arguments = SHORT_LOG.to_vec();
    arguments.push("--strict-reconfig-check=false");
    let mut cluster = Cluster::prepare(2, &arguments)?;
    let first = format!("m0={}", cluster.members[0].peer_url());
    cluster.members[0].start(&first)?;
    cluster.members[0].wait_ready(READY_DEADLINE).await?;
    fall_behind(&cluster, 0, 20).await?;
    let request = MemberAddRequest {
        peer_ur_ls: vec![cluster.members[1].peer_url()],
        is_learner: true,
    };
    cluster.members[0]
        .cluster()
        .await?
        .member_add(request)
        .await?;
    let both = cluster.initial_cluster().to_owned();
    cluster.members[1].add_arguments(&["--initial-cluster-state", "existing"]);
    cluster.members[1].start(&both)?;
    cluster.members[1].wait_ready(AGREE).await?;
    wait::until("it has everything", AGREE, || has(&cluster.members[1], 19)).await?;
    has(&cluster.members[1], 0).await?;
    let whole = (20 * VALUE_BYTES) as f64;
    for (place, kind) in [(0, "send"), (1, "receive")] {
        let member = &cluster.members[place];
        let name = |rest| format!("kvd_network_snapshot_{kind}_{rest}");
        let bytes = metric(member, &name("bytes"))?;
        let size = metric(member, &name("size_bytes"))?;
        ensure!(bytes >= whole && size >= whole, "{kind}: {bytes} of {size}");
    }
    let sent = cluster.members[0].log();
    ensure!(sent.contains("sending a snapshot"), "{sent}");
    ensure!(metric(&cluster.members[0], "etcd_network_snapshot_send_success")? >= 1.0);
    Ok(())
}

/// What the process of `member` holds at most, in bytes, since the last [`forget_peak`].
fn peak(member: &Member) -> Result<u64> {
    let pid = member.pid().context("it runs")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.context("a peak")?.trim().trim_end_matches(" kB");
    Ok(kibibytes.parse::<u64>()? * 1024)
}

fn forget_peak(member: &Member) -> Result<()> {
    let pid = member.pid().context("it runs")?;
    Ok(std::fs::write(format!("/proc/{pid}/clear_refs"), "5")?)
}

/// Writes `keys` pairs with values that do not compress, in transactions of 64.
async fn load(member: &Member, keys: u64, value_bytes: usize) -> Result<()> {
    use kvd_api::pb::etcdserverpb::request_op::Request;
    use kvd_api::pb::etcdserverpb::{RequestOp, TxnRequest};
    let channel = member.channel().await?;
    let tasks = 8;
    let loading = (0..tasks).map(|task| {
        let mut kv = kvd_api::pb::etcdserverpb::kv_client::KvClient::new(channel.clone());
        tokio::spawn(async move {
            let mut random = StdRng::seed_from_u64(task);
            let own: Vec<u64> = (0..keys).filter(|key| key % tasks == task).collect();
            for some in own.chunks(64) {
                let put = |key: &u64| {
                    let mut value = vec![0; value_bytes];
                    random.fill_bytes(&mut value);
                    RequestOp {
                        request: Some(Request::RequestPut(PutRequest {
                            key: Bytes::from(format!("key/{key:010}")),
                            value: value.into(),
                            ..PutRequest::default()
                        })),
                    }
                };
                let success = some.iter().map(put).collect();
                let request = TxnRequest {
                    success,
                    ..TxnRequest::default()
                };
                kv.txn(request).await?;
            }
            Ok::<_, anyhow::Error>(())
        })
    });
    for task in futures_util::future::join_all(loading).await {
        task??;
    }
    Ok(())
}

/// Reports what a large store costs both sides. `KVD_KEYS` and `KVD_VALUE_BYTES` say how large it
/// is; `KVD_BIN` and `KVCTL_BIN` name the binaries of a release build.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes and gigabytes; its figures stand in the README"]
async fn memory_and_time_of_a_large_snapshot() -> Result<()> {
    let number = |name: &str, default: u64| -> Result<u64> {
        Ok(std::env::var(name).map_or(Ok(default), |text| text.parse())?)
    };
    let keys = number("KVD_KEYS", 1_000_000)?;
    let value_bytes = number("KVD_VALUE_BYTES", 256)?;
    // The log is cut behind what was loaded, and still lasts for what is written meanwhile.
    let arguments = [
        "--snapshot-count=1000",
        "--snapshot-catchup-entries=100",
        "--quota-backend-bytes=17179869184",
        "--strict-reconfig-check=false",
    ];
    let mut cluster = Cluster::prepare(2, &arguments)?;
    let first = format!("m0={}", cluster.members[0].peer_url());
    cluster.members[0].start(&first)?;
    cluster.members[0].wait_ready(READY_DEADLINE).await?;
    let started = Instant::now();
    load(&cluster.members[0], keys, usize::try_from(value_bytes)?).await?;
    println!(
        "{keys} keys with values of {value_bytes} bytes: loaded in {:?}",
        started.elapsed()
    );
    fall_behind(&cluster, 0, 0).await?;
    println!(
        "peak of the member that has it, loading: {} MiB",
        peak(&cluster.members[0])? >> 20
    );
    forget_peak(&cluster.members[0])?;
    println!("before sending: {} MiB", peak(&cluster.members[0])? >> 20);

    let request = MemberAddRequest {
        peer_ur_ls: vec![cluster.members[1].peer_url()],
        is_learner: true,
    };
    let reply = cluster.members[0]
        .cluster()
        .await?
        .member_add(request)
        .await?;
    let id = reply.into_inner().member.context("a member")?.id;
    let both = cluster.initial_cluster().to_owned();
    cluster.members[1].add_arguments(&["--initial-cluster-state", "existing"]);
    let started = Instant::now();
    cluster.members[1].start(&both)?;
    let (mut longest, mut writes) = (Duration::ZERO, 0_u64);
    let mut kv = cluster.members[0].kv().await?;
    while !cluster.members[1].log().contains("installed a snapshot") {
        ensure!(
            started.elapsed() < Duration::from_secs(1_800),
            "{}",
            cluster.members[1].log()
        );
        let asked = Instant::now();
        let request = PutRequest {
            key: Bytes::from_static(b"meanwhile"),
            value: Bytes::from(writes.to_string()),
            ..PutRequest::default()
        };
        kv.put(request).await?;
        longest = longest.max(asked.elapsed());
        writes += 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("installed after {:?}", started.elapsed());
    cluster.members[1]
        .wait_ready(Duration::from_secs(600))
        .await?;
    println!("ready after {:?}", started.elapsed());
    println!("{writes} writes meanwhile, the slowest took {longest:?}");
    // A release from before it told its progress can be measured, too.
    if let Ok(bytes) = metric(&cluster.members[0], "kvd_network_snapshot_send_bytes") {
        println!("{} MiB were sent", bytes as u64 >> 20);
    }
    for (member, what) in cluster.members.iter().zip(["sender", "receiver"]) {
        println!("peak of the {what}: {} MiB", peak(member)? >> 20);
    }
    for line in cluster.members.iter().flat_map(|member| {
        let log = member.log();
        let lines = log
            .lines()
            .filter(|line| line.contains("snapshot"))
            .map(str::to_owned);
        lines.collect::<Vec<_>>()
    }) {
        println!("{line}");
    }
    // A learner tells no hash.
    wait::until("it is promoted", AGREE, || async {
        let request = MemberPromoteRequest { id };
        Ok(cluster.members[0]
            .cluster()
            .await?
            .member_promote(request)
            .await?)
    })
    .await?;
    cluster.equal_hashes(Duration::from_secs(600)).await?;
    Ok(())
}
