//! What can go wrong in this crate.

use std::path::PathBuf;

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
    /// A peer belongs to another cluster.
    #[error("cluster id {theirs:x} is not this cluster's {ours:x}")]
    WrongCluster {
        /// This member's cluster id.
        ours: u64,
        /// The id that the peer sent.
        theirs: u64,
    },
    /// A stored file does not hold what was written to it.
    #[error("{} is corrupt at byte {offset}: {what}. {advice}", file.display())]
    Corrupt {
        /// The damaged file.
        file: PathBuf,
        /// Where the damage begins.
        offset: u64,
        /// What was found.
        what: String,
        /// What the operator can do.
        advice: String,
    },
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
    /// A peer did not do what it was asked to.
    #[error("member {peer:x}: {what}")]
    Transport {
        /// The peer's member id.
        peer: u64,
        /// What happened.
        what: String,
    },
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
        Error::Io { what: what.into(), source }
    }
}
