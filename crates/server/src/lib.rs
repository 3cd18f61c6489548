//! The replicated application of one kvd member.
//!
//! # The life of a request
//!
//! ```text
//! services/*  ── is it well formed (services/validate), may it be served here (services/admission)
//!   │ write                                   │ read
//!   ▼                                         ▼
//! core::Core::propose                       core::Core::read_barrier
//!   │  a Command with a request ID            │  read index from Raft, then wait until it is applied
//!   ▼                                         ▼
//! kvd_raft::Node ── quorum on disk ──►      kvd_mvcc::Store
//! apply::Applier (the only writer)
//!   │  result, by request ID
//!   ▼
//! waiters::Waiters ── wakes the service that waits
//! ```
//!
//! [`server::Server`] starts and stops all of it in order; [`identity`] decides once who the
//! member is; [`compactor`] and [`quota`] keep the store small; [`error`] is the one place where an
//! error of any crate becomes what a client sees.
//!
//! [`backup`] reads and writes etcd's snapshot files.
//! [`v2`] is the tree of etcd's old API, kept in the same store ([`apply::v2`]).
//!
//! [`lease`] is what a member does about leases besides applying them; [`members`] is the same for
//! changes of the membership.
//!
//! [`autopilot`] is a member that acts by itself: who joins, is promoted, leaves.
//!
//! [`auth`] knows the users, and whether they may do what they ask for; [`audit`] writes down who
//! asked for what.

pub mod apply;
pub mod audit;
pub mod auth;
pub mod autopilot;
pub mod backup;
pub mod compactor;
pub mod config;
pub mod core;
pub mod corruption;
pub mod directories;
pub mod error;
pub mod identity;
pub mod lease;
pub mod limits;
pub mod members;
pub mod metrics;
pub mod peer_info;
pub mod quota;
pub mod server;
pub mod services;
pub mod urls;
pub mod v2;
pub mod waiters;

pub use config::Config;
pub use error::{Error, Result};
pub use server::{Ending, Server};
