//! The kvd server's outer shell: flags, environment, config file, logging and listeners.
//!
//! ```text
//!   arguments ─┐
//!   environment├▶ flags ─▶ settings ─▶ run ─▶ serve (listeners, cores, connections)
//!   config file┘  (texts)   (types)     │
//!                                        └▶ the server and the gateway, from their own crates
//! ```
//!
//! A start goes like this. [`command`] reads the command line through the one table of
//! [`flags`], then the environment or else the [`config_file`]; [`settings`] turns the texts into
//! types and checks what depends on several flags; [`logging`] starts; [`run`] binds the
//! listeners ([`serve`]) and starts the member; one without data finds the others
//! ([`discovery`]) and asks them first ([`join`]), or in auto mode finds out all of it ([`auto`]).
//! Nothing here knows about keys, revisions or Raft.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod auto;
pub mod command;
pub mod config_file;
pub mod discovery;
pub mod error;
pub mod flags;
pub mod gates;
pub mod join;
pub mod logging;
pub mod member;
pub mod notes;
pub mod notify;
pub mod ports;
pub mod run;
pub mod serve;
pub mod settings;
pub mod signals;
pub mod tls;
pub mod version;

pub use kvd_server::urls;
