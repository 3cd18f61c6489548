//! Kills and power cuts: a random life of the log on a simulated disk, ended at a random event (a
//! power cut keeps or loses un-synced blocks and names at random), then opened again, several
//! lives in a row.
//!
//! What must hold: the log is what some prefix of the changes made it, and that prefix contains
//! every change that was acknowledged before the cut.
//!
//! A failure prints its seed; `KVD_SEED=<seed> cargo test -p kvd-raft --test wal_power_cut`
//! replays it. (Which changes share a frame depends on the threads: a replay may need a few runs.)

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use kvd_raft::disk::SimDisk;
use kvd_raft::wal::{Entry, LogId, Options, Vote, Wal};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const SEEDS: u64 = 400;
const LIVES: usize = 4;

/// What the log should hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Model {
    entries: BTreeMap<u64, (u64, Bytes)>,
    vote: Option<(u64, u64, bool)>,
    purged: Option<LogId>,
}

impl Model {
    fn last(&self) -> Option<LogId> {
        let last = self.entries.last_key_value();
        last.map(|(index, (term, _))| LogId {
            term: *term,
            index: *index,
        })
        .or(self.purged)
    }

    fn of(wal: &Wal) -> Model {
        let entries = wal.read(0..u64::MAX, usize::MAX).expect("readable entries");
        Model {
            entries: entries
                .into_iter()
                .map(|e| (e.id.index, (e.id.term, e.data)))
                .collect(),
            vote: wal
                .vote()
                .map(|vote| (vote.term, vote.node, vote.committed)),
            purged: wal.bounds().0,
        }
    }
}

/// One life: the models after each change, and when changes were acknowledged.
struct Life {
    disk: SimDisk,
    models: Vec<Model>,
    /// `(change, events recorded when its callback ran)`.
    acked: Arc<Mutex<Vec<(usize, usize)>>>,
    /// The first event at which it may end.
    opened: usize,
}

impl Life {
    fn done(&self) -> Box<dyn FnOnce(std::io::Result<()>) + Send> {
        let (disk, acked, change) = (self.disk.clone(), self.acked.clone(), self.models.len());
        Box::new(move |outcome| {
            outcome.expect("no faults here");
            acked
                .lock()
                .expect("the list")
                .push((change, disk.event_count()));
        })
    }

    fn change(&mut self, wal: &Wal, rng: &mut StdRng) {
        let mut model = self.models.last().expect("one at least").clone();
        let last = model.last();
        let done = self.done();
        match rng.random_range(0..20) {
            0..=12 => {
                let term = last.map_or(1, |last| last.term) + u64::from(rng.random_bool(0.1));
                let first = last.map_or(0, |last| last.index + 1);
                let mut entries = Vec::new();
                for index in first..first + rng.random_range(1..5) {
                    let longest = if rng.random_bool(0.1) { 20_000 } else { 900 };
                    let data = vec![rng.random::<u8>(); rng.random_range(0..longest)];
                    let data = Bytes::from(data);
                    model.entries.insert(index, (term, data.clone()));
                    entries.push(Entry {
                        id: LogId { term, index },
                        kind: 1,
                        data,
                    });
                }
                wal.append(entries, done).expect("an open log");
            }
            13..=14 => {
                let term = model.vote.map_or(1, |vote| vote.0) + 1;
                let vote = Vote {
                    term,
                    node: rng.random_range(1..4),
                    committed: rng.random(),
                };
                model.vote = Some((vote.term, vote.node, vote.committed));
                wal.save_vote(vote, done).expect("an open log");
            }
            15 => {
                // Never below the purged position, as in Raft.
                let floor = model.purged.map_or(0, |purged| purged.index + 1);
                let Some(last) = last.filter(|last| last.index > floor) else {
                    return;
                };
                let index = rng.random_range(floor..last.index);
                let term = model.entries[&index].0;
                model.entries.retain(|at, _| *at <= index);
                wal.truncate_after(Some(LogId { term, index }))
                    .expect("an open log");
                // The next entries come from another leader.
                let id = LogId {
                    term: last.term + 1,
                    index: index + 1,
                };
                self.models.push(model.clone());
                let done = self.done();
                model.entries.insert(id.index, (id.term, Bytes::new()));
                wal.append(
                    vec![Entry {
                        id,
                        kind: 0,
                        data: Bytes::new(),
                    }],
                    done,
                )
                .expect("open");
            }
            16..=17 => {
                let first = model.entries.first_key_value().map(|(index, _)| *index);
                let Some((first, last)) = first.zip(last) else {
                    return;
                };
                let upto = if rng.random_bool(0.1) {
                    LogId {
                        term: last.term,
                        index: last.index + rng.random_range(0..9),
                    }
                } else {
                    let index = rng.random_range(first..=last.index);
                    LogId {
                        term: model.entries[&index].0,
                        index,
                    }
                };
                model.entries.retain(|at, _| *at > upto.index);
                model.purged = Some(upto);
                wal.purge(upto).expect("an open log");
            }
            _ => {
                wal.save_committed(last);
                return;
            }
        }
        self.models.push(model);
    }

    /// The disk after the end of this life, and the models it may have. A kill keeps what was
    /// written and not synced within reach of the next life's cut.
    fn end(self, kill: bool, rng: &mut StdRng) -> (SimDisk, Vec<Model>) {
        let at = rng.random_range(self.opened..=self.disk.event_count());
        let acked = self.acked.lock().expect("the list");
        let durable = acked
            .iter()
            .filter(|(_, events)| *events <= at)
            .map(|(change, _)| *change);
        // Change `n` made model `n`; model 0 is what the life began with, which is durable.
        let least = durable.max().unwrap_or(0);
        let disk = match kill {
            true => self.disk.kill_image(at),
            false => self.disk.crash_image(at, rng.random()),
        };
        (disk, self.models[least..].to_vec())
    }
}

fn options(disk: &SimDisk, rng: &mut StdRng) -> Options {
    let mut options = Options::new("/wal", 1, 2);
    options.disk = Arc::new(disk.clone());
    options.segment_bytes = rng.random_range(2_000..40_000);
    options.cache_bytes_max = rng.random_range(0..20_000);
    options.batch_bytes_max = rng.random_range(1..10_000);
    options
}

fn run(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut disk = SimDisk::new();
    let mut killed = false;
    let mut possible = vec![Model::default()];
    for life in 0..=LIVES {
        let wal = Wal::open(options(&disk, &mut rng))
            .unwrap_or_else(|error| panic!("seed {seed}, life {life}: {error}"));
        let found = Model::of(&wal);
        assert!(
            possible.contains(&found),
            "seed {seed}, life {life}: the log is no prefix that has all acknowledged changes: \
             vote {:?}, purged {:?}, entries {:?}; {} candidates, from vote {:?}, purged {:?}, \
             last {:?}",
            found.vote,
            found.purged,
            found.entries.keys().next().zip(found.last()),
            possible.len(),
            possible[0].vote,
            possible[0].purged,
            possible[0].last(),
        );
        assert!(
            wal.committed() <= found.last(),
            "seed {seed}: committed beyond the log"
        );
        // What was found counts as durable once the log is open. After a power cut it was durable
        // before, so that the next cut may come during the start as well.
        let opened = if killed { disk.event_count() } else { 0 };
        let mut this = Life {
            disk: disk.clone(),
            models: vec![found],
            acked: Arc::default(),
            opened,
        };
        for _ in 0..rng.random_range(0..60) {
            this.change(&wal, &mut rng);
            if rng.random_bool(0.1) {
                std::thread::yield_now();
            }
        }
        drop(wal);
        killed = rng.random_bool(0.4);
        (disk, possible) = this.end(killed, &mut rng);
    }
}

#[test]
fn nothing_acknowledged_is_lost_in_a_power_cut() {
    if let Ok(seed) = std::env::var("KVD_SEED") {
        return run(seed.parse().expect("KVD_SEED is a number"));
    }
    let start: u64 = rand::random::<u32>().into();
    println!("seeds {start}..{}", start + SEEDS);
    for seed in start..start + SEEDS {
        run(seed);
    }
}
