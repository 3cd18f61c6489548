//! Put, DeleteRange and Compact.
//!
//! Source: etcd `server/etcdserver/txn/{put,delete}.go`, `server/etcdserver/apply/backend.go`.

use kvd_api::error::WireError;
use kvd_api::pb::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse,
    ResponseHeader,
};
use kvd_api::pb::mvccpb::KeyValue;
use kvd_mvcc::{Store, Table, WriteTxn, Writer};

use super::outcome::{Applied, Failure, Outcome};
use super::range::decode;
use super::v2;
use crate::lease::Leases;

/// Writes one pair at a revision of its own.
///
/// Answers: [`WireError::RequestedLeaseNotFound`]; [`WireError::KeyNotFound`] when the value or
/// the lease is to be kept and there is none.
pub(super) fn put(
    writer: &mut Writer,
    store: &Store,
    leases: &Leases,
    request: PutRequest,
) -> Outcome<Applied> {
    check_lease(store, &request)?;
    let mut txn = writer.txn();
    let previous = previous(&txn, &request)?;
    if keeps_something(&request) && previous.is_none() {
        txn.end();
        return Err(WireError::KeyNotFound.into());
    }
    let response = put_in(&mut txn, request, previous)?;
    leases.change(txn.lease_changes());
    txn.end();
    Ok(Applied::Put(response))
}

/// Refuses a put with a lease that does not exist.
///
/// Answers: [`WireError::RequestedLeaseNotFound`].
pub(super) fn check_lease(store: &Store, request: &PutRequest) -> Result<(), WireError> {
    if request.lease != 0 && !lease_exists(store, request.lease) {
        return Err(WireError::RequestedLeaseNotFound);
    }
    Ok(())
}

/// Whether a lease has been granted and neither revoked nor expired.
fn lease_exists(store: &Store, lease: i64) -> bool {
    store
        .table_get(Table::Lease, &lease.to_be_bytes())
        .is_some()
}

/// Whether the put takes its value or its lease from the pair it replaces.
pub(super) fn keeps_something(request: &PutRequest) -> bool {
    request.ignore_value || request.ignore_lease
}

/// The pair that the put replaces, if the put has a use for it.
pub(super) fn previous(txn: &WriteTxn<'_>, request: &PutRequest) -> Outcome<Option<KeyValue>> {
    if request.prev_kv || keeps_something(request) {
        Ok(txn.get(&request.key)?)
    } else {
        Ok(None)
    }
}

/// Writes one pair in a transaction that may write others. `previous` is that of [`previous`].
pub(super) fn put_in(
    txn: &mut WriteTxn<'_>,
    request: PutRequest,
    previous: Option<KeyValue>,
) -> Outcome<PutResponse> {
    let (mut value, mut lease) = (request.value, request.lease);
    if request.ignore_value || request.ignore_lease {
        let Some(kept) = &previous else {
            return Err(Failure::broken("a checked put has no pair to keep from"));
        };
        if request.ignore_value {
            value = kept.value.clone();
        }
        if request.ignore_lease {
            lease = kept.lease;
        }
    }
    txn.put(request.key, value, lease)?;
    Ok(PutResponse {
        header: Some(header(txn.main())),
        prev_kv: previous.filter(|_| request.prev_kv),
    })
}

/// Deletes a range of keys at one revision; none if there is nothing to delete.
pub(super) fn delete_range(
    writer: &mut Writer,
    leases: &Leases,
    request: &DeleteRangeRequest,
) -> Outcome<Applied> {
    let mut txn = writer.txn();
    let response = delete_range_in(&mut txn, request)?;
    leases.change(txn.lease_changes());
    txn.end();
    Ok(Applied::DeleteRange(response))
}

/// Deletes a range of keys in a transaction that may write others.
pub(super) fn delete_range_in(
    txn: &mut WriteTxn<'_>,
    request: &DeleteRangeRequest,
) -> Outcome<DeleteRangeResponse> {
    let mut range_end = request.range_end.clone();
    v2::hide(&request.key, &mut range_end);
    let (deleted, previous) = txn.delete_range(&request.key, &range_end, request.prev_kv)?;
    let prev_kvs = previous.iter().map(decode).collect::<Result<_, _>>()?;
    Ok(DeleteRangeResponse {
        header: Some(header(revision_in(txn))),
        deleted: i64::try_from(deleted).unwrap_or(i64::MAX),
        prev_kvs,
    })
}

/// The revision that an operation in the transaction reports: its own once it has changed
/// anything, else the current one.
pub(super) fn revision_in(txn: &WriteTxn<'_>) -> i64 {
    if txn.changed() {
        txn.main()
    } else {
        txn.main() - 1
    }
}

/// Schedules a compaction; the records go in the background.
///
/// Answers: [`WireError::Compacted`] at or below the compacted revision,
/// [`WireError::FutureRevision`] above the current one.
pub(super) fn compact(
    writer: &mut Writer,
    store: &Store,
    request: &CompactionRequest,
) -> Outcome<Applied> {
    writer.compact(request.revision)?;
    Ok(Applied::Compacted {
        revision: store.current_revision(),
    })
}

/// A header with nothing but a revision.
pub(super) fn header(revision: i64) -> ResponseHeader {
    ResponseHeader {
        revision,
        ..ResponseHeader::default()
    }
}
