//! Durable appends to the write-ahead log, by how many entries are under way at once.
//!
//! Each round appends `depth` entries of 256 B one by one and waits until all are durable: at
//! depth 1 that is the time of one fdatasync, above it how well one sync serves many. The log
//! lies in the system's temporary directory: point `TMPDIR` at the disk to be measured.

use std::hint::black_box;
use std::sync::mpsc;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput};
use kvd_raft::wal::{Entry, LogId, Options, Wal};

const ENTRY_BYTES: usize = 256;

/// Entries kept in the log; older ones are purged, so that segments are recycled.
const KEPT: u64 = 100_000;

struct Appender {
    wal: Wal,
    next: u64,
    data: Bytes,
}

impl Appender {
    /// Appends `depth` entries and waits until the last is durable.
    fn round(&mut self, depth: u64) {
        let (done, durable) = mpsc::channel();
        for _ in 0..depth {
            let done = done.clone();
            let callback = Box::new(move |outcome: std::io::Result<()>| {
                outcome.expect("a disk that works");
                done.send(()).expect("a listener");
            });
            let id = LogId {
                term: 1,
                index: self.next,
            };
            let entry = Entry {
                id,
                kind: 1,
                data: self.data.clone(),
            };
            self.wal.append(vec![entry], callback).expect("an open log");
            self.next += 1;
        }
        drop(done);
        assert_eq!(durable.iter().count() as u64, depth);
        if self.next.is_multiple_of(KEPT / 2) && self.next > KEPT {
            let upto = LogId {
                term: 1,
                index: self.next - KEPT,
            };
            self.wal.purge(upto).expect("an open log");
        }
    }
}

fn append(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let wal = Wal::open(Options::new(dir.path(), 1, 1)).expect("a fresh log");
    let mut appender = Appender {
        wal,
        next: 0,
        data: Bytes::from(vec![7; ENTRY_BYTES]),
    };
    let mut group = criterion.benchmark_group("wal_append_256B");
    for depth in [1, 16, 100, 1000] {
        group.throughput(Throughput::Elements(depth));
        group.bench_function(BenchmarkId::new("depth", depth), |bencher| {
            bencher.iter(|| appender.round(black_box(depth)));
        });
    }
    group.finish();
}

fn recover(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let options = Options::new(dir.path(), 1, 1);
    let wal = Wal::open(options.clone()).expect("a fresh log");
    let mut appender = Appender {
        wal,
        next: 0,
        data: Bytes::from(vec![7; ENTRY_BYTES]),
    };
    for _ in 0..100 {
        appender.round(1000);
    }
    appender.wal.close().expect("closed");
    criterion.bench_function("wal_open_100k_entries", |bencher| {
        bencher.iter(|| Wal::open(options.clone()).expect("the log"));
    });
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    append(&mut criterion);
    recover(&mut criterion);
    criterion.final_summary();
}
