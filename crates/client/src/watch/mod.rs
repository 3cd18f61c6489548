//! Watches: a stream of what happens to a key or a span of keys.
//!
//! ```text
//! Client::watch ── WatchStream ──▶ stream: a task with one gRPC stream at a time
//!      Watch ◀── bounded channel ──┘       reconnects, resumes each watch where it stood
//! ```
//!
//! A watch survives the loss of its connection: the task connects to another endpoint and goes on
//! from the revision after the last one delivered, so that every revision arrives whole, in order
//! and once. It ends with an error only when the server ended it (the revision is compacted,
//! permission is denied) or when no repetition would help.
//!
//! Fragments are asked for and joined: a response always holds whole revisions, however large. A
//! watch that is not read stops its stream and every other watch of the same [`WatchStream`]; the
//! server then catches up from history. [`Client::watch`](crate::Client::watch) gives each watch a
//! stream of its own.
//!
//! Source: etcd `Watch` service; `client/v3/watch.go`.

mod options;
mod response;
mod stream;

#[cfg(test)]
mod tests;

pub use options::WatchOptions;
pub use response::WatchResponse;
pub use stream::{Watch, WatchStream};
