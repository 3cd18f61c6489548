//! One suite over all engines: what the store relies on, and what happens when the disk fails.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread;

use bytes::Bytes;
use kvd_mvcc::backend::redb::Redb;
use kvd_mvcc::backend::{self, Backend, Batch, Page};
use kvd_mvcc::{EngineKind, Error};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const KINDS: [EngineKind; 3] = [EngineKind::Memory, EngineKind::Redb, EngineKind::Sled];
const DURABLE: [EngineKind; 2] = [EngineKind::Redb, EngineKind::Sled];
const CACHE: usize = 1 << 20;

type Model = BTreeMap<Bytes, Bytes>;

fn seed() -> u64 {
    let seed = match std::env::var("KVD_SEED") {
        Ok(seed) => seed.parse().expect("KVD_SEED is a number"),
        Err(_) => rand::random(),
    };
    println!("KVD_SEED={seed}");
    seed
}

fn open(kind: EngineKind, dir: &Path) -> Box<dyn Backend> {
    backend::open(kind, dir, CACHE).expect("open")
}

fn key(number: u32) -> Bytes {
    Bytes::from(format!("key {number:06}"))
}

fn everything(engine: &dyn Backend) -> Vec<(Bytes, Bytes)> {
    engine
        .scan(b"", b"\xff", Page::pairs(usize::MAX))
        .expect("scan")
}

/// A batch of random changes, the same change made to the model.
fn random_batch(rng: &mut StdRng, model: &mut Model, keys: u32) -> Batch {
    let mut batch = Batch::default();
    for _ in 0..rng.random_range(1..200) {
        let key = key(rng.random_range(0..keys));
        if rng.random_range(0..3) == 0 {
            model.remove(&key);
            batch.delete(key);
        } else {
            let value = vec![rng.random(); rng.random_range(0..600)];
            model.insert(key.clone(), value.clone().into());
            batch.put(key, value);
        }
    }
    batch
}

#[test]
fn engines_agree_with_a_plain_map() {
    let seed = seed();
    for kind in KINDS {
        let mut rng = StdRng::seed_from_u64(seed);
        let dir = tempfile::tempdir().expect("tempdir");
        let mut engine = open(kind, dir.path());
        let mut model = Model::new();
        for round in 0..60 {
            let batch = random_batch(&mut rng, &mut model, 2000);
            engine.write(&batch).expect("write");
            if round % 7 == 0 {
                engine.flush().expect("flush");
                engine.maintain().expect("maintain");
            }
            if round % 20 == 19 && kind != EngineKind::Memory {
                engine.close().expect("close");
                assert!(matches!(engine.get(b"key"), Err(Error::Closed)), "{kind}");
                assert!(matches!(engine.write(&batch), Err(Error::Closed)), "{kind}");
                drop(engine);
                engine = open(kind, dir.path());
            }
            let wanted = key(rng.random_range(0..2100));
            assert_eq!(
                engine.get(&wanted).expect("get"),
                model.get(&wanted).cloned()
            );
            let (from, to) = (
                key(rng.random_range(0..2100)),
                key(rng.random_range(0..2100)),
            );
            let limit = rng.random_range(1..300);
            let found = engine.scan(&from, &to, Page::pairs(limit)).expect("scan");
            let expected: Vec<_> = model
                .iter()
                .filter(|(key, _)| from <= **key && **key < to)
                .take(limit)
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            assert_eq!(found, expected, "{kind}");
        }
        assert!(engine.size().expect("size") > 0);
        assert_eq!(
            everything(&*engine),
            model.into_iter().collect::<Vec<_>>(),
            "{kind}"
        );
    }
}

#[test]
fn the_last_change_of_a_batch_counts() {
    for kind in KINDS {
        let dir = tempfile::tempdir().expect("tempdir");
        let engine = open(kind, dir.path());
        let mut batch = Batch::default();
        batch.put("a", "1");
        batch.put("a", "2");
        batch.put("b", "1");
        batch.delete("b");
        batch.delete("c");
        batch.put("c", "");
        batch.delete("never there");
        engine.write(&batch).expect("write");
        let expected = [("a".into(), "2".into()), ("c".into(), Bytes::new())];
        assert_eq!(everything(&*engine), expected, "{kind}");
    }
}

#[test]
fn pages_end_by_pairs_or_bytes_and_never_empty_before_the_end() {
    for kind in KINDS {
        let dir = tempfile::tempdir().expect("tempdir");
        let engine = open(kind, dir.path());
        let mut batch = Batch::default();
        (0..100).for_each(|number| batch.put(key(number), vec![1; 1000]));
        engine.write(&batch).expect("write");
        let page = |pairs, bytes| {
            let page = Page { pairs, bytes };
            engine.scan(b"", b"\xff", page).expect("scan").len()
        };
        assert_eq!(
            (page(10, usize::MAX), page(1000, 5000), page(1000, 1)),
            (10, 5, 1),
            "{kind}"
        );
        assert!(
            engine
                .scan(b"z", b"a", Page::pairs(9))
                .expect("scan")
                .is_empty()
        );
        assert!(
            engine
                .scan(b"key 9", b"key 9", Page::pairs(9))
                .expect("scan")
                .is_empty()
        );
    }
}

#[test]
fn what_was_flushed_is_there_after_a_reopen_without_a_close() {
    for kind in DURABLE {
        let dir = tempfile::tempdir().expect("tempdir");
        let engine = open(kind, dir.path());
        let mut batch = Batch::default();
        (0..5000).for_each(|number| batch.put(key(number), vec![2; 100]));
        engine.write(&batch).expect("write");
        engine.flush().expect("flush");
        drop(engine);
        assert_eq!(everything(&*open(kind, dir.path())).len(), 5000, "{kind}");
    }
}

#[test]
fn a_directory_opens_once() {
    for kind in DURABLE {
        let dir = tempfile::tempdir().expect("tempdir");
        let _engine = open(kind, dir.path());
        assert!(backend::open(kind, dir.path(), CACHE).is_err(), "{kind}");
    }
}

/// One writer and four readers, across sled's recycled handles. A batch rewrites all keys with its
/// number, so a reader that sees numbers go back has seen a batch undone.
#[test]
fn readers_go_on_while_one_thread_writes() {
    for kind in KINDS {
        let dir = tempfile::tempdir().expect("tempdir");
        let engine = open(kind, dir.path());
        let number = |value: &Bytes| u32::from_be_bytes(value[..4].try_into().expect("4 bytes"));
        let batch_of = |round: u32| {
            let mut batch = Batch::default();
            let value = [&round.to_be_bytes()[..], &[0; 200_000]].concat();
            (0..20).for_each(|name| batch.put(key(name), value.clone()));
            batch
        };
        engine.write(&batch_of(0)).expect("write");
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for reader in 0..4 {
                let (engine, done) = (&engine, &done);
                scope.spawn(move || {
                    let mut last = 0;
                    while !done.load(Ordering::Relaxed) {
                        let value = engine.get(&key(reader)).expect("get").expect("there");
                        assert!(number(&value) >= last);
                        last = number(&value);
                        let page = Page {
                            pairs: 5,
                            bytes: usize::MAX,
                        };
                        assert_eq!(engine.scan(&key(3), &key(9), page).expect("scan").len(), 5);
                    }
                });
            }
            // 80 MB, more than sled's recycling takes.
            for round in 1..20 {
                engine.write(&batch_of(round)).expect("write");
                engine.flush().expect("flush");
                engine.maintain().expect("maintain");
            }
            done.store(true, Ordering::Relaxed);
        });
        assert!(
            everything(&*engine)
                .iter()
                .all(|(_, value)| number(value) == 19),
            "{kind}"
        );
    }
}

/// A storage in memory that outlives its database and fails from some call on.
#[derive(Clone, Default)]
struct FailingStorage {
    bytes: Arc<Mutex<Vec<u8>>>,
    /// Calls that still succeed; negative means all.
    left: Arc<AtomicI64>,
}

impl fmt::Debug for FailingStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FailingStorage")
    }
}

impl FailingStorage {
    fn change(&self) -> io::Result<std::sync::MutexGuard<'_, Vec<u8>>> {
        match self.left.load(Ordering::SeqCst) {
            0 => Err(io::Error::from(io::ErrorKind::StorageFull)),
            _ => {
                self.left.fetch_sub(1, Ordering::SeqCst);
                Ok(self.bytes.lock().expect("no panic"))
            }
        }
    }
}

impl redb::StorageBackend for FailingStorage {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().expect("no panic").len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let bytes = self.bytes.lock().expect("no panic");
        let offset = offset as usize;
        out.copy_from_slice(&bytes[offset..offset + out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change()?.resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.change().map(|_| ())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let offset = offset as usize;
        self.change()?[offset..offset + data.len()].copy_from_slice(data);
        Ok(())
    }
}

/// Every batch holds one number under all keys; whatever call fails, a reopen finds one batch,
/// whole, not older than the last flush.
#[test]
fn a_full_disk_is_an_error_and_tears_no_batch() {
    let mut rng = StdRng::seed_from_u64(seed());
    for _ in 0..40 {
        let storage = FailingStorage::default();
        storage.left.store(-1, Ordering::SeqCst);
        let engine = Redb::open_storage(storage.clone(), CACHE).expect("open");
        storage
            .left
            .store(rng.random_range(0..400), Ordering::SeqCst);
        let (mut flushed, mut written, mut failed) = (None, None, None);
        for round in 0..60_u32 {
            let mut batch = Batch::default();
            (0..50).for_each(|name| batch.put(key(name), format!("{round:08}")));
            if let Err(error) = engine.write(&batch) {
                failed = Some(error);
                break;
            }
            written = Some(round);
            if round % 3 == 0 {
                if let Err(error) = engine.flush() {
                    failed = Some(error);
                    break;
                }
                flushed = written;
            }
        }
        if let Some(error) = failed {
            assert!(matches!(error, Error::Engine { .. }), "{error}");
            // Reads may still work, writes may not.
            assert!(engine.flush().is_err());
        }
        drop(engine);
        storage.left.store(-1, Ordering::SeqCst);
        let found = everything(&Redb::open_storage(storage, CACHE).expect("open"));
        let mut numbers: Vec<_> = found.iter().map(|(_, value)| value).collect();
        numbers.dedup();
        assert!(numbers.len() <= 1, "torn: {numbers:?}");
        let found = numbers.first().map(|number| {
            std::str::from_utf8(number)
                .expect("text")
                .parse::<u32>()
                .expect("a number")
        });
        // A flush that failed may still have reached the disk.
        assert!(
            found >= flushed && found <= written,
            "{flushed:?} {found:?} {written:?}"
        );
    }
}

/// sled does its own I/O, so its files are damaged instead of its calls. Whatever the damage, there
/// is an answer: an error, or content that the store's checks judge. Never a panic or a hang.
#[test]
fn damaged_sled_files_are_an_error_not_a_panic() {
    let mut rng = StdRng::seed_from_u64(seed());
    for _ in 0..6 {
        let dir = tempfile::tempdir().expect("tempdir");
        let engine = open(EngineKind::Sled, dir.path());
        let mut batch = Batch::default();
        (0..500).for_each(|number| batch.put(key(number), vec![number as u8; 100]));
        engine.write(&batch).expect("write");
        engine.close().expect("close");
        drop(engine);
        let mut files = Vec::new();
        list(dir.path(), &mut files);
        files.retain(|file| file.metadata().expect("metadata").len() > 0);
        let file = &files[rng.random_range(0..files.len())];
        let mut bytes = std::fs::read(file).expect("read");
        let at = rng.random_range(0..bytes.len());
        bytes[at] ^= 0x55;
        std::fs::write(file, bytes).expect("write");
        let outcome = backend::open(EngineKind::Sled, dir.path(), CACHE).and_then(|engine| {
            let pairs = engine.scan(b"", b"\xff", Page::pairs(usize::MAX))?;
            engine.close()?;
            Ok(pairs.len())
        });
        println!("{} byte {at}: {outcome:?}", file.display());
        let answered = matches!(
            outcome,
            Ok(0..=500) | Err(Error::Engine { .. } | Error::Corrupt { .. })
        );
        assert!(answered, "{outcome:?}");
    }
}

fn list(dir: &Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("read_dir") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            list(&path, files);
        } else {
            files.push(path);
        }
    }
}
