//! The thread that writes lines.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use thiserror::Error;

use crate::settings::LogOutput;

/// Lines that may wait for the disk.
const QUEUE_LINES_MAX: usize = 8192;

/// A log file cannot be opened.
#[derive(Debug, Error)]
#[error("cannot write logs to {}: {source}; check --log-outputs", path.display())]
pub struct OpenError {
    path: PathBuf,
    source: io::Error,
}

enum Message {
    Line(String),
    End,
}

/// Where finished lines go. Shared by all threads that log.
pub(super) struct Queue {
    sender: SyncSender<Message>,
    dropped: AtomicU64,
}

impl Queue {
    /// Queues a line, or drops it when the queue is full. `must` waits for a place instead.
    pub(super) fn push(&self, line: String, must: bool) {
        if must {
            // The writer lives as long as the guard; without one nobody reads the line anyway.
            let _closed = self.sender.send(Message::Line(line));
            return;
        }
        match self.sender.try_send(Message::Line(line)) {
            Err(TrySendError::Full(_)) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
        }
    }

    /// How many lines were dropped since the last call.
    pub(super) fn take_dropped(&self) -> u64 {
        if self.dropped.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        self.dropped.swap(0, Ordering::Relaxed)
    }
}

/// Keeps the writer running; dropping it writes what is queued and ends it.
pub struct Guard {
    sender: SyncSender<Message>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let ended = self.sender.send(Message::End).is_err();
        if let Some(thread) = self.thread.take().filter(|_| !ended) {
            // A panic of the writer has been printed by the panic hook.
            let _panicked = thread.join();
        }
    }
}

enum Sink {
    Stderr,
    Stdout,
    File(File),
}

impl Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Sink::Stderr => io::stderr().lock().write_all(bytes),
            Sink::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(bytes)?;
                out.flush()
            }
            Sink::File(file) => file.write_all(bytes),
        }
    }
}

/// Opens the outputs and starts the thread.
pub(super) fn start(outputs: &[LogOutput]) -> Result<(Queue, Guard), StartError> {
    let mut sinks = Vec::new();
    for output in outputs {
        sinks.push(match output {
            LogOutput::Stderr => Sink::Stderr,
            LogOutput::Stdout => Sink::Stdout,
            LogOutput::File(path) => {
                let opened = OpenOptions::new().append(true).create(true).open(path);
                let file = opened.map_err(|source| OpenError {
                    path: path.clone(),
                    source,
                })?;
                Sink::File(file)
            }
        });
    }
    let (sender, receiver) = sync_channel(QUEUE_LINES_MAX);
    let thread = std::thread::Builder::new()
        .name("kvd-log".into())
        .spawn(move || write_all(&receiver, sinks))
        .map_err(StartError::Thread)?;
    let queue = Queue {
        sender: sender.clone(),
        dropped: AtomicU64::new(0),
    };
    Ok((
        queue,
        Guard {
            sender,
            thread: Some(thread),
        },
    ))
}

/// Why logging cannot start.
#[derive(Debug, Error)]
pub enum StartError {
    /// A file cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// No thread can be made.
    #[error("cannot start the thread that writes logs: {0}")]
    Thread(io::Error),
}

/// Writes until told to end. Waiting lines go out in one write.
fn write_all(receiver: &Receiver<Message>, mut sinks: Vec<Sink>) {
    let mut batch = String::new();
    while let Ok(Message::Line(line)) = receiver.recv() {
        batch.push_str(&line);
        let mut end = false;
        while batch.len() < 1 << 20 && !end {
            match receiver.try_recv() {
                Ok(Message::Line(line)) => batch.push_str(&line),
                Ok(Message::End) => end = true,
                Err(_) => break,
            }
        }
        for sink in &mut sinks {
            // A log that cannot be written has nowhere to say so; the server goes on, as etcd does.
            let _lost = sink.write(batch.as_bytes());
        }
        batch.clear();
        if end {
            return;
        }
    }
}
