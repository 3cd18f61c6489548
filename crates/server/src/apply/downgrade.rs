//! The downgrade job: which older version the cluster is being prepared for.
//!
//! | table | key | value |
//! |---|---|---|
//! | [`Table::Cluster`] | `downgrade` | JSON, as etcd stores it: `{"target-version":"3.6.0","enabled":true}` |
//!
//! etcd's leader lowers the cluster's version some seconds after a job was enabled, and raises it
//! again after it was cancelled; here both happen with the job itself. kvd has one format of its
//! own store. What the version changes is what backups say of themselves, and that is what an older
//! etcd reads.
//!
//! Source: etcd `server/etcdserver/version`.

use bytes::Bytes;
use kvd_api::pb::kvdcommandpb::{DowngradeInfoSet, SetClusterVersion};
use kvd_mvcc::{Store, Table, Writer};
use serde::{Deserialize, Serialize};

use super::cluster;
use super::outcome::Applied;
use crate::error::{Error, Result};
use crate::services::maintenance::STORAGE_VERSION;

const KEY: &[u8] = b"downgrade";

/// A downgrade job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Downgrade {
    /// The version to go to, as `major.minor.0`; empty when there is no job.
    #[serde(rename = "target-version")]
    pub target_version: String,
    /// Whether there is a job.
    pub enabled: bool,
}

/// The job under way; none has ever been when there is no entry.
///
/// Errors: [`Error::Internal`] when the stored one cannot be read.
pub fn downgrade(store: &Store) -> Result<Downgrade> {
    let Some(stored) = store.table_get(Table::Cluster, KEY) else {
        return Ok(Downgrade::default());
    };
    serde_json::from_slice(&stored)
        .map_err(|error| Error::Internal(format!("the stored downgrade is damaged: {error}")))
}

/// Starts or ends a job.
pub(super) fn set(writer: &mut Writer, request: DowngradeInfoSet) -> Result<Applied> {
    let DowngradeInfoSet { enabled, version } = request;
    let job = Downgrade {
        target_version: if enabled { version } else { String::new() },
        enabled,
    };
    let stored = serde_json::to_vec(&job)
        .map_err(|error| Error::Internal(format!("a downgrade cannot be stored: {error}")))?;
    writer.table_put(Table::Cluster, Bytes::from_static(KEY), stored.into());
    let version = match enabled {
        true => job.target_version,
        false => STORAGE_VERSION.to_owned(),
    };
    cluster::set_version(writer, SetClusterVersion { version });
    Ok(Applied::DowngradeSet)
}
