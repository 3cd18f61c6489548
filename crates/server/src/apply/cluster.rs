//! Member records and the cluster's version, as clients see them.
//!
//! Who votes is settled by Raft's own membership entries. Each of them sets the member records
//! here; a member then publishes its name and client URLs, which Raft does not know.
//!
//! | table | key | value |
//! |---|---|---|
//! | [`Table::Members`] | member ID, 8 bytes, big endian | encoded `Member` |
//! | [`Table::MembersRemoved`] | member ID, 8 bytes, big endian | empty |
//! | [`Table::Cluster`] | `clusterVersion` | `major.minor.patch` |

use std::collections::BTreeSet;

use bytes::Bytes;
use kvd_api::pb::etcdserverpb::Member;
use kvd_api::pb::kvdcommandpb::{PublishMember, SetClusterVersion};
use kvd_mvcc::{Store, Table, Writer};
use prost::Message;

use super::outcome::Applied;
use crate::error::{Error, Result};

const CLUSTER_VERSION: &[u8] = b"clusterVersion";

/// The members, by ID.
///
/// Errors: [`Error::Internal`] when a stored record cannot be read.
pub fn members(store: &Store) -> Result<Vec<Member>> {
    store
        .table_scan(Table::Members)
        .into_iter()
        .map(|(_, record)| decode(record))
        .collect()
}

/// One member, if the cluster has it.
///
/// Errors: [`Error::Internal`] when its stored record cannot be read.
pub fn member(store: &Store, id: u64) -> Result<Option<Member>> {
    member_record(store, id)
}

/// Whether a member of this ID was removed from the cluster, which is for ever.
pub fn is_removed(store: &Store, id: u64) -> bool {
    store.table_get(Table::MembersRemoved, &key(id)).is_some()
}

/// The version that every member supports, `None` until the first leader has set it.
pub fn cluster_version(store: &Store) -> Option<String> {
    let version = store.table_get(Table::Cluster, CLUSTER_VERSION)?;
    Some(String::from_utf8_lossy(&version).into_owned())
}

/// Makes the member records those of `wanted`. Names and client URLs that were published are kept;
/// who is not wanted any more is remembered as removed.
///
/// Errors: [`Error::Internal`] when a stored record cannot be read.
pub(super) fn set_members(
    writer: &mut Writer,
    store: &Store,
    wanted: &[kvd_raft::Member],
) -> Result<()> {
    let mut gone: BTreeSet<u64> = members(store)?.iter().map(|member| member.id).collect();
    for member in wanted {
        gone.remove(&member.id);
        let stored = member_record(store, member.id)?;
        let mut record = stored.clone().unwrap_or_else(|| Member {
            id: member.id,
            name: member.name.clone(),
            ..Member::default()
        });
        record.peer_ur_ls.clone_from(&member.peer_urls);
        record.is_learner = !member.voter;
        if stored.as_ref() != Some(&record) {
            put_record(writer, &record);
        }
        if is_removed(store, member.id) {
            writer.table_delete(Table::MembersRemoved, &key(member.id));
        }
    }
    for id in gone {
        writer.table_delete(Table::Members, &key(id));
        writer.table_put(
            Table::MembersRemoved,
            Bytes::copy_from_slice(&key(id)),
            Bytes::new(),
        );
    }
    Ok(())
}

/// Sets a member's name and client URLs. A member that has been removed meanwhile stays so.
///
/// Errors: [`Error::Internal`] when a stored record cannot be read.
pub(super) fn publish(
    writer: &mut Writer,
    store: &Store,
    request: PublishMember,
) -> Result<Applied> {
    match member_record(store, request.member_id)? {
        Some(mut record) => {
            record.name = request.name;
            record.client_ur_ls = request.client_urls;
            put_record(writer, &record);
        }
        None => tracing::warn!(
            member_id = format!("{:x}", request.member_id),
            name = request.name,
            "a member that is not of this cluster published its name"
        ),
    }
    Ok(Applied::Published)
}

/// Sets the cluster's version.
pub(super) fn set_version(writer: &mut Writer, request: SetClusterVersion) -> Applied {
    writer.table_put(
        Table::Cluster,
        Bytes::from_static(CLUSTER_VERSION),
        request.version.into_bytes().into(),
    );
    Applied::ClusterVersionSet
}

fn member_record(store: &Store, id: u64) -> Result<Option<Member>> {
    store
        .table_get(Table::Members, &key(id))
        .map(decode)
        .transpose()
}

fn put_record(writer: &mut Writer, record: &Member) {
    let key = Bytes::copy_from_slice(&key(record.id));
    writer.table_put(Table::Members, key, record.encode_to_vec().into());
}

fn decode(record: Bytes) -> Result<Member> {
    Member::decode(record)
        .map_err(|error| Error::Internal(format!("a stored member record is damaged: {error}")))
}

fn key(id: u64) -> [u8; 8] {
    id.to_be_bytes()
}
