//! snapshot status: what a snapshot file holds, after a look at every page of it.
//!
//! etcdctl had it up to 3.5; since then it is etcdutl's. Differs from both: a file whose SHA-256
//! does not match is refused here already, and not only when it is restored.
//!
//! Source: etcd `etcdutl/snapshot/v3_snapshot.go`, `Status`.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufReader, Read};

use kvd_api::pb::mvccpb::KeyValue;
use kvd_bbolt::Reader;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::{HASH_BYTES, has_hash, mismatch};
use crate::failure::Failure;
use crate::go_text::error::os_error;
use crate::print::SnapshotStatus;

/// Main and sub revision with a byte between them; a tombstone has one more.
const REVISION_BYTES: usize = 17;

/// Reads the whole file, which takes a while for a large one.
pub(super) fn status(path: &str) -> Result<SnapshotStatus, Failure> {
    let cannot = |err: io::Error| Failure::error(format!("stat {path}: {}", os_error(&err)));
    let file = File::open(path).map_err(cannot)?;
    let size = file.metadata().map_err(cannot)?.len();
    if has_hash(size) {
        verify(&file, size).map_err(cannot)??;
    }
    let damaged = |err: kvd_bbolt::Error| Failure::error(format!("{path}: {err}"));
    let database = Reader::open(file).map_err(damaged)?;
    let problems = database.check();
    if !problems.is_empty() {
        let count = problems.len();
        let lines: String = problems
            .iter()
            .map(|problem| format!("{problem}\n"))
            .collect();
        let message = format!("snapshot file integrity check failed. {count} errors found.");
        return Err(Failure::error(message).with_details(lines));
    }
    let mut found = SnapshotStatus {
        size: database.size(),
        ..SnapshotStatus::default()
    };
    let mut keys = HashSet::new();
    for bucket in database.buckets().map_err(damaged)? {
        found.hash = crc32c::crc32c_append(found.hash, &bucket);
        let Some(mut cursor) = database.bucket(&bucket).map_err(damaged)? else {
            continue;
        };
        while let Some((key, value)) = cursor.next_pair().map_err(damaged)? {
            found.hash = crc32c::crc32c_append(found.hash, &key);
            found.hash = crc32c::crc32c_append(found.hash, &value);
            if bucket == "key" {
                let revision = key.first_chunk().map(|main| i64::from_be_bytes(*main));
                found.revision = revision.unwrap_or(found.revision);
                let record = KeyValue::decode(value).map_err(|err| {
                    Failure::error(format!("{path}: a record cannot be decoded: {err}"))
                })?;
                if key.len() > REVISION_BYTES {
                    keys.remove(&record.key);
                } else {
                    keys.insert(record.key);
                }
            } else if bucket == "meta" && key == "storageVersion" {
                found.version = String::from_utf8_lossy(&value).into_owned();
            }
        }
    }
    found.keys = keys.len();
    Ok(found)
}

/// Compares the SHA-256 at the end with that of everything before.
fn verify(file: &File, size: u64) -> io::Result<Result<(), Failure>> {
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut hasher = Sha256::new();
    let content = size - HASH_BYTES as u64;
    let copied = io::copy(&mut reader.by_ref().take(content), &mut hasher)?;
    let mut expected = [0; HASH_BYTES];
    reader.read_exact(&mut expected)?;
    let hash = hasher.finalize();
    if copied == content && hash[..] == expected {
        return Ok(Ok(()));
    }
    Ok(Err(Failure::error(mismatch(&expected, &hash))))
}
