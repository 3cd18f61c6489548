//! Changes of the membership: etcd's rules, and the way to the leader.
//!
//! ```text
//! services/cluster ── change ──► is it safe here? ──► peer port of the leader, or this member
//!                                                          │ one change at a time
//!                                                          ▼
//!                   linearizable look at the members ──► rules ──► one entry of Raft's log
//! ```
//! [`mod@change`] is that way; [`rules`] says what is refused, and with which of etcd's errors;
//! [`service`] is the leader's end of it for other members. [`standing`] is how every member is.
//!
//! The entry changes Raft's membership and the member records in one step (`apply/cluster.rs`): a
//! crash finds both changed or neither. A member that is added with a vote counts for clients as a
//! voter at once, and for the quorum when it has caught up (`raft/keeper.rs`).

pub mod change;
pub mod rules;
pub mod service;
pub mod standing;

pub(crate) use change::{as_leader_if, change};
pub use service::MembersService;
pub use standing::{MemberStanding, StandingService, Standings};
