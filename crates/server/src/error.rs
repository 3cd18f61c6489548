//! Errors of the server, and the one place where any error becomes what a client sees.

use std::path::PathBuf;

use kvd_api::error::{WireError, internal, unimplemented, unknown};
use kvd_raft::ProposeFailure;
use tonic::Status;

/// The result of a server operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong between a request and its answer, or while starting.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An error that etcd's clients know by its text.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] kvd_mvcc::Error),
    /// Consensus refused or failed.
    #[error(transparent)]
    Raft(#[from] kvd_raft::Error),
    /// The proposal did not come back as applied.
    #[error("proposal failed: {0:?}")]
    Proposal(ProposeFailure),
    /// A snapshot file cannot be written, is damaged, or cannot be restored as asked.
    #[error("{0}")]
    Backup(String),
    /// A part of etcd's API that is not built.
    #[error("kvd does not implement {0} yet")]
    Unbuilt(&'static str),
    /// An answer that etcd gives with code Unknown.
    #[error("{0}")]
    Unknown(String),
    /// What another member answered that did the work.
    #[error("{}", .0.message())]
    Peer(Box<Status>),
    /// The data directory holds the data of another cluster or member.
    #[error("{}: {what}", path.display())]
    Identity {
        /// The file that says so.
        path: PathBuf,
        /// What differs and what to do.
        what: String,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// This member has other data than its peers. The text is etcd's.
    #[error("{member:x} found data inconsistency with peers")]
    Inconsistent {
        /// This member.
        member: u64,
    },
    /// A setting is wrong.
    #[error("{0}")]
    Config(String),
    /// An invariant of this member does not hold.
    #[error("{0}")]
    Internal(String),
}

impl From<kvd_bbolt::Error> for Error {
    fn from(error: kvd_bbolt::Error) -> Error {
        Error::Backup(format!("the database: {error}"))
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Status {
        let wire = match error {
            Error::Wire(wire) => wire,
            Error::Store(error) => return store_status(&error),
            Error::Raft(error) => return raft_status(&error),
            Error::Proposal(failure) => propose_wire(failure),
            Error::Unbuilt(rpc) => return unimplemented(rpc),
            Error::Unknown(text) => return unknown(text),
            Error::Peer(status) => return *status,
            other @ (Error::Identity { .. }
            | Error::Io { .. }
            | Error::Config(_)
            | Error::Backup(_)
            | Error::Inconsistent { .. }
            | Error::Internal(_)) => return internal(other.to_string()),
        };
        wire.into()
    }
}

fn propose_wire(failure: ProposeFailure) -> WireError {
    match failure {
        ProposeFailure::NoLeader => WireError::NoLeader,
        ProposeFailure::LeaderChanged => WireError::LeaderChanged,
        ProposeFailure::ConnectionLost => WireError::TimeoutDueToConnectionLost,
        ProposeFailure::Stopped => WireError::ServerStopped,
        ProposeFailure::Dropped => WireError::Timeout,
    }
}

fn store_status(error: &kvd_mvcc::Error) -> Status {
    match error {
        kvd_mvcc::Error::Compacted { .. } => WireError::Compacted.into(),
        kvd_mvcc::Error::FutureRevision { .. } => WireError::FutureRevision.into(),
        other => internal(other.to_string()),
    }
}

fn raft_status(error: &kvd_raft::Error) -> Status {
    match error {
        kvd_raft::Error::NotLeader { .. } => WireError::NotLeader.into(),
        kvd_raft::Error::NoLeader => WireError::NoLeader.into(),
        kvd_raft::Error::LeaderChanged => WireError::LeaderChanged.into(),
        kvd_raft::Error::Stopped { .. } => WireError::ServerStopped.into(),
        kvd_raft::Error::Timeout => WireError::Timeout.into(),
        kvd_raft::Error::Overloaded => WireError::TooManyRequests.into(),
        other => internal(other.to_string()),
    }
}
