//! The flush thread: takes what is applied to the engine, behind the log.
//!
//! It writes when [`CHUNK`]s are waiting, when the flush interval is over or when someone asks, and
//! flushes the engine each [`Options::flush_bytes`](crate::Options::flush_bytes) or
//! [`Options::flush_interval`](crate::Options::flush_interval). A chunk that ends a unit carries
//! its position in the same batch, so the engine's content is always that of some position, plus
//! perhaps records above it (see [`records`](crate::records)).
//!
//! After each flush the log may be purged up to the position of the flush *before* it: should the
//! last flush turn out bad, the log still has what it held.
//!
//! A fault ends the thread. It is reported once, nothing is retried and nothing more is written:
//! after a failed write nobody knows what the disk holds, and the log has everything.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::error::{Error, Result};
use crate::pipeline::{Control, Shared};
use crate::tail::{ChunkLimit, Tail};

/// The most that goes to the engine in one batch.
const CHUNK: ChunkLimit = ChunkLimit {
    changes: 4000,
    bytes: 4 << 20,
};
/// What has to wait before the thread writes without being asked.
const WRITE_CHANGES: usize = 1000;
const WRITE_BYTES: usize = 1 << 20;

enum Task {
    Write,
    Flush,
    End,
}

impl Shared {
    /// Changes the tail, which says whether it closed a unit, and wakes the flush thread if it has
    /// something to do now.
    pub(crate) fn change_and_wake(&self, change: impl FnOnce(&mut Tail) -> bool) {
        let wake = {
            let mut tail = self.tail.write();
            let idle = tail.closed_count() == tail.written_count();
            let due = is_due(&tail);
            change(&mut tail) && (idle || (!due && is_due(&tail)))
        };
        if wake {
            drop(self.control.lock()); // so that the thread is waiting, or has yet to look
            self.wake.notify_all();
        }
    }

    /// Whether the tail is too long.
    pub(crate) fn is_full(&self) -> bool {
        self.tail.read().closed_bytes() > self.options.unflushed_bytes_max
    }

    /// Waits while the tail is too long.
    pub(crate) fn wait_for_room(&self) {
        if self.is_full() {
            let mut control = self.control.lock();
            while control.failure.is_none() && !control.ended && self.is_full() {
                self.progress.wait(&mut control);
            }
        }
    }

    /// See [`Records::flush`](crate::records::Records::flush).
    pub(crate) fn flush(&self) -> Result<()> {
        let count = self.tail.read().closed_count();
        let mut control = self.control.lock();
        control.flush_wanted = control.flush_wanted.max(count);
        self.wake.notify_all();
        self.wait(control, |control| control.durable_count >= count)
    }

    /// Returns when everything finished so far is in the engine, though perhaps not durable.
    pub(crate) fn write_out(&self) -> Result<()> {
        let count = self.tail.read().closed_count();
        let mut control = self.control.lock();
        control.write_wanted = control.write_wanted.max(count);
        self.wake.notify_all();
        self.wait(control, |_| self.tail.read().written_count() >= count)
    }

    fn wait(
        &self,
        mut control: parking_lot::MutexGuard<'_, Control>,
        done: impl Fn(&Control) -> bool,
    ) -> Result<()> {
        loop {
            if done(&control) {
                return Ok(());
            }
            if let Some(message) = &control.failure {
                return Err(Error::Failed {
                    message: message.clone(),
                });
            }
            if control.ended {
                return Err(Error::Closed);
            }
            self.progress.wait(&mut control);
        }
    }

    /// The thread's body.
    pub(crate) fn run_flush_thread(&self) {
        let outcome = catch_unwind(AssertUnwindSafe(|| self.write_and_flush()));
        let outcome = outcome.unwrap_or_else(|_| {
            let message = "the flush thread panicked".to_owned();
            Err(Error::Failed { message })
        });
        if let Err(error) = &outcome {
            self.failed.store(true, Ordering::Release);
            tracing::error!(%error, "the store stops writing");
            self.control.lock().failure = Some(error.to_string());
        }
        self.control.lock().ended = true;
        self.progress.notify_all();
        if let (Err(error), Some(on_fault)) = (&outcome, &self.options.on_fault) {
            on_fault(error);
        }
    }

    fn write_and_flush(&self) -> Result<()> {
        // When the first of what is not durable was noticed.
        let mut since = None;
        loop {
            match self.next_task(&mut since) {
                Task::Write => self.write_closed()?,
                Task::Flush => {
                    self.write_closed()?;
                    self.flush_engine()?;
                    since = None;
                }
                Task::End => {
                    self.write_closed()?;
                    return self.flush_engine();
                }
            }
        }
    }

    fn next_task(&self, since: &mut Option<Instant>) -> Task {
        let mut control = self.control.lock();
        loop {
            let (written, due, waiting) = {
                let tail = self.tail.read();
                let written = tail.written_count();
                (written, is_due(&tail), tail.closed_count() > written)
            };
            if control.closing {
                return Task::End;
            }
            if control.flush_wanted > control.durable_count {
                return Task::Flush;
            }
            if due || control.write_wanted > written {
                return Task::Write;
            }
            if !waiting && written <= control.durable_count {
                *since = None;
                self.wake.wait(&mut control);
                continue;
            }
            let deadline = *since.get_or_insert_with(Instant::now) + self.options.flush_interval;
            if Instant::now() >= deadline {
                return Task::Flush;
            }
            self.wake.wait_until(&mut control, deadline);
        }
    }

    /// Writes the units that are closed by now.
    fn write_closed(&self) -> Result<()> {
        let count = self.tail.read().closed_count();
        while self.tail.read().written_count() < count {
            if self.write_chunk()? >= self.options.flush_bytes {
                self.flush_engine()?;
            }
        }
        Ok(())
    }

    /// Writes one chunk. Returns the bytes written since the last flush.
    fn write_chunk(&self) -> Result<usize> {
        let mut io = self.io.lock();
        let Some(chunk) = self.tail.read().chunk(CHUNK) else {
            return Ok(0);
        };
        let engine = self.engine.read().clone();
        let batch = io.batch_of(&chunk, &*engine)?;
        if !batch.is_empty() {
            engine.write(&batch)?;
            io.unflushed = true;
            io.unflushed_bytes += batch.bytes();
        }
        self.live_bytes.store(io.live_bytes, Ordering::Relaxed);
        for (key, value) in &chunk.records {
            if !key.is_tombstone() {
                self.cache.insert(key.revision(), value.clone());
            }
        }
        self.tail.write().written(&chunk);
        let unflushed = io.unflushed_bytes;
        drop(io);
        drop(self.control.lock());
        self.progress.notify_all();
        Ok(unflushed)
    }

    fn flush_engine(&self) -> Result<()> {
        let mut io = self.io.lock();
        let engine = self.engine.read().clone();
        let count = self.tail.read().written_count();
        if io.unflushed {
            let started = Instant::now();
            engine.flush()?;
            let took = started.elapsed();
            (io.unflushed, io.unflushed_bytes) = (false, 0);
            let before = io.flushed_index;
            io.flushed_index = io
                .written
                .as_ref()
                .map_or(0, |durable| durable.position.index);
            self.purgeable.store(before, Ordering::Release);
            if let Some(on_flush) = &self.options.on_flush {
                on_flush(before, took);
            }
        }
        {
            let mut control = self.control.lock();
            control.durable_count = control.durable_count.max(count);
        }
        self.progress.notify_all();
        engine.maintain()?;
        self.update_engine_bytes()?;
        Ok(())
    }
}

fn is_due(tail: &Tail) -> bool {
    tail.closed_changes() >= WRITE_CHANGES || tail.closed_bytes() >= WRITE_BYTES
}
