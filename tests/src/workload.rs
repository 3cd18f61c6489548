//! Concurrent clients that read, write, swap and delete a few keys, and record what they saw.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use kvd_api::pb::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use kvd_api::pb::etcdserverpb::kv_client::KvClient;
use kvd_api::pb::etcdserverpb::request_op::Request as Op;
use kvd_api::pb::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::history::{Input, Operation, Output};
use crate::linearizable;

/// How long a client waits for an answer before it calls the outcome unknown.
const ANSWER_DEADLINE: Duration = Duration::from_secs(2);

/// What the clients do.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many clients run at once.
    pub clients: usize,
    /// How many keys they share at a time.
    pub keys: usize,
    /// Seed of their choices.
    pub seed: u64,
    /// Most operations on one key, which bounds the cost of the check: a new key takes its place.
    pub operations: usize,
    /// How long a client waits between two operations.
    pub pause: Duration,
}

/// A running workload.
#[derive(Debug)]
pub struct Workload {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    keys: usize,
    clients: Vec<tokio::task::JoinHandle<Vec<(usize, Operation)>>>,
}

/// What was recorded: the history of each key.
pub type Histories = BTreeMap<usize, Vec<Operation>>;

/// The name of key number `key`.
pub fn key_name(key: usize) -> Bytes {
    Bytes::from(format!("register/{key}"))
}

impl Workload {
    /// Starts the clients against the members at `urls`; each client goes round them.
    ///
    /// Errors: when a URL is none.
    pub fn start(urls: &[String], options: &Options) -> Result<Workload> {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let values = Arc::new(AtomicU64::new(1));
        let places: Arc<[AtomicUsize]> = (0..options.keys).map(|_| AtomicUsize::new(0)).collect();
        let start = Instant::now();
        let mut endpoints = Vec::new();
        for url in urls {
            let endpoint = Endpoint::from_shared(url.clone())?
                .connect_timeout(Duration::from_millis(500))
                .tcp_nodelay(true);
            endpoints.push(endpoint);
        }
        let clients = (0..options.clients)
            .map(|number| {
                let client = Client {
                    number,
                    options: options.clone(),
                    random: StdRng::seed_from_u64(options.seed ^ (number as u64) << 32),
                    endpoints: endpoints.clone(),
                    connected: None,
                    member: number % endpoints.len(),
                    values: Arc::clone(&values),
                    places: Arc::clone(&places),
                    acknowledged: Arc::clone(&acknowledged),
                    start,
                };
                tokio::spawn(client.run(Arc::clone(&stop)))
            })
            .collect();
        Ok(Workload {
            stop,
            acknowledged,
            keys: options.keys,
            clients,
        })
    }

    /// Operations acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Stops the clients and gathers what they saw, `earlier` being what an earlier workload saw.
    ///
    /// Errors: when a client panicked.
    pub async fn finish(self, earlier: &Histories) -> Result<Histories> {
        self.stop.store(true, Ordering::Relaxed);
        // Also of a key that nobody came to: what it held before must still be there.
        let keys = (0..self.keys).chain(earlier.keys().copied());
        let mut histories: Histories = keys.map(|key| (key, Vec::new())).collect();
        for client in self.clients {
            for (key, operation) in client.await.context("a client failed")? {
                histories.entry(key).or_default().push(operation);
            }
        }
        Ok(histories)
    }
}

/// Checks every key's history and that the final value of each is one that its history allows.
///
/// Errors: the first key that is not linearizable.
pub fn verify(histories: &Histories) -> Result<()> {
    for (key, history) in histories {
        if let Err(reason) = linearizable::check(history) {
            bail!("key {key}: {reason}");
        }
    }
    Ok(())
}

/// Reads every key of `histories` from `url` at the end, as one more operation of each history,
/// so that a write that was acknowledged and is gone makes the check fail.
///
/// Errors: when a key cannot be read.
pub async fn read_back(histories: &mut Histories, url: &str) -> Result<()> {
    let channel = Endpoint::from_shared(url.to_owned())?.connect().await?;
    let mut kv = KvClient::new(channel);
    for (key, history) in histories.iter_mut() {
        let request = RangeRequest {
            key: key_name(*key),
            ..RangeRequest::default()
        };
        let response = kv.range(request).await?.into_inner();
        let value = response
            .decode_kvs()?
            .first()
            .map(|kv| decode(&kv.value))
            .transpose()?;
        let last = history
            .iter()
            .map(|operation| {
                if operation.answer == u64::MAX {
                    0
                } else {
                    operation.answer
                }
            })
            .chain(history.iter().map(|operation| operation.call))
            .max();
        let last = last.unwrap_or(0);
        history.push(Operation {
            client: usize::MAX,
            input: Input::Get,
            output: Output::Value(value),
            call: last + 1,
            answer: last + 2,
        });
    }
    Ok(())
}

/// Puts what the earlier piece ended with before every history: its last value as a write, and
/// its writes without an answer as writes that may still take place.
pub fn continued(piece: &Histories, earlier: &Histories) -> Histories {
    let mut histories = piece.clone();
    for (key, history) in &mut histories {
        for operation in history.iter_mut() {
            operation.call += 10;
            operation.answer = operation.answer.saturating_add(10);
        }
        let Some(earlier) = earlier.get(key) else {
            continue;
        };
        if let Some(Operation {
            output: Output::Value(value),
            ..
        }) = earlier.last()
        {
            let (input, output) = match value {
                Some(value) => (Input::Put(*value), Output::Done),
                None => (Input::Delete, Output::Done),
            };
            history.insert(
                0,
                Operation {
                    client: usize::MAX,
                    input,
                    output,
                    call: 0,
                    answer: 1,
                },
            );
        }
        let late = earlier
            .iter()
            .filter(|operation| operation.output == Output::Unknown);
        for operation in late {
            history.push(Operation {
                call: 2,
                answer: u64::MAX,
                ..operation.clone()
            });
        }
    }
    histories
}

struct Client {
    number: usize,
    options: Options,
    random: StdRng,
    endpoints: Vec<Endpoint>,
    connected: Option<KvClient<Channel>>,
    member: usize,
    values: Arc<AtomicU64>,
    /// How many operations were begun in the place of each key.
    places: Arc<[AtomicUsize]>,
    acknowledged: Arc<AtomicU64>,
    start: Instant,
}

impl Client {
    async fn run(mut self, stop: Arc<AtomicBool>) -> Vec<(usize, Operation)> {
        let mut seen: HashMap<usize, u64> = HashMap::new();
        let mut recorded = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            if !self.options.pause.is_zero() {
                tokio::time::sleep(self.options.pause).await;
            }
            let Some(mut kv) = self.connect().await else {
                continue;
            };
            let key = self.key();
            let input = self.choose(seen.get(&key).copied());
            let call = self.nanoseconds();
            let answer = ask(&mut kv, key, &input);
            let answer = tokio::time::timeout(ANSWER_DEADLINE, answer).await;
            let now = self.nanoseconds();
            let output = match answer {
                Ok(Ok(output)) => output,
                Ok(Err(status)) => {
                    self.next_member();
                    if certainly_not_done(&status) {
                        continue;
                    }
                    Output::Unknown
                }
                Err(_) => {
                    self.next_member();
                    Output::Unknown
                }
            };
            let known = output != Output::Unknown;
            if !known && input == Input::Get {
                continue;
            }
            if let Output::Value(value) = output {
                match value {
                    Some(value) => seen.insert(key, value),
                    None => seen.remove(&key),
                };
            }
            if known {
                self.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            let answer = if known { now } else { u64::MAX };
            let client = self.number;
            recorded.push((
                key,
                Operation {
                    client,
                    input,
                    output,
                    call,
                    answer,
                },
            ));
        }
        recorded
    }

    fn key(&mut self) -> usize {
        let place = self.random.random_range(0..self.options.keys);
        let begun = self.places[place].fetch_add(1, Ordering::Relaxed);
        place + begun / self.options.operations * self.options.keys
    }

    fn choose(&mut self, seen: Option<u64>) -> Input {
        let value = self.values.fetch_add(1, Ordering::Relaxed);
        match self.random.random_range(0..100) {
            0..50 => Input::Get,
            50..75 => Input::Put(value),
            75..95 => Input::Swap {
                expected: seen,
                value,
            },
            _ => Input::Delete,
        }
    }

    async fn connect(&mut self) -> Option<KvClient<Channel>> {
        if self.connected.is_none() {
            let endpoint = self.endpoints[self.member].clone();
            match tokio::time::timeout(Duration::from_secs(1), endpoint.connect()).await {
                Ok(Ok(channel)) => self.connected = Some(KvClient::new(channel)),
                _ => {
                    self.next_member();
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        }
        self.connected.clone()
    }

    fn next_member(&mut self) {
        self.connected = None;
        self.member = (self.member + 1) % self.endpoints.len();
    }

    fn nanoseconds(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX - 1)
    }
}

/// Whether the member refused before it could have done anything.
fn certainly_not_done(status: &Status) -> bool {
    status.code() == Code::Unknown && status.message() == "etcdserver: too many requests"
}

async fn ask(
    kv: &mut KvClient<Channel>,
    key: usize,
    input: &Input,
) -> std::result::Result<Output, Status> {
    let key = key_name(key);
    match input {
        Input::Get => {
            let response = kv
                .range(RangeRequest {
                    key,
                    ..RangeRequest::default()
                })
                .await?;
            let kvs = response.into_inner().decode_kvs();
            let kvs = kvs.map_err(|error| Status::internal(error.to_string()))?;
            let value = kvs.first().map(|kv| decode(&kv.value)).transpose();
            Ok(Output::Value(
                value.map_err(|error| Status::internal(error.to_string()))?,
            ))
        }
        Input::Put(value) => {
            kv.put(put(key, *value)).await?;
            Ok(Output::Done)
        }
        Input::Delete => {
            kv.delete_range(DeleteRangeRequest {
                key,
                ..DeleteRangeRequest::default()
            })
            .await?;
            Ok(Output::Done)
        }
        Input::Swap { expected, value } => {
            let (target, target_union) = match expected {
                Some(expected) => (
                    CompareTarget::Value,
                    TargetUnion::Value(Bytes::from(expected.to_string())),
                ),
                None => (CompareTarget::Version, TargetUnion::Version(0)),
            };
            let compare = Compare {
                result: CompareResult::Equal as i32,
                target: target as i32,
                key: key.clone(),
                target_union: Some(target_union),
                ..Compare::default()
            };
            let put = RequestOp {
                request: Some(Op::RequestPut(put(key, *value))),
            };
            let txn = TxnRequest {
                compare: vec![compare],
                success: vec![put],
                failure: vec![],
            };
            Ok(Output::Swapped(kv.txn(txn).await?.into_inner().succeeded))
        }
    }
}

fn put(key: Bytes, value: u64) -> PutRequest {
    PutRequest {
        key,
        value: Bytes::from(value.to_string()),
        ..PutRequest::default()
    }
}

fn decode(value: &[u8]) -> Result<u64> {
    Ok(std::str::from_utf8(value)?.parse()?)
}
