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
use super::v2;
use crate::lease::Leases;
use crate::limits;
use crate::metrics::Metrics;

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

/// Revokes a lease that a client of the v3 API names. Those of v2's TTLs are not its to revoke.
///
/// Answers: [`WireError::RequestedLeaseNotFound`].
pub(super) fn revoke(writer: &mut Writer, leases: &Leases, id: i64) -> Outcome<Applied> {
    match leases.is_v2(id) {
        true => Err(WireError::RequestedLeaseNotFound.into()),
        false => end(writer, leases, id),
    }
}

/// Ends a lease: its keys are deleted in order, at one revision. A key of the v2 tree expires with
/// all below it.
///
/// One revision means one step: a lease with very many keys holds up the writes that come after it,
/// but neither reads nor renewals (see ARCHITECTURE.md, the life of a lease expiry).
fn end(writer: &mut Writer, leases: &Leases, id: i64) -> Outcome<Applied> {
    let Some(keys) = leases.take_keys(id) else {
        return Err(WireError::RequestedLeaseNotFound.into());
    };
    // They are behind all others.
    let has_v2 = keys.last().is_some_and(|key| v2::is_reserved(key));
    let mut txn = writer.txn();
    txn.delete_keys(
        keys.iter()
            .map(AsRef::as_ref)
            .filter(|key| !v2::is_reserved(key)),
    );
    let mut gone = vec![id];
    if has_v2 {
        for key in keys.iter().filter(|key| v2::is_reserved(key)) {
            v2::expire(&mut txn, &Bytes::copy_from_slice(key))?;
        }
        let detached = v2::detach(&txn, leases);
        gone.extend(detached.into_iter().filter(|other| *other != id));
    }
    // Before the deletions are seen, as in etcd: who hears of them finds no lease any more.
    for lease in &gone {
        leases.revoke(*lease);
    }
    txn.end();
    for lease in gone {
        forget(writer, leases, lease);
    }
    Ok(Applied::LeaseRevoked)
}

/// Removes a lease that has no keys any more.
pub(super) fn forget(writer: &mut Writer, leases: &Leases, id: i64) {
    writer.table_delete(Table::Lease, &id.to_be_bytes());
    leases.revoke(id);
}

/// Revokes a lease that has run out by the clock of the leader that appended the entry of `term`.
///
/// Answers: [`WireError::RequestedLeaseNotFound`]; [`WireError::LeaderChanged`] when another leader
/// said so.
pub(super) fn expire(
    writer: &mut Writer,
    leases: &Leases,
    metrics: &Metrics,
    request: &LeaseExpire,
    term: u64,
) -> Outcome<Applied> {
    if request.term != term {
        return Err(WireError::LeaderChanged.into());
    }
    if leases.is_v2(request.id) {
        metrics.v2.expire();
    }
    end(writer, leases, request.id)
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

/// Stores what there is of a lease.
pub(super) fn store(writer: &mut Writer, record: &LeaseRecord) {
    let key = Bytes::copy_from_slice(&record.id.to_be_bytes());
    writer.table_put(Table::Lease, key, record.encode_to_vec().into());
}
