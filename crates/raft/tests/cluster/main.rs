//! Whole nodes: clusters of one and three members over loopback, killed, cut off and brought back.

mod failures;
mod harness;
mod members;
mod net;
mod replication;
mod toy;
