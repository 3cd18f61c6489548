//! Writing the database.

use std::fs::File;

use bytes::Bytes;
use kvd_api::pb::etcdserverpb::Member;
use kvd_mvcc::{Content, Table};
use prost::Message;

use super::{BUCKETS, member};
use crate::error::{Error, Result};
use crate::services::maintenance::STORAGE_VERSION;

/// What etcd writes for a member that was removed.
const REMOVED: &[u8] = b"removed";

type Pairs = Vec<(Bytes, Bytes)>;

/// Writes `content` to `file`, which is empty, as the database of an etcd member; returns the file
/// and the length of the database. No hash follows it, and nothing is synced. Memory is bounded by
/// the small tables. Blocks on the disk.
///
/// Errors: [`Error::Backup`] when the file cannot be written; those of reading the store.
pub fn export(mut content: Content, file: File) -> Result<(File, u64)> {
    let mut writer = kvd_bbolt::Writer::new(file)?;
    for bucket in BUCKETS {
        writer.bucket(bucket.as_bytes())?;
        if bucket == "key" {
            loop {
                let records = content.next_records()?;
                if records.is_empty() {
                    break;
                }
                for (key, value) in records {
                    writer.put(key.as_bytes(), &value)?;
                }
            }
            continue;
        }
        for (key, value) in pairs(bucket, &content)? {
            writer.put(&key, &value)?;
        }
    }
    Ok(writer.finish()?)
}

/// The pairs of a small bucket, in order of key.
fn pairs(bucket: &str, content: &Content) -> Result<Pairs> {
    let table = |wanted: Table| -> Pairs {
        let entries = content.tables().iter();
        let wanted = entries.filter(|(table, ..)| *table == wanted);
        wanted
            .map(|(_, key, value)| (key.clone(), value.clone()))
            .collect()
    };
    let mut pairs = match bucket {
        "alarm" => table(Table::Alarm),
        "auth" => table(Table::Auth),
        "authRoles" => table(Table::AuthRoles),
        "authUsers" => table(Table::AuthUsers),
        "cluster" => table(Table::Cluster),
        "lease" => table(Table::Lease),
        "members" => members(&table(Table::Members))?,
        "members_removed" => removed(&table(Table::MembersRemoved))?,
        "meta" => meta(content, table(Table::Meta))?,
        other => return Err(Error::Internal(format!("no such bucket: {other}"))),
    };
    pairs.sort();
    Ok(pairs)
}

fn members(entries: &Pairs) -> Result<Pairs> {
    let translate = |(_, record): &(Bytes, Bytes)| {
        let stored = Member::decode(record.clone());
        let stored = stored.map_err(|error| {
            Error::Internal(format!("a stored member record is damaged: {error}"))
        })?;
        let value = member::value(&stored).map_err(unwritable)?;
        Ok((member::key(stored.id).into(), value.into()))
    };
    entries.iter().map(translate).collect()
}

fn removed(entries: &Pairs) -> Result<Pairs> {
    let translate = |(key, _): &(Bytes, Bytes)| {
        let id = key.first_chunk().map(|id| u64::from_be_bytes(*id));
        let id = id.ok_or_else(|| Error::Internal("a removed member without an ID".into()))?;
        Ok((member::key(id).into(), Bytes::from_static(REMOVED)))
    };
    entries.iter().map(translate).collect()
}

fn meta(content: &Content, mut pairs: Pairs) -> Result<Pairs> {
    let place = kvd_raft::read_position(content.position().bytes.clone())?;
    let ids = |voter: bool| {
        let members = place.members.iter();
        let wanted = members.filter(|member| member.voter == voter);
        wanted.map(|member| member.id).collect()
    };
    let conf_state = member::conf_state(ids(true), ids(false)).map_err(unwritable)?;
    let mut put = |key: &'static str, value: Bytes| pairs.push((key.into(), value));
    put("confState", conf_state.into());
    put(
        "consistent_index",
        Bytes::copy_from_slice(&place.index.to_be_bytes()),
    );
    put("storageVersion", storage_version(content));
    put("term", Bytes::copy_from_slice(&place.term.to_be_bytes()));
    Ok(pairs)
}

/// That of the cluster, as [`storage_version`](crate::services::maintenance::storage_version) has it.
fn storage_version(content: &Content) -> Bytes {
    let entries = content.tables().iter();
    let mut version = entries
        .filter(|(table, key, _)| *table == Table::Cluster && key == "clusterVersion")
        .map(|(.., value)| value.clone());
    version
        .next()
        .unwrap_or_else(|| Bytes::from_static(STORAGE_VERSION.as_bytes()))
}

fn unwritable(error: serde_json::Error) -> Error {
    Error::Internal(format!("a member cannot be written as JSON: {error}"))
}
