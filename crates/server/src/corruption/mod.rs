//! Finding members whose data differ, by their HashKV.
//!
//! - *initial*, with the gate `InitialCorruptCheck`: once, before a member serves anybody. One that
//!   differs from a peer does not start.
//! - *periodic*, every `--corrupt-check-time`: the leader compares, and raises CORRUPT for the member
//!   that differs.
//! - *compaction*, with the gate `CompactHashCheck`, every `--compact-hash-check-time`: the leader
//!   compares what all had to hash for a compaction, and raises CORRUPT for the minority; for member
//!   0 when there is no majority.
//!
//! Hashes are of one revision and start from one compacted revision, or they say nothing: members
//! that are elsewhere, or do not answer, are left out.
//!
//! Source: etcd `server/etcdserver/corrupt.go`.

mod check;
mod peers;
mod tally;

pub use check::{compaction, initial, periodic};
pub use peers::IntegrityService;

#[cfg(test)]
mod tests;
