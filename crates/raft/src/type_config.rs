//! Every type parameter of openraft, chosen once. Nothing outside this crate sees them.

use std::fmt;

use openraft::RaftTypeConfig;
use openraft::impls::leader_id_std;
use openraft::vote::RaftLeaderId;

use crate::commands::Commands;
use crate::responder::Callback;
use crate::runtime::Runtime;

/// kvd's choice of openraft's parameters: one leader a term (as in the Raft thesis and in etcd),
/// 64-bit member ids and terms, framed commands as the content of an entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TypeConfig;

impl RaftTypeConfig for TypeConfig {
    type D = Commands;
    type R = ();
    type NodeId = u64;
    type Node = PeerNode;
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = Vote;
    type Payload = EntryPayload;
    type Entry = Entry;
    type AsyncRuntime = Runtime;
    type Responder<T>
        = Callback<T>
    where
        T: Send + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: Send + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub(crate) type LeaderId = leader_id_std::LeaderId<u64, u64>;
pub(crate) type CommittedLeaderId = <LeaderId as RaftLeaderId>::Committed;
pub(crate) type LogId = openraft::LogId<CommittedLeaderId>;
pub(crate) type Vote = openraft::Vote<LeaderId>;
pub(crate) type EntryPayload = openraft::EntryPayload<Commands, u64, PeerNode>;
pub(crate) type Entry = openraft::Entry<CommittedLeaderId, EntryPayload>;
pub(crate) type Membership = openraft::Membership<u64, PeerNode>;
pub(crate) type StoredMembership = openraft::StoredMembership<CommittedLeaderId, u64, PeerNode>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<CommittedLeaderId, u64, PeerNode>;

/// A log id from its two numbers.
pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::from(term), index)
}

/// What the Raft membership knows of a member besides its id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PeerNode {
    pub(crate) name: String,
    /// Where the member listens for peers. Text as configured; resolved at every connect.
    pub(crate) peer_urls: Vec<String>,
    /// It follows without a vote until it is promoted. One that is neither this nor among the
    /// voters gets its vote as soon as it has caught up (`keeper.rs`).
    pub(crate) learner: bool,
}

impl fmt::Display for PeerNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.peer_urls.join(","))
    }
}
