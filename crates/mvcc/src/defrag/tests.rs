use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use bytes::Bytes;

use crate::backend::schema::Table;
use crate::options::{EngineKind, Options, Position};
use crate::read::RangeOptions;
use crate::store::{Store, open};
use crate::write::Writer;

const ENGINES: [EngineKind; 2] = [EngineKind::Redb, EngineKind::Sled];

fn options(engine: EngineKind) -> Options {
    Options {
        engine,
        ..Options::default()
    }
}

fn position(index: u64) -> Position {
    Position {
        index,
        bytes: Bytes::from_static(b"position"),
    }
}

fn put(writer: &mut Writer, index: u64, key: &str, bytes: usize) {
    let mut txn = writer.txn();
    txn.put(key.to_owned().into(), vec![index as u8; bytes].into(), 0)
        .unwrap();
    txn.end();
    writer.commit(position(index));
}

/// A store most of which is compacted away.
fn full_of_holes(dir: &Path, engine: EngineKind) -> (Store, Writer) {
    let (store, mut writer) = open(dir, options(engine)).unwrap();
    for index in 1..=1_000 {
        put(&mut writer, index, &format!("key {}", index % 40), 4_000);
    }
    writer.table_put(Table::Lease, "lease".into(), "record".into());
    writer.commit(position(1_001));
    // Else a fast machine writes nothing of it to the disk before it is compacted.
    store.flush().unwrap();
    let current = store.current_revision();
    writer.compact(current).unwrap();
    writer.commit(position(1_002));
    store.wait_compacted(current);
    store.flush().unwrap();
    (store, writer)
}

fn value_of(store: &Store, key: &str) -> Bytes {
    let found = store
        .range(key.as_bytes(), b"", &RangeOptions::default())
        .unwrap();
    found.kvs[0].clone()
}

#[test]
fn space_is_given_back_and_nothing_is_lost() {
    for engine in ENGINES {
        let dir = tempfile::tempdir().unwrap();
        let (store, mut writer) = full_of_holes(dir.path(), engine);
        let (hash, all) = (store.hash_kv(0).unwrap(), store.hash().unwrap());
        let done = store.defragment().unwrap();
        assert!(done.after < done.before, "{engine}: {done:?}");
        assert!(done.after < 1_500_000, "{engine}: {done:?}");
        assert_eq!(store.hash_kv(0).unwrap(), hash);
        assert_eq!(store.hash().unwrap(), all);
        put(&mut writer, 1_003, "after", 10);
        let after = value_of(&store, "after");
        store.close();
        let (store, _writer) = open(dir.path(), options(engine)).unwrap();
        assert_eq!(store.applied().unwrap(), position(1_003));
        assert_eq!(value_of(&store, "after"), after);
        assert!(store.table_get(Table::Lease, b"lease").is_some());
        assert_eq!(fs::read_dir(dir.path().join("db")).unwrap().count(), 1);
    }
}

#[test]
fn reads_and_writes_go_on_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut writer) = full_of_holes(dir.path(), EngineKind::Redb);
    let done = AtomicBool::new(false);
    let last = 4_000;
    thread::scope(|scope| {
        let writing = scope.spawn(|| {
            for index in 1_003..=last {
                put(&mut writer, index, &format!("new {}", index % 10), 100);
            }
            done.store(true, Ordering::Release);
        });
        let reading = scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                value_of(&store, "key 7");
            }
        });
        while !done.load(Ordering::Acquire) {
            store.defragment().unwrap();
        }
        reading.join().unwrap();
        writing.join().unwrap();
    });
    store.defragment().unwrap();
    let hash = store.hash_kv(0).unwrap();
    store.close();
    // Opened as after a crash: every record is checked and counted.
    let clean: Vec<_> = fs::read_dir(dir.path().join("db"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some())
        .collect();
    for marker in clean {
        fs::remove_file(marker).unwrap();
    }
    let (store, _writer) = open(dir.path(), options(EngineKind::Redb)).unwrap();
    assert_eq!(store.applied().unwrap(), position(last));
    assert_eq!(store.hash_kv(0).unwrap(), hash);
}

#[test]
fn a_copy_that_fails_leaves_the_store_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut writer) = full_of_holes(dir.path(), EngineKind::Redb);
    // A file where the next generation's directory belongs.
    let next = dir.path().join("db").join("2");
    fs::write(&next, b"in the way").unwrap();
    assert!(store.defragment().is_err());
    put(&mut writer, 1_003, "after", 10);
    store.flush().unwrap();
    fs::remove_file(&next).unwrap();
    store.defragment().unwrap();
    assert_eq!(store.applied().unwrap(), position(1_003));
}
