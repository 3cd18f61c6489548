//! From committed commands to changes of the store, the same on every member.
//!
//! ```text
//! kvd_raft ── entries, in order ──► Applier ── one command at a time ──► kv, txn, auth, ...
//!                                      │                                      │ kvd_mvcc::Writer
//!                                      │ after the last entry of the call     ▼
//!                                      ├── Writer::commit(position)     one unit of write-back
//!                                      ├── on_applied(index)            reads that waited may run
//!                                      └── Answers::answer(results)     callers get their results
//! ```
//!
//! Nothing here reads a clock, draws a random number or looks at anything but the store and the
//! command. What a command is refused with (an *answer*: compacted, lease not found, no space) is
//! therefore the same everywhere, goes to the caller and counts as applied. A *fault* (a disk, a
//! broken invariant, a command that cannot be decoded) is this member's own: it stops.
//!
//! [`range()`] and [`read_only_txn`] serve reads as well, outside of the log.

mod alarm;
mod applier;
mod auth;
mod cluster;
mod downgrade;
mod kind;
mod kv;
mod lease;
mod outcome;
mod range;
mod txn;
pub mod v2;

pub use alarm::Alarms;
pub use applier::{Answers, Applier, Parts};
pub use cluster::{cluster_version, is_removed, member, members};
pub use downgrade::{Downgrade, downgrade};
pub(crate) use kind::{Durations, Kind};
pub use outcome::Applied;
pub(crate) use range::Pinned;
pub(crate) use range::range_counting;
pub use range::{View, range};
pub use txn::{is_read_only, is_serializable, read_only_txn};

#[cfg(test)]
mod tests;
