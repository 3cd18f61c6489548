//! Changes of the store through its writer: mostly the key index, with records kept in memory.

#![allow(missing_docs)] // criterion's macro makes a public function without

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use kvd_mvcc::{EngineKind, Options, Position, Writer};

const KEYS: u64 = 100_000;

struct Bench {
    _dir: tempfile::TempDir,
    writer: Writer,
    index: u64,
}

impl Bench {
    fn new(keys: u64) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let options = Options {
            engine: EngineKind::Memory,
            ..Options::default()
        };
        let (_, writer) = kvd_mvcc::open(dir.path(), options).expect("opens");
        let mut bench = Bench {
            _dir: dir,
            writer,
            index: 0,
        };
        for number in 0..keys {
            bench.put(key(number));
        }
        bench
    }

    fn put(&mut self, key: Bytes) {
        let mut txn = self.writer.txn();
        txn.put(key, Bytes::from_static(&[b'v'; 256]), 0)
            .expect("puts");
        txn.end();
        self.commit();
    }

    fn commit(&mut self) {
        self.index += 1;
        self.writer.commit(Position {
            index: self.index,
            bytes: Bytes::new(),
        });
    }
}

/// A key of 48 bytes; neighbouring numbers are far apart.
fn key(number: u64) -> Bytes {
    let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Bytes::from(format!(
        "/registry/pods/namespace-{:03}/{spread:019}",
        spread % 1000
    ))
}

fn changes(criterion: &mut Criterion) {
    let mut bench = Bench::new(KEYS);
    let mut number = KEYS;
    criterion.bench_function("put of a new key, one transaction each", |bencher| {
        bencher.iter(|| {
            number += 1;
            bench.put(key(number));
        });
    });
    let mut number = 0;
    criterion.bench_function("put of an existing key, one transaction each", |bencher| {
        bencher.iter(|| {
            number += 1;
            bench.put(key(number % KEYS));
        });
    });
    criterion.bench_function("head of a key", |bencher| {
        let txn = bench.writer.txn();
        bencher.iter(|| {
            number += 1;
            black_box(txn.head(&key(number % KEYS)));
        });
    });
    criterion.bench_function("delete of 100 keys", |bencher| {
        let mut round: u64 = 0;
        bencher.iter_batched(
            || round += 1,
            |()| {
                let mut txn = bench.writer.txn();
                for number in 0..100_u64 {
                    let key = Bytes::from(format!("delete/{number:03}"));
                    txn.put(key, Bytes::new(), 0).expect("puts");
                }
                txn.end();
                let mut txn = bench.writer.txn();
                txn.delete_range(b"delete/", b"delete0", false)
                    .expect("deletes");
                txn.end();
                bench.commit();
            },
            BatchSize::SmallInput,
        );
    });
}

criterion_group!(benches, changes);
criterion_main!(benches);
