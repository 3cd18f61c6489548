//! The gRPC services: each handler checks, acts, waits and answers.

pub mod admission;
pub mod cluster;
mod downgrade;
pub mod election;
pub mod header;
pub mod kv;
mod leader_check;
pub mod lease;
pub mod lock;
pub mod maintenance;
mod on_behalf;
mod queue;
mod range_stream;
pub mod routes;
mod snapshot;
pub mod validate;
pub mod watch;
