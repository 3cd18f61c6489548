//! What can go wrong in the store.

use std::io;
use std::path::PathBuf;

/// The result of the store's operations.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong.
///
/// [`Error::Compacted`] and [`Error::FutureRevision`] are answers: the same on every member. All
/// others are this member's own faults.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// History at the requested revision is gone.
    #[error("revision {requested} has been compacted (compacted revision is {compacted})")]
    Compacted {
        /// The revision that was asked for.
        requested: i64,
        /// The store's compacted revision.
        compacted: i64,
    },
    /// The requested revision has not happened yet.
    #[error("revision {requested} is a future revision (current revision is {current})")]
    FutureRevision {
        /// The revision that was asked for.
        requested: i64,
        /// The store's current revision.
        current: i64,
    },
    /// Stored bytes are not what was written.
    #[error("corrupt data in {place}: {problem}")]
    Corrupt {
        /// The file, table or key that holds the bytes.
        place: String,
        /// What is wrong with them.
        problem: String,
    },
    /// The storage engine failed.
    #[error("storage engine failed to {action}: {message}")]
    Engine {
        /// What was being done, as a verb phrase.
        action: &'static str,
        /// What the engine said.
        message: String,
    },
    /// The operating system refused an operation on a file.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The directory cannot be written.
    #[error("{} cannot be written: {source}", path.display())]
    ReadOnly {
        /// The directory or file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another process has the directory open.
    #[error("{} is in use by another process", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// A newer release wrote the directory or snapshot.
    #[error(
        "{place} has format {found}, this release reads up to {supported}: run the release that \
         wrote it, or start with an empty directory"
    )]
    NewerFormat {
        /// What has the format.
        place: String,
        /// The format found.
        found: u32,
        /// The newest format this release reads.
        supported: u32,
    },
    /// The directory was written by the other engine.
    #[error("the store was created with engine {found}, not {wanted}")]
    WrongEngine {
        /// The engine that wrote it.
        found: String,
        /// The engine that was asked for.
        wanted: String,
    },
    /// The flush thread met a fault earlier; nothing more is written.
    #[error("the store stopped writing after a fault: {message}")]
    Failed {
        /// The first fault.
        message: String,
    },
    /// A defragmentation was given up for the sake of a snapshot that replaces everything.
    #[error(
        "the defragmentation was given up, because a snapshot of the leader replaces what it was \
         copying; the store is without holes then"
    )]
    Superseded,
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl Error {
    /// An [`Error::Io`], or [`Error::ReadOnly`], that names `path`.
    pub(crate) fn io(path: impl Into<PathBuf>, source: io::Error) -> Self {
        let path = path.into();
        match source.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Error::ReadOnly { path, source }
            }
            _ => Error::Io { path, source },
        }
    }

    /// An [`Error::Corrupt`] that names where the bytes are.
    pub(crate) fn corrupt(place: impl Into<String>, problem: impl Into<String>) -> Self {
        Error::Corrupt {
            place: place.into(),
            problem: problem.into(),
        }
    }

    /// Whether this is an answer, the same on every member, and not a fault of this one.
    pub fn is_answer(&self) -> bool {
        matches!(self, Error::Compacted { .. } | Error::FutureRevision { .. })
    }
}
