//! The v2 API as a member offers it: writes through the log, reads and watches from the store.
//!
//! What the operations do is in [`crate::apply::v2`]; what they look like over HTTP is the
//! gateway's. Here is what stands between: a write gets its wall time and lease ID, a read its
//! revision, a watch its place in the history.

mod keys;
mod stats;
mod watch;

pub use keys::V2Keys;
pub use stats::{Counters, Kind};
pub use watch::{Watch, Wish};
