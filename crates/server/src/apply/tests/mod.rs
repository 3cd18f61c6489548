//! Tests of apply as a whole: golden scripts, what members agree on, and the state machine's
//! side of Raft.

mod determinism;
pub(super) mod harness;
mod leases;
mod requests;
mod scripts;
mod state_machine;
mod transactions;
mod users;
