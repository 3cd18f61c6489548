//! Watchers against a model: whatever happened, each gets what its keys and its start say.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use kvd_api::pb::mvccpb::{self, KeyValue, event::EventType};
use prost::Message;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::{EngineKind, Options, Position, Store, Writer};

const DEADLINE: Duration = Duration::from_secs(30);

fn store() -> (tempfile::TempDir, Store, Writer) {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, writer) = open(&dir, EngineKind::Memory);
    (dir, store, writer)
}

fn open(dir: &tempfile::TempDir, engine: EngineKind) -> (Store, Writer) {
    let options = Options {
        engine,
        flush_interval: Duration::from_millis(1),
        compaction_sleep: Duration::ZERO,
        ..Options::default()
    };
    crate::open(&dir.path().join("store"), options).expect("opens")
}

fn block<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let answer = tokio::time::timeout(DEADLINE, future).await;
        answer.expect("an answer before the deadline")
    })
}

fn put(writer: &mut Writer, key: &str, value: &str) -> i64 {
    let mut txn = writer.txn();
    txn.put(
        Bytes::copy_from_slice(key.as_bytes()),
        Bytes::copy_from_slice(value.as_bytes()),
        0,
    )
    .expect("a put");
    txn.end()
}

fn one(key: &str, start_revision: i64) -> WatchOptions {
    WatchOptions {
        key: Bytes::copy_from_slice(key.as_bytes()),
        start_revision,
        ..WatchOptions::default()
    }
}

fn range(key: &str, end: &str, start_revision: i64) -> WatchOptions {
    WatchOptions {
        range_end: Bytes::copy_from_slice(end.as_bytes()),
        ..one(key, start_revision)
    }
}

/// (revision, key, deleted) of the next events.
fn next_events(stream: &WatchStream) -> (i64, Vec<(i64, String, bool)>) {
    match block(stream.next()).expect("open") {
        Delivery::Events { id, events, .. } => (id, events.iter().map(|e| short(e)).collect()),
        other => panic!("events expected, not {other:?}"),
    }
}

fn short(event: &Event) -> (i64, String, bool) {
    let key = String::from_utf8_lossy(&event.key()).into_owned();
    (event.mod_revision(), key, event.is_delete())
}

#[test]
fn live_events_come_by_whole_revisions() {
    let (_dir, store, mut writer) = store();
    let mut stream = store.watch_stream();
    let made = stream.watch(range("a", "c", 0)).expect("watches");
    assert_eq!(made, Watching { id: 0, revision: 1 });
    put(&mut writer, "a", "1");
    put(&mut writer, "c", "outside");
    let mut txn = writer.txn();
    txn.put("b".into(), "2".into(), 0).expect("a put");
    txn.delete_range(b"a", b"", false).expect("a deletion");
    txn.end();
    assert_eq!(next_events(&stream), (0, vec![(2, "a".into(), false)]));
    let both = vec![(4, "b".into(), false), (4, "a".into(), true)];
    assert_eq!(next_events(&stream), (0, both));
}

#[test]
fn ids_and_ranges_are_checked_as_etcd_does() {
    let (_dir, store, _writer) = store();
    let mut stream = store.watch_stream();
    let mut id = |options| stream.watch(options).map(|made| made.id);
    assert_eq!(
        id(WatchOptions {
            id: 1,
            ..one("k", 0)
        }),
        Ok(1)
    );
    assert_eq!(id(one("k", 0)), Ok(0));
    assert_eq!(id(one("k", 0)), Ok(2));
    let twice = WatchOptions {
        id: 2,
        ..one("k", 0)
    };
    assert_eq!(id(twice), Err(WatchError::DuplicateId));
    assert_eq!(id(range("b", "b", 0)), Err(WatchError::EmptyRange));
    assert_eq!(id(range("b", "a", 0)), Err(WatchError::EmptyRange));
    assert_eq!(id(range("b", "\0", 0)), Ok(3));
    assert!(stream.cancel(1) && !stream.cancel(1) && !stream.cancel(77));
    assert_eq!(store.watch_stats().watchers, 3);
    drop(stream);
    assert_eq!(store.watch_stats(), WatchStats::default());
}

#[test]
fn the_past_is_told_and_then_the_present() {
    let (_dir, store, mut writer) = store();
    for revision in 2..=2500 {
        assert_eq!(put(&mut writer, "k", "v"), revision);
    }
    let mut stream = store.watch_stream();
    stream.watch(one("k", 3)).expect("watches");
    let mut expected = 3;
    while expected <= 2500 {
        let (_, events) = next_events(&stream);
        assert!(events.len() <= 1000);
        for (revision, _, _) in events {
            assert_eq!(revision, expected);
            expected += 1;
        }
    }
    put(&mut writer, "k", "v");
    assert_eq!(next_events(&stream).1, [(2501, "k".into(), false)]);
}

#[test]
fn a_future_start_is_silent_until_then() {
    let (_dir, store, mut writer) = store();
    let mut stream = store.watch_stream();
    stream.watch(one("k", 4)).expect("watches");
    stream.request_progress(0);
    stream.request_progress_all();
    for _ in 2..=4 {
        put(&mut writer, "k", "v");
    }
    stream.request_progress_all();
    assert_eq!(next_events(&stream).1, [(4, "k".into(), false)]);
    let progress = block(stream.next()).expect("open");
    assert!(matches!(
        progress,
        Delivery::Progress {
            id: None,
            revision: 4
        }
    ));
}

#[test]
fn progress_is_told_before_the_first_event() {
    let (_dir, store, _writer) = store();
    let mut stream = store.watch_stream();
    stream.request_progress_all();
    stream.watch(one("k", 0)).expect("watches");
    stream.request_progress(0);
    stream.request_progress_all();
    for expected in [Some(0), None] {
        let progress = block(stream.next()).expect("open");
        assert!(matches!(progress, Delivery::Progress { id, revision: 1 } if id == expected));
    }
}

#[test]
fn who_starts_in_compacted_history_is_told() {
    let (_dir, store, mut writer) = store();
    for _ in 2..=9 {
        put(&mut writer, "k", "v");
    }
    writer.compact(6).expect("compacts");
    writer.commit(Position {
        index: 1,
        bytes: Bytes::new(),
    });
    store.wait_compacted(6);
    let mut stream = store.watch_stream();
    stream.watch(one("k", 5)).expect("watches");
    let ended = block(stream.next()).expect("open");
    assert!(matches!(
        ended,
        Delivery::Compacted {
            id: 0,
            compact_revision: 6
        }
    ));
    stream.watch(one("k", 6)).expect("watches");
    let (id, events) = next_events(&stream);
    let revisions: Vec<i64> = events.iter().map(|event| event.0).collect();
    assert_eq!((id, revisions), (1, vec![6, 7, 8, 9]));
    assert_eq!(store.watch_stats().watchers, 1);
}

#[test]
fn a_client_that_does_not_read_falls_behind_and_loses_nothing() {
    const PUTS: i64 = 5000;
    let (_dir, store, mut writer) = store();
    let (mut slow, mut quick) = (store.watch_stream(), store.watch_stream());
    slow.watch(one("k", 0)).expect("watches");
    quick.watch(one("k", 0)).expect("watches");
    for revision in 2..2 + PUTS {
        put(&mut writer, "k", "v");
        assert_eq!(next_events(&quick).1, [(revision, "k".into(), false)]);
    }
    let stats = store.watch_stats();
    assert_eq!(stats.slow, 1);
    assert!(stats.pending < PUTS, "{stats:?} is not bounded");
    let lag = store.watch_lag();
    assert_eq!(lag.max, PUTS);
    assert!(
        lag.watchers
            .iter()
            .all(|(step, watchers)| *watchers == i64::from(PUTS >= *step))
    );
    let mut expected = 2;
    while expected < 2 + PUTS {
        for (revision, _, _) in next_events(&slow).1 {
            assert_eq!(revision, expected);
            expected += 1;
        }
    }
    put(&mut writer, "k", "v");
    assert_eq!(next_events(&slow).1, [(2 + PUTS, "k".into(), false)]);
    assert_eq!(
        store.watch_stats().pending,
        1,
        "what the quick one has not read"
    );
    assert_eq!(store.watch_lag().max, 1);
}

/// A member that is far behind is sent the store: its watchers go on from where they were.
#[test]
fn an_installed_snapshot_loses_no_event() {
    for compacted in [None, Some(4), Some(7)] {
        let (dir, from, mut writer) = store();
        for _ in 2..=9 {
            put(&mut writer, "k", "v");
        }
        if let Some(revision) = compacted {
            writer.compact(revision).expect("compacts");
        }
        let position = Position {
            index: 9,
            bytes: Bytes::new(),
        };
        writer.commit(position.clone());
        from.wait_compacted(compacted.unwrap_or(-1));
        let file = dir.path().join("snapshot");
        let mut snapshot = from.snapshot().expect("a snapshot");
        let mut content = Vec::new();
        while let Some(chunk) = snapshot.next_chunk().expect("reads") {
            content.extend_from_slice(&chunk);
        }
        std::fs::write(&file, content).expect("writes");

        let (_dir, store, mut writer) = store();
        let mut stream = store.watch_stream();
        stream.watch(one("k", 0)).expect("watches");
        stream.watch(one("k", 11)).expect("watches");
        for _ in 2..=4 {
            put(&mut writer, "k", "v");
        }
        writer.install(&file, position).expect("installs");
        put(&mut writer, "k", "v");
        put(&mut writer, "k", "v");
        let mut got: [Vec<i64>; 2] = Default::default();
        let mut over = None;
        while got[1].is_empty() || (over.is_none() && got[0].last() != Some(&11)) {
            match block(stream.next()).expect("open") {
                Delivery::Events { id, events, .. } => {
                    let revisions = events.iter().map(|event| event.mod_revision());
                    got[usize::from(id == 1)].extend(revisions);
                }
                Delivery::Compacted {
                    id,
                    compact_revision,
                } => over = Some((id, compact_revision)),
                Delivery::Progress { .. } => unreachable!("nobody asked"),
            }
        }
        assert_eq!(got[1], [11]);
        if compacted == Some(7) {
            // It needed revision 5 next.
            assert_eq!((&got[0][..], over), (&[2, 3, 4][..], Some((0, 7))));
        } else {
            assert_eq!((got[0].clone(), over), ((2..=11).collect(), None));
        }
    }
}

#[test]
fn the_pair_before_is_that_of_the_revision_before() {
    let (_dir, store, mut writer) = store();
    let mut stream = store.watch_stream();
    stream.watch(one("k", 0)).expect("watches");
    put(&mut writer, "k", "1");
    put(&mut writer, "k", "2");
    writer
        .txn()
        .delete_range(b"k", b"", false)
        .expect("deletes");
    let mut before = Vec::new();
    for _ in 0..3 {
        let Some(Delivery::Events { events, .. }) = block(stream.next()) else {
            panic!("events expected");
        };
        let encoded = store.event_with_prev(&events[0]);
        let event = mvccpb::Event::decode(encoded).expect("an event");
        before.push(event.prev_kv.map(|kv| (kv.mod_revision, kv.value)));
    }
    assert_eq!(before, [None, Some((2, "1".into())), Some((3, "2".into()))]);
}

#[test]
fn nothing_of_a_cancelled_watcher_comes_after() {
    let (_dir, store, mut writer) = store();
    let mut stream = store.watch_stream();
    let id = |id| WatchOptions { id, ..one("k", 0) };
    stream.watch(id(7)).expect("watches");
    put(&mut writer, "k", "1");
    stream.cancel(7);
    stream.watch(id(7)).expect("watches");
    put(&mut writer, "k", "2");
    assert_eq!(next_events(&stream).1, [(3, "k".into(), false)]);
}

#[test]
fn a_stopped_store_ends_its_streams() {
    let (_dir, store, _writer) = store();
    let stream = store.watch_stream();
    store.stop_watches();
    assert!(block(stream.next()).is_none());
    assert!(block(store.watch_stream().next()).is_none());
}

#[test]
fn ranges_are_found_as_by_looking_at_all_of_them() {
    use super::intervals::Intervals;
    use super::watcher::End;
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let key = |rng: &mut StdRng| Bytes::from(vec![rng.random_range(0..40u8)]);
    let mut ranges = Intervals::default();
    let mut model: BTreeMap<(Bytes, End), u32> = BTreeMap::new();
    for step in 0..3000 {
        let start = key(&mut rng);
        let end = if rng.random_bool(0.1) {
            End::Unbounded
        } else {
            End::Before(key(&mut rng))
        };
        let known = model.contains_key(&(start.clone(), end.clone()));
        assert_eq!(ranges.get_mut(&start, &end).is_some(), known);
        if known {
            let removed = ranges.remove(&start, &end);
            assert_eq!(removed, model.remove(&(start, end)));
        } else {
            ranges.insert(start.clone(), end.clone(), step);
            model.insert((start, end), step);
        }
        let asked = key(&mut rng);
        let mut found = Vec::new();
        ranges.each_holding(&asked, &mut |value| found.push(*value));
        let holds = |(start, end): &(Bytes, End)| {
            *start <= asked
                && match end {
                    End::Unbounded => true,
                    End::Before(end) => asked < *end,
                }
        };
        let expected = model
            .iter()
            .filter(|(range, _)| holds(range))
            .map(|(_, value)| *value);
        assert_eq!(found, expected.collect::<Vec<_>>());
    }
}

/// What the model knows of one change.
#[derive(Clone, Debug, PartialEq)]
struct Change {
    revision: i64,
    key: Bytes,
    value: Option<Bytes>,
    prev: Option<Bytes>,
}

struct Model {
    live: BTreeMap<Bytes, Bytes>,
    history: Vec<Change>,
}

/// A watcher of the test, and what it has got.
struct Follower {
    options: WatchOptions,
    first: i64,
    got: Vec<Change>,
    /// It has got what it will get: it was cancelled, or told that history is gone.
    over: bool,
}

/// A stream and its watchers.
type Client = (WatchStream, BTreeMap<i64, Follower>);

impl Follower {
    fn wants(&self, change: &Change) -> bool {
        let inside = match &self.options.range_end[..] {
            [] => change.key == self.options.key,
            [0] => change.key >= self.options.key,
            end => change.key >= self.options.key && change.key[..] < *end,
        };
        let filtered = match change.value {
            Some(_) => self.options.no_put,
            None => self.options.no_delete,
        };
        inside && !filtered && change.revision >= self.first
    }
}

fn random_txn(rng: &mut StdRng, writer: &mut Writer, model: &mut Model) {
    let before = model.live.clone();
    let mut txn = writer.txn();
    let revision = txn.main();
    let mut touched = std::collections::BTreeSet::new();
    for _ in 0..rng.random_range(1..4) {
        let key = Bytes::from(format!("k{}", rng.random_range(0..12)));
        if !touched.insert(key.clone()) {
            continue;
        }
        if rng.random_bool(0.7) {
            let value = Bytes::from(vec![b'v'; rng.random_range(0..200)]);
            txn.put(key.clone(), value.clone(), 0).expect("a put");
            model.live.insert(key.clone(), value.clone());
            let prev = before.get(&key).cloned();
            model.history.push(Change {
                revision,
                key,
                value: Some(value),
                prev,
            });
        } else {
            let (deleted, _) = txn.delete_range(&key, b"", false).expect("a deletion");
            assert_eq!(deleted > 0, model.live.remove(&key).is_some());
            if deleted > 0 {
                let prev = before.get(&key).cloned();
                model.history.push(Change {
                    revision,
                    key,
                    value: None,
                    prev,
                });
            }
        }
    }
    txn.end();
}

fn random_watch(rng: &mut StdRng, current: i64) -> WatchOptions {
    let key = Bytes::from(format!("k{}", rng.random_range(0..12)));
    let range_end = match rng.random_range(0..4) {
        0 => Bytes::new(),
        1 => Bytes::from_static(b"\0"),
        _ => Bytes::from(format!("k{}~", rng.random_range(0..12))),
    };
    WatchOptions {
        key,
        range_end,
        start_revision: rng.random_range(0..current + 10),
        id: 0,
        no_put: rng.random_bool(0.1),
        no_delete: rng.random_bool(0.1),
    }
}

fn take(
    store: &Store,
    stream: &WatchStream,
    followers: &mut BTreeMap<i64, Follower>,
    model: &Model,
    compacted: i64,
) -> bool {
    let polled = block(async {
        tokio::select! {
            biased;
            delivery = stream.next() => delivery,
            () = std::future::ready(()) => None,
        }
    });
    let Some(delivery) = polled else { return false };
    match delivery {
        Delivery::Events { id, events, .. } => {
            let follower = followers.get_mut(&id).expect("a known watcher");
            for event in events.iter() {
                let encoded = store.event_with_prev(event);
                let event = mvccpb::Event::decode(encoded).expect("an event");
                let kv: KeyValue = event.kv.expect("a pair");
                let deleted = event.r#type == EventType::Delete as i32;
                follower.got.push(Change {
                    revision: kv.mod_revision,
                    key: kv.key,
                    value: (!deleted).then_some(kv.value),
                    prev: event.prev_kv.map(|kv| kv.value),
                });
            }
        }
        Delivery::Compacted {
            id,
            compact_revision,
        } => {
            let follower = followers.get_mut(&id).expect("a known watcher");
            assert!(compact_revision <= compacted && follower.first < compact_revision);
            follower.over = true;
        }
        Delivery::Progress { revision, .. } => {
            for follower in followers.values().filter(|follower| !follower.over) {
                assert!(follower.options.start_revision <= revision);
                let told = |change: &&Change| follower.wants(change) && change.revision <= revision;
                assert_eq!(
                    follower.got.len(),
                    model.history.iter().filter(told).count()
                );
            }
        }
    }
    true
}

/// Makes a watcher; what the client has is known from then on.
fn begin(rng: &mut StdRng, store: &Store, (stream, followers): &mut Client) {
    let options = random_watch(rng, store.current_revision());
    let Ok(made) = stream.watch(options.clone()) else {
        return;
    };
    let first = match options.start_revision {
        0 => made.revision + 1,
        start => start,
    };
    let follower = Follower {
        options,
        first,
        got: Vec::new(),
        over: false,
    };
    followers.insert(made.id, follower);
}

/// One watcher is not wanted any more. What comes of it later would be one too many.
fn cancel(rng: &mut StdRng, (stream, followers): &mut Client) {
    let count = followers.len().max(1);
    if let Some((id, follower)) = followers.iter_mut().nth(rng.random_range(0..count))
        && !follower.over
    {
        assert!(stream.cancel(*id));
        follower.over = true;
    }
}

/// The connection breaks, or the member has been down: the client opens another stream, and each
/// watcher goes on behind the last revision that it has got.
fn reconnect(store: &Store, (stream, followers): &mut Client) {
    *stream = store.watch_stream();
    for (_, mut follower) in std::mem::take(followers) {
        let next = follower.got.last().map_or(0, |change| change.revision + 1);
        let options = WatchOptions {
            start_revision: next.max(follower.first),
            id: 0,
            ..follower.options.clone()
        };
        if follower.over {
            // Nothing comes any more; it is only compared at the end.
            let id = -1 - i64::try_from(followers.len()).expect("few");
            followers.insert(id, follower);
            continue;
        }
        let made = stream.watch(options.clone()).expect("watches again");
        follower.options = options;
        followers.insert(made.id, follower);
    }
}

/// Whatever was put, deleted and compacted, wherever watchers start, whoever cancels, and however
/// often clients come back, each gets exactly what the model says; who loses history to a
/// compaction, or is cancelled, has got a prefix of it.
#[test]
fn any_history_gives_each_watcher_the_models_events() {
    for _ in 0..20 {
        let seed = rand::random();
        println!("seed {seed}");
        one_history(seed, EngineKind::Memory);
    }
}

/// The same with members that restart.
#[test]
fn any_history_with_restarts_gives_each_watcher_the_models_events() {
    for _ in 0..4 {
        let seed = rand::random();
        println!("seed {seed}");
        one_history(seed, EngineKind::Redb);
    }
}

fn one_history(seed: u64, engine: EngineKind) {
    let rng = &mut StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().expect("a directory");
    let (mut store, mut writer) = open(&dir, engine);
    let mut model = Model {
        live: BTreeMap::new(),
        history: Vec::new(),
    };
    let mut streams: Vec<Client> = (0..3)
        .map(|_| (store.watch_stream(), BTreeMap::new()))
        .collect();
    let mut compacted = 0;
    for step in 1..1500 {
        match rng.random_range(0..100) {
            0..70 => random_txn(rng, &mut writer, &mut model),
            70..73 => {
                let client = rng.random_range(0..3);
                begin(rng, &store, &mut streams[client]);
            }
            73 => {
                let at = rng.random_range(compacted..=store.current_revision());
                if writer.compact(at).is_ok() {
                    compacted = at;
                }
            }
            74..78 => streams[rng.random_range(0..3)].0.request_progress_all(),
            78..80 => writer.commit(Position {
                index: step,
                bytes: Bytes::new(),
            }),
            80 => {
                let client = rng.random_range(0..3);
                cancel(rng, &mut streams[client]);
            }
            81 if rng.random_bool(0.3) => {
                reconnect(&store, &mut streams[rng.random_range(0..3)]);
            }
            _ => {
                let (stream, followers) = &mut streams[rng.random_range(0..2)];
                take(&store, stream, followers, &model, compacted);
            }
        }
        if engine != EngineKind::Memory && step % 400 == 0 {
            let bytes = Bytes::new();
            writer.commit(Position { index: step, bytes });
            store.flush().expect("flushes");
            // The streams go first: with the last handle of the store its files are closed.
            let clients = std::mem::take(&mut streams);
            let followers: Vec<_> = clients.into_iter().map(|(_, known)| known).collect();
            drop((store, writer));
            (store, writer) = open(&dir, engine);
            streams.extend(followers.into_iter().map(|followers| {
                let mut client = (store.watch_stream(), followers);
                reconnect(&store, &mut client);
                client
            }));
        }
    }
    writer.commit(Position {
        index: 1500,
        bytes: Bytes::new(),
    });
    for (stream, followers) in &mut streams {
        settle(&store, stream, followers, &model, compacted);
    }
}

/// Reads until every watcher has what it should have.
fn settle(
    store: &Store,
    stream: &WatchStream,
    followers: &mut BTreeMap<i64, Follower>,
    model: &Model,
    compacted: i64,
) {
    let deadline = std::time::Instant::now() + DEADLINE;
    let expected = |follower: &Follower| -> Vec<Change> {
        model
            .history
            .iter()
            .filter(|change| follower.wants(change))
            .cloned()
            .collect()
    };
    loop {
        while take(store, stream, followers, model, compacted) {}
        let done = followers
            .values()
            .all(|f| f.over || f.got.len() >= expected(f).len());
        if done || std::time::Instant::now() > deadline {
            break;
        }
        std::thread::yield_now();
    }
    for follower in followers.values() {
        let mut expected = expected(follower);
        if follower.over {
            expected.truncate(follower.got.len());
        }
        assert_eq!(
            follower.got.len(),
            expected.len(),
            "of {} revisions",
            store.current_revision()
        );
        for (got, expected) in follower.got.iter().zip(&expected) {
            let mut expected = expected.clone();
            if expected.prev.is_some() && got.prev.is_none() {
                assert!(
                    expected.revision - 1 < compacted,
                    "{got:?} lost the pair before"
                );
                expected.prev = None;
            }
            assert_eq!(*got, expected);
        }
    }
}
