//! Finding members whose data differ, by their HashKV.
//!
//! | check | when | what follows |
//! |---|---|---|
//! | initial | once, before a member serves anybody, if the gate `InitialCorruptCheck` is on | a member that differs from a peer does not start |
//! | periodic | every `--corrupt-check-time`, by the leader | the CORRUPT alarm of the member that differs |
//! | compaction | every `--compact-hash-check-time`, by the leader, if the gate `CompactHashCheck` is on | the CORRUPT alarm of the minority; of member 0 when there is no majority |
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
