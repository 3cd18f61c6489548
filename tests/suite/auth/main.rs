//! Users, roles and tokens on real members.
#![allow(missing_docs)]

mod audit;
mod certificates;
mod cluster;
mod gateway;
mod keys;
mod locks;
mod rpcs;
mod session;
mod watches;
