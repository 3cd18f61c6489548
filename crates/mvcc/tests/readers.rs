//! Readers beside a writer and its compactions.

use std::error::Error as StdError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use kvd_api::pb::mvccpb::KeyValue;
use kvd_mvcc::{EngineKind, Error, Options, Position, RangeOptions, Store, Writer};
use prost::Message;

const KEYS: i64 = 200;
const REVISIONS: i64 = 200;

/// Sets all keys to the number of the revision, again and again, and compacts right behind.
fn write(mut writer: Writer) -> Result<(), Error> {
    for _ in 0..REVISIONS {
        let mut txn = writer.txn();
        let value = Bytes::from(txn.main().to_string());
        for key in 0..KEYS {
            txn.put(Bytes::from(format!("{key:04}")), value.clone(), 0)?;
        }
        let revision = txn.end();
        if revision % 5 == 0 {
            writer.compact(revision - 1)?;
        }
        writer.commit(Position {
            index: revision.unsigned_abs(),
            bytes: Bytes::new(),
        });
    }
    Ok(())
}

/// Reads everything once at `revision`; all values must be of one revision.
fn read(store: &Store, revision: i64) -> Result<(), Box<dyn StdError + Send + Sync>> {
    let options = RangeOptions {
        revision,
        ..RangeOptions::default()
    };
    let range = match store.range(b"\0", b"\0", &options) {
        Err(Error::Compacted { .. }) if revision > 0 => return Ok(()),
        range => range?,
    };
    let mut mains = range.kvs.iter().map(|kv| KeyValue::decode(kv.clone()));
    let Some(first) = mains.next().transpose()? else {
        assert!(range.revision == 1, "keys are missing");
        return Ok(());
    };
    assert_eq!(range.count, KEYS);
    assert_eq!(range.kvs.len() as i64, KEYS);
    assert_eq!(
        first.mod_revision,
        if revision > 0 {
            revision
        } else {
            range.revision
        }
    );
    for kv in mains {
        let kv = kv?;
        assert_eq!(
            (kv.mod_revision, kv.value),
            (first.mod_revision, first.value.clone())
        );
    }
    Ok(())
}

#[test]
fn a_reader_sees_whole_revisions_or_that_they_are_compacted() -> Result<(), Box<dyn StdError>> {
    for engine in [EngineKind::Memory, EngineKind::Sled, EngineKind::Redb] {
        let dir = tempfile::tempdir()?;
        let options = Options {
            engine,
            flush_interval: Duration::from_millis(5),
            cache_bytes: 1 << 16,
            compaction_sleep: Duration::ZERO,
            ..Options::default()
        };
        let (store, writer) = kvd_mvcc::open(dir.path(), options)?;
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let readers: Vec<_> = [0, 1, 3]
                .map(|back| {
                    let (store, done) = (&store, &done);
                    scope.spawn(move || -> Result<(), Box<dyn StdError + Send + Sync>> {
                        while !done.load(Ordering::Acquire) {
                            let revision = store.current_revision() - back;
                            read(store, if back == 0 { 0 } else { revision.max(2) }).or_else(
                                |error| match error.downcast_ref() {
                                    // There is no revision 2 yet.
                                    Some(Error::FutureRevision { .. }) if revision < 2 => Ok(()),
                                    _ => Err(error),
                                },
                            )?;
                        }
                        Ok(())
                    })
                })
                .into_iter()
                .collect();
            let written = write(writer);
            done.store(true, Ordering::Release);
            written.expect("writes");
            for reader in readers {
                reader.join().expect("does not panic").expect("reads");
            }
        });
        assert_eq!(store.failure(), None);
        store.close();
    }
    Ok(())
}
