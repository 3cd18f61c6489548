//! Sessions, locks and elections, out of leases, transactions and watches.
//!
//! A [`Session`] keeps a lease. A [`Mutex`] and an [`Election`] queue up under a prefix with a key
//! on that lease: the key with the lowest create revision holds the lock, or leads, and everybody
//! else waits for the key just before its own to go. When the holder dies, so does its lease, its
//! key, and the next one's wait. Keys and order are those of etcd's own client and of the Lock and
//! Election services: all of them can compete for the same name.
//!
//! Holding a lock is never certain: a process that was paused may outlive its lease. What the lock
//! protects should check the *fencing token*, the create revision of the holder's key, which is
//! higher for each later holder. In the store itself a transaction does that: see
//! [`Mutex::is_owner`].
//!
//! Source: etcd `client/v3/concurrency`.

mod election;
mod mutex;
mod session;
mod wait;

pub use election::{Election, Observer};
pub use mutex::Mutex;
pub use session::Session;
