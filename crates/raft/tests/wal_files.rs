//! The log on a real disk: one owner, recycled segments, a quick start.

use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kvd_raft::wal::{Entry, Error, LogId, Options, Wal};

fn append(wal: &Wal, index: u64, size: usize) {
    let (done, outcome) = mpsc::channel();
    let done = Box::new(move |result| done.send(result).expect("a listener"));
    let id = LogId { term: 1, index };
    let entry = Entry {
        id,
        kind: 1,
        data: Bytes::from(vec![index as u8; size]),
    };
    wal.append(vec![entry], done).expect("an open log");
    outcome.recv().expect("a callback").expect("durable");
}

fn segments(dir: &Path) -> usize {
    let names = std::fs::read_dir(dir).expect("the directory");
    names
        .filter(|entry| {
            let name = entry.as_ref().expect("an entry").file_name();
            name.to_string_lossy().ends_with(".wal")
        })
        .count()
}

/// Waits until `done`, failing after ten seconds.
fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < deadline, "timed out: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_log_has_one_owner_at_a_time() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let first = Wal::open(Options::new(dir.path(), 1, 2)).expect("the first");
    let second = Wal::open(Options::new(dir.path(), 1, 2));
    assert!(matches!(second, Err(Error::Locked { .. })), "{second:?}");
    first.close().expect("closed");
    Wal::open(Options::new(dir.path(), 1, 2)).expect("after the first is closed");
}

#[test]
fn purged_segments_are_recycled_and_their_old_frames_never_come_back() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut options = Options::new(dir.path(), 1, 2);
    options.segment_bytes = 4096;
    let wal = Wal::open(options.clone()).expect("a fresh log");
    for index in 0..200 {
        append(&wal, index, 500);
        if index % 20 == 19 {
            wal.purge(LogId {
                term: 1,
                index: index - 5,
            })
            .expect("an open log");
        }
    }
    append(&wal, 200, 1);
    wait("purged segments are gone", || segments(dir.path()) <= 4);
    // Ends without a close, so that the last frames are found among what the files held before.
    drop(wal);
    let wal = Wal::open(options).expect("the log again");
    let entries = wal.read(0..u64::MAX, usize::MAX).expect("readable entries");
    let indexes: Vec<u64> = entries.iter().map(|entry| entry.id.index).collect();
    assert_eq!(indexes, (195..=200).collect::<Vec<_>>());
    assert!(
        entries
            .iter()
            .all(|entry| entry.data.iter().all(|b| *b == entry.id.index as u8))
    );
}

#[test]
fn a_fresh_log_is_ready_at_once_and_keeps_its_order_under_load() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let started = Instant::now();
    let wal = Wal::open(Options::new(dir.path(), 1, 2)).expect("a fresh log");
    let took = started.elapsed();
    assert!(took < Duration::from_secs(20), "opening took {took:?}");
    let (done, outcomes) = mpsc::channel();
    for index in 0..2000_u64 {
        let done = done.clone();
        let entry = Entry {
            id: LogId { term: 1, index },
            kind: 1,
            data: Bytes::from_static(&[7; 99]),
        };
        let done = Box::new(move |result: std::io::Result<()>| {
            result.expect("durable");
            done.send(index).expect("a listener");
        });
        wal.append(vec![entry], done).expect("an open log");
    }
    drop(done);
    let order: Vec<u64> = outcomes.iter().collect();
    assert_eq!(order, (0..2000).collect::<Vec<_>>());
}
