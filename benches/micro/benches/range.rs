//! Reads of the store, with values in the cache or not yet flushed.

#![allow(missing_docs)] // criterion's macro makes a public function without

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use kvd_mvcc::{EngineKind, Options, Position, RangeOptions, Store};

const KEYS: u64 = 100_000;

fn key(number: u64) -> String {
    format!(
        "/registry/pods/namespace-{:03}/pod-{number:010}",
        number / 1000
    )
}

fn filled(dir: &tempfile::TempDir) -> Store {
    let options = Options {
        engine: EngineKind::Memory,
        ..Options::default()
    };
    let (store, mut writer) = kvd_mvcc::open(dir.path(), options).expect("opens");
    for number in 0..KEYS {
        let mut txn = writer.txn();
        txn.put(key(number).into(), Bytes::from_static(&[b'v'; 256]), 0)
            .expect("puts");
        txn.end();
        writer.commit(Position {
            index: number,
            bytes: Bytes::new(),
        });
    }
    store
}

fn ranges(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a directory");
    let store = filled(&dir);
    let all = RangeOptions::default();
    let mut number = 0;
    let mut next = || {
        number = (number + 7919) % (KEYS - 1000);
        key(number)
    };
    let read = |key: &str, end: &str, options: &RangeOptions| {
        black_box(
            store
                .range(key.as_bytes(), end.as_bytes(), options)
                .expect("reads"),
        );
    };
    criterion.bench_function("one key", |bencher| {
        bencher.iter(|| read(&next(), "", &all));
    });
    criterion.bench_function("100 keys", |bencher| {
        bencher.iter(|| {
            let start = next();
            let end = format!("{}00", &start[..start.len() - 2]);
            let limited = RangeOptions { limit: 100, ..all };
            read(&end, &format!("{}~", &start[..start.len() - 2]), &limited);
        });
    });
    criterion.bench_function(
        "first 500 of a namespace of 1,000, and their number",
        |bencher| {
            let limited = RangeOptions { limit: 500, ..all };
            bencher.iter(|| {
                let start = next();
                let prefix = &start[..start.len() - 3];
                read(prefix, &format!("{prefix}~"), &limited);
            });
        },
    );
    criterion.bench_function(
        "first 1,000 without values, and the number of all behind",
        |bencher| {
            let keys = RangeOptions {
                limit: 1000,
                keys_only: true,
                ..all
            };
            bencher.iter(|| {
                read(
                    &next(),
                    "~",
                    &RangeOptions {
                        limit: 1000,
                        ..keys
                    },
                )
            });
        },
    );
}

fn counts(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a directory");
    let store = filled(&dir);
    let count = RangeOptions {
        count_only: true,
        ..RangeOptions::default()
    };
    let read = |key: &str, end: &str| {
        black_box(
            store
                .range(key.as_bytes(), end.as_bytes(), &count)
                .expect("reads"),
        );
    };
    criterion.bench_function("number of all keys", |bencher| {
        bencher.iter(|| read("\0", "\0"));
    });
    criterion.bench_function("number of the keys of a namespace", |bencher| {
        let mut number = 0;
        bencher.iter(|| {
            number = (number + 7919) % (KEYS - 1000);
            let start = key(number);
            let prefix = &start[..start.len() - 3];
            read(prefix, &format!("{prefix}~"));
        });
    });
}

criterion_group!(benches, ranges, counts);
criterion_main!(benches);
