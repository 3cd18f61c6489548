//! Golden scripts over a store, and what they can not show. Update the scripts with
//! `UPDATE_GOLDENFILES=1`, then read the diff.

use std::error::Error as StdError;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::options::EngineKind;
use crate::write::WriteTxn;

type Outcome<T> = std::result::Result<T, Box<dyn StdError>>;

struct Runner {
    dir: TempDir,
    open: Option<(Store, Writer)>,
    index: u64,
}

impl Runner {
    fn new() -> Self {
        let dir = TempDir::new().expect("a directory");
        let mut runner = Runner {
            dir,
            open: None,
            index: 0,
        };
        runner.reopen().expect("opens");
        runner
    }

    fn reopen(&mut self) -> Result<()> {
        if let Some((store, writer)) = self.open.take() {
            drop(writer);
            store.close();
        }
        let options = Options {
            engine: EngineKind::Redb,
            compaction_batch_limit: 2,
            compaction_sleep: Duration::ZERO,
            ..Options::default()
        };
        self.open = Some(open(self.dir.path(), options)?);
        Ok(())
    }

    fn commit(&mut self) {
        self.index += 1;
        let position = Position {
            index: self.index,
            bytes: Bytes::new(),
        };
        self.writer().commit(position);
    }

    fn store(&self) -> &Store {
        &self.open.as_ref().expect("open").0
    }

    fn writer(&mut self) -> &mut Writer {
        &mut self.open.as_mut().expect("open").1
    }
}

fn show(kv: &Bytes) -> Outcome<String> {
    let kv = KeyValue::decode(kv.clone())?;
    let (key, value) = (kv.key.escape_ascii(), kv.value.escape_ascii());
    let KeyValue {
        create_revision,
        mod_revision,
        version,
        lease,
        ..
    } = kv;
    Ok(format!(
        "{key}={value} c={create_revision} m={mod_revision} v={version} l={lease}"
    ))
}

fn show_all(result: &RangeResult) -> Outcome<String> {
    let mut output = String::new();
    for kv in &result.kvs {
        writeln!(output, "{}", show(kv)?)?;
    }
    writeln!(
        output,
        "count={} revision={}",
        result.count, result.revision
    )?;
    Ok(output)
}

fn unescape(text: &str) -> Vec<u8> {
    if text == "NUL" {
        vec![0]
    } else {
        text.as_bytes().to_vec()
    }
}

/// `key=value` puts, `-key` deletes, `?key` reads.
fn change(txn: &mut WriteTxn<'_>, args: &[goldenscript::Argument], lease: i64) -> Outcome<String> {
    let mut output = String::new();
    for arg in args {
        if let Some(key) = &arg.key {
            let (key, value) = (Bytes::from(unescape(key)), Bytes::from(arg.value.clone()));
            txn.put(key, value, lease)?;
        } else if let Some(key) = arg.value.strip_prefix('-') {
            let (deleted, _) = txn.delete_range(key.as_bytes(), b"", false)?;
            writeln!(output, "deleted {deleted}")?;
        } else if let Some(key) = arg.value.strip_prefix('?') {
            let range = txn.range(key.as_bytes(), b"", &RangeOptions::default())?;
            write!(output, "{}", show_all(&range)?)?;
        }
    }
    Ok(output)
}

impl goldenscript::Runner for Runner {
    fn run(&mut self, command: &goldenscript::Command) -> Outcome<String> {
        let mut args = command.consume_args();
        let mut output = String::new();
        match command.name.as_str() {
            // txn [lease=N] key=value -key ?key ...: one transaction.
            "txn" => {
                let is_lease = |arg: &goldenscript::Argument| arg.key.as_deref() == Some("lease");
                let lease = args.lookup_parse("lease")?.unwrap_or(0);
                let changes: Vec<_> = command
                    .args
                    .iter()
                    .filter(|arg| !is_lease(arg))
                    .cloned()
                    .collect();
                let mut txn = self.writer().txn();
                write!(output, "{}", change(&mut txn, &changes, lease)?)?;
                let revision = txn.end();
                writeln!(output, "revision {revision}")?;
                self.commit();
            }
            // delete key [range_end]: deletes a range, showing what was there.
            "delete" => {
                let key = unescape(&args.next_pos().ok_or("key not given")?.value);
                let end = args
                    .next_pos()
                    .map(|arg| unescape(&arg.value))
                    .unwrap_or_default();
                let mut txn = self.writer().txn();
                let (deleted, prev) = txn.delete_range(&key, &end, true)?;
                let detached = format!("{:?}", txn.detached());
                let revision = txn.end();
                for kv in prev {
                    writeln!(output, "{}", show(&kv)?)?;
                }
                writeln!(
                    output,
                    "deleted {deleted} detached {detached} revision {revision}"
                )?;
                self.commit();
            }
            // get key [range_end] [rev=N] [limit=N] [keys] [count]
            "get" => {
                let mut options = RangeOptions {
                    revision: args.lookup_parse("rev")?.unwrap_or(0),
                    limit: args.lookup_parse("limit")?.unwrap_or(0),
                    ..RangeOptions::default()
                };
                let mut rest: Vec<_> = args.rest_pos().iter().map(|arg| &*arg.value).collect();
                rest.retain(|arg| match *arg {
                    "keys" => std::mem::replace(&mut options.keys_only, true),
                    "count" => std::mem::replace(&mut options.count_only, true),
                    _ => true,
                });
                let key = unescape(rest.first().ok_or("key not given")?);
                let end = rest.get(1).map(|end| unescape(end)).unwrap_or_default();
                output = show_all(&self.store().range(&key, &end, &options)?)?;
            }
            "compact" => {
                let revision = args.next_pos().ok_or("revision not given")?.parse()?;
                self.writer().compact(revision)?;
                self.commit();
                self.store().wait_compacted(revision);
            }
            "hash" => {
                let revision = args.next_pos().ok_or("revision not given")?.parse()?;
                let hash = self.store().hash_kv(revision)?;
                writeln!(output, "{hash:?}")?;
            }
            // records: every record in the engine.
            "records" => {
                let store = self.store();
                store.flush()?; // carries out the deletions
                store.scan_all(LAST, |key, value| {
                    let shown = show(&Bytes::copy_from_slice(value)).expect("a pair");
                    writeln!(output, "{key:?} {shown}").expect("into a string");
                })?;
            }
            "status" => {
                let store = self.store();
                let (current, compacted) = (store.current_revision(), store.compacted_revision());
                let (keys, leased) = (store.keys_count(), store.leased_keys());
                let index = store.applied().map(|position| position.index);
                writeln!(
                    output,
                    "current={current} compacted={compacted} keys={keys}"
                )?;
                writeln!(output, "leased={leased:?} applied={index:?}")?;
            }
            "reopen" => self.reopen()?,
            name => return Err(format!("unknown command {name}").into()),
        }
        if !matches!(command.name.as_str(), "txn" | "get") {
            args.reject_rest()?;
        }
        Ok(output)
    }
}

#[test]
fn scripts() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/testscripts/store");
    for entry in std::fs::read_dir(dir).expect("the scripts are there") {
        let path = entry.expect("readable").path();
        goldenscript::run(&mut Runner::new(), path).expect("the script runs");
    }
}

fn memory() -> (TempDir, Store, Writer) {
    let dir = TempDir::new().expect("a directory");
    let options = Options {
        engine: EngineKind::Memory,
        ..Options::default()
    };
    let (store, writer) = open(dir.path(), options).expect("opens");
    (dir, store, writer)
}

fn put(writer: &mut Writer, key: &str, value: &str) -> i64 {
    let mut txn = writer.txn();
    let (key, value) = (Bytes::from(key.to_owned()), Bytes::from(value.to_owned()));
    txn.put(key, value, 0).expect("puts");
    let revision = txn.end();
    writer.commit(Position {
        index: revision.unsigned_abs(),
        bytes: Bytes::new(),
    });
    revision
}

#[test]
fn nobody_sees_a_transaction_before_its_end() {
    let (_dir, store, mut writer) = memory();
    put(&mut writer, "a", "old");
    let mut txn = writer.txn();
    txn.put("a".into(), "new".into(), 0).expect("puts");
    txn.put("b".into(), "new".into(), 0).expect("puts");
    let options = RangeOptions::default();
    let range = || store.range(b"\0", b"\0", &options).expect("reads");
    assert_eq!(range().count, 1);
    assert_eq!(
        KeyValue::decode(range().kvs[0].clone())
            .expect("a pair")
            .value,
        "old"
    );
    assert_eq!(txn.range(b"\0", b"\0", &options).expect("reads").count, 2);
    let future = store.range(
        b"a",
        b"",
        &RangeOptions {
            revision: 3,
            ..options
        },
    );
    assert!(matches!(
        future,
        Err(Error::FutureRevision {
            requested: 3,
            current: 2
        })
    ));
    assert_eq!(txn.end(), 3);
    assert_eq!((range().count, range().revision), (2, 3));
}

#[test]
fn no_limit_is_too_large() {
    let (_dir, store, mut writer) = memory();
    put(&mut writer, "a", "old");
    let txn = writer.txn();
    for keys_only in [false, true] {
        let options = RangeOptions {
            limit: usize::MAX,
            keys_only,
            ..RangeOptions::default()
        };
        let settled = store.range(b"\0", b"\0", &options).expect("reads");
        let pending = txn.range(b"\0", b"\0", &options).expect("reads");
        assert_eq!((settled.kvs.len(), pending.kvs.len()), (1, 1));
    }
    txn.end();
}

#[test]
fn a_range_of_many_slices_counts_and_limits_exactly() {
    let (_dir, store, mut writer) = memory();
    let mut txn = writer.txn();
    for key in 0..10_000 {
        txn.put(format!("{key:05}").into(), "v".into(), 0)
            .expect("puts");
    }
    txn.end();
    let range = |key: &str, end: &str, limit| {
        let options = RangeOptions {
            limit,
            ..RangeOptions::default()
        };
        let range = store
            .range(key.as_bytes(), end.as_bytes(), &options)
            .expect("reads");
        (range.kvs.len(), range.count)
    };
    assert_eq!(range("0", "\0", 0), (10_000, 10_000));
    assert_eq!(range("\0", "\0", 3), (3, 10_000));
    assert_eq!(range("00001", "09999", 5000), (5000, 9998));
    assert_eq!(range("5", "4", 0), (0, 0));
    assert_eq!(range("5", "5", 0), (0, 0));
}

#[test]
fn a_compaction_waits_while_a_snapshot_is_read() {
    let (_dir, store, mut writer) = memory();
    for value in ["1", "2", "3"] {
        put(&mut writer, "a", value);
    }
    let snapshot = store.snapshot().expect("starts");
    writer.compact(4).expect("is new");
    writer.commit(Position {
        index: 9,
        bytes: Bytes::new(),
    });
    let count = || {
        let mut count = 0;
        store.scan_all(LAST, |_, _| count += 1).expect("reads");
        count
    };
    // The index forgets at once, so waiting for that shows that the job is under way.
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !store.core().index.keep(3).is_empty() {
        assert!(
            std::time::Instant::now() < deadline,
            "the index is not compacted"
        );
        std::thread::yield_now();
    }
    assert_eq!(count(), 3);
    drop(snapshot);
    store.wait_compacted(4);
    store.flush().expect("flushes");
    assert_eq!(count(), 1);
}

#[test]
fn an_installed_snapshot_replaces_everything() {
    let (_from_dir, from, mut from_writer) = memory();
    for value in ["1", "2", "3"] {
        put(&mut from_writer, "a", value);
    }
    from_writer.compact(3).expect("is new");
    from_writer.table_put(Table::Alarm, "k".into(), "v".into());
    from_writer.commit(Position {
        index: 40,
        bytes: "p".into(),
    });
    let dir = TempDir::new().expect("a directory");
    let file = dir.path().join("snapshot");
    let mut snapshot = from.snapshot().expect("starts");
    let position = snapshot.position().clone();
    let mut content = Vec::new();
    while let Some(chunk) = snapshot.next_chunk().expect("reads") {
        content.extend_from_slice(&chunk);
    }
    std::fs::write(&file, content).expect("writes");

    let (_dir, store, mut writer) = memory();
    put(&mut writer, "b", "mine");
    writer.install(&file, position.clone()).expect("installs");
    assert_eq!(store.applied(), Some(position));
    assert_eq!(
        (store.current_revision(), store.compacted_revision()),
        (4, 3)
    );
    assert_eq!(store.table_get(Table::Alarm, b"k"), Some("v".into()));
    let range = store
        .range(b"\0", b"\0", &RangeOptions::default())
        .expect("reads");
    assert_eq!((range.count, range.kvs.len()), (1, 1));
    store.wait_compacted(3);
    assert_eq!(put(&mut writer, "b", "new"), 5);
    put(&mut from_writer, "b", "new");
    let hash = |store: &Store| store.hash_kv(5).expect("hashes");
    assert_eq!(hash(&store), hash(&from));
}

#[test]
fn a_bounded_count_stops_at_its_bound_but_not_before_the_limit() {
    let (_dir, store, mut writer) = memory();
    let mut txn = writer.txn();
    for key in 0..100 {
        txn.put(format!("{key:02}").into(), "v".into(), 0)
            .expect("puts");
    }
    txn.end();
    let read = |limit, count_max, count_only| {
        let options = RangeOptions {
            limit,
            count_max,
            count_only,
            ..RangeOptions::default()
        };
        let range = store.range(b"01", b"90", &options).expect("reads");
        (range.kvs.len(), range.count)
    };
    assert_eq!(read(5, 0, false), (5, 89));
    assert_eq!(read(5, 1, false), (5, 5));
    assert_eq!(read(5, 20, false), (5, 20));
    assert_eq!(read(0, 20, false), (89, 89));
    assert_eq!(read(0, 20, true), (0, 20));
    assert_eq!(read(0, 89, true), (0, 89));
    assert_eq!(read(0, 1000, true), (0, 89));
}
