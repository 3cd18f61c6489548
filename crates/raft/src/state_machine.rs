//! What the replicated application implements.

use std::fmt;
use std::path::Path;

use bytes::Bytes;

use crate::commands::Commands;
use crate::membership::Member;

/// The replicated application: applies committed entries, gives and takes whole snapshots.
///
/// Called from one task at a time, never concurrently. The methods block; `apply` and `snapshot`
/// must work at memory speed, since nothing else is applied meanwhile. `install` may take long and
/// is called on a thread that may block.
///
/// A returned [`Fault`] stops the node: nothing is applied after it.
pub trait StateMachine: Send + 'static {
    /// The bytes of the [`Position`] that was stored last, `None` when the state is fresh.
    /// Asked once, when the node starts. What was applied after it is replayed from the log.
    fn position(&self) -> Option<Bytes>;

    /// Applies `entries` in order. `position` is that of the last one; state and position must
    /// become durable together, at once or later, so that a restart never sees one without the
    /// other.
    fn apply(
        &mut self,
        entries: &[Committed],
        position: Position,
    ) -> std::result::Result<(), Fault>;

    /// Whether [`apply`](StateMachine::apply) would wait for the disk now. The threads that it
    /// is called on carry heartbeats, too: it is called in a way then that does not hold them up.
    fn is_behind(&self) -> bool {
        false
    }

    /// A consistent view of the state as it stands now.
    fn snapshot(&mut self) -> std::result::Result<Box<dyn SnapshotSource>, Fault>;

    /// Replaces the state by the content of `file`, the chunks of a peer's
    /// [`snapshot`](StateMachine::snapshot) one after the other, checked. State and `position`
    /// must be durable on return, because the log before it is dropped. The file is removed
    /// afterwards.
    fn install(&mut self, file: &Path, position: Position) -> std::result::Result<(), Fault>;
}

/// Where a state machine stands in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The index of the last entry applied.
    pub index: u64,
    /// What to store and to return from [`StateMachine::position`]; opaque.
    pub bytes: Bytes,
}

/// A committed entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Its position in the log.
    pub index: u64,
    /// The term of the leader that wrote it.
    pub term: u64,
    /// Its content.
    pub payload: Payload,
}

/// The content of a committed entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// Written by a new leader to learn what is committed.
    Blank,
    /// What members proposed.
    Commands(Commands),
    /// The members from here on. While a change of voters is under way this is what they will be.
    Membership(Vec<Member>),
}

/// Yields a snapshot in chunks.
pub trait SnapshotSource: Send {
    /// The next chunk, at most a few MiB, or `None` after the last one. May block on the disk.
    fn next_chunk(&mut self) -> std::result::Result<Option<Bytes>, Fault>;
    /// About how many bytes there are in all, zero when that is not known.
    fn size_hint(&self) -> u64;
}

/// This member's own failure, as opposed to an answer that is the same on every member: a full
/// disk, a broken invariant, an entry that cannot be decoded. The node stops.
#[derive(Debug)]
pub struct Fault {
    what: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Fault {
    /// A fault told in words.
    pub fn new(what: impl Into<String>) -> Fault {
        Fault {
            what: what.into(),
            source: None,
        }
    }

    /// A fault with the error that caused it.
    pub fn with_source(
        what: impl Into<String>,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Fault {
        Fault {
            what: what.into(),
            source: Some(Box::new(source)),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Fault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source.as_ref() as _)
    }
}
