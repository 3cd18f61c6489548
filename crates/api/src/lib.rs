//! The etcd v3 API as Rust types, and the table of errors that cross the wire.
//!
//! [`pb`] holds what `proto/` generates, under etcd's package names; [`wire`] the messages that are
//! written by hand because their stored encoding is sent as it is; [`error`] one row for every
//! error that etcd's clients recognise by its text; [`go`] what etcd's texts mean to Go.
//!
//! `Debug` of messages shows no values, passwords and tokens, but how long they are.
//!
//! There is no other logic here: every other crate of the workspace may depend on this one.

mod debug;
pub mod error;
pub mod go;
pub mod pb;
pub mod wire;

/// The etcd release whose API this crate speaks. Reported by Status and `/version`, since clients
/// decide by it which features they may use.
pub const ETCD_VERSION: &str = "3.7.1";

/// The serialised descriptors of every public service, for reflection and the JSON gateway.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/etcd_descriptor.bin"));
