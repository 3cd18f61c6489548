//! Leases: keys that live as long as somebody renews their lease.
//!
//! Two structures, apart on purpose:
//!
//! - [`Lessor`] is replicated: which leases there are, their granted TTL, what was left of it at
//!   the last checkpoint, and the keys attached to each. It is the same on every member after the
//!   same log entries and knows no time.
//! - [`Expiry`] is the leader's alone: when each lease runs out, by a monotonic clock. It is made
//!   anew by each leader, and reads no clock itself: the caller says what time it is.
//!
//! Source: etcd `server/lease/lessor.go`.

mod expiry;
mod lessor;

pub use expiry::Expiry;
pub use lessor::{Lease, LeaseChange, Lessor};

#[cfg(test)]
mod scripts;
