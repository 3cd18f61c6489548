//! Certificates and authorities exchanged under load, without a restart and without a failure.
#![allow(missing_docs)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kvd_api::pb::etcdserverpb::kv_client::KvClient;
use kvd_api::pb::etcdserverpb::{PutRequest, RangeRequest};
use kvd_api::pb::mvccpb::KeyValue;
use kvd_tests::cluster::Cluster;
use kvd_tests::pki::{Authority, Issued, Leaf, Secret};
use kvd_tests::secure::Identity;
use kvd_tests::wait;
use prost::Message;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

const CHANGED: &str = "the TLS files have changed; new connections use them";
const PATIENCE: Duration = Duration::from_secs(60);
/// Clients of each member, each with a connection of its own.
const CLIENTS: u32 = 12;
/// How many requests all clients together make in a second, where the machine can.
const RATE: u32 = 1_000;
/// Requests that are waited for after each change: a second of the load.
const ENOUGH: u64 = 1_000;

/// The files of every member: one folder, as one secret would be mounted everywhere.
struct Files {
    secret: Secret,
    leaf: Issued,
    trusted: String,
}

impl Files {
    fn swap(&mut self) -> Result<()> {
        self.secret.swap(&[
            ("tls.crt", self.leaf.cert.as_bytes()),
            ("tls.key", self.leaf.key.as_bytes()),
            ("ca.crt", self.trusted.as_bytes()),
        ])
    }
}

fn arguments(secret: &Secret) -> Vec<String> {
    let (cert, key, ca) = (
        secret.path("tls.crt"),
        secret.path("tls.key"),
        secret.path("ca.crt"),
    );
    [
        ("--cert-file", &cert),
        ("--key-file", &key),
        ("--trusted-ca-file", &ca),
        ("--peer-cert-file", &cert),
        ("--peer-key-file", &key),
        ("--peer-trusted-ca-file", &ca),
    ]
    .into_iter()
    .flat_map(|(flag, value)| [flag.to_owned(), value.clone()])
    .chain(["--client-cert-auth", "--peer-client-cert-auth"].map(str::to_owned))
    .chain(["--tls-recheck-interval", "2s"].map(str::to_owned))
    .collect()
}

/// Puts and gets at one member until it is told to stop, with whatever identity is current.
async fn load(
    (address, client_number): (String, u32),
    mut identity: watch::Receiver<Identity>,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
) -> Result<()> {
    let mut turn = 0_u64;
    let first = identity.borrow_and_update().clone();
    let mut client = KvClient::new(first.channel(&address).await?);
    // Each turn makes two requests; a machine that is too slow just makes fewer turns.
    let mut turns = tokio::time::interval(Duration::from_secs(1) * (2 * 3 * CLIENTS) / RATE);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !stop.load(Ordering::Relaxed) {
        if identity.has_changed()? {
            let fresh = identity.borrow_and_update().clone();
            client = KvClient::new(fresh.channel(&address).await?);
        }
        turns.tick().await;
        let key = format!("{address}/{client_number}/{}", turn % 100).into_bytes();
        let value = turn.to_string().into_bytes();
        let put = PutRequest {
            key: key.clone().into(),
            value: value.clone().into(),
            ..PutRequest::default()
        };
        client
            .put(put)
            .await
            .with_context(|| format!("put {turn} at {address}"))?;
        let range = RangeRequest {
            key: key.into(),
            ..RangeRequest::default()
        };
        let got = client
            .range(range)
            .await
            .with_context(|| format!("get {turn} at {address}"))?;
        let got = got
            .into_inner()
            .kvs
            .into_iter()
            .next()
            .context("the pair")?;
        ensure!(
            KeyValue::decode(got)?.value == value,
            "a stale read at {address}"
        );
        turn += 1;
        done.fetch_add(2, Ordering::Relaxed);
    }
    Ok(())
}

/// Waits until both ports of every member have taken the change number `count`.
async fn wait_taken(cluster: &Cluster, count: usize) -> Result<()> {
    wait::until("the change of the files", PATIENCE, || async {
        for member in &cluster.members {
            let taken = member.log().matches(CHANGED).count();
            ensure!(taken >= 2 * count, "{} has {taken}", member.name());
        }
        Ok(())
    })
    .await
}

/// Waits until the load has gone on for `requests` more.
async fn wait_load(done: &AtomicU64, requests: u64) -> Result<()> {
    let target = done.load(Ordering::Relaxed) + requests;
    wait::until("the load", PATIENCE, || async {
        let done = done.load(Ordering::Relaxed);
        ensure!(done >= target, "{done} of {target} requests");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_is_exchanged_under_load_without_a_failed_request() -> Result<()> {
    let (old, new) = (Authority::new("old")?, Authority::new("new")?);
    let folder = tempfile::tempdir()?;
    let leaf = old.issue(&Leaf::new("member", 1))?;
    let secret = Secret::new(
        &folder.path().join("secret"),
        &[
            ("tls.crt", leaf.cert.as_bytes()),
            ("tls.key", leaf.key.as_bytes()),
            ("ca.crt", old.pem().as_bytes()),
        ],
    )?;
    let line = arguments(&secret);
    let line: Vec<&str> = line.iter().map(String::as_str).collect();
    let mut cluster = Cluster::prepare_with_tls(3, &line, (true, true))?;
    cluster.start_all().await?;
    let pids: Vec<_> = cluster.members.iter().map(|m| m.pid()).collect();
    let mut files = Files {
        secret,
        leaf,
        trusted: old.pem(),
    };

    let old_shown = old.issue(&Leaf::new("client", 100))?;
    let both = format!("{}{}", old.pem(), new.pem());
    let before = Identity::new(&old.pem(), Some(&old_shown))?;
    let (switch, identity) = watch::channel(before);
    let (stop, done) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let mut clients = Vec::new();
    for member in &cluster.members {
        for number in 0..CLIENTS {
            let load = load(
                (member.client_address(), number),
                identity.clone(),
                Arc::clone(&stop),
                Arc::clone(&done),
            );
            clients.push(tokio::spawn(load));
        }
    }
    let begun = Instant::now();
    wait_load(&done, ENOUGH).await?;
    // One that never changes its certificate, with a connection that is open already.
    let late = Identity::new(&both, Some(&old_shown))?;
    let mut late_client = KvClient::new(late.channel(&cluster.members[0].client_address()).await?);
    late_client
        .range(RangeRequest {
            key: "k".into(),
            ..RangeRequest::default()
        })
        .await?;

    // Both authorities are trusted; then members and clients get new certificates; then the old
    // authority goes.
    files.trusted = both.clone();
    files.swap()?;
    wait_taken(&cluster, 1).await?;
    wait_load(&done, ENOUGH).await?;
    files.leaf = new.issue(&Leaf::new("member", 2))?;
    files.swap()?;
    // They trust both as long as members of either kind answer.
    switch.send(Identity::new(
        &both,
        Some(&new.issue(&Leaf::new("client", 101))?),
    )?)?;
    wait_taken(&cluster, 2).await?;
    switch.send(Identity::new(
        &new.pem(),
        Some(&new.issue(&Leaf::new("client", 102))?),
    )?)?;
    wait_load(&done, ENOUGH).await?;
    files.trusted = new.pem();
    files.swap()?;
    let removed = Instant::now();
    wait_taken(&cluster, 3).await?;
    // The open connection of the old certificate is closed, and no new one is let in.
    wait::until("the end of the old client", Duration::from_secs(10), || {
        let mut client = late_client.clone();
        async move {
            let range = RangeRequest {
                key: "k".into(),
                ..RangeRequest::default()
            };
            let asked = client.range(range).await;
            ensure!(asked.is_err(), "it is still served");
            Ok(())
        }
    })
    .await?;
    ensure!(
        removed.elapsed() < Duration::from_secs(10),
        "it took {:?}",
        removed.elapsed()
    );
    let mut fresh = KvClient::new(late.channel(&cluster.members[0].client_address()).await?);
    let refused = fresh
        .range(RangeRequest {
            key: "k".into(),
            ..RangeRequest::default()
        })
        .await;
    ensure!(
        refused.is_err(),
        "a new connection of the old client is served"
    );
    wait_load(&done, ENOUGH).await?;

    let (made, took) = (done.load(Ordering::Relaxed), begun.elapsed());
    let rate = made as f64 / took.as_secs_f64();
    eprintln!("{made} requests in {took:?}, {rate:.0} a second");
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await??;
    }
    for (member, pid) in cluster.members.iter().zip(pids) {
        ensure!(member.pid() == pid, "{} was restarted", member.name());
        let errors = member.log().matches("\"level\":\"error\"").count();
        ensure!(errors == 0, "{} logged errors", member.name());
    }
    // New members of the old kind are not let in either.
    let hashes = cluster.members.iter().map(|m| m.peer_address());
    for address in hashes {
        let asked = Identity::new(&both, Some(&old_shown))?
            .get(&address, "/version")
            .await;
        ensure!(
            asked.is_err(),
            "the peer port answers the old certificate: {asked:?}"
        );
    }
    Ok(())
}
