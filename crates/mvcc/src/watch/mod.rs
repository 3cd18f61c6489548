//! Watches: who wants to hear of which key, and who has heard of what.
//!
//! ```text
//!  WriteTxn::end ─► Hub::publish ── a whole revision, once its readers can see it
//!                      │  group: watchers by key and by range
//!                      ├─► outbox of a stream ─► WatchStream::next ─► the client
//!                      └─► no room: the watcher is behind from this revision on
//!                                      │
//!  start in the past ─────────────────►│ catch-up thread: reads the records in slices, and hands
//!                                      └ the watcher back to the group once nothing is missing
//! ```
//!
//! A watcher is in exactly one of two hands. *Synced*: it is in the hub's group and has everything
//! up to the hub's revision. *Behind*: the catch-up thread has it, with the next revision it needs.
//! Both hand over under the hub's lock, so that there is neither gap nor duplicate. An event is
//! encoded once; all watchers that get it share the bytes. What waits for a client is bounded: past
//! the bound its watchers fall behind and read the store later, and nobody waits for them. Many
//! clients are woken by one task of each thread that serves them ([`crate::lanes`]).
//!
//! Source: etcd `storage/mvcc/{watchable_store,watcher,watcher_group}.go`.

mod catch_up;
mod event;
mod group;
mod hub;
mod intervals;
mod outbox;
mod stream;
mod watcher;

pub(crate) use catch_up::spawn;
pub use event::Event;
pub(crate) use hub::Hub;
pub use hub::{WatchLag, WatchStats};
pub use outbox::Delivery;
pub(crate) use stream::encode_with_prev;
pub use stream::{WatchError, WatchOptions, WatchStream, Watching};

#[cfg(test)]
mod scripts;
#[cfg(test)]
mod tests;
