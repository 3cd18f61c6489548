//! The file of the audit log, and the thread that writes it.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::error::{Error, Result};

/// Most bytes that wait for the file; beyond, lines are lost.
const WAITING_MAX: usize = 64 * 1024 * 1024;
/// How long lines gather before they are written.
const GATHER: Duration = Duration::from_millis(10);
/// How often it is looked whether the path names another file.
const REOPEN: Duration = Duration::from_secs(1);

/// Takes lines.
pub(super) struct Sink {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    lost: u64,
    stopping: bool,
}

impl Sink {
    /// Opens the file, to append to it.
    ///
    /// Errors: [`Error::Io`].
    pub(super) fn open(path: &Path) -> Result<Sink> {
        let failed = |source| Error::Io {
            path: path.to_owned(),
            source,
        };
        let file = open(path).map_err(failed)?;
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            wake: Condvar::new(),
        });
        let writer = Writer {
            path: path.to_owned(),
            file,
            looked: Instant::now(),
            is_cut: false,
            shared: Arc::clone(&shared),
        };
        let writer = std::thread::Builder::new()
            .name("kvd-audit".into())
            .spawn(move || writer.run())
            .map_err(failed)?;
        Ok(Sink {
            shared,
            writer: Some(writer),
        })
    }

    /// Takes a line, unless too many wait.
    pub(super) fn write(&self, line: &str) {
        let mut state = self.shared.state.lock();
        if state.waiting.len() + line.len() > WAITING_MAX {
            state.lost += 1;
            return;
        }
        let was_empty = state.waiting.is_empty();
        state.waiting.extend_from_slice(line.as_bytes());
        drop(state);
        if was_empty {
            self.shared.wake.notify_one();
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.shared.state.lock().stopping = true;
        self.shared.wake.notify_one();
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the audit log ended badly");
        }
    }
}

/// Only the owner may read who did what.
fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

struct Writer {
    path: PathBuf,
    file: File,
    looked: Instant,
    /// Whether the last line may have been written in part.
    is_cut: bool,
    shared: Arc<Shared>,
}

impl Writer {
    fn run(mut self) {
        let mut batch = Vec::new();
        loop {
            let mut state = self.shared.state.lock();
            while state.waiting.is_empty() && !state.stopping {
                self.shared.wake.wait(&mut state);
            }
            if !state.stopping {
                drop(state);
                std::thread::sleep(GATHER);
                state = self.shared.state.lock();
            }
            std::mem::swap(&mut batch, &mut state.waiting);
            let lost = std::mem::take(&mut state.lost);
            let stopping = state.stopping;
            drop(state);
            if lost > 0 {
                tracing::error!(
                    lost,
                    "lines of the audit log were lost: its file is too slow"
                );
                let line = format!("{{\"lost_lines\":{lost}}}\n");
                batch.extend_from_slice(line.as_bytes());
            }
            self.put(&batch);
            batch.clear();
            if stopping {
                return;
            }
        }
    }

    fn put(&mut self, batch: &[u8]) {
        self.look();
        let begun = match self.is_cut {
            true => self.file.write_all(b"\n"),
            false => Ok(()),
        };
        let written = begun.and_then(|()| self.file.write_all(batch));
        self.is_cut = written.is_err();
        if let Err(error) = written {
            let lost = batch.iter().filter(|byte| **byte == b'\n').count();
            tracing::error!(%error, lost, "the audit log cannot be written");
        }
    }

    /// Opens the file anew if it was renamed or removed.
    fn look(&mut self) {
        if self.looked.elapsed() < REOPEN {
            return;
        }
        self.looked = Instant::now();
        let same = match (self.file.metadata(), std::fs::metadata(&self.path)) {
            (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
            _ => false,
        };
        if same {
            return;
        }
        match open(&self.path) {
            Ok(file) => {
                self.file = file;
                self.is_cut = false;
            }
            Err(error) => tracing::error!(%error, "the audit log cannot be opened anew"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait_for(path: &Path, wanted: &str) {
        let end = Instant::now() + Duration::from_secs(20);
        while std::fs::read_to_string(path).unwrap_or_default() != wanted {
            assert!(
                Instant::now() < end,
                "{wanted:?} is not in {}",
                path.display()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn lines_arrive_also_after_a_rotation() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, old) = (folder.path().join("audit.log"), folder.path().join("old"));
        let sink = Sink::open(&path).expect("opens");
        sink.write("one\n");
        wait_for(&path, "one\n");
        std::fs::rename(&path, &old).expect("renamed");
        std::thread::sleep(REOPEN);
        sink.write("two\n");
        wait_for(&path, "two\n");
        sink.write("three\n");
        drop(sink);
        wait_for(&path, "two\nthree\n");
        wait_for(&old, "one\n");
    }
}
