use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::backend::schema::Table;
use crate::error::Error;
use crate::ledger::Entries;
use crate::options::{EngineKind, Options};
use crate::records::{Records, TableChange};
use crate::revision::{RevKey, Revision};

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

fn open(dir: &Path, engine: EngineKind) -> Records {
    Records::open(
        dir,
        &Options {
            engine,
            ..Options::default()
        },
    )
    .expect("open")
    .0
}

fn position(index: u64) -> Position {
    Position {
        index,
        bytes: Bytes::from_static(b"term 3"),
    }
}

fn put(records: &Records, main: i64, value: Bytes) {
    let key = RevKey::new(Revision::new(main, 0), main % 7 == 0);
    records.stage(vec![(key, value)], Vec::new());
    records.commit(position(main as u64));
}

fn fill(records: &Records, revisions: i64) {
    for main in 2..=revisions {
        put(
            records,
            main,
            Bytes::from(vec![main as u8; 100 + main as usize % 300]),
        );
    }
    // Longer than a chunk.
    put(records, revisions + 1, Bytes::from(vec![9; 3 << 20]));
    let tables = (0..10_000).map(|name| TableChange {
        table: Table::Lease,
        key: Bytes::from(format!("lease {name:05}")),
        value: Some(Bytes::from(vec![1; 100])),
    });
    records.stage(Vec::new(), tables.collect());
    records.commit(position(revisions as u64 + 2));
}

fn tables() -> Entries {
    let entry = |name| {
        (
            Table::Lease,
            Bytes::from(format!("lease {name:05}")),
            vec![1; 100].into(),
        )
    };
    (0..10_000).map(entry).collect()
}

fn reader(records: &Records, revision: i64) -> SnapshotReader {
    let hold = records.compaction_hold();
    let content = Content::new(records.clone(), hold, 0, tables(), revision, position(77));
    SnapshotReader::new(content.expect("content"))
}

fn save(reader: &mut SnapshotReader, dir: &Path) -> PathBuf {
    let path = dir.join("snapshot");
    let mut file = File::create(&path).expect("create");
    while let Some(chunk) = reader.next_chunk().expect("read") {
        assert!(!chunk.is_empty() && chunk.len() <= CHUNK_BYTES);
        file.write_all(&chunk).expect("write");
    }
    path
}

fn content(records: &Records, to: Revision) -> Vec<(RevKey, Bytes)> {
    records
        .scan(Revision::default(), to, usize::MAX)
        .expect("scan")
}

fn install(
    records: &Records,
    file: &Path,
    position: Position,
) -> Result<crate::records::Recovered> {
    let prepared = records.prepare_install(file, position)?;
    records.finish_install(prepared)
}

#[test]
fn a_defragmentation_gives_way_to_a_snapshot() {
    let dir = tempfile::tempdir().expect("tempdir");
    let from = open(&dir.path().join("from"), EngineKind::Redb);
    fill(&from, 3000);
    let file = save(&mut reader(&from, 3001), dir.path());
    let to = open(&dir.path().join("to"), EngineKind::Redb);
    fill(&to, 2000);
    // As while an install waits for the defragmentation to end.
    to.shared.installs_waiting.fetch_add(1, Ordering::AcqRel);
    let given_up = to.defragment().expect_err("given up");
    assert!(matches!(given_up, Error::Superseded), "{given_up}");
    to.shared.installs_waiting.fetch_sub(1, Ordering::AcqRel);
    to.defragment().expect("nobody waits");
    std::thread::scope(|scope| {
        let defragmenting = scope.spawn(|| {
            while !matches!(to.defragment(), Err(Error::Superseded)) {
                if to.shared.installs.load(Ordering::Acquire) > 0 {
                    return;
                }
            }
        });
        install(&to, &file, position(90)).expect("installed");
        defragmenting.join().expect("no panic");
    });
    let last = Revision::new(3001, 0);
    assert_eq!(content(&to, last), content(&from, last));
}

#[test]
fn a_snapshot_replaces_the_content_of_another_store() {
    for engine in [EngineKind::Memory, EngineKind::Redb, EngineKind::Sled] {
        let dir = tempfile::tempdir().expect("tempdir");
        let from = open(&dir.path().join("from"), engine);
        fill(&from, 3000);
        let mut reader = reader(&from, 3001);
        assert!(from.compaction_held());
        let file = save(&mut reader, dir.path());
        assert_eq!(reader.position(), &position(77));
        drop(reader);
        assert!(!from.compaction_held());

        let to_dir = dir.path().join("to");
        let to = open(&to_dir, engine);
        put(&to, 2, Bytes::from_static(b"old"));
        put(&to, 9000, Bytes::from_static(b"old"));
        to.flush().expect("flush");
        let recovered = install(&to, &file, position(78)).expect("install");
        assert_eq!(recovered.position, Some(position(78)));
        assert_eq!(recovered.tables, tables());
        let expected = content(&from, LAST);
        assert_eq!(content(&to, LAST), expected, "{engine}");
        assert_eq!(
            to.get(Revision::new(2, 0)).expect("get").as_ref(),
            Some(&expected[0].1)
        );
        assert_eq!(to.purgeable_index().load(Ordering::SeqCst), 78);
        // It goes on from there, and is there again after a restart.
        put(&to, 3002, Bytes::from_static(b"new"));
        to.flush().expect("flush");
        drop(to);
        assert!(!to_dir.join("db/1").exists());
        if engine != EngineKind::Memory {
            // After an unclean stop, so that everything is counted.
            std::fs::remove_file(to_dir.join("db/2.clean")).expect("an orderly close");
            let to = open(&to_dir, engine);
            assert_eq!(content(&to, Revision::new(3001, 0)), expected);
            assert!(to.get(Revision::new(3002, 0)).expect("get").is_some());
        }
    }
}

#[test]
fn a_snapshot_does_not_see_what_is_written_meanwhile() {
    let dir = tempfile::tempdir().expect("tempdir");
    let records = open(&dir.path().join("store"), EngineKind::Sled);
    fill(&records, 2000);
    let expected = content(&records, LAST);
    let mut reader = reader(&records, 2001);
    let stop = AtomicBool::new(false);
    let file = thread::scope(|scope| {
        scope.spawn(|| {
            let mut main = 2002;
            while !stop.load(Ordering::Relaxed) {
                main += 1;
                put(&records, main, Bytes::from_static(b"later"));
                if main % 500 == 0 {
                    records.flush().expect("flush");
                }
            }
        });
        let file = save(&mut reader, dir.path());
        stop.store(true, Ordering::Relaxed);
        file
    });
    let copy = open(&dir.path().join("copy"), EngineKind::Memory);
    install(&copy, &file, position(77)).expect("install");
    assert_eq!(content(&copy, LAST), expected);
}

#[test]
fn a_damaged_snapshot_is_refused_and_the_content_stays() {
    let mut rng = StdRng::seed_from_u64(seed());
    let dir = tempfile::tempdir().expect("tempdir");
    let from = open(&dir.path().join("from"), EngineKind::Memory);
    fill(&from, 300);
    let file = save(&mut reader(&from, 301), dir.path());
    let good = std::fs::read(&file).expect("read");
    let to = open(&dir.path().join("to"), EngineKind::Redb);
    put(&to, 2, Bytes::from_static(b"kept"));
    to.flush().expect("flush");
    for round in 0..60 {
        let mut bad = good.clone();
        let at = rng.random_range(0..bad.len());
        match round % 3 {
            0 => bad[at] ^= 1 << rng.random_range(0..8),
            1 => bad.truncate(at),
            _ => bad.push(0),
        }
        std::fs::write(&file, &bad).expect("write");
        let error = install(&to, &file, position(5))
            .map(|_| ())
            .expect_err("damaged");
        let refused = matches!(error, Error::Corrupt { .. } | Error::NewerFormat { .. });
        assert!(refused, "{error} after damage at {at}");
        assert_eq!(content(&to, LAST).len(), 1);
    }
    // A frame that is missing or twice, each whole in itself.
    let second = 8 + 4 + 4 + u32::from_be_bytes(good[8..12].try_into().expect("4")) as usize;
    let length = u32::from_be_bytes(good[second..second + 4].try_into().expect("4")) as usize;
    let third = second + 8 + length;
    let missing = [&good[..second], &good[third..]].concat();
    let twice = [&good[..third], &good[second..]].concat();
    for bad in [missing, twice] {
        std::fs::write(&file, bad).expect("write");
        assert!(matches!(
            install(&to, &file, position(5)),
            Err(Error::Corrupt { .. })
        ));
    }
    std::fs::write(&file, &good).expect("write");
    install(&to, &file, position(5)).expect("the good one");
}
