//! Watchers through what happens to the store under them: defragmentation, an installed snapshot, a
//! learner's promotion; and the bound of a stream.
#![allow(missing_docs)]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use kvd_api::pb::etcdserverpb::watch_client::WatchClient;
use kvd_api::pb::etcdserverpb::watch_request::RequestUnion;
use kvd_api::pb::etcdserverpb::{
    CompactionRequest, DefragmentRequest, MemberAddRequest, MemberPromoteRequest, PutRequest,
    WatchCancelRequest, WatchCreateRequest, WatchRequest,
};
use kvd_api::wire::WatchResponse;
use kvd_tests::cluster::Cluster;
use kvd_tests::member::Member;
use kvd_tests::{http, wait};
use rustix::process::Signal;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

const PATIENCE: Duration = Duration::from_secs(60);
/// Snapshots are taken often and little of the log is kept.
const SHORT_LOG: [&str; 4] = ["--snapshot-count", "20", "--snapshot-catchup-entries", "5"];

/// Revision and key of each put or event, in order.
type Told = Vec<(i64, Bytes)>;

struct Watcher {
    requests: mpsc::Sender<WatchRequest>,
    responses: Streaming<WatchResponse>,
    told: Told,
}

impl Watcher {
    async fn open(member: &Member) -> Result<Watcher> {
        let (requests, receiver) = mpsc::channel(8);
        let mut client = WatchClient::new(member.channel().await?);
        let responses = client.watch(ReceiverStream::new(receiver)).await?;
        Ok(Watcher {
            requests,
            responses: responses.into_inner(),
            told: Told::new(),
        })
    }

    async fn next(&mut self) -> Result<WatchResponse> {
        let response = tokio::time::timeout(PATIENCE, self.responses.message());
        response.await??.context("the stream ended")
    }

    /// Watches everything below `k/`.
    async fn create(&mut self, start_revision: i64) -> Result<WatchResponse> {
        let create = WatchCreateRequest {
            key: Bytes::from_static(b"k/"),
            range_end: Bytes::from_static(b"k0"),
            start_revision,
            ..WatchCreateRequest::default()
        };
        let request = WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(create)),
        };
        self.requests.send(request).await?;
        self.next().await
    }

    /// One that watches from `start_revision` on.
    async fn from(member: &Member, start_revision: i64) -> Result<Watcher> {
        let mut watcher = Watcher::open(member).await?;
        let created = watcher.create(start_revision).await?;
        ensure!(created.created && !created.canceled, "{created:?}");
        Ok(watcher)
    }

    /// Takes events until the one of `revision`.
    async fn listen_until(&mut self, revision: i64) -> Result<()> {
        let over = self.end(revision).await?;
        ensure!(over.is_none(), "{over:?}");
        Ok(())
    }

    /// Takes events until the one of `revision`, or until the watcher is told that it is over.
    async fn end(&mut self, revision: i64) -> Result<Option<WatchResponse>> {
        while self.told.last().is_none_or(|(last, _)| *last < revision) {
            let response = self.next().await?;
            if response.canceled {
                return Ok(Some(response));
            }
            for event in response.decode_events()? {
                let kv = event.kv.context("a pair")?;
                self.told.push((kv.mod_revision, kv.key));
            }
        }
        Ok(None)
    }
}

/// Puts `count` keys of their own, some at a time; each has a revision of its own.
async fn put(member: &Member, name: &str, count: usize, told: &mut Told) -> Result<()> {
    let kv = member.kv().await?;
    let puts = futures_util::stream::iter(0..count).map(|number| {
        let (key, mut kv) = (Bytes::from(format!("k/{name}/{number:05}")), kv.clone());
        async move {
            let put = PutRequest {
                key: key.clone(),
                value: Bytes::from_static(b"value"),
                ..PutRequest::default()
            };
            let header = kv.put(put).await?.into_inner().header;
            anyhow::Ok((header.context("a header")?.revision, key))
        }
    });
    let mut made: Told = puts.buffer_unordered(8).try_collect().await?;
    made.sort_unstable();
    told.extend(made);
    Ok(())
}

fn last(told: &Told) -> Result<i64> {
    Ok(told.last().context("something was put")?.0)
}

/// How many snapshots the member has received.
fn snapshots(member: &Member) -> Result<f64> {
    let metrics = http::get(&member.client_address(), "/metrics")?.body;
    let counts = metrics
        .lines()
        .filter(|line| line.starts_with("etcd_network_snapshot_receive_success{"))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    Ok(counts.sum())
}

#[tokio::test(flavor = "multi_thread")]
async fn defragmentation_takes_nothing_from_watchers() -> Result<()> {
    let cluster = Cluster::start(3, &[]).await?;
    let mut watchers = Vec::new();
    for member in &cluster.members {
        watchers.push(Watcher::from(member, 1).await?);
    }
    let mut told = Told::new();
    for round in 0..3 {
        // One is defragmented while all are written to; the watchers read meanwhile or later.
        let mut maintenance = cluster.members[round].maintenance().await?;
        let defragment = tokio::spawn(async move {
            for _ in 0..3 {
                maintenance.defragment(DefragmentRequest {}).await?;
            }
            anyhow::Ok(())
        });
        let writer = &cluster.members[(round + 1) % 3];
        put(writer, &format!("{round}"), 150, &mut told).await?;
        defragment.await??;
    }
    for (member, watcher) in cluster.members.iter().zip(&mut watchers) {
        watcher.listen_until(last(&told)?).await?;
        ensure!(watcher.told == told, "{} told otherwise", member.name());
        // From the beginning, out of the defragmented files.
        let mut again = Watcher::from(member, 1).await?;
        again.listen_until(last(&told)?).await?;
        ensure!(
            again.told == told,
            "{} tells it otherwise now",
            member.name()
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_of_a_member_that_gets_a_snapshot_miss_nothing() -> Result<()> {
    let cluster = Cluster::start(3, &SHORT_LOG).await?;
    let leader = cluster.leader().await?;
    let (at, follower) = (&cluster.members[leader], &cluster.members[(leader + 1) % 3]);
    let mut told = Told::new();
    put(at, "before", 30, &mut told).await?;
    let mut past = Watcher::from(follower, 1).await?;
    let mut live = Watcher::from(follower, last(&told)? + 1).await?;
    past.listen_until(last(&told)?).await?;
    let known = told.len();

    // It sleeps while so much is written that the log it needs is gone. How much that is depends
    // on when the others' stores were flushed.
    for round in 0.. {
        ensure!(round < 10, "it always catches up by log");
        let before = snapshots(follower)?;
        follower.signal(Signal::STOP)?;
        put(
            at,
            &format!("meanwhile{round}"),
            1_000 * (1 + round),
            &mut told,
        )
        .await?;
        follower.signal(Signal::CONT)?;
        put(at, &format!("after{round}"), 30, &mut told).await?;
        past.listen_until(last(&told)?).await?;
        live.listen_until(last(&told)?).await?;
        ensure!(
            past.told == told,
            "the one from the beginning was told otherwise"
        );
        ensure!(
            live.told == told[known..],
            "the live one was told otherwise"
        );
        if snapshots(follower)? > before {
            return Ok(());
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_that_a_snapshot_leaves_behind_are_told_so() -> Result<()> {
    let cluster = Cluster::start(3, &SHORT_LOG).await?;
    let leader = cluster.leader().await?;
    let (at, follower) = (&cluster.members[leader], &cluster.members[(leader + 1) % 3]);
    let mut told = Told::new();
    put(at, "before", 30, &mut told).await?;
    let mut watcher = Watcher::from(follower, 1).await?;
    watcher.listen_until(last(&told)?).await?;
    for round in 0.. {
        ensure!(round < 10, "it always catches up by log");
        // What the watcher waits for is compacted before it can be told.
        follower.signal(Signal::STOP)?;
        put(
            at,
            &format!("compacted{round}"),
            1_000 * (1 + round),
            &mut told,
        )
        .await?;
        let (compacted, at_compacted) = (last(&told)?, told.len() - 1);
        let compact = CompactionRequest {
            revision: compacted,
            physical: true,
        };
        at.kv().await?.compact(compact).await?;
        put(at, &format!("more{round}"), 200, &mut told).await?;
        follower.signal(Signal::CONT)?;
        let end = watcher.end(last(&told)?).await?;
        is_without_gap(&told, &watcher)?;
        let Some(end) = end else {
            // The log was quicker than the snapshot, if there was one.
            continue;
        };
        ensure!(end.compact_revision == compacted, "{end:?}");
        let mut resumed = Watcher::from(follower, compacted).await?;
        resumed.listen_until(last(&told)?).await?;
        ensure!(
            resumed.told == told[at_compacted..],
            "a watcher that resumes"
        );
        return Ok(());
    }
    Ok(())
}

/// Whether the watcher was told a part of `told` without a gap.
fn is_without_gap(told: &Told, watcher: &Watcher) -> Result<()> {
    let first = watcher.told.first().context("it was told something")?;
    let from = told.iter().position(|one| one == first);
    let from = from.context("the first event is one that was put")?;
    let part = told.get(from..from + watcher.told.len());
    ensure!(part == Some(&watcher.told[..]), "a gap in what it was told");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learner_refuses_watches_and_tells_everything_once_promoted() -> Result<()> {
    let cluster = Cluster::start(1, &SHORT_LOG).await?;
    let mut told = Told::new();
    put(&cluster.members[0], "before", 600, &mut told).await?;
    let mut late = Member::new("late", &cluster.folder().join("late"))?;
    late.add_arguments(&SHORT_LOG);
    let first = &cluster.members[0];
    let request = MemberAddRequest {
        peer_ur_ls: vec![late.peer_url()],
        is_learner: true,
    };
    let added = first.cluster().await?.member_add(request).await?;
    let id = added.into_inner().member.context("the member")?.id;
    late.add_arguments(&["--initial-cluster-state", "existing"]);
    let all = format!("{},late={}", cluster.initial_cluster(), late.peer_url());
    late.start(&all)?;
    late.wait_ready(PATIENCE).await?;

    // As in etcd a learner serves no streams but snapshots.
    let (_requests, receiver) = mpsc::channel::<WatchRequest>(1);
    let mut client = WatchClient::new(late.channel().await?);
    let refused = client.watch(ReceiverStream::new(receiver)).await;
    let refused = refused.err().context("a learner lets watch")?;
    ensure!(
        refused.message() == "etcdserver: rpc not supported for learner",
        "{refused}"
    );
    put(first, "meanwhile", 100, &mut told).await?;
    wait::until("the promotion", PATIENCE, || async {
        let promote = MemberPromoteRequest { id };
        first.cluster().await?.member_promote(promote).await?;
        Ok(())
    })
    .await?;
    let mut watcher = wait::until("a watcher", PATIENCE, || Watcher::from(&late, 1)).await?;
    let mut maintenance = late.maintenance().await?;
    maintenance.defragment(DefragmentRequest {}).await?;
    put(first, "after", 100, &mut told).await?;
    watcher.listen_until(last(&told)?).await?;
    ensure!(watcher.told == told, "it was told otherwise");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_has_so_many_watchers_and_no_more() -> Result<()> {
    let cluster = Cluster::start(1, &["--max-watches-per-stream", "50"]).await?;
    let member = &cluster.members[0];
    let mut watcher = Watcher::open(member).await?;
    for number in 0..50 {
        let created = watcher.create(0).await?;
        ensure!(
            created.created && !created.canceled,
            "{number}: {created:?}"
        );
    }
    for _ in 0..3 {
        let refused = watcher.create(0).await?;
        ensure!(refused.created && refused.canceled, "{refused:?}");
        ensure!(refused.watch_id == -1, "{refused:?}");
        ensure!(
            refused.cancel_reason == "kvd: a stream may have 50 watchers at most",
            "{refused:?}"
        );
    }
    // The others are told as before; one that goes makes room; another stream has its own bound.
    let mut told = Told::new();
    put(member, "k", 1, &mut told).await?;
    for _ in 0..50 {
        ensure!(watcher.next().await?.events.len() == 1, "an event for each");
    }
    let cancel = WatchCancelRequest { watch_id: 7 };
    let cancel = WatchRequest {
        request_union: Some(RequestUnion::CancelRequest(cancel)),
    };
    watcher.requests.send(cancel).await?;
    ensure!(watcher.next().await?.canceled, "the cancelled one");
    ensure!(!watcher.create(0).await?.canceled, "there is room again");
    ensure!(watcher.create(0).await?.canceled, "and no more");
    Watcher::from(member, 1)
        .await?
        .listen_until(last(&told)?)
        .await
}
