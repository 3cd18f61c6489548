//! A member without data and the cluster that runs already: does it join as it was told to, or has
//! it been part of it before?
//!
//! ```text
//!   --initial-cluster ─┐
//!                      ├▶ verify ─▶ who this member is (cluster ID, member ID)
//!   GET /members ──────┘     └────▶ what does not fit, entry by entry
//!   of the other members (remote)
//! ```
//!
//! Source: etcd `server/etcdserver/bootstrap.go`, `cluster_util.go`,
//! `api/membership/cluster.go` (`ValidateClusterAndAssignIDs`).

pub mod remote;
pub mod removal;
mod verify;
mod version;

pub use verify::{Error, has_been_bootstrapped, verify};
