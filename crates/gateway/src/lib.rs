//! Everything a member answers over plain HTTP: the JSON gateway, probes, metrics, version.
//!
//! # The life of a JSON request
//!
//! ```text
//! POST /v3/kv/range {"key":"Zm9v"}
//!   access   is the Host allowed, CORS headers, OPTIONS
//!   v3       which RPC is it (routes), is the body within its bound
//!   json     JSON -> protobuf, by the descriptors that the protos compile to
//!   call     a gRPC request to the member's own services, in process: no socket in between
//!   json     protobuf -> JSON, one object or one line per message (v3_stream)
//! {"header":{...},"kvs":[...]}
//! ```
//!
//! The gateway knows no message type: a new RPC needs one row in [`routes`] and nothing else. It
//! holds no state of the store either; what it needs besides gRPC it asks through [`Member`].
//!
//! [`client_router`] serves the client port, [`metrics_router`] a port for monitoring alone,
//! [`peer_router`] what members ask of each other over HTTP.
//!
//! [`V2`] is what the v2 API asks for on top of it. `/v1/*` is kvd's own: what a page can ask of
//! the one member that it reaches, about all of them.
//!
//! Left out: the websocket upgrade that etcd's gateway offers for streams, profiles.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod access;
mod autopilot;
mod call;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod info;
mod json;
mod member;
mod metrics;
mod peer;
mod pprof;
mod probes;
mod router;
pub mod routes;
mod v1;
mod v2;
mod v3;
mod v3_stream;

pub use autopilot::{
    AutopilotPeer, Waiting, autopilot_peer_router, waiting_peer_router, waiting_router,
};
pub use error::http_status;
pub use member::{
    Answer, Check, DataHash, Member, MemberInfo, Probe, ProcessStats, Standing, Versions,
};
pub use peer::{FROM_MEMBER, KVD_VERSION};
pub use router::{Options, client_router, metrics_router, peer_router};
pub use v2::{V2, V2Watching};
