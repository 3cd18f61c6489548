//! Removal of what no reader may see any more.
//!
//! ```text
//! Writer::compact(R)   reads below R fail from now on; scheduledCompactRev = R
//! Writer::commit       the schedule is part of a closed unit: the job is queued
//! compaction thread    index: forget, slice by slice; learn which revisions at or below R stay
//!                      records: batch by batch remove the others, hashing all on the way
//!                      finishedCompactRev = R, in the same unit as the last batch
//! ```
//!
//! After a crash the schedule without its finish tells that the job has to be done again: removing
//! twice does no harm. A job starts no batch while a snapshot or a hash is being read.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use crate::backend::schema::Table;
use crate::error::{Error, Result};
use crate::hash::Hasher;
use crate::options::CompactionStep;
use crate::records::{Aside, TableChange};
use crate::revision::{RevKey, Revision};
use crate::store::Core;

/// In [`Table::Meta`]: the revision that a compaction has to reach, encoded as a revision.
pub(crate) const SCHEDULED: &[u8] = b"scheduledCompactRev";
/// In [`Table::Meta`]: the revision that the last finished compaction reached.
pub(crate) const FINISHED: &[u8] = b"finishedCompactRev";

/// How often a job that is held back looks again.
const HOLD_POLL: Duration = Duration::from_millis(10);

/// One compaction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    /// The compacted revision to reach.
    pub(crate) revision: i64,
    /// The compacted revision before.
    pub(crate) previous: i64,
    /// Whether the one before had finished, so that this one's hash covers all it should.
    pub(crate) previous_finished: bool,
}

/// The value of [`SCHEDULED`] and [`FINISHED`].
pub(crate) fn encode_revision(revision: i64) -> Bytes {
    Bytes::copy_from_slice(Revision::new(revision, 0).key().as_bytes())
}

/// Reads back what [`encode_revision`] wrote.
pub(crate) fn decode_revision(value: Option<Bytes>) -> Result<Option<i64>> {
    value
        .map(|value| Ok(RevKey::decode(&value)?.revision().main))
        .transpose()
}

/// The jobs that wait and who waits for them.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    state: Mutex<QueueState>,
    // Signalled at every change of the state.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct QueueState {
    jobs: VecDeque<Job>,
    /// A job is being done.
    busy: bool,
    /// The job being done must end early.
    interrupted: bool,
    stopped: bool,
    /// The highest revision finished.
    finished: i64,
    failure: Option<String>,
}

impl Queue {
    /// Adds jobs, in order of revision.
    pub(crate) fn extend(&self, jobs: impl IntoIterator<Item = Job>) {
        self.state.lock().jobs.extend(jobs);
        self.changed.notify_all();
    }

    /// What was finished before the store was opened or replaced.
    pub(crate) fn set_finished(&self, revision: i64) {
        self.state.lock().finished = revision;
        self.changed.notify_all();
    }

    /// Blocks until a job has reached `revision`, or the store stops.
    pub(crate) fn wait(&self, revision: i64) {
        let mut state = self.state.lock();
        while state.finished < revision && !state.stopped && state.failure.is_none() {
            self.changed.wait(&mut state);
        }
    }

    /// Drops what waits, ends what runs, and returns when nothing does. No job starts while the
    /// caller keeps from adding one.
    pub(crate) fn interrupt(&self) {
        let mut state = self.state.lock();
        state.jobs.clear();
        state.interrupted = true;
        self.changed.notify_all();
        while state.busy {
            self.changed.wait(&mut state);
        }
        state.interrupted = false;
    }

    /// Tells the thread to end.
    pub(crate) fn stop(&self) {
        let mut state = self.state.lock();
        state.stopped = true;
        state.interrupted = true;
        self.changed.notify_all();
    }

    /// The error that ended the thread.
    pub(crate) fn failure(&self) -> Option<String> {
        self.state.lock().failure.clone()
    }

    fn next(&self) -> Option<Job> {
        let mut state = self.state.lock();
        loop {
            if state.stopped {
                return None;
            }
            if let Some(job) = state.jobs.pop_front() {
                state.busy = true;
                return Some(job);
            }
            self.changed.wait(&mut state);
        }
    }

    fn done(&self, outcome: std::result::Result<Option<i64>, String>) {
        let mut state = self.state.lock();
        state.busy = false;
        match outcome {
            Ok(revision) => state.finished = state.finished.max(revision.unwrap_or(0)),
            Err(failure) => {
                state.failure.get_or_insert(failure);
                state.stopped = true;
            }
        }
        self.changed.notify_all();
    }

    fn is_interrupted(&self) -> bool {
        self.state.lock().interrupted
    }

    /// Sleeps, unless interrupted; says whether it was.
    fn pause(&self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        let mut state = self.state.lock();
        while !state.interrupted {
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                return state.interrupted;
            }
        }
        true
    }
}

/// Starts the thread that does the jobs of the core's queue.
pub(crate) fn spawn(core: Arc<Core>) -> Result<JoinHandle<()>> {
    let spawned = thread::Builder::new()
        .name("mvcc-compaction".into())
        .spawn(move || {
            while let Some(job) = core.queue.next() {
                match run(&core, job) {
                    Ok(true) => core.queue.done(Ok(Some(job.revision))),
                    Ok(false) => core.queue.done(Ok(None)),
                    Err(error) => {
                        core.queue.done(Err(error.to_string()));
                        if let Some(on_fault) = &core.options.on_fault {
                            on_fault(&error);
                        }
                    }
                }
            }
        });
    spawned.map_err(|source| Error::io("the compaction thread", source))
}

/// Does one job; says whether it came to its end.
fn run(core: &Core, job: Job) -> Result<bool> {
    let started = Instant::now();
    let kept = {
        let _gate = core.keep_gate.lock();
        core.index
            .compact(job.revision, || core.queue.is_interrupted())
    };
    let Some(kept) = kept else { return Ok(false) };
    let tell = |step| {
        if let Some(on_compaction) = &core.options.on_compaction {
            on_compaction(step);
        }
    };
    tell(CompactionStep::Index(started.elapsed()));
    let mut hasher = Hasher::new(job.previous, job.revision, &kept);
    let mut from = Revision::default();
    let mut removed = 0;
    loop {
        while core.records.compaction_held() {
            if core.queue.pause(HOLD_POLL) {
                return Ok(false);
            }
        }
        let batch = Instant::now();
        let limit = core.options.compaction_batch_limit.max(1);
        let page = core
            .records
            .scan(from, Revision::new(job.revision, i64::MAX), limit)?;
        let mut deletes = Vec::new();
        for (key, value) in &page {
            if kept.binary_search(&key.revision()).is_err() {
                deletes.push(*key);
            }
            hasher.write(key, value);
        }
        removed += deletes.len();
        let full = page.last().filter(|_| page.len() >= limit);
        let next = full.and_then(|(key, _)| key.revision().next());
        let tables = match next {
            Some(_) => Vec::new(),
            None => vec![finish(core, job.revision)],
        };
        core.records.append(Aside { deletes, tables });
        tell(CompactionStep::Batch(batch.elapsed()));
        let Some(next) = next else { break };
        from = next;
        if core.queue.pause(core.options.compaction_sleep) {
            return Ok(false);
        }
    }
    let hash = hasher.finish(core.index.current());
    if job.previous_finished {
        core.hashes.store(hash);
    }
    let took = started.elapsed();
    tell(CompactionStep::Finished { took, removed });
    tracing::info!(
        revision = job.revision,
        removed,
        kept = kept.len(),
        hash = hash.hash,
        ?took,
        "finished compaction"
    );
    Ok(true)
}

/// Records the end of a compaction in memory; returns the change to write with the last batch.
fn finish(core: &Core, revision: i64) -> TableChange {
    let (key, value) = (Bytes::from_static(FINISHED), encode_revision(revision));
    core.ledger.set(Table::Meta, key.clone(), value.clone());
    TableChange {
        table: Table::Meta,
        key,
        value: Some(value),
    }
}
