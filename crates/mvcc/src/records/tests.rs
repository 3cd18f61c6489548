use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64};
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::backend::Batch;
use crate::backend::memory::Memory;
use crate::options::EngineKind;

const LAST: Revision = Revision::new(i64::MAX, i64::MAX);

/// Printed by every random test; `KVD_SEED` replays it.
fn seed() -> u64 {
    let seed = match std::env::var("KVD_SEED") {
        Ok(seed) => seed.parse().expect("KVD_SEED is a number"),
        Err(_) => rand::random(),
    };
    println!("KVD_SEED={seed}");
    seed
}

/// An engine in memory that outlives its store, as a disk does, and fails when told to.
#[derive(Default)]
struct Disk {
    memory: Memory,
    /// Writes that still succeed; negative means all.
    writes_left: AtomicI64,
    fail_flush: AtomicBool,
    writes: AtomicU64,
    flushes: AtomicU64,
    /// Held by a test to keep writes waiting.
    gate: Mutex<()>,
}

impl Disk {
    fn new() -> Arc<Self> {
        Arc::new(Disk {
            writes_left: AtomicI64::new(-1),
            ..Disk::default()
        })
    }
}

impl Backend for Disk {
    fn write(&self, batch: &Batch) -> Result<()> {
        let _gate = self.gate.lock();
        self.writes.fetch_add(1, Ordering::SeqCst);
        if self.writes_left.load(Ordering::SeqCst) == 0 {
            let message = "no space left on device".to_owned();
            return Err(Error::Engine {
                action: "write a batch",
                message,
            });
        }
        self.writes_left.fetch_sub(1, Ordering::SeqCst);
        self.memory.write(batch)
    }

    fn flush(&self) -> Result<()> {
        self.flushes.fetch_add(1, Ordering::SeqCst);
        if self.fail_flush.load(Ordering::SeqCst) {
            let message = "input/output error".to_owned();
            return Err(Error::Engine {
                action: "flush",
                message,
            });
        }
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.memory.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], page: Page) -> Result<Vec<(Bytes, Bytes)>> {
        self.memory.scan(from, to, page)
    }

    fn size(&self) -> Result<u64> {
        self.memory.size()
    }

    fn close(&self) -> Result<()> {
        Ok(()) // the disk stays
    }
}

fn options() -> Options {
    // Nothing is written unless a test asks for it.
    let flush_interval = Duration::from_secs(3600);
    Options {
        engine: EngineKind::Redb,
        flush_interval,
        ..Options::default()
    }
}

struct Fixture {
    root: tempfile::TempDir,
    disk: Arc<Disk>,
}

impl Fixture {
    fn new() -> Self {
        Fixture {
            root: tempfile::tempdir().expect("tempdir"),
            disk: Disk::new(),
        }
    }

    fn open(&self, options: &Options) -> (Records, Recovered) {
        self.try_open(options).expect("open")
    }

    fn try_open(&self, options: &Options) -> Result<(Records, Recovered)> {
        let (directory, found) = Directory::open(self.root.path(), options.engine)?;
        std::fs::write(directory.generation_dir().join("engine"), "x").expect("the engine's file");
        Records::start(directory, found, self.disk.clone(), options)
    }
}

fn position(index: u64) -> Position {
    Position {
        index,
        bytes: format!("p{index}").into(),
    }
}

fn record(main: i64, sub: i64) -> (RevKey, Bytes) {
    (
        RevKey::new(Revision::new(main, sub), false),
        format!("value {main}.{sub}").into(),
    )
}

fn all(records: &Records) -> Vec<String> {
    let found = records
        .scan(Revision::default(), LAST, usize::MAX)
        .expect("scan");
    found.iter().map(|(key, _)| format!("{key:?}")).collect()
}

fn table(value: &'static str) -> Vec<TableChange> {
    let key = Bytes::from_static(b"key");
    vec![TableChange {
        table: Table::Meta,
        key,
        value: Some(Bytes::from_static(value.as_bytes())),
    }]
}

use crate::backend::schema::Table;

#[test]
fn reads_agree_with_a_plain_map_wherever_the_records_are() {
    let mut rng = StdRng::seed_from_u64(seed());
    let fixture = Fixture::new();
    let (records, _) = fixture.open(&Options {
        cache_bytes: 4 << 10,
        ..options()
    });
    let mut model = BTreeMap::new();
    let (mut main, mut index) = (1, 0);
    for _ in 0..400 {
        match rng.random_range(0..10) {
            0..4 => {
                main += 1;
                let changes = 0..rng.random_range(1..60);
                let changes: Vec<_> = changes.map(|sub| record(main, sub)).collect();
                model.extend(changes.iter().cloned());
                records.stage(changes, Vec::new());
            }
            4..7 => {
                index += 1;
                records.commit(position(index));
            }
            7 => records.shared.write_out().expect("write"),
            8 => records.flush().expect("flush"),
            _ => {
                // As a compaction does: it deletes what is there, and only what it has seen.
                records.shared.write_out().expect("write");
                let (from, to) = (0, rng.random_range(0..=main));
                let seen = records.scan(Revision::new(from, 0), Revision::new(to, 0), 20);
                let deletes: Vec<_> = seen
                    .expect("scan")
                    .into_iter()
                    .map(|(key, _)| key)
                    .collect();
                deletes.iter().for_each(|key| drop(model.remove(key)));
                records.append(Aside {
                    deletes,
                    tables: Vec::new(),
                });
                index += 1;
                records.commit(position(index));
                records.shared.write_out().expect("write");
            }
        }
        let from = Revision::new(rng.random_range(0..=main), rng.random_range(0..60));
        let to = Revision::new(rng.random_range(0..=main + 1), rng.random_range(0..60));
        let limit = rng.random_range(1..100);
        let expected: Vec<_> = model
            .iter()
            .filter(|(key, _)| (from..=to).contains(&key.revision()))
            .take(limit)
            .map(|(key, value)| (*key, value.clone()))
            .collect();
        assert_eq!(
            records.scan(from, to, limit).expect("scan"),
            expected,
            "{from} ..= {to}"
        );
        let stored = records.get(from).expect("get");
        if let Some(value) = model.get(&from.key()) {
            assert_eq!(stored.as_ref(), Some(value));
        }
    }
    records.commit(position(index + 1));
    records.flush().expect("flush");
    let live: usize = model
        .iter()
        .map(|(key, value)| key.as_bytes().len() + value.len())
        .sum();
    assert_eq!(records.size_in_use(), live as u64);
    drop(records);
    // The number of records in the durable position is right, or this fails.
    std::fs::remove_file(fixture.root.path().join("db/1.clean")).expect("an orderly close");
    let (records, recovered) = fixture.open(&options());
    assert_eq!(recovered.position, Some(position(index + 1)));
    let keys: Vec<_> = model.keys().map(|key| format!("{key:?}")).collect();
    assert_eq!(all(&records), keys);
}

#[test]
fn a_unit_that_was_not_finished_is_removed_at_open() {
    let fixture = Fixture::new();
    let (records, _) = fixture.open(&options());
    records.stage(vec![record(2, 0)], table("old"));
    records.commit(position(1));
    records.flush().expect("flush");
    // Three chunks of records; the fourth batch, with the tables and the position, fails.
    fixture.disk.writes_left.store(3, Ordering::SeqCst);
    records.stage(
        (0..12_500).map(|sub| record(3, sub)).collect(),
        table("new"),
    );
    records.commit(position(2));
    assert!(matches!(records.flush(), Err(Error::Failed { .. })));
    drop(records);
    let (from, to) = schema::record_bounds(Revision::default(), LAST);
    let stored = fixture
        .disk
        .memory
        .scan(&from, &to, Page::pairs(usize::MAX))
        .expect("scan");
    assert_eq!(stored.len(), 12_001, "three chunks are there");

    fixture.disk.writes_left.store(-1, Ordering::SeqCst);
    let (records, recovered) = fixture.open(&options());
    assert_eq!(recovered.position, Some(position(1)));
    assert_eq!(recovered.tables[0].2, "old");
    assert_eq!(all(&records), ["2.0"]);
    // The log brings the same revisions again.
    records.stage(
        (0..12_500).map(|sub| record(3, sub)).collect(),
        table("new"),
    );
    records.commit(position(2));
    drop(records);
    let (records, recovered) = fixture.open(&options());
    assert_eq!(recovered.position, Some(position(2)));
    assert_eq!(recovered.tables[0].2, "new");
    assert_eq!(all(&records).len(), 12_501);
}

#[test]
fn what_was_never_committed_is_not_written() {
    let fixture = Fixture::new();
    let (records, recovered) = fixture.open(&options());
    assert_eq!(recovered.position, None);
    records.stage(vec![record(2, 0)], table("open"));
    records.append(Aside {
        deletes: vec![record(2, 0).0],
        tables: Vec::new(),
    });
    assert!(
        records.get(Revision::new(2, 0)).expect("get").is_some(),
        "readable at once"
    );
    drop(records);
    let (records, recovered) = fixture.open(&options());
    assert!(recovered.position.is_none() && recovered.tables.is_empty());
    assert!(all(&records).is_empty());
}

#[test]
fn deletions_without_an_open_unit_do_not_wait_for_one() {
    let fixture = Fixture::new();
    let (records, _) = fixture.open(&options());
    records.stage(vec![record(2, 0), record(2, 1)], Vec::new());
    records.commit(position(1));
    let twice = vec![record(2, 0).0, record(2, 0).0];
    records.append(Aside {
        deletes: twice.clone(),
        tables: Vec::new(),
    });
    records.append(Aside {
        deletes: twice,
        tables: table("done"),
    });
    drop(records);
    std::fs::remove_file(fixture.root.path().join("db/1.clean")).expect("an orderly close");
    let (records, recovered) = fixture.open(&options());
    assert_eq!(recovered.tables[0].2, "done");
    assert_eq!(all(&records), ["2.1"]);
}

#[test]
fn the_log_may_be_purged_up_to_the_flush_before_the_last() {
    let fixture = Fixture::new();
    let flushed = Arc::new(Mutex::new(Vec::new()));
    let told = flushed.clone();
    let on_flush = Arc::new(move |index, _| told.lock().push(index));
    let (records, _) = fixture.open(&Options {
        on_flush: Some(on_flush),
        ..options()
    });
    let purgeable = records.purgeable_index();
    for index in 1..=3_u64 {
        records.commit(position(index * 10));
        records.flush().expect("flush");
        assert_eq!(purgeable.load(Ordering::SeqCst), (index - 1) * 10);
    }
    records.flush().expect("nothing to flush");
    assert_eq!(purgeable.load(Ordering::SeqCst), 20);
    drop(records);
    let (records, _) = fixture.open(&options());
    assert_eq!(
        records.purgeable_index().load(Ordering::SeqCst),
        0,
        "not known any more"
    );
    records.commit(position(40));
    records.flush().expect("flush");
    assert_eq!(records.purgeable_index().load(Ordering::SeqCst), 30);
    assert_eq!(*flushed.lock(), [0, 10, 20]);
}

#[test]
fn a_fault_is_told_once_and_nothing_is_tried_again() {
    for fail_flush in [false, true] {
        let fixture = Fixture::new();
        let faults = Arc::new(Mutex::new(Vec::new()));
        let told = faults.clone();
        let on_fault = Arc::new(move |error: &Error| told.lock().push(error.to_string()));
        let max = Options {
            on_fault: Some(on_fault),
            unflushed_bytes_max: 1,
            ..options()
        };
        let (records, _) = fixture.open(&max);
        if fail_flush {
            fixture.disk.fail_flush.store(true, Ordering::SeqCst);
        } else {
            fixture.disk.writes_left.store(0, Ordering::SeqCst);
        }
        records.stage(vec![record(2, 0)], Vec::new());
        records.commit(position(1));
        assert!(matches!(records.flush(), Err(Error::Failed { .. })));
        let calls = (&fixture.disk.writes, &fixture.disk.flushes);
        let before = (
            calls.0.load(Ordering::SeqCst),
            calls.1.load(Ordering::SeqCst),
        );
        // No longer held back by what can not be written, and still readable.
        records.stage(vec![record(3, 0)], Vec::new());
        records.commit(position(2));
        assert!(records.get(Revision::new(3, 0)).expect("get").is_some());
        assert!(matches!(records.flush(), Err(Error::Failed { .. })));
        let text = if fail_flush {
            "input/output error"
        } else {
            "no space left on device"
        };
        assert!(records.failure().expect("a fault").contains(text));
        records.close();
        assert_eq!(
            before,
            (
                calls.0.load(Ordering::SeqCst),
                calls.1.load(Ordering::SeqCst)
            )
        );
        assert_eq!(faults.lock().len(), 1);
        assert!(!fixture.root.path().join("db/1.clean").exists());
    }
}

#[test]
fn the_writer_waits_when_too_much_is_unwritten() {
    let fixture = Fixture::new();
    let (records, _) = fixture.open(&Options {
        unflushed_bytes_max: 1000,
        ..options()
    });
    let gate = fixture.disk.gate.lock();
    let value = Bytes::from(vec![7; 2 << 20]); // enough for the thread to start writing
    records.stage(vec![(record(2, 0).0, value)], Vec::new());
    records.commit(position(1));
    let writer = records.clone();
    let (done, waiting) = std::sync::mpsc::channel();
    let thread = thread::spawn(move || {
        writer.stage(vec![record(3, 0)], Vec::new());
        done.send(()).expect("the test waits");
    });
    assert!(
        waiting.recv_timeout(Duration::from_millis(100)).is_err(),
        "it waits"
    );
    drop(gate);
    waiting
        .recv_timeout(Duration::from_secs(20))
        .expect("it goes on");
    thread.join().expect("no panic");
}

#[test]
fn damage_is_found_and_named_and_nothing_is_changed() {
    let fixture = Fixture::new();
    let (records, _) = fixture.open(&Options {
        cache_bytes: 0,
        ..options()
    });
    records.stage((0..50).map(|sub| record(2, sub)).collect(), table("fine"));
    records.commit(position(1));
    records.flush().expect("flush");
    let key = schema::record_key(&record(2, 7).0);
    let good = fixture.disk.memory.get(&key).expect("get").expect("there");
    let mut bad = good.to_vec();
    *bad.last_mut().expect("not empty") ^= 1;
    let put = |value: Option<Bytes>| {
        let mut batch = Batch::default();
        match value {
            Some(value) => batch.put(key.clone(), value),
            None => batch.delete(key.clone()),
        }
        fixture.disk.memory.write(&batch).expect("write");
    };
    put(Some(bad.into()));
    let error = records.get(Revision::new(2, 7)).expect_err("damaged");
    assert!(
        error.to_string().contains("the record of revision 2.7"),
        "{error}"
    );
    assert!(records.scan(Revision::default(), LAST, usize::MAX).is_err());
    drop(records);
    std::fs::remove_file(fixture.root.path().join("db/1.clean")).expect("an orderly close");
    let writes = fixture.disk.writes.load(Ordering::SeqCst);
    let error = fixture
        .try_open(&options())
        .map(|_| ())
        .expect_err("damaged");
    assert!(
        error.to_string().contains("2.7") && error.to_string().contains("peers"),
        "{error}"
    );
    put(None);
    let error = fixture
        .try_open(&options())
        .map(|_| ())
        .expect_err("one is missing");
    assert!(error.to_string().contains("49 records"), "{error}");
    assert_eq!(fixture.disk.writes.load(Ordering::SeqCst), writes);
    put(Some(good));
    fixture.try_open(&options()).expect("whole again");
}

#[test]
fn a_flush_happens_by_itself_when_the_interval_is_over() {
    let fixture = Fixture::new();
    let (done, flushed) = std::sync::mpsc::channel();
    let on_flush = Arc::new(move |index, _| done.send(index).expect("the test waits"));
    let flush_interval = Duration::from_millis(5);
    let (records, _) = fixture.open(&Options {
        on_flush: Some(on_flush),
        flush_interval,
        ..options()
    });
    for index in 1..=3 {
        records.commit(position(index));
        let told = flushed
            .recv_timeout(Duration::from_secs(20))
            .expect("a flush");
        assert_eq!(told, index - 1);
    }
}
