//! The audit log: who asked for what, and how it was answered. Never a value, a password or a
//! token.
//!
//! ```text
//! services/admission: Entry (who, what, when) ── in the request's extensions ──► services/*: about
//!        │ when the call is over, or given up                                     keys, names, leases
//!        ▼
//!   one line of JSON ─► a buffer ─► a thread of its own ─► the file
//! ```
//!
//! Every call has a line, refused ones too: `ts` (when it came), `rpc`, `user`, `cn` (of the
//! client's certificate), `client` (its address), `gateway` (if it came as JSON), what it is about,
//! `code` (gRPC's; absent when the client went away before the answer) and `ms`. A stream has one
//! when it is opened, and a watch stream one for each watcher.
//!
//! What a call is about: `ops`, a list of `{op, key, range_end}`; `names`, of users and roles;
//! `lease`, an ID in hexadecimal. Keys that are no text are written as `key64` and `range_end64`.
//!
//! A line costs the request one allocation and the copying of its keys. The thread writes what has
//! gathered for some milliseconds at once: a crash of the machine or the process may lose that
//! much. When the file does not take lines for so long that the buffer is full, lines are lost; the
//! log of the member and the audit log say how many.

mod entry;
mod line;
mod sink;

use std::path::PathBuf;
use std::sync::Arc;

pub use entry::{About, Describe, Entry, Op, Pending};

use crate::error::Result;
use sink::Sink;

/// What is written of requests (`--audit-log-level`).
#[derive(Clone, Debug, Default)]
pub enum Settings {
    /// Nothing.
    #[default]
    Off,
    /// Who, what and when, to a file. It is opened anew when its path names another file, so that
    /// it can be rotated by renaming it.
    Metadata(PathBuf),
}

/// The audit log of a member. Cheap to clone.
#[derive(Clone, Default)]
pub struct Audit {
    sink: Option<Arc<Sink>>,
}

impl Audit {
    /// Opens the file.
    ///
    /// Errors: [`crate::Error::Io`] when it cannot be opened.
    pub fn open(settings: &Settings) -> Result<Audit> {
        let sink = match settings {
            Settings::Off => None,
            Settings::Metadata(path) => Some(Arc::new(Sink::open(path)?)),
        };
        Ok(Audit { sink })
    }

    /// Whether requests are written down. Every request asks.
    pub fn is_on(&self) -> bool {
        self.sink.is_some()
    }

    /// Writes a line.
    fn write(&self, line: &str) {
        if let Some(sink) = &self.sink {
            sink.write(line);
        }
    }
}
