//! snapshot status: what a snapshot file holds, after a look at every page of it.
//!
//! Source: etcd `etcdutl/snapshot/v3_snapshot.go`, `Status`. Differs from etcd: a file whose hash
//! does not match is refused here already, and not only by restore.

use std::collections::HashSet;
use std::path::Path;

use kvd_api::pb::mvccpb::KeyValue;
use kvd_mvcc::RevKey;
use kvd_server::backup::SnapshotFile;
use prost::Message;
use serde::Serialize;

use crate::failure::{Failure, Outcome};

/// What a snapshot file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    pub(crate) hash: u32,
    pub(crate) revision: i64,
    pub(crate) total_key: usize,
    pub(crate) total_size: u64,
    pub(crate) version: String,
}

pub(crate) fn status(path: &Path) -> Outcome<Status> {
    let file = SnapshotFile::open(path)?;
    let database = file.database()?;
    let problems = database.check();
    if !problems.is_empty() {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        return Err(Failure::new(format!(
            "snapshot file integrity check failed. {} errors found.\n{}",
            problems.len(),
            lines.join("\n")
        )));
    }
    if file.has_hash() {
        file.verify_hash()?;
    }
    let mut status = Status {
        hash: 0,
        revision: 0,
        total_key: 0,
        total_size: database.size(),
        version: String::new(),
    };
    let mut keys: HashSet<Box<[u8]>> = HashSet::new();
    for bucket in database.buckets()? {
        status.hash = crc32c::crc32c_append(status.hash, &bucket);
        let Some(mut cursor) = database.bucket(&bucket)? else {
            continue;
        };
        while let Some((key, value)) = cursor.next_pair()? {
            status.hash = crc32c::crc32c_append(status.hash, &key);
            status.hash = crc32c::crc32c_append(status.hash, &value);
            if bucket == "key" {
                let revision = RevKey::decode(&key)?;
                let record = KeyValue::decode(value)?;
                status.revision = revision.revision().main;
                if revision.is_tombstone() {
                    keys.remove(&record.key[..]);
                } else {
                    keys.insert(record.key[..].into());
                }
            } else if bucket == "meta" && key == "storageVersion" {
                status.version = String::from_utf8_lossy(&value).into_owned();
            }
        }
    }
    status.total_key = keys.len();
    Ok(status)
}
