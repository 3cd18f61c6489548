//! The v2 tree: directories and files under one reserved prefix of the same store.
//!
//! | key, after [`PREFIX`] | value |
//! |---|---|
//! | `n`, depth as 4 bytes, path | encoded `V2Node`: one file or directory |
//! | `e`, slot as 2 bytes | encoded `V2Event`: one of the last 1,000 events |
//! | `h` | empty; its version counts the events |
//!
//! The depth before the path makes the children of a directory one range, without what is below
//! them: `/a/b` and `/a/c` are side by side, `/a/b/d` is elsewhere. The root is not stored.
//!
//! Every operation is one command, applied at one revision: v2's `modifiedIndex` is a revision, and
//! `X-Etcd-Index` the store's current one. Each change also writes its event into the ring of
//! `e` keys. A watch reads the past there, and watches the same keys for what is to come; since only
//! live keys are read, compacting v3's history leaves v2's alone.
//!
//! A TTL is a lease that the same command grants, attached to the node's key and to nothing else.
//! When it ends, the node goes with all below it and an `expire` event is written. Whatever detaches
//! a node from its lease ends the lease, too.
//!
//! The v3 API neither sees nor writes these keys: see [`hide`].
//!
//! Source: etcd 3.4 `etcdserver/api/v2store`.

mod actions;
mod events;
mod keys;
mod tree;

pub(super) use actions::{apply, detach, expire};
pub use events::{History, decode_event, history, ring};
pub use keys::{DEPTH_MAX, PREFIX, clean, depth, hide, is_reserved, join};
pub use tree::{Refusal, existed, get};

#[cfg(test)]
mod tests;
