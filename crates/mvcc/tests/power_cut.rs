//! Power cuts under redb, simulated at its storage: every write, resize and sync is recorded, an
//! image is rebuilt at a random event, and what was not synced by then is kept or dropped, block by
//! block, at random. The image must open and hold one whole batch sequence, not older than the last
//! flush that had returned.
//!
//! sled does its own file I/O and has no such seam: `tests/power_cut` of the workspace cuts the power
//! under a whole member with either engine, by a preloaded library.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use kvd_mvcc::Error;
use kvd_mvcc::backend::redb::Redb;
use kvd_mvcc::backend::{Backend, Batch, Page};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const BLOCK: usize = 4096;
const CACHE: usize = 1 << 18;
const BATCHES: u32 = 80;
const POSITION: &[u8] = b"position";

/// What happened to the storage, in order.
#[derive(Clone)]
enum Event {
    Write(usize, Vec<u8>),
    Resize(usize),
    Sync,
}

#[derive(Clone, Default)]
struct Recorder {
    bytes: Arc<Mutex<Vec<u8>>>,
    events: Arc<Mutex<Vec<Event>>>,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recorder")
    }
}

impl Recorder {
    fn over(bytes: Vec<u8>) -> Self {
        Recorder {
            bytes: Arc::new(Mutex::new(bytes)),
            ..Recorder::default()
        }
    }

    fn record(&self, event: Event) {
        apply(&mut self.bytes.lock().expect("no panic"), &event);
        self.events.lock().expect("no panic").push(event);
    }

    fn count(&self) -> usize {
        self.events.lock().expect("no panic").len()
    }
}

impl redb::StorageBackend for Recorder {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().expect("no panic").len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let bytes = self.bytes.lock().expect("no panic");
        let end = offset as usize + out.len();
        let found = bytes
            .get(offset as usize..end)
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(found);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.record(Event::Resize(len as usize));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.record(Event::Sync);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.record(Event::Write(offset as usize, data.to_vec()));
        Ok(())
    }
}

fn apply(image: &mut Vec<u8>, event: &Event) {
    match event {
        Event::Write(offset, data) => {
            if image.len() < offset + data.len() {
                image.resize(offset + data.len(), 0);
            }
            image[*offset..offset + data.len()].copy_from_slice(data);
        }
        Event::Resize(length) => image.resize(*length, 0),
        Event::Sync => {}
    }
}

/// The storage after a power cut behind the first `cut` events. Each block of a write that was not
/// synced, and each resize, survives with probability `keep`.
fn image(rng: &mut StdRng, events: &[Event], cut: usize, keep: f64) -> Vec<u8> {
    let events = &events[..cut];
    let synced = events
        .iter()
        .rposition(|event| matches!(event, Event::Sync))
        .unwrap_or(0);
    let mut image = Vec::new();
    events[..synced]
        .iter()
        .for_each(|event| apply(&mut image, event));
    for event in &events[synced..] {
        match event {
            Event::Write(offset, data) => {
                let mut at = 0;
                while at < data.len() {
                    let end = data
                        .len()
                        .min((offset + at) / BLOCK * BLOCK + BLOCK - offset);
                    if rng.random_bool(keep) {
                        apply(
                            &mut image,
                            &Event::Write(offset + at, data[at..end].to_vec()),
                        );
                    }
                    at = end;
                }
            }
            other if rng.random_bool(keep) => apply(&mut image, other),
            _ => {}
        }
    }
    image
}

/// Batch `number` changes some keys as a function of nothing but the number.
fn batch(number: u32, model: &mut BTreeMap<Bytes, Bytes>) -> Batch {
    let mut rng = StdRng::seed_from_u64(number.into());
    let mut batch = Batch::default();
    for _ in 0..60 {
        let key = Bytes::from(format!("key {:04}", rng.random_range(0..500)));
        if rng.random_range(0..4) == 0 {
            model.remove(&key);
            batch.delete(key);
        } else {
            let value = vec![number as u8; rng.random_range(0..700)];
            model.insert(key.clone(), value.clone().into());
            batch.put(key, value);
        }
    }
    let position = Bytes::copy_from_slice(&number.to_be_bytes());
    model.insert(Bytes::from_static(POSITION), position.clone());
    batch.put(POSITION, position);
    batch
}

fn model_at(number: u32) -> Vec<(Bytes, Bytes)> {
    let mut model = BTreeMap::new();
    (1..=number).for_each(|number| drop(batch(number, &mut model)));
    model.into_iter().collect()
}

#[test]
fn a_power_cut_leaves_whole_batches_up_to_the_last_flush_or_later() {
    let seed = match std::env::var("KVD_SEED") {
        Ok(seed) => seed.parse().expect("KVD_SEED is a number"),
        Err(_) => rand::random(),
    };
    println!("KVD_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let recorder = Recorder::default();
    let engine = Redb::open_storage(recorder.clone(), CACHE).expect("open");
    let created = recorder.count();
    // (events by then, batch) of every batch begun and of every flush that returned.
    let (mut begun, mut flushed) = (Vec::new(), vec![(created, 0)]);
    let mut unused = BTreeMap::new();
    for number in 1..=BATCHES {
        begun.push((recorder.count(), number));
        engine.write(&batch(number, &mut unused)).expect("write");
        if rng.random_range(0..5) == 0 {
            engine.flush().expect("flush");
            flushed.push((recorder.count(), number));
        }
    }
    let events = recorder.events.lock().expect("no panic").clone();
    let at_cut = |list: &[(usize, u32)], cut: usize| {
        list.iter()
            .filter(|(count, _)| *count <= cut)
            .map(|(_, number)| *number)
            .max()
    };
    let is_sync = |at: &usize| matches!(events[*at], Event::Sync);
    let syncs: Vec<usize> = (created..events.len())
        .filter(is_sync)
        .map(|at| at - 4)
        .collect();
    let mut later = 0;
    for round in 0..120 {
        // Half of the cuts fall around a sync, where most is at stake.
        let near = syncs[rng.random_range(0..syncs.len())] + rng.random_range(0..8);
        let anywhere = rng.random_range(created..=events.len());
        let cut = if round % 8 < 4 {
            anywhere
        } else {
            near.clamp(created, events.len())
        };
        let keep = [0.0, 0.5, 0.95, 1.0][round % 4];
        let disk = Recorder::over(image(&mut rng, &events, cut, keep));
        let engine = Redb::open_storage(disk, CACHE)
            .unwrap_or_else(|error: Error| panic!("cut at {cut}, keep {keep}: {error}"));
        let found = engine
            .scan(b"", b"\xff", Page::pairs(usize::MAX))
            .expect("scan");
        let position = engine.get(POSITION).expect("get").map_or(0, |bytes| {
            u32::from_be_bytes(bytes[..].try_into().expect("4 bytes"))
        });
        let (least, most) = (at_cut(&flushed, cut), at_cut(&begun, cut));
        let least = least.expect("the creation is there");
        assert!(
            (least..=most.unwrap_or(0)).contains(&position),
            "cut at {cut}, keep {keep}: batch {position}, flushed {least}, begun {most:?}"
        );
        assert_eq!(found, model_at(position), "cut at {cut}, keep {keep}: torn");
        later += u32::from(position > least);
        // It goes on from there.
        engine
            .write(&batch(position + 1, &mut unused))
            .expect("write");
        engine.flush().expect("flush");
        let found = engine
            .scan(b"", b"\xff", Page::pairs(usize::MAX))
            .expect("scan");
        assert_eq!(
            found,
            model_at(position + 1),
            "cut at {cut}, keep {keep}: after going on"
        );
    }
    println!(
        "{} events, {later} images held more than the last flush",
        events.len()
    );
}
