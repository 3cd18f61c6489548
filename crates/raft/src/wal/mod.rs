//! The write-ahead log: the one durable source of truth of a member.
//!
//! ```text
//!  0000000000000001.wal   ┌ header ┬ frame 1 ┬ frame 2 ┬ … ┐   purged → recycled
//!  0000000000000002.wal   ┌ header ┬ state ┬ frame 9 ┬ … ──┐   full
//!  0000000000000003.wal   ┌ header ┬ state ┬ frame 17 ┬ 000…   being written
//!  spare-…1.tmp           ┌ 000000000000000000000000000000…   the next one, ready
//! ```
//! One thread ([`writer`]) gives each batch of waiting changes one frame, one write and one
//! fdatasync. Another ([`spares`]) keeps the next segment ready. [`recovery`] reads it all back:
//! a torn tail is cut, damage is refused. [`record`] and [`segment`] draw the bytes. [`log`] is
//! the part in memory: positions, the newest entries, and where the older ones lie.
//!
//! A life, with numbers: entries 1–3 of term 1 and a vote wait together; they become frame 5,
//! 24 bytes of header and `18 + 3 × (22 + data)` bytes of records, at the end of segment 1, and
//! after the fdatasync three callbacks run in order. When entry 3 is purged, and the purge is
//! durable, segment 1 holds nothing that is needed: its positions are repeated in the state
//! frame of segment 2. Its file becomes a spare.
//!
//! Invariants: entries are dense; frame sequences are dense across segments; a frame is begun
//! only after the one before it is durable; a name is given only to what is durable; nothing is
//! written after a failure.

mod error;
mod handle;
mod inspect;
mod log;
pub(crate) mod record;
mod recovery;
mod segment;
mod spares;
#[cfg(test)]
mod tests;
mod watchdog;
mod writer;

pub use error::{Error, Result};
pub(crate) use handle::load;
pub use handle::{Options, Wal};
pub use inspect::{Inspection, inspect};
pub(crate) use log::Found;
pub use record::{Entry, LogId, Record, Vote};
pub use watchdog::StallLimits;
pub use writer::Done;
