//! The load generator.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use hdrhistogram::Histogram;
use kvd_api::pb::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use kvd_api::pb::etcdserverpb::kv_client::KvClient;
use kvd_api::pb::etcdserverpb::request_op::Request as Op;
use kvd_api::pb::etcdserverpb::{Compare, PutRequest, RangeRequest, RequestOp, TxnRequest};
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use serde::Serialize;

use crate::secure::Connection;
use crate::servers::Cluster;

/// Connections of the generator; clients share them.
const CONNECTIONS: usize = 8;
/// Keys that the loads choose from.
const KEYS: usize = 10_000;
/// Bytes of a value.
const VALUE: usize = 256;
/// Time before the measurement in which nothing is counted.
const WARM_UP: Duration = Duration::from_secs(1);

/// What the clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// Put one key.
    Put,
    /// Get one key, linearizable.
    Range,
    /// Get 1,000 keys, linearizable.
    Range1000,
    /// Compare one key, put it or get it.
    Txn,
}

impl Workload {
    /// The workload of a name.
    ///
    /// Errors: when there is none.
    pub fn named(name: &str) -> Result<Workload> {
        Ok(match name {
            "put" => Workload::Put,
            "range" => Workload::Range,
            "range1000" => Workload::Range1000,
            "txn" => Workload::Txn,
            other => bail!("there is no workload {other:?}"),
        })
    }
}

/// What one measurement gave.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// Operations in a second.
    pub per_second: f64,
    /// Median latency in microseconds.
    pub p50_us: u64,
    /// 99th percentile in microseconds.
    pub p99_us: u64,
    /// Longest in microseconds.
    pub max_us: u64,
    /// Server CPU microseconds an operation, over all members.
    pub cpu_us: f64,
    /// Resident bytes of all members at the end.
    pub memory: u64,
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.0}/s, {:.1} us CPU, p50 {} us, p99 {} us, max {} us, {} MiB",
            self.per_second,
            self.cpu_us,
            self.p50_us,
            self.p99_us,
            self.max_us,
            self.memory / 1024 / 1024
        )
    }
}

fn key(number: usize) -> Bytes {
    Bytes::from(format!("key/{number:08}"))
}

async fn connect(cluster: &Cluster) -> Result<Vec<KvClient<Connection>>> {
    let mut connections = Vec::new();
    for number in 0..CONNECTIONS {
        let kv = KvClient::new(cluster.connect(number).await?);
        connections.push(kv.max_decoding_message_size(usize::MAX));
    }
    Ok(connections)
}

/// Puts `keys` keys with values of `size` bytes.
///
/// Errors: when a put fails.
pub async fn fill(cluster: &Cluster, keys: usize, size: usize) -> Result<()> {
    let connections = connect(cluster).await?;
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = Vec::new();
    for client in 0..256 {
        let mut kv = connections[client % CONNECTIONS].clone();
        let next = Arc::clone(&next);
        tasks.push(tokio::spawn(async move {
            let mut random = SmallRng::seed_from_u64(client as u64);
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= keys {
                    return anyhow::Ok(());
                }
                let mut value = vec![0; size];
                random.fill_bytes(&mut value);
                kv.put(put(number, value.into()))
                    .await
                    .context("filling the store")?;
            }
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(())
}

/// Reads some keys, so that a lazily opened store is open.
///
/// Errors: when a read fails.
pub async fn touch(cluster: &Cluster, reads: usize) -> Result<()> {
    let mut kv = connect(cluster).await?.remove(0);
    for number in 0..reads {
        kv.range(RangeRequest {
            key: key(number),
            ..RangeRequest::default()
        })
        .await?;
    }
    Ok(())
}

fn put(number: usize, value: Bytes) -> PutRequest {
    PutRequest {
        key: key(number),
        value,
        ..PutRequest::default()
    }
}

/// Runs `clients` clients for `length` and measures.
///
/// Errors: when an operation fails: a comparison with failures would mean nothing.
pub async fn run(
    cluster: &Cluster,
    workload: Workload,
    clients: usize,
    length: Duration,
) -> Result<Measured> {
    if workload != Workload::Put {
        fill(cluster, KEYS, VALUE).await?;
    }
    let connections = connect(cluster).await?;
    let counting = Arc::new(AtomicBool::new(false));
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = Vec::with_capacity(clients);
    for client in 0..clients {
        let kv = connections[client % CONNECTIONS].clone();
        let (counting, stop) = (Arc::clone(&counting), Arc::clone(&stop));
        tasks.push(tokio::spawn(one_client(
            kv,
            workload,
            client as u64,
            counting,
            stop,
        )));
    }
    tokio::time::sleep(WARM_UP).await;
    let cpu = cluster.cpu_seconds()?;
    let start = Instant::now();
    counting.store(true, Ordering::Relaxed);
    tokio::time::sleep(length).await;
    counting.store(false, Ordering::Relaxed);
    let elapsed = start.elapsed();
    let cpu = cluster.cpu_seconds()? - cpu;
    let memory = cluster.memory()?;
    stop.store(true, Ordering::Relaxed);
    let mut latencies = Histogram::<u64>::new(3)?;
    for task in tasks {
        latencies.add(task.await??)?;
    }
    let operations = latencies.len().max(1) as f64;
    Ok(Measured {
        per_second: operations / elapsed.as_secs_f64(),
        p50_us: latencies.value_at_quantile(0.5),
        p99_us: latencies.value_at_quantile(0.99),
        max_us: latencies.max(),
        cpu_us: cpu * 1e6 / operations,
        memory,
    })
}

async fn one_client(
    mut kv: KvClient<Connection>,
    workload: Workload,
    seed: u64,
    counting: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
) -> Result<Histogram<u64>> {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut latencies = Histogram::new(3)?;
    let mut value = vec![0; VALUE];
    random.fill_bytes(&mut value);
    let value = Bytes::from(value);
    while !stop.load(Ordering::Relaxed) {
        let number = random.random_range(0..KEYS);
        let start = Instant::now();
        match workload {
            Workload::Put => {
                kv.put(put(number, value.clone())).await?;
            }
            Workload::Range => {
                let request = RangeRequest {
                    key: key(number),
                    ..RangeRequest::default()
                };
                kv.range(request).await?;
            }
            Workload::Range1000 => {
                let first = number.min(KEYS - 1000);
                let request = RangeRequest {
                    key: key(first),
                    range_end: key(first + 1000),
                    ..RangeRequest::default()
                };
                kv.range(request).await?;
            }
            Workload::Txn => {
                kv.txn(txn(number, value.clone())).await?;
            }
        }
        if counting.load(Ordering::Relaxed) {
            latencies.record(u64::try_from(start.elapsed().as_micros())?)?;
        }
    }
    Ok(latencies)
}

fn txn(number: usize, value: Bytes) -> TxnRequest {
    let compare = Compare {
        result: CompareResult::Greater as i32,
        target: CompareTarget::Mod as i32,
        key: key(number),
        target_union: Some(TargetUnion::ModRevision(0)),
        ..Compare::default()
    };
    let read = RangeRequest {
        key: key(number),
        ..RangeRequest::default()
    };
    TxnRequest {
        compare: vec![compare],
        success: vec![RequestOp {
            request: Some(Op::RequestPut(put(number, value))),
        }],
        failure: vec![RequestOp {
            request: Some(Op::RequestRange(read)),
        }],
    }
}
