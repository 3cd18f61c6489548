//! Finding the first members of a cluster where `--initial-cluster` does not list them: in DNS, or
//! at a cluster that runs already.
//!
//! Both take part in a first start alone. A member that has data knows who it is.

pub mod registry;
pub mod srv;

use crate::urls;

/// Why the first members are not known. Texts are etcd's where etcd has one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// DNS has no records that can be used.
    #[error("error setting up initial cluster: {0}")]
    Lookup(String),
    /// None of the records leads to this member.
    #[error(
        "error setting up initial cluster: cannot find local etcd member {name:?} in SRV records: \
         no record leads to a host and port of --initial-advertise-peer-urls={advertised} with its \
         scheme; the records are {found}"
    )]
    NotInRecords {
        /// `--name`.
        name: String,
        /// What this member advertises.
        advertised: String,
        /// What was found, as `--initial-cluster` would have it.
        found: String,
    },
    /// What was found is no cluster.
    #[error("error setting up initial cluster: {0}")]
    Cluster(urls::Error),
    /// The registry cannot be used; trying again does not help.
    #[error("failed to join discovery cluster ({0})")]
    Registry(#[from] registry::Refusal),
    /// The members that registered do not make a cluster.
    #[error("discovery cluster {0} has duplicate url")]
    DuplicateUrl(String),
}
