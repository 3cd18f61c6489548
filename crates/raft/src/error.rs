//! What can go wrong in this crate.

use crate::wal;

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Only the leader can do this.
    #[error("this member is not the leader (the leader is {leader:?})")]
    NotLeader {
        /// The leader that this member knows.
        leader: Option<u64>,
    },
    /// No leader was known until the deadline.
    #[error("the cluster has no leader")]
    NoLeader,
    /// Leadership moved while the call was under way.
    #[error("the leader changed")]
    LeaderChanged,
    /// The node was stopped, or has stopped itself after a fault.
    #[error("the raft node has stopped{}", fault.as_ref().map(|f| format!(": {f}")).unwrap_or_default())]
    Stopped {
        /// The fault that stopped it, if any.
        fault: Option<String>,
    },
    /// The deadline passed.
    #[error("timed out")]
    Timeout,
    /// As many proposals wait as are allowed.
    #[error("too many proposals are waiting")]
    Overloaded,
    /// The write-ahead log cannot be opened or written.
    #[error(transparent)]
    Wal(#[from] wal::Error),
    /// The state machine's stored position cannot be read.
    #[error("the state machine's stored position: {0}")]
    Position(String),
    /// The operating system refused a file operation.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the file's name.
        what: String,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// A peer URL that cannot be dialled.
    #[error("peer URL {url:?}: {why}")]
    PeerUrl {
        /// As configured.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The members have changed, or are changing, since they were looked at: nothing was written.
    #[error("the membership has changed meanwhile")]
    Superseded,
    /// The membership change is not possible.
    #[error("membership: {0}")]
    Membership(String),
    /// An option has a value that cannot work.
    #[error("option {name}: {why}")]
    Option {
        /// The field of [`Options`](crate::Options).
        name: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

impl Error {
    /// An [`Error::Io`] that says what was being done.
    pub(crate) fn io(what: impl Into<String>, source: std::io::Error) -> Error {
        Error::Io {
            what: what.into(),
            source,
        }
    }
}
