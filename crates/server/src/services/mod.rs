//! The gRPC services: each handler checks, acts, waits and answers.

pub mod admission;
pub mod cluster;
pub mod header;
pub mod kv;
pub mod lease;
pub mod maintenance;
mod range_stream;
pub mod routes;
pub mod validate;
pub mod watch;
