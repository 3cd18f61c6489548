//! Logs as etcd's zap writes them, so that what reads etcd's logs reads ours.
//!
//! A line is made on the thread that logs and written by a thread of its own (`writer`), through
//! a bounded queue: a slow disk or a blocked pipe must not hold up the async runtime. When the
//! queue is full lines are dropped, and the next line that gets through says how many.

mod layer;
mod line;
mod writer;

pub use layer::{FATAL, init, stopping};
pub use writer::Guard;
