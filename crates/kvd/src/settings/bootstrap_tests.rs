//! Bootstrap checks against a resolver that learns names with time. Time is paused: sleeps are
//! taken when nothing else runs.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::flags::parse::{Asked, command_line};
use crate::settings::resolve;

/// Knows `names` after `failures` questions.
struct Names {
    names: Vec<(&'static str, &'static str)>,
    failures: AtomicUsize,
}

impl Names {
    fn new(failures: usize, names: &[(&'static str, &'static str)]) -> Names {
        Names {
            names: names.to_vec(),
            failures: AtomicUsize::new(failures),
        }
    }
}

impl Resolve for Names {
    async fn resolve(&self, host: &str) -> io::Result<BTreeSet<IpAddr>> {
        if let Ok(address) = host.parse() {
            return Ok(BTreeSet::from([address]));
        }
        let left = self.failures.load(Ordering::SeqCst);
        if left > 0 {
            self.failures.store(left - 1, Ordering::SeqCst);
            return Err(io::Error::other("no such host"));
        }
        let known = self.names.iter().filter(|(name, _)| *name == host);
        Ok(known
            .map(|(_, address)| address.parse().expect("address"))
            .collect())
    }
}

fn settings(line: &str) -> Settings {
    let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    match command_line(&words).expect("parse") {
        Asked::Run(mut given) => resolve(&mut given, false).expect("resolve"),
        Asked::Help => panic!("help"),
    }
}

const DOCUMENT: &str = "--name etcd-0 --listen-peer-urls http://0.0.0.0:2380 \
    --listen-client-urls http://0.0.0.0:2379 --advertise-client-urls http://etcd-0.etcd:2379 \
    --initial-advertise-peer-urls http://etcd-0:2380 --initial-cluster-token etcd-cluster-1 \
    --initial-cluster etcd-0=http://etcd-0.etcd:2380,etcd-1=http://etcd-1.etcd:2380,\
etcd-2=http://etcd-2.etcd:2380 --initial-cluster-state new --data-dir /var/run/etcd/default.etcd";

#[tokio::test(start_paused = true)]
async fn the_documents_command_line_comes_up_once_dns_knows_the_pod() {
    let names = Names::new(20, &[("etcd-0", "10.0.0.7"), ("etcd-0.etcd", "10.0.0.7")]);
    settings(DOCUMENT)
        .verify_bootstrap(&names)
        .await
        .expect("verified");
    assert_eq!(names.failures.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn names_that_never_resolve_fail_after_30_seconds() {
    let before = Instant::now();
    let names = Names::new(usize::MAX, &[]);
    let error = settings(DOCUMENT)
        .verify_bootstrap(&names)
        .await
        .expect_err("refused");
    assert!(
        before.elapsed() >= Duration::from_secs(29),
        "{:?}",
        before.elapsed()
    );
    assert!(
        before.elapsed() <= Duration::from_secs(31),
        "{:?}",
        before.elapsed()
    );
    assert_eq!(
        error.to_string(),
        "--initial-cluster has etcd-0=http://etcd-0.etcd:2380 but missing from \
         --initial-advertise-peer-urls=http://etcd-0:2380 (failed to resolve \
         \"http://etcd-0.etcd:2380\" (no such host))"
    );
}

#[tokio::test(start_paused = true)]
async fn another_address_is_refused_at_once() {
    let names = Names::new(0, &[("etcd-0", "10.0.0.7"), ("etcd-0.etcd", "10.0.0.8")]);
    let error = settings(DOCUMENT)
        .verify_bootstrap(&names)
        .await
        .expect_err("refused");
    assert!(error.to_string().contains("resolved urls"), "{error}");
}

#[tokio::test]
async fn wrong_initial_clusters_are_refused() {
    let none = Names::new(0, &[]);
    for (line, complaint) in [
        (
            "--initial-cluster b=http://127.0.0.1:2380",
            "couldn't find local name \"default\" in the initial cluster configuration",
        ),
        (
            "--initial-cluster=",
            "couldn't find local name \"default\" in the initial cluster",
        ),
        (
            "--name a --initial-cluster a=http://127.0.0.1:1,b=http://127.0.0.1:1 \
             --initial-advertise-peer-urls http://127.0.0.1:1",
            "initial cluster a=http://127.0.0.1:1,b=http://127.0.0.1:1 has duplicate url",
        ),
        (
            "--name a --initial-cluster a=http://127.0.0.1:2 \
             --initial-advertise-peer-urls http://127.0.0.1:1",
            "--initial-cluster has a=http://127.0.0.1:2 but missing from \
             --initial-advertise-peer-urls=http://127.0.0.1:1",
        ),
        (
            "--name a --initial-cluster a=http://127.0.0.1:1 \
             --initial-advertise-peer-urls http://127.0.0.1:1,http://127.0.0.1:2",
            "--initial-advertise-peer-urls has http://127.0.0.1:2 but missing from \
             --initial-cluster=a=http://127.0.0.1:1",
        ),
    ] {
        let error = settings(line)
            .verify_bootstrap(&none)
            .await
            .expect_err(line)
            .to_string();
        assert!(error.starts_with(complaint), "{error}");
    }
    settings("--name x")
        .verify_bootstrap(&none)
        .await
        .expect("defaults fit");
}
