//! sled's metadata after a power cut between an open and the first flush.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use kvd_mvcc::backend::sled::Sled;
use kvd_mvcc::backend::{Backend, Batch};

const CACHE: usize = 1 << 20;

fn open(dir: &Path) -> Sled {
    Sled::open(dir, CACHE).expect("open")
}

/// Removes the logs, as a power cut does when their names were not synced.
fn remove_logs(dir: &Path) {
    let mut removed = 0;
    for entry in fs::read_dir(dir.join("metadata")).expect("the metadata") {
        let path = entry.expect("an entry").path();
        if path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("log_"))
        {
            fs::remove_file(path).expect("removed");
            removed += 1;
        }
    }
    assert!(removed > 0, "sled names its logs differently");
}

#[test]
fn a_snapshot_without_a_log_is_not_lost() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let engine = open(dir.path());
    let mut batch = Batch::default();
    batch.put("key", "value");
    engine.write(&batch).expect("written");
    engine.close().expect("closed");
    // An open puts the log's content into the snapshot; the log is empty then.
    open(dir.path()).close().expect("closed");
    for round in 0..3 {
        remove_logs(dir.path());
        let engine = open(dir.path());
        let found = engine.get(b"key").expect("read");
        assert_eq!(found, Some(Bytes::from("value")), "in round {round}");
        engine.close().expect("closed");
        let engine = open(dir.path());
        let found = engine.get(b"key").expect("read");
        assert_eq!(found, Some(Bytes::from("value")), "after round {round}");
        engine.close().expect("closed");
    }
}
