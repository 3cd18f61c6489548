//! Users, roles and tokens on real members.
#![allow(missing_docs)]

mod audit;
mod cluster;
mod gateway;
mod keys;
mod rpcs;
mod session;
mod watches;
