//! Consensus: opaque commands in, the same commands on every member in the same order out.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod commands;
mod type_config;

pub use commands::{CommandIter, Commands};
