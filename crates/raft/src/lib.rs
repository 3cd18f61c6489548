//! Consensus: opaque commands in, the same commands on every member in the same order out.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod commands;
pub mod disk;
mod error;
mod events;
mod membership;
mod state_machine;
mod status;
mod type_config;

pub use commands::{CommandIter, Commands};
pub use error::{Error, Result};
pub use events::{Events, NoEvents};
pub use membership::Member;
pub use state_machine::{
    Committed, Fault, Payload, Position, SnapshotSource, StateMachine,
};
pub use status::{Role, Status};
