//! Watchers and leases: how events reach many, how leases are kept, what each one costs in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::{BufMut, Bytes, BytesMut};
use hdrhistogram::Histogram;
use kvd_api::pb::etcdserverpb::kv_client::KvClient;
use kvd_api::pb::etcdserverpb::lease_client::LeaseClient;
use kvd_api::pb::etcdserverpb::watch_client::WatchClient;
use kvd_api::pb::etcdserverpb::watch_request::RequestUnion;
use kvd_api::pb::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, PutRequest, WatchCreateRequest, WatchRequest,
};
use kvd_api::wire::WatchResponse;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tonic::Streaming;

use crate::load::Measured;
use crate::secure::Connection;
use crate::servers::Cluster;

/// Connections of the watchers; their streams share them.
const CONNECTIONS: usize = 8;
/// Clients that put when nothing holds them back.
const PUTTERS: usize = 16;
/// Bytes of a value; the first eight say when it was put.
const VALUE: usize = 256;
/// Time before the measurement in which nothing is counted.
const WARM_UP: Duration = Duration::from_secs(1);
/// How long the last events may take to arrive.
const LINGER: Duration = Duration::from_secs(10);

/// Who watches what.
#[derive(Clone, Copy, Debug)]
pub struct Audience {
    /// Streams.
    pub streams: usize,
    /// Watchers of each stream.
    pub watchers: usize,
    /// Whether every watcher has a key of its own; else all watch the same.
    pub distinct: bool,
}

impl Audience {
    /// 1,000 clients that watch one key.
    pub const ONE_KEY: Audience = Audience {
        streams: 1_000,
        watchers: 1,
        distinct: false,
    };
    /// 10,000 watchers, each of its own key, of 100 clients.
    pub const OWN_KEYS: Audience = Audience {
        streams: 100,
        watchers: 100,
        distinct: true,
    };

    fn keys(self) -> usize {
        if self.distinct {
            self.streams * self.watchers
        } else {
            1
        }
    }
}

/// What all tasks of a measurement share.
struct Shared {
    start: Instant,
    counting: AtomicBool,
}

impl Shared {
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

fn key(number: usize) -> Bytes {
    Bytes::from(format!("watched/{number:08}"))
}

async fn channels(cluster: &Cluster) -> Result<Vec<Connection>> {
    let mut channels = Vec::new();
    for number in 0..CONNECTIONS {
        channels.push(cluster.connect(number).await?);
    }
    Ok(channels)
}

/// Opens one stream with its watchers and waits until all of them are made.
async fn open(
    channel: Connection,
    audience: Audience,
    stream: usize,
) -> Result<Streaming<WatchResponse>> {
    let create = move |watcher| {
        let number = stream * audience.watchers + watcher;
        WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(WatchCreateRequest {
                key: key(if audience.distinct { number } else { 0 }),
                ..WatchCreateRequest::default()
            })),
        }
    };
    let creates = tokio_stream::iter((0..audience.watchers).map(create));
    let requests = creates.chain(tokio_stream::pending());
    let client = WatchClient::new(channel).max_decoding_message_size(usize::MAX);
    let mut responses = { client }.watch(requests).await?.into_inner();
    for _ in 0..audience.watchers {
        let made = responses.message().await?.context("the stream ended")?;
        if !made.created || made.canceled {
            bail!("a watcher was not made: {made:?}");
        }
    }
    Ok(responses)
}

async fn open_all(
    channels: &[Connection],
    audience: Audience,
) -> Result<Vec<Streaming<WatchResponse>>> {
    let mut streams = Vec::with_capacity(audience.streams);
    for stream in 0..audience.streams {
        let channel = channels[stream % CONNECTIONS].clone();
        streams.push(open(channel, audience, stream).await?);
    }
    Ok(streams)
}

/// Takes what comes until told to stop; returns when counted events were under way.
async fn listen(
    mut responses: Streaming<WatchResponse>,
    shared: Arc<Shared>,
    mut stop: watch::Receiver<bool>,
) -> Result<Histogram<u64>> {
    let mut latencies = Histogram::new(3)?;
    loop {
        let response = tokio::select! {
            response = responses.message() => response?.context("the stream ended")?,
            _ = stop.wait_for(|stop| *stop) => return Ok(latencies),
        };
        let now = shared.now();
        if !shared.counting.load(Ordering::Relaxed) {
            continue;
        }
        for event in response.decode_events()? {
            let value = event.kv.context("a pair")?.value;
            let sent = value.first_chunk().context("a value")?;
            let took = now.saturating_sub(u64::from_be_bytes(*sent));
            latencies.record(took / 1_000)?;
        }
    }
}

/// Puts watched keys until told to stop: `rate` a second, or one after the other.
async fn put(
    channel: Connection,
    keys: usize,
    interval: Option<Duration>,
    (seed, shared): (u64, Arc<Shared>),
    stop: watch::Receiver<bool>,
) -> Result<()> {
    let mut kv = KvClient::new(channel);
    let mut random = SmallRng::seed_from_u64(seed);
    let mut ticks = interval.map(tokio::time::interval);
    while !*stop.borrow() {
        if let Some(ticks) = &mut ticks {
            ticks.tick().await;
        }
        let mut value = BytesMut::with_capacity(VALUE);
        value.put_u64(shared.now());
        value.resize(VALUE, b'v');
        let request = PutRequest {
            key: key(random.random_range(0..keys)),
            value: value.freeze(),
            ..PutRequest::default()
        };
        kv.put(request).await?;
    }
    Ok(())
}

/// Events to `audience` while keys are put, `rate` a second or as fast as it goes. Latency is from
/// before the put to the arrival at the watcher; an operation is an event that arrived.
///
/// Errors: when a put or a stream fails.
pub async fn fan_out(
    cluster: &Cluster,
    audience: Audience,
    rate: Option<u32>,
    length: Duration,
) -> Result<Measured> {
    let watching = channels(cluster).await?;
    let streams = open_all(&watching, audience).await?;
    let shared = Arc::new(Shared {
        start: Instant::now(),
        counting: AtomicBool::new(false),
    });
    let (stop_puts, puts_stopped) = watch::channel(false);
    let (stop, stopped) = watch::channel(false);
    let listen = |responses| listen(responses, Arc::clone(&shared), stopped.clone());
    let listeners: Vec<JoinHandle<_>> = streams
        .into_iter()
        .map(|responses| tokio::spawn(listen(responses)))
        .collect();
    let putting = channels(cluster).await?;
    let interval = rate.map(|rate| Duration::from_secs(1) / rate);
    let putters = if rate.is_some() { 1 } else { PUTTERS };
    let putters: Vec<JoinHandle<_>> = (0..putters)
        .map(|seed| {
            let channel = putting[seed % CONNECTIONS].clone();
            let with = (seed as u64, Arc::clone(&shared));
            let stop = puts_stopped.clone();
            tokio::spawn(put(channel, audience.keys(), interval, with, stop))
        })
        .collect();
    tokio::time::sleep(WARM_UP).await;
    let cpu = cluster.cpu_seconds()?;
    let start = Instant::now();
    shared.counting.store(true, Ordering::Relaxed);
    tokio::time::sleep(length).await;
    shared.counting.store(false, Ordering::Relaxed);
    let elapsed = start.elapsed();
    let cpu = cluster.cpu_seconds()? - cpu;
    let memory = cluster.memory()?;
    stop_puts.send_replace(true);
    for putter in putters {
        tokio::time::timeout(LINGER, putter).await???;
    }
    stop.send_replace(true);
    let mut latencies = Histogram::<u64>::new(3)?;
    for listener in listeners {
        latencies.add(tokio::time::timeout(LINGER, listener).await???)?;
    }
    Ok(measured(&latencies, (cpu, elapsed), memory))
}

/// `clients` streams that each keep a lease alive, one renewal after the other.
///
/// Errors: when a grant or a stream fails.
pub async fn keep_alive(cluster: &Cluster, clients: usize, length: Duration) -> Result<Measured> {
    let channels = channels(cluster).await?;
    let shared = Arc::new(Shared {
        start: Instant::now(),
        counting: AtomicBool::new(false),
    });
    let (stop, stopped) = watch::channel(false);
    let mut keepers = Vec::with_capacity(clients);
    for client in 0..clients {
        let mut leases = LeaseClient::new(channels[client % CONNECTIONS].clone());
        let grant = LeaseGrantRequest { ttl: 600, id: 0 };
        let id = leases.lease_grant(grant).await?.into_inner().id;
        let (shared, stopped) = (Arc::clone(&shared), stopped.clone());
        keepers.push(tokio::spawn(keep(leases, id, shared, stopped)));
    }
    tokio::time::sleep(WARM_UP).await;
    let cpu = cluster.cpu_seconds()?;
    let start = Instant::now();
    shared.counting.store(true, Ordering::Relaxed);
    tokio::time::sleep(length).await;
    shared.counting.store(false, Ordering::Relaxed);
    let elapsed = start.elapsed();
    let cpu = cluster.cpu_seconds()? - cpu;
    let memory = cluster.memory()?;
    stop.send_replace(true);
    let mut latencies = Histogram::<u64>::new(3)?;
    for keeper in keepers {
        latencies.add(tokio::time::timeout(LINGER, keeper).await???)?;
    }
    Ok(measured(&latencies, (cpu, elapsed), memory))
}

async fn keep(
    mut leases: LeaseClient<Connection>,
    id: i64,
    shared: Arc<Shared>,
    stop: watch::Receiver<bool>,
) -> Result<Histogram<u64>> {
    let mut latencies = Histogram::new(3)?;
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let requests = tokio_stream::wrappers::ReceiverStream::new(receiver);
    sender.send(LeaseKeepAliveRequest { id }).await?;
    let mut replies = leases.lease_keep_alive(requests).await?.into_inner();
    replies.message().await?.context("the stream ended")?;
    while !*stop.borrow() {
        let start = Instant::now();
        sender.send(LeaseKeepAliveRequest { id }).await?;
        let reply = replies.message().await?.context("the stream ended")?;
        if reply.ttl == 0 {
            bail!("lease {id} is gone");
        }
        if shared.counting.load(Ordering::Relaxed) {
            latencies.record(u64::try_from(start.elapsed().as_micros())?)?;
        }
    }
    Ok(latencies)
}

fn measured(latencies: &Histogram<u64>, (cpu, elapsed): (f64, Duration), memory: u64) -> Measured {
    let operations = latencies.len().max(1) as f64;
    Measured {
        per_second: operations / elapsed.as_secs_f64(),
        p50_us: latencies.value_at_quantile(0.5),
        p99_us: latencies.value_at_quantile(0.99),
        max_us: latencies.max(),
        cpu_us: cpu * 1e6 / operations,
        memory,
    }
}

/// Resident bytes that each of `count` watchers of keys of their own adds, on 100 streams.
///
/// Errors: when a watcher is not made.
pub async fn watcher_bytes(cluster: &Cluster, count: usize) -> Result<u64> {
    let audience = Audience {
        streams: 100,
        watchers: count / 100,
        distinct: true,
    };
    let before = cluster.memory()?;
    let channels = channels(cluster).await?;
    let streams = open_all(&channels, audience).await?;
    let after = cluster.memory()?;
    drop(streams);
    Ok(after.saturating_sub(before) / count as u64)
}

/// Resident bytes that each of `count` leases adds.
///
/// Errors: when a lease is not granted.
pub async fn lease_bytes(cluster: &Cluster, count: usize) -> Result<u64> {
    let before = cluster.memory()?;
    let channels = channels(cluster).await?;
    let mut tasks = Vec::new();
    for client in 0..PUTTERS {
        let mut leases = LeaseClient::new(channels[client % CONNECTIONS].clone());
        tasks.push(tokio::spawn(async move {
            for _ in 0..count / PUTTERS {
                let grant = LeaseGrantRequest { ttl: 3_600, id: 0 };
                leases.lease_grant(grant).await?;
            }
            anyhow::Ok(())
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(cluster.memory()?.saturating_sub(before) / count as u64)
}
