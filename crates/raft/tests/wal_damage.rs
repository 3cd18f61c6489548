//! Damaged files: every torn tail, every flipped bit, a full disk. The log is cut where nothing
//! acknowledged is lost, refused where something would be, and never silently different.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};

use bytes::Bytes;
use kvd_raft::disk::{Disk, Fault, FaultPoint, SimDisk};
use kvd_raft::wal::{Entry, Error, LogId, Options, Vote, Wal};

type Files = BTreeMap<PathBuf, Vec<u8>>;
type Content = (Vec<Entry>, Option<Vote>, (Option<LogId>, Option<LogId>));

fn options(disk: &SimDisk) -> Options {
    let mut options = Options::new("/wal", 1, 2);
    options.disk = Arc::new(disk.clone());
    options.segment_bytes = 500;
    options
}

fn append(wal: &Wal, term: u64, index: u64, size: usize) -> std::io::Result<()> {
    let (done, outcome) = mpsc::channel();
    let done = Box::new(move |result| done.send(result).expect("a listener"));
    let data = Bytes::from(vec![index as u8; size]);
    let entry = Entry {
        id: LogId { term, index },
        kind: 1,
        data,
    };
    wal.append(vec![entry], done)
        .map_err(std::io::Error::other)?;
    outcome.recv().expect("a callback")
}

fn vote(wal: &Wal, term: u64) {
    let (done, outcome) = mpsc::channel();
    let done = Box::new(move |result| done.send(result).expect("a listener"));
    wal.save_vote(
        Vote {
            term,
            node: 3,
            committed: true,
        },
        done,
    )
    .expect("an open log");
    outcome.recv().expect("a callback").expect("durable");
}

/// All that a log holds.
fn content(wal: &Wal) -> Content {
    let entries = wal.read(0..u64::MAX, usize::MAX).expect("readable entries");
    (entries, wal.vote(), wal.bounds())
}

/// The files before and after the last of a few changes, over two segments.
fn before_and_after() -> (Files, Files) {
    let disk = SimDisk::new();
    let wal = Wal::open(options(&disk)).expect("a fresh log");
    vote(&wal, 1);
    for index in 0..5 {
        append(&wal, 1, index, 60).expect("durable");
    }
    assert_eq!(wal.segment_count(), 2);
    let before = without_spares(disk.files());
    append(&wal, 1, 5, 60).expect("durable");
    let after = without_spares(disk.files());
    drop(wal);
    let names = |files: &Files| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(
        names(&before),
        names(&after),
        "both states have the same segments"
    );
    (before, after)
}

/// The file and the bytes in which the last frame lies.
fn last_frame(before: &Files, after: &Files) -> (PathBuf, std::ops::Range<usize>) {
    let (path, content) = after
        .iter()
        .find(|(path, content)| before[*path] != **content)
        .expect("a change");
    let differs = |at: &usize| before[path][*at] != content[*at];
    let first = (0..content.len()).find(differs).expect("a first byte");
    let last = (0..content.len()).rfind(differs).expect("a last byte");
    (path.clone(), first..last + 1)
}

/// A spare is made by another thread: whether it is there depends on timing.
fn without_spares(mut files: Files) -> Files {
    files.retain(|path, _| path.extension().is_some_and(|extension| extension == "wal"));
    files
}

#[test]
fn a_tail_torn_at_any_byte_is_cut_and_written_on() {
    let (before, after) = before_and_after();
    let (path, frame) = last_frame(&before, &after);
    let expected = content(&Wal::open(options(&SimDisk::with_files(before))).expect("intact"));
    let mut cuts = 0;
    for cut in frame.clone() {
        // Zeros, a file that ends there, and rubbish: all have been seen after power cuts.
        for kind in 0..3 {
            let mut files = after.clone();
            let bytes = files.get_mut(&path).expect("the segment");
            match kind {
                0 => bytes[cut..].fill(0),
                1 => bytes.truncate(cut),
                _ => bytes[cut..frame.end]
                    .iter_mut()
                    .for_each(|byte| *byte = !*byte),
            }
            let disk = SimDisk::with_files(files);
            let wal = Wal::open(options(&disk))
                .unwrap_or_else(|error| panic!("cut at {cut}, kind {kind}: {error}"));
            assert_eq!(content(&wal), expected, "cut at {cut}, kind {kind}");
            append(&wal, 2, 5, 10).expect("durable");
            let written = content(&wal);
            drop(wal);
            let disk = SimDisk::with_files(disk.files());
            let again = Wal::open(options(&disk)).expect("a log written on after the cut");
            assert_eq!(content(&again), written, "cut at {cut}, kind {kind}");
            cuts += 1;
        }
    }
    assert!(cuts > 3 * 60, "only {cuts} cuts");
}

#[test]
fn a_flipped_bit_is_refused_or_cuts_the_last_frame_only() {
    let (before, after) = before_and_after();
    let (path, frame) = last_frame(&before, &after);
    let cut = content(&Wal::open(options(&SimDisk::with_files(before))).expect("intact"));
    let whole = content(&Wal::open(options(&SimDisk::with_files(after.clone()))).expect("intact"));
    let (mut refused, mut cuts) = (0, 0);
    for (file, bytes) in &after {
        for bit in 0..bytes.len() * 8 {
            let mut files = after.clone();
            files.get_mut(file).expect("the segment")[bit / 8] ^= 1 << (bit % 8);
            let place = format!("{}, byte {}", file.display(), bit / 8);
            match Wal::open(options(&SimDisk::with_files(files))) {
                Ok(wal) if *file == path && frame.contains(&(bit / 8)) => {
                    assert_eq!(content(&wal), cut, "{place}");
                    cuts += 1;
                }
                Ok(wal) => assert_eq!(content(&wal), whole, "{place}"),
                Err(
                    Error::Corrupt { .. } | Error::NewerFormat { .. } | Error::WrongCluster { .. },
                ) => refused += 1,
                Err(error) => panic!("{place}: {error}"),
            }
        }
    }
    assert_eq!(cuts, frame.len() * 8);
    assert!(refused > 600 * 8, "only {refused} flips were refused");
}

#[test]
fn damage_after_the_start_is_an_error_and_not_other_content() {
    let (_, after) = before_and_after();
    let disk = SimDisk::with_files(after.clone());
    let mut options = options(&disk);
    options.cache_entries_max = 0;
    let wal = Wal::open(options).expect("intact");
    let (path, bytes) = after.first_key_value().expect("a segment");
    // Inside the data of entry 1: header, vote, entry 0, then 24 and 22 bytes of headers.
    let at = 64 + 42 + 106 + 46 + 10;
    let file = disk.open(path).expect("the segment");
    file.write_at(&[bytes[at] ^ 4], at as u64).expect("written");
    assert_eq!(wal.read(0..1, 1000).expect("readable").len(), 1);
    match wal.read(0..3, 1000) {
        Err(Error::Corrupt { offset, what, .. }) => {
            assert_eq!(
                (offset, what.contains("entry 1 ")),
                (64 + 42 + 106 + 24, true),
                "{what}"
            );
        }
        other => panic!("{other:?}"),
    }
    disk.inject(FaultPoint::Read, 0, Fault::Errno(5));
    assert!(matches!(wal.read(0..1, 1000), Err(Error::Io { .. })));
}

#[test]
fn a_full_disk_stops_the_log_and_loses_nothing() {
    for space in 0..40 {
        let disk = SimDisk::new();
        let wal = Wal::open(options(&disk)).expect("a fresh log");
        disk.set_space_left(Some(space * 50));
        let mut acked = 0;
        let error = loop {
            match append(&wal, 1, acked, 60) {
                Ok(()) => acked += 1,
                Err(error) => break error.to_string(),
            }
            assert!(acked < 1000, "the disk never filled");
        };
        assert!(error.contains("no space left"), "{error}");
        assert!(error.contains("free some space"), "{error}");
        assert!(wal.fault().is_some());
        assert!(
            append(&wal, 1, acked, 1).is_err(),
            "a stopped log takes nothing"
        );
        drop(wal);
        disk.set_space_left(None);
        let wal = Wal::open(options(&disk)).expect("the log again");
        let entries = wal.read(0..u64::MAX, usize::MAX).expect("readable entries");
        assert!(
            entries.len() as u64 >= acked,
            "{} of {acked} entries",
            entries.len()
        );
        append(&wal, 1, entries.len() as u64, 60).expect("durable");
    }
}

#[test]
fn a_disk_error_anywhere_stops_the_log_and_loses_nothing() {
    let points = [
        FaultPoint::Write,
        FaultPoint::Sync,
        FaultPoint::SyncDir,
        FaultPoint::Rename,
    ];
    for (point, skip) in points
        .iter()
        .flat_map(|point| (0..12).map(move |skip| (*point, skip)))
    {
        let disk = SimDisk::new();
        let wal = Wal::open(options(&disk)).expect("a fresh log");
        disk.inject(point, skip, Fault::Errno(5));
        let mut acked = 0;
        while acked < 200 && append(&wal, 1, acked, 60).is_ok() {
            acked += 1;
        }
        assert!(acked < 200, "{point:?} after {skip} never struck the log");
        assert!(wal.fault().is_some(), "{point:?} after {skip}");
        drop(wal);
        disk.heal();
        let wal = Wal::open(options(&disk)).expect("the log again");
        let entries = wal.read(0..u64::MAX, usize::MAX).expect("readable entries");
        assert!(
            entries.len() as u64 >= acked,
            "{point:?} after {skip}: {} of {acked}",
            entries.len()
        );
        append(&wal, 1, entries.len() as u64, 60).expect("durable");
    }
}

#[test]
fn a_disk_that_fills_while_a_spare_is_made_stops_nothing() {
    let disk = SimDisk::new();
    let wal = Wal::open(options(&disk)).expect("a fresh log");
    disk.set_space_left(Some(0));
    // The first segment is reserved in full: it can be filled.
    for index in 0..3 {
        append(&wal, 1, index, 60).expect("durable");
    }
    disk.set_space_left(None);
    for index in 3..20 {
        append(&wal, 1, index, 60).expect("durable");
    }
    assert_eq!(wal.fault(), None);
}
