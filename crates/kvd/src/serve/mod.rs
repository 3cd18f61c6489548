//! Listeners and connections: from a URL to a request in a service.
//!
//! ```text
//!   accept (one task a listener) ──round robin──▶ core 0  current-thread runtime: connection tasks
//!                                              ├▶ core 1
//!                                              └▶ …
//! ```
//!
//! A connection stays on its core for life, so that its requests never wake another thread. The
//! first bytes decide the protocol: HTTP/2 when the client starts with its preface (h2c by prior
//! knowledge, which is what gRPC clients do), else HTTP/1. gRPC requests go to one service, all
//! others to another; what these services are is no concern of this folder.
//!
//! Bounds: connections ([`limits`]), time to say the first bytes, time and size of headers, streams
//! a connection, pings that find dead peers ([`Options`]).
//!
//! Stopping: no new connections; open ones finish their requests (`GOAWAY`, `connection: close`)
//! until a deadline; then they are cut.

mod authority;
mod connection;
mod cores;
pub mod limits;
mod listener;
mod rewind;
mod server;

pub use connection::{Options, Protocols, Services};
pub use cores::Cores;
pub use listener::{BindError, Listener};
pub use server::{Serving, start};
