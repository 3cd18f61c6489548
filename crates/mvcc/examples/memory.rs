//! How much memory and time the store takes: fills one, reads from it, and opens it again.
//!
//! ```text
//! cargo run --release -p kvd-mvcc --example memory -- ENGINE [RECORDS] [VALUE_BYTES]
//! ```

use std::error::Error;
use std::fs;
use std::time::Instant;

use bytes::Bytes;
use kvd_mvcc::{EngineKind, Options, Position, RangeOptions, Store};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Puts that share a unit, as a batch of a busy member does.
const UNIT: u64 = 100;

fn key(number: u64) -> Bytes {
    // Spread over the key space, 48 bytes.
    Bytes::from(format!(
        "/registry/things/{:016x}/{number:014}",
        scatter(number)
    ))
}

/// Random bytes, so that compression gains nothing.
fn value(number: u64, length: usize) -> Bytes {
    let words = (0..length.div_ceil(8) as u64).map(|word| scatter(number * 1_000 + word));
    let bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).take(length).collect();
    bytes.into()
}

/// splitmix64.
fn scatter(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn report(what: &str, since: Instant) -> Result<(), Box<dyn Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let megabytes = |name: &str| {
        let line = status
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_default();
        let kilobytes = line
            .split_whitespace()
            .nth(1)
            .and_then(|number| number.parse().ok());
        kilobytes.unwrap_or(0_u64) / 1024
    };
    let stat = fs::read_to_string("/proc/self/stat")?;
    let ticks = stat
        .split(' ')
        .skip(13)
        .take(2)
        .filter_map(|number| number.parse::<u64>().ok());
    println!(
        "{what:<28} {:>7.2} s  CPU so far {:>6.2} s  RSS {:>5} MB  peak {:>5} MB",
        since.elapsed().as_secs_f64(),
        ticks.sum::<u64>() as f64 / 100.0,
        megabytes("VmRSS"),
        megabytes("VmHWM"),
    );
    Ok(())
}

fn read(store: &Store, records: u64, reads: u64) -> Result<(), Box<dyn Error>> {
    for number in 0..reads {
        let key = key(scatter(number) % records);
        let result = store.range(&key, b"", &RangeOptions::default())?;
        assert_eq!(result.kvs.len(), 1);
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let engine: EngineKind = args.next().unwrap_or("sled".into()).parse()?;
    let records: u64 = args.next().unwrap_or("1000000".into()).parse()?;
    let length: usize = args.next().unwrap_or("256".into()).parse()?;
    let dir = tempfile::tempdir()?;
    let options = Options {
        engine,
        ..Options::default()
    };
    println!("{engine}: {records} keys of 48 bytes, values of {length}");

    let (store, mut writer) = kvd_mvcc::open(dir.path(), options.clone())?;
    let start = Instant::now();
    for number in 0..records {
        let mut txn = writer.txn();
        txn.put(key(number), value(number, length), 0)?;
        txn.end();
        if number % UNIT == UNIT - 1 {
            writer.commit(Position {
                index: number,
                bytes: Bytes::new(),
            });
        }
    }
    report("put", start)?;
    store.flush()?;
    report("put and flush", start)?;
    for _ in 0..2 {
        let start = Instant::now();
        read(&store, records, 100_000)?;
        report("100,000 random gets", start)?;
    }
    let size = (store.size() >> 20, store.size_in_use() >> 20);
    println!("{} MB on disk, {} MB in use", size.0, size.1);
    let start = Instant::now();
    drop(writer);
    store.close();
    report("close", start)?;

    let start = Instant::now();
    let (store, _writer) = kvd_mvcc::open(dir.path(), options)?;
    report("open", start)?;
    let start = Instant::now();
    read(&store, records, 100_000)?;
    report("100,000 random gets", start)
}
