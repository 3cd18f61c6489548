//! Users, roles and tokens on real members.
#![allow(missing_docs)]

mod audit;
mod certificates;
mod cluster;
mod gateway;
mod jwt;
mod keys;
mod late;
mod locks;
mod prompts;
mod rpcs;
mod session;
mod watches;
