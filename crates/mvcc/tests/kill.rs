//! kill -9 of a writing process, again and again over one directory, on both engines.
//!
//! The child (this binary, started again) applies a history in which everything follows from the
//! log index, and says what it flushed. The parent kills it at a random moment, opens the
//! directory and compares all of it with the history up to the applied index found there.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kvd_mvcc::{EngineKind, Options, Position, RangeOptions, Store, Table, Writer};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const ROUNDS: usize = 8;
const KEYS: u64 = 700;
const DIR: &str = "KVD_KILL_DIR";
const ENGINE: &str = "KVD_KILL_ENGINE";

fn options(engine: EngineKind) -> Options {
    Options {
        engine,
        flush_interval: Duration::from_millis(20),
        ..Options::default()
    }
}

/// How many keys the entry at `index` puts. Some are longer than a batch of the flush thread.
fn puts(index: u64) -> u64 {
    if index.is_multiple_of(50) {
        6000
    } else {
        index % 9 + 1
    }
}

fn key(index: u64, nth: u64) -> Bytes {
    Bytes::from(format!("key {:04}", (index * 31 + nth * 7) % KEYS))
}

fn value(index: u64, nth: u64) -> Bytes {
    Bytes::from(format!("{index} {nth} ").repeat(1 + (index % 10) as usize))
}

/// Applies the entry at `index`, as the state machine would.
fn apply(writer: &mut Writer, index: u64) {
    let mut txn = writer.txn();
    for nth in 0..puts(index) {
        txn.put(key(index, nth), value(index, nth), 0).expect("put");
    }
    if index.is_multiple_of(13) {
        txn.delete_range(&key(index, 0), b"", false)
            .expect("delete");
    }
    let revision = txn.end();
    writer.table_put(
        Table::Alarm,
        Bytes::from_static(b"index"),
        index.to_string().into(),
    );
    if index.is_multiple_of(37) {
        writer.compact(revision - 20).expect("compact");
    }
    writer.commit(Position {
        index,
        bytes: Bytes::from(format!("entry {index}")),
    });
}

/// The pairs after the entries up to `index`.
fn model(index: u64) -> BTreeMap<Bytes, Bytes> {
    let mut pairs = BTreeMap::new();
    for index in 1..=index {
        for nth in 0..puts(index) {
            pairs.insert(key(index, nth), value(index, nth));
        }
        if index.is_multiple_of(13) {
            pairs.remove(&key(index, 0));
        }
    }
    pairs
}

fn check(store: &Store, flushed: u64) -> u64 {
    let applied = store.applied();
    let index = applied.as_ref().map_or(0, |position| position.index);
    assert!(
        index >= flushed,
        "applied {index}, though {flushed} was flushed"
    );
    assert_eq!(
        store.current_revision(),
        index as i64 + 1,
        "one revision an entry"
    );
    let table = store.table_get(Table::Alarm, b"index");
    if let Some(position) = applied {
        assert_eq!(position.bytes, format!("entry {index}"));
        assert_eq!(table, Some(index.to_string().into()));
        // The entry at index 37 n makes revision 37 n + 1 and compacts 20 below it.
        let compacted = if index < 37 {
            -1
        } else {
            (index / 37 * 37) as i64 + 1 - 20
        };
        assert_eq!(store.compacted_revision(), compacted);
    }
    let result = store
        .range(b"\0", b"\0", &RangeOptions::default())
        .expect("range");
    let mut found = BTreeMap::new();
    for pair in result.kvs {
        let pair = <kvd_api::pb::mvccpb::KeyValue as prost::Message>::decode(pair).expect("pair");
        found.insert(pair.key, pair.value);
    }
    assert_eq!(found.len(), model(index).len());
    assert!(
        found == model(index),
        "another content than that of entry {index}"
    );
    index
}

/// The child. Does nothing unless the parent started it.
#[test]
#[ignore = "started by the other tests"]
fn child() {
    let (Ok(dir), Ok(engine)) = (std::env::var(DIR), std::env::var(ENGINE)) else {
        return;
    };
    let engine = engine.parse().expect("an engine");
    let (store, mut writer) = kvd_mvcc::open(Path::new(&dir), options(engine)).expect("open");
    let mut index = store.applied().map_or(0, |position| position.index);
    println!("\nopened {index} 0");
    loop {
        index += 1;
        apply(&mut writer, index);
        if index.is_multiple_of(11) {
            store.flush().expect("flush");
            println!(
                "flushed {index} {}",
                store.purgeable_index().load(Ordering::SeqCst)
            );
        }
    }
}

fn kill_rounds(engine: EngineKind) {
    let seed = match std::env::var("KVD_SEED") {
        Ok(seed) => seed.parse().expect("KVD_SEED is a number"),
        Err(_) => rand::random(),
    };
    println!("KVD_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().expect("tempdir");
    let mut before = 0;
    for round in 0..ROUNDS {
        let flushed = run_and_kill(&mut rng, dir.path(), engine);
        let (store, _writer) = kvd_mvcc::open(dir.path(), options(engine)).expect("open");
        let index = check(&store, flushed.max(before));
        println!("{engine} round {round}: flushed {flushed}, found {index}");
        before = index;
        store.close();
    }
    assert!(before > 0, "nothing was ever flushed");
}

/// Starts a child and kills it. Returns the last index that it said was flushed.
fn run_and_kill(rng: &mut StdRng, dir: &Path, engine: EngineKind) -> u64 {
    let mut child = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--ignored", "--exact", "child", "--nocapture"])
        .env(DIR, dir)
        .env(ENGINE, engine.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start the child");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let (send, receive) = mpsc::channel();
    let reader = thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            if line.starts_with("opened") || line.starts_with("flushed") {
                let numbers = line
                    .split(' ')
                    .skip(1)
                    .map(|number| number.parse().expect("number"));
                let numbers: Vec<u64> = numbers.collect();
                send.send((numbers[0], numbers[1]))
                    .expect("the parent listens");
            }
        }
    });
    // Until it is open, and then for a while.
    let (mut flushed, _) = receive
        .recv_timeout(Duration::from_secs(60))
        .expect("opened");
    let until = Instant::now() + Duration::from_micros(rng.random_range(0..600_000));
    let take = |(index, purgeable): (u64, u64), flushed: &mut u64| {
        assert!(purgeable < index, "the log is kept one flush behind");
        *flushed = index;
    };
    while let Ok(said) = receive.recv_timeout(until.saturating_duration_since(Instant::now())) {
        take(said, &mut flushed);
    }
    child.kill().expect("kill");
    child.wait().expect("wait");
    reader.join().expect("no panic");
    receive.iter().for_each(|said| take(said, &mut flushed));
    flushed
}

#[test]
fn sled_survives_kill_9() {
    kill_rounds(EngineKind::Sled);
}

#[test]
fn redb_survives_kill_9() {
    kill_rounds(EngineKind::Redb);
}
