//! One thread and one current-thread runtime for each core.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::sync::CancellationToken;

/// How long blocking work may go on after the stop.
const SHUTDOWN: Duration = Duration::from_millis(500);

/// The threads that serve connections. Dropping it stops them.
pub struct Cores {
    handles: Vec<Handle>,
    threads: Vec<JoinHandle<()>>,
    stop: CancellationToken,
    next: AtomicUsize,
}

impl Cores {
    /// Starts `count` threads, or one for each core that the process may use.
    ///
    /// Errors: a thread or a runtime cannot be made.
    pub fn start(count: Option<usize>) -> io::Result<Cores> {
        let count = match count {
            Some(count) => count.clamp(1, 1024),
            None => std::thread::available_parallelism().map_or(1, usize::from),
        };
        let mut cores = Cores {
            handles: Vec::new(),
            threads: Vec::new(),
            stop: CancellationToken::new(),
            next: AtomicUsize::new(0),
        };
        for index in 0..count {
            let stop = cores.stop.clone();
            let (sender, receiver) = sync_channel(1);
            let thread = std::thread::Builder::new()
                .name(format!("kvd-core-{index}"))
                .spawn(move || {
                    let runtime = Builder::new_current_thread().enable_all().build();
                    let handle = runtime.as_ref().map(|made| made.handle().clone());
                    let told = sender.send(
                        handle.map_err(|error| io::Error::new(error.kind(), error.to_string())),
                    );
                    if let (Ok(runtime), Ok(())) = (runtime, told) {
                        drive(runtime, &stop);
                    }
                })?;
            cores.threads.push(thread);
            let handle = receiver.recv().map_err(io::Error::other)??;
            cores.handles.push(handle);
        }
        Ok(cores)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.handles.len()
    }

    /// The runtime of the next core in turn.
    pub fn next(&self) -> &Handle {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        &self.handles[turn % self.handles.len()]
    }

    /// The runtime of one core; `index` wraps around.
    pub fn handle(&self, index: usize) -> &Handle {
        &self.handles[index % self.handles.len()]
    }
}

fn drive(runtime: Runtime, stop: &CancellationToken) {
    runtime.block_on(stop.cancelled());
    runtime.shutdown_timeout(SHUTDOWN);
}

impl Drop for Cores {
    fn drop(&mut self) {
        self.stop.cancel();
        for thread in self.threads.drain(..) {
            // A panic was logged by the panic hook; there is nothing left to stop.
            let _panicked = thread.join();
        }
    }
}
