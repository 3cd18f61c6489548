//! The gRPC services: each handler checks, acts, waits and answers.

pub mod admission;
pub mod auth;
pub mod cluster;
mod downgrade;
pub mod election;
pub mod guarded;
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

pub(crate) use kv::off_thread;

use tonic::Request;

use crate::audit::{Describe, Entry};
use crate::auth::Caller;

/// The caller of a request and what it asks for, which the audit log learns here.
fn open<T: Describe>(request: Request<T>) -> (Option<Caller>, T) {
    Entry::note(request.extensions(), request.get_ref());
    (Caller::of(request.extensions()), request.into_inner())
}
