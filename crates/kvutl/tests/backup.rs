//! A history written to a snapshot file and restored: the same hash at every revision. Damaged
//! files, and directories in use, are refused. With `KVD_ETCDUTL_BIN`, the etcdutl of etcd 3.7 says
//! the same of the file.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bytes::Bytes;
use kvd_api::pb::kvdcommandpb::LeaseRecord;
use kvd_mvcc::{EngineKind, Options, Position, Store, Table, Writer};
use kvd_raft::Member;
use kvd_server::backup;
use prost::Message;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

const OPERATIONS: u64 = 10_000;

/// Printed by every random test; `KVD_SEED` replays it.
fn seed() -> u64 {
    let seed = match std::env::var("KVD_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => rand::random(),
    };
    println!("KVD_SEED={seed}");
    seed
}

fn members() -> Vec<Member> {
    let member = |id: u64| Member {
        id,
        name: format!("m{id}"),
        peer_urls: vec![format!("http://127.0.0.1:{}", 12_000 + id)],
        voter: true,
    };
    vec![member(1), member(2), member(3)]
}

/// A store whose position is one that consensus can read.
struct Source {
    store: Store,
    writer: Writer,
    position: Position,
}

impl Source {
    fn open(dir: &Path) -> Source {
        let options = Options {
            engine: EngineKind::Redb,
            ..Options::default()
        };
        let (store, writer) = kvd_mvcc::open(&dir.join("store"), options).unwrap();
        let seeded = kvd_raft::seed_log(&dir.join("wal"), 9, 1, &members()).unwrap();
        Source {
            store,
            writer,
            position: Position {
                index: seeded.index,
                bytes: seeded.bytes,
            },
        }
    }

    fn commit(&mut self) {
        self.writer.commit(self.position.clone());
    }

    fn put_lease(&mut self, id: i64, remaining_ttl: i64) {
        let record = LeaseRecord {
            id,
            ttl: 600,
            remaining_ttl,
        };
        let key = Bytes::copy_from_slice(&id.to_be_bytes());
        self.writer
            .table_put(Table::Lease, key, record.encode_to_vec().into());
    }

    /// Random puts, deletes and transactions, some keys with leases; compactions up to the last
    /// tenth of the history.
    fn run(&mut self, seed: u64) {
        let mut random = StdRng::seed_from_u64(seed);
        for lease in 1..=20 {
            self.put_lease(lease, lease * 7 % 3);
        }
        let key = |number: u32| Bytes::from(format!("key/{number:03}"));
        for operation in 0..OPERATIONS {
            let mut txn = self.writer.txn();
            for _ in 0..if random.random_ratio(1, 10) { 3 } else { 1 } {
                let number = random.random_range(0..200);
                if random.random_ratio(1, 5) {
                    let end = match random.random_ratio(1, 10) {
                        true => key(number + 4),
                        false => Bytes::new(),
                    };
                    txn.delete_range(&key(number), &end, false).unwrap();
                } else {
                    let length = random.random_range(0..300);
                    let mut value = vec![0; length];
                    random.fill(&mut value[..]);
                    let lease = if random.random_ratio(1, 4) {
                        random.random_range(1..=20)
                    } else {
                        0
                    };
                    txn.put(key(number), value.into(), lease).unwrap();
                }
            }
            txn.end();
            let current = self.store.current_revision();
            let compacted = self.store.compacted_revision();
            if random.random_ratio(1, 1_000)
                && operation < OPERATIONS * 9 / 10
                && current > compacted + 50
            {
                self.writer
                    .compact(random.random_range(compacted.max(1) + 1..=current))
                    .unwrap();
            }
            self.commit();
        }
        let current = self.store.current_revision();
        if self.store.compacted_revision() < current - 400 {
            self.writer.compact(current - 400).unwrap();
            self.commit();
        }
    }

    /// The snapshot file as `snapshot save` leaves it.
    fn save(&self, path: &Path) {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .unwrap();
        let (mut file, length) = backup::export(self.store.content().unwrap(), file).unwrap();
        let mut content = Vec::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_end(&mut content).unwrap();
        assert_eq!(content.len() as u64, length);
        file.write_all(&Sha256::digest(&content)).unwrap();
    }
}

fn kvutl(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kvutl"))
        .args(arguments)
        .output()
        .unwrap()
}

fn succeed(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn fail(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

const CLUSTER: &str = "m1=http://127.0.0.1:12001,m2=http://127.0.0.1:12002";

fn restore(file: &Path, data: &Path, more: &[&str]) -> Output {
    let (file, data) = (file.to_str().unwrap(), data.to_str().unwrap());
    let mut arguments = vec!["snapshot", "restore", file, "--data-dir", data];
    let own = "http://127.0.0.1:12002";
    arguments.extend(["--name", "m2", "--initial-advertise-peer-urls", own]);
    arguments.extend(["--initial-cluster", CLUSTER]);
    arguments.extend(more);
    kvutl(&arguments)
}

fn open_restored(data: &Path) -> (Store, Writer) {
    let options = Options::default();
    kvd_mvcc::open(&data.join("member").join("store"), options).unwrap()
}

fn small(dir: &Path) -> (Source, PathBuf) {
    let mut source = Source::open(dir);
    for number in 0..500 {
        let mut txn = source.writer.txn();
        let key = Bytes::from(format!("key {number}"));
        txn.put(key, Bytes::from_static(b"value"), 0).unwrap();
        txn.end();
    }
    source.commit();
    let file = dir.join("snapshot.db");
    source.save(&file);
    (source, file)
}

#[test]
fn ten_thousand_operations_come_back_with_the_same_hashes() {
    let dir = tempfile::tempdir().unwrap();
    let mut source = Source::open(dir.path());
    source.run(seed());
    let (compacted, current) = (
        source.store.compacted_revision(),
        source.store.current_revision(),
    );
    source.store.wait_compacted(compacted);
    let file = dir.path().join("snapshot.db");
    source.save(&file);
    let path = file.to_str().unwrap();

    let text = succeed(&kvutl(&["snapshot", "status", path, "-w", "json"]));
    assert!(text.contains(&format!("\"revision\":{current}")), "{text}");
    let keys = format!("\"totalKey\":{}", source.store.keys_count());
    assert!(text.contains(&keys), "{text}");
    let hash = source.store.hash_kv(0).unwrap();
    let expected = format!("{}, {}, {}\n", hash.hash, current, hash.compact_revision);
    assert_eq!(succeed(&kvutl(&["hashkv", path])), expected);

    let data = dir.path().join("data");
    succeed(&restore(&file, &data, &[]));
    let whole = data.to_str().unwrap();
    assert_eq!(succeed(&kvutl(&["hashkv", whole])), expected);
    // The restored member saves the same history again, although it never ran.
    let again = dir.path().join("again.db");
    let saved = succeed(&kvutl(&[
        "snapshot",
        "save",
        again.to_str().unwrap(),
        "--data-dir",
        whole,
    ]));
    assert!(saved.ends_with(&format!("Revision {current}\n")), "{saved}");
    let again = again.to_str().unwrap();
    assert_eq!(succeed(&kvutl(&["hashkv", again])), expected);
    succeed(&kvutl(&["snapshot", "status", again]));
    let (restored, _writer) = open_restored(&data);
    assert_eq!(restored.compacted_revision(), compacted);
    assert_eq!(restored.current_revision(), current);
    // The compacted revision itself is answered from what the compaction found on its way.
    for revision in compacted + 1..=current {
        assert_eq!(
            restored.hash_kv(revision).unwrap(),
            source.store.hash_kv(revision).unwrap(),
            "at revision {revision}"
        );
    }
    for table in [Table::Lease, Table::Meta] {
        assert_eq!(restored.table_scan(table), source.store.table_scan(table));
    }
    assert_eq!(restored.leased_keys(), source.store.leased_keys());
    let place = kvd_raft::read_position(restored.applied().unwrap().bytes).unwrap();
    assert_eq!((place.index, place.members.len()), (2, 2));
    etcdutl_agrees(&file, &expected);
}

/// What etcd's own tool says of a file, when there is one. `hashkv` comes last: it changes the file.
fn etcdutl_agrees(file: &Path, hash: &str) {
    let Some(etcdutl) = std::env::var_os("KVD_ETCDUTL_BIN") else {
        eprintln!("KVD_ETCDUTL_BIN is not set: not compared with etcdutl");
        return;
    };
    let path = file.to_str().unwrap();
    let run = |arguments: &[&str]| {
        let output = Command::new(&etcdutl).args(arguments).output().unwrap();
        succeed(&output)
    };
    let data = file.with_extension("etcd");
    let data = data.to_str().unwrap();
    run(&["snapshot", "restore", path, "--data-dir", data]);
    for format in ["simple", "json", "fields", "table"] {
        let arguments = ["snapshot", "status", path, "-w", format];
        assert_eq!(run(&arguments), succeed(&kvutl(&arguments)), "{format}");
    }
    assert_eq!(run(&["hashkv", path]), hash);
}

#[test]
fn a_directory_without_a_store_is_not_saved() {
    let dir = tempfile::tempdir().unwrap();
    let (file, data) = (dir.path().join("s.db"), dir.path().join("nothing"));
    let (path, data) = (file.to_str().unwrap(), data.to_str().unwrap());
    let text = fail(&kvutl(&["snapshot", "save", path, "--data-dir", data]), 1);
    assert!(text.contains("no store of kvd is there"), "{text}");
    assert!(!file.exists());
}

#[test]
fn a_damaged_file_is_refused_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let (_source, file) = small(dir.path());
    let content = fs::read(&file).unwrap();
    let damaged = dir.path().join("damaged.db");
    let data = dir.path().join("data");
    let path = damaged.to_str().unwrap();

    // A flipped bit, wherever it is.
    for at in [20, 5_000, content.len() / 2, content.len() - 1] {
        let mut flipped = content.clone();
        flipped[at] ^= 0x10;
        fs::write(&damaged, &flipped).unwrap();
        let text = fail(&restore(&damaged, &data, &[]), 1);
        assert!(text.contains("Error: expected sha256 ["), "{text}");
        fail(&kvutl(&["snapshot", "status", path]), 1);
        assert!(!data.exists());
    }
    // The hash is not looked at: the damage of the pages is found all the same, if it is one.
    let mut flipped = content.clone();
    flipped[3 * 4_096 + 8] ^= 0x40;
    fs::write(&damaged, &flipped).unwrap();
    let text = fail(&restore(&damaged, &data, &["--skip-hash-check"]), 1);
    assert!(text.contains("page 3"), "{text}");
    assert!(!data.join("member").exists());
    let text = fail(&kvutl(&["snapshot", "status", path]), 1);
    assert!(text.contains("integrity check failed"), "{text}");

    // Cut short, at a page and elsewhere; empty; something else.
    for length in [content.len() - 4_096 - 32, content.len() - 100, 10, 0] {
        fs::write(&damaged, &content[..length]).unwrap();
        for more in [&[][..], &["--skip-hash-check"]] {
            fail(&restore(&damaged, &data, more), 1);
        }
        fail(&kvutl(&["snapshot", "status", path]), 1);
        fail(&kvutl(&["hashkv", path]), 1);
        assert!(!data.join("member").exists());
    }
    fs::write(&damaged, vec![b'x'; 8_192]).unwrap();
    let text = fail(&restore(&damaged, &data, &["--skip-hash-check"]), 1);
    assert!(text.contains("not a bbolt database"), "{text}");
    let text = fail(&restore(&damaged, &data, &[]), 1);
    assert!(
        text.contains("snapshot missing hash but --skip-hash-check=false"),
        "{text}"
    );
    let missing = dir.path().join("missing.db");
    let text = fail(&restore(&missing, &data, &[]), 1);
    assert!(
        text.contains("missing.db: No such file or directory"),
        "{text}"
    );

    // A database without its hash, as in a data directory of etcd.
    fs::write(&damaged, &content[..content.len() - 32]).unwrap();
    fail(&restore(&damaged, &data, &[]), 1);
    succeed(&restore(&damaged, &data, &["--skip-hash-check"]));
}

#[test]
fn directories_in_use_and_members_that_make_no_sense_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (_source, file) = small(dir.path());
    let data = dir.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("something"), b"").unwrap();
    let text = fail(&restore(&file, &data, &[]), 1);
    let message = format!("data-dir {data:?} not empty or could not be read");
    assert!(text.contains(&message), "{text}");
    fs::remove_file(data.join("something")).unwrap();

    let wal = dir.path().join("wal-apart");
    fs::create_dir(&wal).unwrap();
    let wal_text = wal.to_str().unwrap();
    let text = fail(&restore(&file, &data, &["--wal-dir", wal_text]), 1);
    assert!(text.contains(&format!("wal-dir {wal:?} exists")), "{text}");
    fs::remove_dir(&wal).unwrap();
    succeed(&restore(&file, &data, &["--wal-dir", wal_text]));
    assert!(wal.join("LOCK").exists());
    assert!(!data.join("member").join("wal").exists());
    let text = fail(&restore(&file, &data, &[]), 1);
    assert!(text.contains("not empty"), "{text}");

    let other = dir.path().join("other");
    let text = fail(&restore(&file, &other, &["--mark-compacted"]), 128);
    assert_eq!(
        text,
        "Error: --mark-compacted required if --revision-bump > 0\n"
    );
    fail(&restore(&file, &other, &["--bump-revision", "5"]), 128);
    for command in ["restore", "status"] {
        let text = fail(&kvutl(&["snapshot", command]), 128);
        let message = format!("Error: snapshot {command} requires exactly one argument\n");
        assert_eq!(text, message);
    }
    let text = fail(&kvutl(&["snapshot", "status", "x", "-w", "yaml"]), 4);
    assert_eq!(text, "Error: unsupported output format\n");
}

/// Go's flags: the last one counts, and a boolean may have a value.
#[test]
fn flags_are_read_as_etcdutl_reads_them() {
    let dir = tempfile::tempdir().unwrap();
    let (_source, file) = small(dir.path());
    let content = fs::read(&file).unwrap();
    fs::write(&file, &content[..content.len() - 32]).unwrap();
    let data = dir.path().join("data");
    let more = ["--skip-hash-check", "--skip-hash-check=false"];
    let text = fail(&restore(&file, &data, &more), 1);
    assert!(text.contains("--skip-hash-check=false"), "{text}");
    let more = ["--mark-compacted=f", "--skip-hash-check=true"];
    succeed(&restore(&file, &data, &more));
}

#[test]
fn a_raised_revision_is_compacted_up_to_there() {
    let dir = tempfile::tempdir().unwrap();
    let (source, file) = small(dir.path());
    let current = source.store.current_revision();
    let data = dir.path().join("data");
    let raised = ["--bump-revision", "1000", "--mark-compacted"];
    succeed(&restore(&file, &data, &raised));
    let (restored, mut writer) = open_restored(&data);
    assert_eq!(restored.current_revision(), current + 1_000);
    assert_eq!(restored.compacted_revision(), current + 1_000);
    let options = kvd_mvcc::RangeOptions::default();
    let keys = restored.range(b"key ", b"key!", &options).unwrap();
    assert_eq!(keys.count, 500);
    assert!(restored.hash_kv(current).is_err());
    let mut txn = writer.txn();
    txn.put("new".into(), "value".into(), 0).unwrap();
    txn.end();
    assert_eq!(restored.current_revision(), current + 1_001);
}

#[test]
fn every_table_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut source = Source::open(dir.path());
    let user = kvd_api::pb::authpb::User {
        name: "root".into(),
        password: "hash".into(),
        roles: vec!["root".into()],
        ..Default::default()
    };
    let role = kvd_api::pb::authpb::Role {
        name: "root".into(),
        ..Default::default()
    };
    let alarm = kvd_api::pb::etcdserverpb::AlarmMember {
        member_id: 7,
        alarm: 2,
    };
    let one = Bytes::from_static(&[1]);
    let revision = Bytes::copy_from_slice(&9_u64.to_be_bytes());
    let tables: BTreeMap<Table, Vec<(Bytes, Bytes)>> = BTreeMap::from([
        (
            Table::Auth,
            vec![
                ("authEnabled".into(), one),
                ("authRevision".into(), revision),
            ],
        ),
        (
            Table::AuthUsers,
            vec![("root".into(), user.encode_to_vec().into())],
        ),
        (
            Table::AuthRoles,
            vec![("root".into(), role.encode_to_vec().into())],
        ),
        (
            Table::Alarm,
            vec![(alarm.encode_to_vec().into(), Bytes::new())],
        ),
    ]);
    for (table, entries) in &tables {
        for (key, value) in entries {
            source.writer.table_put(*table, key.clone(), value.clone());
        }
    }
    // More than fits into one page, or into a bucket inside its parent.
    for lease in 1..=3_000 {
        source.put_lease(lease, lease);
    }
    source.commit();
    let file = dir.path().join("snapshot.db");
    source.save(&file);
    let data = dir.path().join("data");
    succeed(&restore(&file, &data, &[]));
    let (restored, _writer) = open_restored(&data);
    for (table, entries) in &tables {
        assert_eq!(&restored.table_scan(*table), entries, "{table:?}");
    }
    let leases = restored.table_scan(Table::Lease);
    assert_eq!(leases, source.store.table_scan(Table::Lease));
    assert_eq!(restored.table_scan(Table::Members).len(), 2);
}
