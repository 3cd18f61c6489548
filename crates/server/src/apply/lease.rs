//! Leases: grant, revoke, expiry and checkpoints.
//!
//! | table | key | value |
//! |---|---|---|
//! | [`Table::Lease`] | lease ID, 8 bytes, big endian | encoded `LeaseRecord` |
//!
//! The keys of a lease are not stored with it: every pair names its lease.
//!
//! Source: etcd `server/lease/lessor.go`.

use bytes::Bytes;
use kvd_api::error::WireError;
use kvd_api::pb::etcdserverpb::LeaseGrantRequest;
use kvd_api::pb::kvdcommandpb::{LeaseCheckpoint, LeaseExpire, LeaseRecord};
use kvd_mvcc::{Table, Writer};
use prost::Message;

use super::outcome::{Applied, Outcome};
use crate::lease::Leases;
use crate::limits;

/// Grants a lease. The proposer has chosen its ID and raised its TTL to the minimum.
///
/// Answers: [`WireError::TooLargeLeaseTtl`], [`WireError::LeaseAlreadyExists`].
pub(super) fn grant(
    writer: &mut Writer,
    leases: &Leases,
    request: &LeaseGrantRequest,
) -> Outcome<Applied> {
    let LeaseGrantRequest { id, ttl } = *request;
    if id == 0 {
        return Err(WireError::RequestedLeaseNotFound.into());
    }
    if u64::try_from(ttl).is_ok_and(|ttl| ttl > limits::LEASE_TTL_MAX_SECONDS) {
        return Err(WireError::TooLargeLeaseTtl.into());
    }
    if leases.contains(id) {
        return Err(WireError::LeaseAlreadyExists.into());
    }
    store(
        writer,
        &LeaseRecord {
            id,
            ttl,
            remaining_ttl: 0,
        },
    );
    leases.grant(id, ttl);
    Ok(Applied::LeaseGranted { id, ttl })
}

/// Revokes a lease: its keys are deleted in order, at one revision.
///
/// One revision means one step: a lease with very many keys holds up the writes that come after it,
/// but neither reads nor renewals (see ARCHITECTURE.md, the life of a lease expiry).
///
/// Answers: [`WireError::RequestedLeaseNotFound`].
pub(super) fn revoke(writer: &mut Writer, leases: &Leases, id: i64) -> Outcome<Applied> {
    let Some(keys) = leases.take_keys(id) else {
        return Err(WireError::RequestedLeaseNotFound.into());
    };
    let mut txn = writer.txn();
    txn.delete_keys(keys.iter().map(AsRef::as_ref));
    txn.end();
    writer.table_delete(Table::Lease, &id.to_be_bytes());
    leases.revoke(id);
    Ok(Applied::LeaseRevoked)
}

/// Revokes a lease that has run out by the clock of the leader that appended the entry of `term`.
///
/// Answers: those of [`revoke`]; [`WireError::LeaderChanged`] when another leader said so.
pub(super) fn expire(
    writer: &mut Writer,
    leases: &Leases,
    request: &LeaseExpire,
    term: u64,
) -> Outcome<Applied> {
    if request.term != term {
        return Err(WireError::LeaderChanged.into());
    }
    revoke(writer, leases, request.id)
}

/// Notes what is left of leases. Those that are gone are passed over.
///
/// Answers: [`WireError::LeaderChanged`] when another leader than that of `term` said so.
pub(super) fn checkpoint(
    writer: &mut Writer,
    leases: &Leases,
    request: &LeaseCheckpoint,
    term: u64,
) -> Outcome<Applied> {
    if request.term != term {
        return Err(WireError::LeaderChanged.into());
    }
    for left in &request.leases {
        if let Some(record) = leases.checkpoint(left.id, left.remaining_ttl) {
            store(writer, &record);
        }
    }
    Ok(Applied::LeasesCheckpointed)
}

fn store(writer: &mut Writer, record: &LeaseRecord) {
    let key = Bytes::copy_from_slice(&record.id.to_be_bytes());
    writer.table_put(Table::Lease, key, record.encode_to_vec().into());
}
