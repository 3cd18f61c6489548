//! What can go wrong with the write-ahead log.

use std::io;
use std::path::{Path, PathBuf};

/// Result of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the write-ahead log cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Bytes that had been made durable are damaged or missing.
    #[error("{}: {what} at byte {offset}; {advice}", file.display())]
    Corrupt {
        /// The damaged file.
        file: PathBuf,
        /// Where in the file.
        offset: u64,
        /// What is wrong there.
        what: String,
        /// What to do about it.
        advice: &'static str,
    },
    /// The log belongs to another cluster.
    #[error(
        "{}: this log belongs to cluster {found:x}, but the member was started for cluster \
         {expected:x}; check --data-dir and --initial-cluster-token",
        file.display()
    )]
    WrongCluster {
        /// The segment that says so.
        file: PathBuf,
        /// The cluster id in it.
        found: u64,
        /// The cluster id the member was started with.
        expected: u64,
    },
    /// The log belongs to another member.
    #[error(
        "{}: this log belongs to member {found:x}, but it was opened for member {expected:x}; \
         check --data-dir and --name",
        file.display()
    )]
    WrongMember {
        /// The segment that says so.
        file: PathBuf,
        /// The member id in it.
        found: u64,
        /// The member id the member was started with.
        expected: u64,
    },
    /// A newer version of kvd wrote the log.
    #[error(
        "{}: written in log format {found}, this version reads up to {supported}; \
         start the newer version that wrote it",
        file.display()
    )]
    NewerFormat {
        /// The segment that says so.
        file: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format this version reads.
        supported: u32,
    },
    /// Another process uses the log.
    #[error("{}: in use by another process; stop it first or choose another --data-dir",
        dir.display())]
    Locked {
        /// The log's directory.
        dir: PathBuf,
    },
    /// The disk is full. Everything acknowledged before is safe.
    #[error(
        "{}: no space left on the disk ({op}); nothing acknowledged is lost: free some space \
         and start the member again",
        path.display()
    )]
    NoSpace {
        /// What was attempted.
        op: &'static str,
        /// The file it was attempted on.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The disk failed.
    #[error("{}: cannot {op}: {source}", path.display())]
    Io {
        /// What was attempted.
        op: &'static str,
        /// The file it was attempted on.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// An earlier write or sync failed, so that nothing is written any more.
    #[error("the write-ahead log stopped after a failure: {why}")]
    Failed {
        /// The first failure, as text.
        why: String,
    },
    /// The log was closed.
    #[error("the write-ahead log is closed")]
    Closed,
    /// The caller asked for what would leave a hole in the log.
    #[error("entry {index} does not follow the last one, {last}")]
    Hole {
        /// The index that was to be appended.
        index: u64,
        /// The last index in the log.
        last: u64,
    },
}

/// Advice for damage that a cluster can heal from its other members.
pub(crate) const ADVICE_DAMAGED: &str = "the member will not start from a damaged log: in a \
    cluster, remove this member, empty its data directory and add it again; with a single member, \
    restore the newest backup";

impl Error {
    /// Wraps a failed call on `path`; a full disk gets its own variant.
    pub(crate) fn io(op: &'static str, path: &Path, source: io::Error) -> Error {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Error::NoSpace { op, path, source }
            }
            _ => Error::Io { op, path, source },
        }
    }

    /// Damage in `file` at `offset`.
    pub(crate) fn corrupt(file: &Path, offset: u64, what: impl Into<String>) -> Error {
        Error::Corrupt {
            file: file.to_owned(),
            offset,
            what: what.into(),
            advice: ADVICE_DAMAGED,
        }
    }

    /// As an error for openraft, which speaks `io::Error`.
    pub(crate) fn into_io(self) -> io::Error {
        match self {
            Error::NoSpace { .. } => io::Error::new(io::ErrorKind::StorageFull, self),
            Error::Corrupt { .. } => io::Error::new(io::ErrorKind::InvalidData, self),
            _ => io::Error::other(self),
        }
    }
}
