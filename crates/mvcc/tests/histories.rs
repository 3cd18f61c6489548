//! Random histories against a model that keeps every change in a list and looks at all of it.
//!
//! `KVD_SEED` replays one history, `KVD_HISTORIES` sets how many there are.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as StdError;
use std::time::Duration;

use bytes::Bytes;
use kvd_api::pb::mvccpb::KeyValue;
use kvd_mvcc::{
    EngineKind, Error, HashKv, Options, Position, RangeOptions, Store, Table, WriteTxn, Writer,
};
use prost::Message;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

type Outcome = Result<(), Box<dyn StdError>>;

const KEYS: [&str; 6] = ["a", "aa", "b", "ba", "c", "d"];
const HISTORIES: u64 = 10_000;
/// One history of so many is on a disk engine and is closed and opened on its way.
const ON_DISK: u64 = 50;

/// One put, or a deletion when there is no value.
#[derive(Clone, Debug)]
struct Change {
    main: i64,
    sub: i64,
    key: &'static str,
    put: Option<(Bytes, i64)>,
}

impl Change {
    fn record_key(&self) -> Vec<u8> {
        let mut key = self.main.to_be_bytes().to_vec();
        key.push(b'_');
        key.extend(self.sub.to_be_bytes());
        if self.put.is_none() {
            key.push(b't');
        }
        key
    }
}

#[derive(Default)]
struct Model {
    log: Vec<Change>,
    current: i64,
    compacted: i64,
    /// What compactions left, by place in the log.
    present: BTreeSet<usize>,
    /// The hashes that compactions made, by revision.
    hashes: BTreeMap<i64, HashKv>,
}

impl Model {
    fn new() -> Self {
        Model {
            current: 1,
            compacted: -1,
            ..Model::default()
        }
    }

    fn push(&mut self, main: i64, sub: i64, key: &'static str, put: Option<(Bytes, i64)>) {
        self.present.insert(self.log.len());
        self.log.push(Change {
            main,
            sub,
            key,
            put,
        });
    }

    fn get(&self, key: &str, at: i64) -> Option<KeyValue> {
        let mut kv: Option<KeyValue> = None;
        for change in self
            .log
            .iter()
            .filter(|change| change.key == key && change.main <= at)
        {
            kv = change.put.as_ref().map(|(value, lease)| KeyValue {
                key: Bytes::from_static(change.key.as_bytes()),
                create_revision: kv.as_ref().map_or(change.main, |kv| kv.create_revision),
                mod_revision: change.main,
                version: kv.as_ref().map_or(1, |kv| kv.version + 1),
                value: value.clone(),
                lease: *lease,
            });
        }
        kv
    }

    fn range(&self, key: &str, end: &str, at: i64) -> Vec<KeyValue> {
        let inside = |candidate: &str| match end {
            "" => candidate == key,
            "\0" => candidate >= key,
            end => candidate >= key && candidate < end,
        };
        KEYS.iter()
            .filter(|key| inside(key))
            .filter_map(|key| self.get(key, at))
            .collect()
    }

    /// The record of the newest change of each key at or below `at`, if it counts.
    fn newest(&self, at: i64, counts: impl Fn(&Change) -> bool) -> BTreeSet<usize> {
        let newest = |key: &&str| {
            self.log
                .iter()
                .rposition(|change| change.key == *key && change.main <= at)
        };
        KEYS.iter()
            .filter_map(newest)
            .filter(|place| counts(&self.log[*place]))
            .collect()
    }

    fn hash(&self, compacted: i64, revision: i64, keep: &BTreeSet<usize>) -> HashKv {
        let mut hash = crc32c::crc32c(b"key");
        for place in &self.present {
            let change = &self.log[*place];
            let dropped = change.main <= compacted && !keep.is_empty() && !keep.contains(place);
            let skipped = change.main == compacted && change.put.is_none();
            if change.main > revision || dropped || skipped {
                continue;
            }
            hash = crc32c::crc32c_append(hash, &change.record_key());
            let record = match change.put {
                Some(_) => self.at(*place),
                None => {
                    let key = Bytes::from_static(change.key.as_bytes());
                    KeyValue {
                        key,
                        ..KeyValue::default()
                    }
                }
            };
            hash = crc32c::crc32c_append(hash, &record.encode_to_vec());
        }
        HashKv {
            hash,
            compact_revision: compacted,
            revision,
            current_revision: self.current,
        }
    }

    /// The pair that the put at `place` made.
    fn at(&self, place: usize) -> KeyValue {
        let change = &self.log[place];
        let until = Model {
            log: self.log[..=place].to_vec(),
            ..Model::default()
        };
        until.get(change.key, change.main).expect("it is a put")
    }

    fn hash_kv(&self, revision: i64) -> HashKv {
        if let Some(hash) = self.hashes.get(&revision) {
            return HashKv {
                current_revision: self.current,
                ..*hash
            };
        }
        let revision = if revision == 0 {
            self.current
        } else {
            revision
        };
        let keep = self.newest(revision, |change| change.put.is_some());
        self.hash(self.compacted, revision, &keep)
    }

    fn compact(&mut self, revision: i64) {
        let kept = self.newest(revision, |change| {
            change.put.is_some() || change.main == revision
        });
        let hash = self.hash(self.compacted, revision, &kept);
        self.hashes.insert(revision, hash);
        while self.hashes.len() > 10 {
            self.hashes.pop_first();
        }
        let log = &self.log;
        self.present
            .retain(|place| log[*place].main > revision || kept.contains(place));
        self.compacted = revision;
    }
}

/// A store beside its model.
struct History {
    rng: StdRng,
    dir: tempfile::TempDir,
    engine: EngineKind,
    open: Option<(Store, Writer)>,
    model: Model,
    index: u64,
}

impl History {
    fn new(seed: u64) -> Result<Self, Box<dyn StdError>> {
        let engine = match seed % ON_DISK {
            0 if seed.is_multiple_of(2 * ON_DISK) => EngineKind::Sled,
            0 => EngineKind::Redb,
            _ => EngineKind::Memory,
        };
        let dir = directory()?;
        let rng = StdRng::seed_from_u64(seed);
        let mut history = History {
            rng,
            dir,
            engine,
            open: None,
            model: Model::new(),
            index: 0,
        };
        history.reopen()?;
        Ok(history)
    }

    fn store(&self) -> &Store {
        &self.open.as_ref().expect("open").0
    }

    fn reopen(&mut self) -> Outcome {
        if let Some((store, writer)) = self.open.take() {
            drop(writer);
            store.close();
            self.model.hashes.clear();
        }
        let options = Options {
            engine: self.engine,
            compaction_batch_limit: self.rng.random_range(1..8),
            compaction_sleep: Duration::ZERO,
            ..Options::default()
        };
        self.open = Some(kvd_mvcc::open(self.dir.path(), options)?);
        let applied = self.store().applied().map(|position| position.index);
        assert_eq!(applied, (self.index > 0).then_some(self.index));
        let index = self.store().table_get(Table::Cluster, b"index");
        assert_eq!(index, applied.map(|index| index.to_string().into()));
        Ok(())
    }

    fn step(&mut self) -> Outcome {
        match self.rng.random_range(0..100) {
            0..60 => self.txn()?,
            60..70 => self.compact()?,
            70..75 if self.engine != EngineKind::Memory => self.reopen()?,
            _ => {}
        }
        let model = &self.model;
        assert_eq!(self.store().current_revision(), model.current);
        assert_eq!(self.store().compacted_revision(), model.compacted);
        let live = model.range("", "\0", model.current);
        assert_eq!(self.store().keys_count(), live.len() as u64);
        let leased = live.iter().filter(|kv| kv.lease != 0);
        let leased: Vec<_> = leased.map(|kv| (kv.key.clone(), kv.lease)).collect();
        assert_eq!(self.store().leased_keys(), leased);
        self.check_range()?;
        if self.rng.random_range(0..4) == 0 {
            self.check_hash()
        } else {
            Ok(())
        }
    }

    fn bounds(&mut self) -> (&'static str, &'static str) {
        let keys = ["\0", "a", "aa", "b", "ba", "c", "d", "e"];
        let ends = ["", "\0", "aa", "b", "ba", "c", "d", "e"];
        let pick = |rng: &mut StdRng| rng.random_range(0..keys.len());
        (keys[pick(&mut self.rng)], ends[pick(&mut self.rng)])
    }

    fn txn(&mut self) -> Outcome {
        let deletes = self.rng.random_bool(0.4).then(|| self.bounds());
        let puts: Vec<_> = (0..self.rng.random_range(0..4))
            .map(|_| {
                let lease = if self.rng.random_bool(0.3) {
                    self.rng.random_range(1..4)
                } else {
                    0
                };
                let value = self.rng.random_range(0..1000).to_string();
                (KEYS[self.rng.random_range(0..KEYS.len())], value, lease)
            })
            .collect();
        let (key, end) = self.bounds();
        let model = &mut self.model;
        let (_, writer) = self.open.as_mut().expect("open");
        let mut txn = writer.txn();
        let main = model.current + 1;
        assert_eq!(txn.main(), main);
        let mut deleted = Vec::new();
        let mut sub = 0;
        if let Some((key, end)) = deletes {
            let before = model.range(key, end, main);
            let (count, prev) = txn.delete_range(key.as_bytes(), end.as_bytes(), true)?;
            assert_eq!(decode(&prev)?, before);
            assert_eq!(count, before.len() as u64);
            let leased = before.iter().filter(|kv| kv.lease != 0);
            let leased: Vec<_> = leased.map(|kv| (kv.key.clone(), kv.lease)).collect();
            assert_eq!(txn.detached(), leased);
            deleted = before.into_iter().map(|kv| kv.key).collect();
            for key in &deleted {
                let key = KEYS
                    .iter()
                    .find(|known| known.as_bytes() == key)
                    .expect("known");
                model.push(main, sub, key, None);
                sub += 1;
            }
        }
        for (key, value, lease) in puts {
            // No client can put what it deletes in the same transaction.
            if deleted.iter().any(|deleted| deleted == key) {
                continue;
            }
            put(&mut txn, model, main, sub, key, Bytes::from(value), lease)?;
            sub += 1;
        }
        assert_eq!(txn.changed(), sub > 0);
        let range = txn.range(key.as_bytes(), end.as_bytes(), &RangeOptions::default())?;
        assert_eq!(decode(&range.kvs)?, model.range(key, end, main));
        model.current += i64::from(sub > 0);
        assert_eq!(range.revision, model.current);
        assert_eq!(txn.end(), model.current);
        self.commit();
        Ok(())
    }

    fn commit(&mut self) {
        self.index += 1;
        let index = self.index;
        let (_, writer) = self.open.as_mut().expect("open");
        writer.table_put(Table::Cluster, "index".into(), index.to_string().into());
        writer.commit(Position {
            index,
            bytes: Bytes::new(),
        });
    }

    fn compact(&mut self) -> Outcome {
        let revision = self.rng.random_range(-1..self.model.current + 2);
        self.store().wait_compacted(self.model.compacted);
        let (_, writer) = self.open.as_mut().expect("open");
        let result = writer.compact(revision);
        match result {
            Err(Error::Compacted { .. }) => assert!(revision <= self.model.compacted),
            Err(Error::FutureRevision { .. }) => assert!(revision > self.model.current),
            Err(error) => return Err(error.into()),
            Ok(()) => {
                assert!(revision > self.model.compacted && revision <= self.model.current);
                self.model.compact(revision);
            }
        }
        self.commit();
        Ok(())
    }

    fn check_range(&mut self) -> Outcome {
        let (key, end) = self.bounds();
        let options = RangeOptions {
            revision: self.rng.random_range(-1..self.model.current + 2),
            limit: self.rng.random_range(0..4),
            count_only: self.rng.random_bool(0.2),
            keys_only: self.rng.random_bool(0.2),
            count_max: 0,
        };
        let model = &self.model;
        let range = match self.store().range(key.as_bytes(), end.as_bytes(), &options) {
            Err(Error::Compacted { .. }) => {
                assert!(options.revision > 0 && options.revision < model.compacted);
                return Ok(());
            }
            Err(Error::FutureRevision { .. }) => {
                assert!(options.revision > model.current);
                return Ok(());
            }
            range => range?,
        };
        let at = if options.revision <= 0 {
            model.current
        } else {
            options.revision
        };
        assert!(at <= model.current && at >= model.compacted);
        let mut expected = model.range(key, end, at);
        assert_eq!(
            (range.count, range.revision),
            (expected.len() as i64, model.current)
        );
        match options.limit {
            _ if options.count_only => expected.clear(),
            0 => {}
            limit => expected.truncate(limit),
        }
        if options.keys_only {
            expected
                .iter_mut()
                .for_each(|kv| (kv.value, kv.lease) = (Bytes::new(), 0));
        }
        assert_eq!(decode(&range.kvs)?, expected, "{key:?} {end:?} {options:?}");
        Ok(())
    }

    fn check_hash(&mut self) -> Outcome {
        let revision = self.rng.random_range(0..self.model.current + 1);
        let store = self.store();
        store.wait_compacted(self.model.compacted);
        // Carries out the deletions.
        store.flush()?;
        match store.hash_kv(revision) {
            Err(Error::Compacted { .. }) => {
                assert!(revision > 0 && revision < self.model.compacted);
                return Ok(());
            }
            hash => assert_eq!(hash?, self.model.hash_kv(revision)),
        }
        Ok(())
    }
}

fn put(
    txn: &mut WriteTxn<'_>,
    model: &mut Model,
    main: i64,
    sub: i64,
    key: &'static str,
    value: Bytes,
    lease: i64,
) -> Outcome {
    let before = model.get(key, main);
    assert_eq!(txn.get(key.as_bytes())?, before);
    let previous = txn.put(Bytes::from_static(key.as_bytes()), value.clone(), lease)?;
    let previous = previous.map(|prev| {
        (
            prev.create_revision,
            prev.mod_revision,
            prev.version,
            prev.lease,
        )
    });
    let before = before.map(|kv| (kv.create_revision, kv.mod_revision, kv.version, kv.lease));
    assert_eq!(previous, before);
    model.push(main, sub, key, Some((value, lease)));
    Ok(())
}

fn decode(kvs: &[Bytes]) -> Result<Vec<KeyValue>, prost::DecodeError> {
    kvs.iter().map(|kv| KeyValue::decode(kv.clone())).collect()
}

fn run(seed: u64) -> Outcome {
    let mut history = History::new(seed)?;
    for _ in 0..history.rng.random_range(5..25) {
        history.step()?;
    }
    history.check_hash()?;
    let (store, writer) = history.open.take().expect("open");
    drop(writer);
    store.close();
    Ok(())
}

/// A directory in memory if the system has one: most of the time would go into syncing.
fn directory() -> std::io::Result<tempfile::TempDir> {
    let memory = std::path::Path::new("/dev/shm");
    if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    }
}

/// Names the seed when a history panics.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "replay: KVD_SEED={} cargo test -p kvd-mvcc --test histories",
                self.0
            );
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|value| value.parse().expect("a number"))
}

#[test]
fn random_histories_read_as_the_model_does() -> Outcome {
    if let Some(seed) = number("KVD_SEED") {
        return run(seed);
    }
    let first = rand::rng().random_range(0..1 << 48);
    let histories = number("KVD_HISTORIES").unwrap_or(HISTORIES);
    println!("seeds {first} to {}", first + histories - 1);
    for seed in first..first + histories {
        let _named = Named(seed);
        run(seed)?;
    }
    Ok(())
}
