//! Watchers on every member, while leaders are killed and members restarted.
#![allow(missing_docs)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use kvd_api::pb::etcdserverpb::request_op::Request as Op;
use kvd_api::pb::etcdserverpb::watch_client::WatchClient;
use kvd_api::pb::etcdserverpb::watch_request::RequestUnion;
use kvd_api::pb::etcdserverpb::{
    PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest, WatchProgressRequest,
    WatchRequest,
};
use kvd_api::pb::mvccpb::KeyValue;
use kvd_tests::cluster::Cluster;
use prost::Message;
use tokio::sync::mpsc;
use tonic::transport::Endpoint;

/// Puts of the whole test, and of one transaction.
const PUTS: usize = 100_000;
const BATCH: usize = 100;
const SETTLE: Duration = Duration::from_secs(60);

/// What one watcher saw: revision and key, in the order of arrival.
type Seen = Vec<(i64, Bytes)>;

fn request(union: RequestUnion) -> WatchRequest {
    WatchRequest {
        request_union: Some(union),
    }
}

fn all_from(revision: i64) -> WatchRequest {
    request(RequestUnion::CreateRequest(WatchCreateRequest {
        key: Bytes::from_static(b"k/"),
        range_end: Bytes::from_static(b"k0"),
        start_revision: revision,
        ..WatchCreateRequest::default()
    }))
}

/// Watches one member, resuming from the last revision whenever the stream ends.
struct Follower {
    url: String,
    seen: Seen,
    /// No event at or below this may come any more.
    floor: i64,
    resumed: usize,
}

impl Follower {
    async fn follow(mut self, goal: Arc<AtomicI64>, over: Arc<AtomicBool>) -> Result<Follower> {
        let deadline = Instant::now() + SETTLE * 4;
        while !over.load(Ordering::Acquire) || self.floor < goal.load(Ordering::Acquire) {
            ensure!(
                Instant::now() < deadline,
                "{} stands at {}, not at {}",
                self.url,
                self.floor,
                goal.load(Ordering::Acquire)
            );
            // A stream that breaks is resumed; what it broke with does not matter.
            self.stream(&goal, &over).await?;
            self.resumed += 1;
        }
        Ok(self)
    }

    async fn stream(&mut self, goal: &AtomicI64, over: &AtomicBool) -> Result<()> {
        let endpoint = Endpoint::from_shared(self.url.clone())?;
        let Ok(channel) = endpoint.connect().await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            return Ok(());
        };
        let (sender, receiver) = mpsc::channel(4);
        sender.send(all_from(self.floor + 1)).await?;
        let requests = ReceiverStream(receiver);
        let Ok(response) = WatchClient::new(channel).watch(requests).await else {
            return Ok(());
        };
        let mut stream = response.into_inner();
        let mut ticks = tokio::time::interval(Duration::from_millis(50));
        while !over.load(Ordering::Acquire) || self.floor < goal.load(Ordering::Acquire) {
            let response = tokio::select! {
                response = stream.message() => response,
                _ = ticks.tick() => {
                    let progress = RequestUnion::ProgressRequest(WatchProgressRequest {});
                    // A stream that ended says so by its next response.
                    let _ = sender.try_send(request(progress));
                    continue;
                }
            };
            let Ok(Some(response)) = response else {
                return Ok(());
            };
            ensure!(!response.canceled, "cancelled: {}", response.cancel_reason);
            let header = response.header.context("a header")?;
            let mut last = self.floor;
            // A revision comes whole, in one response.
            for event in response.decode_events()? {
                let kv = event.kv.context("a pair")?;
                ensure!(
                    kv.mod_revision > self.floor && kv.mod_revision >= last,
                    "an event of {} after {}",
                    kv.mod_revision,
                    self.floor
                );
                last = kv.mod_revision;
                self.seen.push((kv.mod_revision, kv.key));
            }
            self.floor = last;
            if response.watch_id == -1 {
                self.floor = self.floor.max(header.revision);
            }
        }
        Ok(())
    }
}

/// A channel's receiver as a stream.
struct ReceiverStream(mpsc::Receiver<WatchRequest>);

impl tonic::codegen::tokio_stream::Stream for ReceiverStream {
    type Item = WatchRequest;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<WatchRequest>> {
        self.0.poll_recv(context)
    }
}

/// Puts a key of its own for each number, some at one revision; whether a transaction that failed
/// took effect is seen later.
async fn put(cluster: &Cluster, numbers: std::ops::Range<usize>, avoid: usize) -> Result<()> {
    let mut batches = numbers.step_by(BATCH).enumerate().peekable();
    while let Some((number, _)) = batches.peek() {
        let member = (0..3).find(|member| *member != avoid && number % 3 != *member);
        let member = &cluster.members[member.context("a member that runs")?];
        let mut kv = member.kv().await?;
        for _ in 0..20 {
            let Some((_, first)) = batches.next() else {
                return Ok(());
            };
            let success = (first..first + BATCH).map(|number| RequestOp {
                request: Some(Op::RequestPut(PutRequest {
                    key: Bytes::from(format!("k/{number:06}")),
                    value: Bytes::from_static(b"value"),
                    ..PutRequest::default()
                })),
            });
            let txn = TxnRequest {
                success: success.collect(),
                ..TxnRequest::default()
            };
            if kv.txn(txn).await.is_err() {
                break;
            }
        }
    }
    Ok(())
}

/// The history as the store has it: every key was put once at most.
async fn history(cluster: &Cluster) -> Result<(i64, Seen)> {
    let request = RangeRequest {
        key: Bytes::from_static(b"k/"),
        range_end: Bytes::from_static(b"k0"),
        ..RangeRequest::default()
    };
    let answer = cluster.members[0]
        .kv()
        .await?
        .range(request)
        .await?
        .into_inner();
    let mut seen = Seen::new();
    for kv in &answer.kvs {
        let kv = KeyValue::decode(kv.clone())?;
        seen.push((kv.mod_revision, kv.key));
    }
    seen.sort_unstable();
    Ok((answer.header.context("a header")?.revision, seen))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_miss_nothing_while_leaders_die_and_members_restart() -> Result<()> {
    let mut cluster = Cluster::start(3, &[]).await?;
    let goal = Arc::new(AtomicI64::new(i64::MAX));
    let over = Arc::new(AtomicBool::new(false));
    let followers: Vec<_> = cluster
        .members
        .iter()
        .map(|member| {
            let follower = Follower {
                url: member.client_url(),
                seen: Seen::new(),
                floor: 0,
                resumed: 0,
            };
            tokio::spawn(follower.follow(Arc::clone(&goal), Arc::clone(&over)))
        })
        .collect();

    put(&cluster, 0..PUTS / 4, usize::MAX).await?;
    let leader = cluster.leader().await?;
    cluster.members[leader].kill()?;
    put(&cluster, PUTS / 4..PUTS / 2, leader).await?;
    cluster.restart(leader).await?;
    // Another one is told to stop, then the leader of that time is killed.
    let other = (leader + 1) % 3;
    cluster.members[other].terminate(SETTLE).await?;
    put(&cluster, PUTS / 2..3 * PUTS / 4, other).await?;
    cluster.restart(other).await?;
    let second = cluster.leader().await?;
    cluster.members[second].kill()?;
    put(&cluster, 3 * PUTS / 4..PUTS, second).await?;
    cluster.restart(second).await?;

    let (revision, expected) = history(&cluster).await?;
    ensure!(expected.len() > PUTS / 2, "only {} puts", expected.len());
    goal.store(revision, Ordering::Release);
    over.store(true, Ordering::Release);
    for (member, follower) in followers.into_iter().enumerate() {
        let follower = tokio::time::timeout(SETTLE, follower).await???;
        ensure!(
            follower.seen == expected,
            "member {member} told {} events, not {}",
            follower.seen.len(),
            expected.len()
        );
        if member == leader {
            ensure!(follower.resumed > 1, "the leader's stream never ended");
        }
    }
    Ok(())
}
