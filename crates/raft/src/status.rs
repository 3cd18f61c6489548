//! What a member knows of itself and of its cluster.

/// A member's view, published on every change of leadership and after every apply.
///
/// `last_index`, `commit_index`, `snapshot_index` and `purged_index` may lag a little behind on
/// the watch; [`Node::current_status`](crate::Node::current_status) has them fresh.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// The highest term seen.
    pub term: u64,
    /// Who leads this term, if a leader is known.
    pub leader: Option<u64>,
    /// What this member is now.
    pub role: Role,
    /// The last entry in the log, durable or not.
    pub last_index: u64,
    /// The last entry known to be on a quorum.
    pub commit_index: u64,
    /// The last entry given to the state machine.
    pub applied_index: u64,
    /// The position of the last snapshot: entries up to it may be purged.
    pub snapshot_index: u64,
    /// The last entry that is no longer in the log.
    pub purged_index: u64,
    /// The members that vote, ascending.
    pub voters: Vec<u64>,
    /// The members that only follow, ascending.
    pub learners: Vec<u64>,
    /// A peer has said that this member was removed from the cluster. It never comes back.
    pub removed: bool,
    /// False once the node has stopped.
    pub running: bool,
    /// Why the node stopped itself, if it did.
    pub fault: Option<String>,
}

/// What a member is at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// Takes writes.
    Leader,
    /// Follows a leader, or waits for one.
    #[default]
    Follower,
    /// Asks to be elected.
    Candidate,
    /// Follows without a vote.
    Learner,
}
