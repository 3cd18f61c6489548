//! Listeners and connections: from a URL to a request in a service.
//!
//! ```text
//!   accept (one task a listener) ──round robin──▶ core 0  current-thread runtime: connection tasks
//!                                              ├▶ core 1
//!                                              └▶ …
//! ```
//!
//! A connection stays on its core for life, so that its requests never wake another thread. The
//! first bytes decide the protocol: TLS, HTTP/2 when the client starts with its preface (h2c by
//! prior knowledge, which is what gRPC clients do), else HTTP/1. Inside TLS the same is asked again.
//! Every request carries what is known of its connection
//! ([`PeerInfo`](kvd_server::peer_info::PeerInfo)). gRPC requests go to one service, all
//! others to another; what these services are is no concern of this folder.
//!
//! Bounds: connections ([`limits`]), those that say nothing or shake hands (`pending`), time to do
//! either, time and size of headers, streams
//! a connection, pings that find dead peers ([`Options`]).
//!
//! Stopping: no new connections; open ones finish their requests (`GOAWAY`, `connection: close`)
//! until a deadline; then they are cut.

mod authority;
mod connection;
mod cores;
mod cork;
mod greeting;
pub mod limits;
mod listener;
mod pending;
mod refusal;
mod rewind;
mod server;

pub use connection::{Options, Protocols, Secure, Services};
pub use cores::Cores;
pub use listener::{BindError, Listener};
pub use server::{Serving, start};
