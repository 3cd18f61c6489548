//! Consensus: opaque commands in, the same commands on every member in the same order out.
//!
//! # The life of a proposal
//!
//! ```text
//!   Node::propose          batcher            openraft             log            peers
//!        │ ── queue ─────────▶ │                  │                  │               │
//!        │                     │ ── one entry ──▶ │ ── append ─────▶ │ fdatasync     │
//!        │                     │                  │ ── Peer.Append ───────────────▶  │ fdatasync
//!        │                     │                  │ ◀── on disk ──── │               │
//!        │                     │                  │ ◀── on disk ──────────────────── │
//!        │                     │              committed: a quorum has it             │
//!        ▼                     ▼                  ▼
//!   StateMachine::apply(entries)  on every member: answers whoever waits there
//! ```
//! 1. [`Node::propose`] puts a command into a queue and returns. The batcher ([`batcher`]) frames
//!    what waits ([`commands`]) and proposes it as one entry; on a follower it sends the batch to
//!    the leader.
//! 2. openraft appends the entry to the write-ahead log ([`wal`], through [`log_store`]) and to
//!    the followers' ([`transport`]) at the same time, and commits it when a quorum has it on
//!    disk.
//! 3. Committed entries go to the application's [`StateMachine`] ([`apply`]), as many as are ready
//!    with one call. What it answers reaches the caller without passing through here.
//!
//! A read asks [`Node::read_index`] which entry it must wait for ([`read_index`]). A member that
//! is too far behind gets the application's snapshot ([`snapshot`]). The [`watcher`] publishes the
//! [`Status`], and purges what is applied, durable in the application, and not needed for slow
//! followers. Changes of members are in [`change`], of the leader in [`transfer`]; [`keeper`] gives
//! votes to members that have caught up, [`prober`] knows to whom the way is open.
//!
//! # What is promised
//!
//! - A command is applied at most once for each time it was proposed, and never proposed again
//!   once it may have been appended.
//! - What `apply` was given is on disk on a quorum; it is given in the same order everywhere.
//! - `purged ≤ snapshot ≤ applied ≤ committed ≤ last`, and `purged` never passes what the
//!   application calls durable.
//! - A fault of the state machine or of the log stops the node; [`Status::fault`] says which.
//!
//! # Terms
//!
//! *Term*: the reign of at most one leader. *Entry*: a batch of commands at a *log index*.
//! *Voter*, *learner*: members with and without a vote. *Position*: a log index with what it takes
//! to continue from there, opaque to the application that stores it.
//!
//! openraft does the consensus. Its types do not leave this crate, since they change with every
//! release: [`type_config`] names them all.
//!
//! # What is left out
//!
//! Lease reads: they trust clocks. Transport security: the server brings a [`Dialer`] that speaks
//! TLS and mounts [`Node::peer_service`] behind it.
#![cfg_attr(test, allow(clippy::unwrap_used))]
#![allow(rustdoc::private_intra_doc_links)] // This page is for who works on the crate, too.

mod apply;
mod batcher;
mod change;
mod commands;
mod core;
pub mod disk;
mod error;
mod events;
mod force;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod keeper;
mod log_store;
mod membership;
mod node;
mod options;
mod pace;
mod prober;
mod read_index;
mod responder;
mod rounds;
mod runtime;
mod seed;
mod snapshot;
mod stall;
mod state_machine;
mod status;
mod transfer;
mod transport;
mod type_config;
pub mod wal;
mod watcher;

pub use change::{Basis, Change};
pub use commands::{CommandIter, Commands};
pub use error::{Error, Result};
pub use events::{Events, NoEvents};
pub use membership::Member;
pub use node::Node;
pub use options::{IsRemoved, OnFailed, Options, ProposeFailure};
pub use seed::{Place, read_entry, read_position, seed_log};
pub use state_machine::{Committed, Fault, Payload, Position, SnapshotSource, StateMachine};
pub use status::{Role, Status};
pub use transport::{
    Connection, Dialer, Dialing, PeerHandle, PeerService, PlainDialer, was_not_sent,
};
