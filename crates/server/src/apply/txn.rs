//! Transactions.
//!
//! A transaction runs in three steps, nested transactions in the same step as their parents:
//!
//! 1. *choose*: every compare is evaluated against the state before the transaction; that settles
//!    which branches run. The choices are kept in the order in which they were made.
//! 2. *check*: the operations of those branches are checked for what could fail. If anything does,
//!    nothing is written.
//! 3. *run*: the operations are carried out in order; each sees what those before it wrote. All
//!    writes share one revision.
//!
//! Example: `if a = 1 then { if b = 2 then X else Y; Z } else W`, where only `a = 1` holds,
//! gives the choices `[true, false]`, and runs Y and Z.
//!
//! Source: etcd `server/etcdserver/txn/txn.go`.

use std::cmp::Ordering;
use std::slice;

use kvd_api::error::WireError;
use kvd_api::pb::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use kvd_api::pb::etcdserverpb::request_op::Request;
use kvd_api::pb::etcdserverpb::response_op::Response;
use kvd_api::pb::etcdserverpb::{
    Compare, PutRequest, RangeRequest, RequestOp, ResponseHeader, ResponseOp, TxnRequest,
    TxnResponse,
};
use kvd_api::pb::mvccpb::KeyValue;
use kvd_api::wire::RangeResponse;
use kvd_mvcc::{Error, RangeOptions, Store, WriteTxn, Writer};

use super::kv::{
    check_lease, delete_range_in, header, keeps_something, previous, put_in, revision_in,
};
use super::outcome::{Applied, Failure, Outcome};
use super::range::{Pinned, View, decode, range};
use super::v2;
use crate::lease::Leases;

/// How often a read-only transaction pins a new revision because a compaction overtook it.
const PINS_MAX: usize = 8;

/// Whether the transaction only reads, so that it needs no entry in the log.
///
/// A nested transaction counts as a write even if it only reads. No operation at all is read-only.
/// Source: etcd `IsTxnReadonly`.
pub fn is_read_only(request: &TxnRequest) -> bool {
    ops(request).all(|op| matches!(op.request, Some(Request::RequestRange(_))))
}

/// Whether a read-only transaction may be answered from local, perhaps stale, state: every
/// operation is a serializable range. Compares do not count. Source: etcd `IsTxnSerializable`.
pub fn is_serializable(request: &TxnRequest) -> bool {
    ops(request)
        .all(|op| matches!(&op.request, Some(Request::RequestRange(range)) if range.serializable))
}

fn ops(request: &TxnRequest) -> impl Iterator<Item = &RequestOp> {
    request.success.iter().chain(&request.failure)
}

/// Answers a transaction for which [`is_read_only`] holds, from one pinned revision.
///
/// Errors: [`Error::Compacted`] and [`Error::FutureRevision`] for a range that asks for such a
/// revision; faults of the store.
pub fn read_only_txn(store: &Store, request: &TxnRequest) -> Result<TxnResponse, Error> {
    let mut pins = 1;
    loop {
        let pinned = Pinned::new(store);
        match read_at(&pinned, store, request) {
            // Not what the request asked for, but what was pinned for it, was compacted.
            Err(Error::Compacted { requested, .. })
                if requested == pinned.revision() && pins < PINS_MAX =>
            {
                pins += 1;
            }
            result => return result,
        }
    }
}

fn read_at(pinned: &Pinned<'_>, store: &Store, request: &TxnRequest) -> Result<TxnResponse, Error> {
    let succeeded = holds(pinned, &request.compare)?;
    let branch = if succeeded {
        &request.success
    } else {
        &request.failure
    };
    let ranges = || {
        branch.iter().filter_map(|op| match &op.request {
            Some(Request::RequestRange(range)) => Some(range),
            _ => None,
        })
    };
    for request in ranges() {
        check_range(request, pinned.revision(), store.compacted_revision())?;
    }
    let mut responses = Vec::with_capacity(branch.len());
    for request in ranges() {
        responses.push(ResponseOp {
            response: Some(Response::ResponseRange(range(
                pinned,
                &without_v2(request),
            )?)),
        });
    }
    Ok(TxnResponse {
        header: Some(header(pinned.revision())),
        succeeded,
        responses,
    })
}

/// Runs a transaction at one revision.
///
/// `is_awaited`: whether anybody will see the response. If not, ranges are not run and previous
/// pairs not fetched: only what is written matters then.
///
/// Answers: [`Error::Compacted`] and [`Error::FutureRevision`] of ranges;
/// [`WireError::RequestedLeaseNotFound`] and [`WireError::KeyNotFound`] of puts.
pub(super) fn txn(
    writer: &mut Writer,
    store: &Store,
    leases: &Leases,
    request: TxnRequest,
    is_awaited: bool,
) -> Outcome<Applied> {
    let mut choices = Vec::new();
    choose(store, &request, &mut choices)?;
    let mut check = Check {
        store,
        revision: store.current_revision(),
        compacted: store.compacted_revision(),
        deleted: Vec::new(),
    };
    check.txn(&request, &mut choices.iter())?;
    let mut run = Run {
        txn: writer.txn(),
        is_awaited,
    };
    let mut response = run.txn(request, &mut choices.iter())?;
    leases.change(run.txn.lease_changes());
    let revision = run.txn.end();
    response.header = Some(header(revision));
    Ok(Applied::Txn(response))
}

/// The choices that were made, in order; consumed by each later step in the same order.
type Choices<'a> = slice::Iter<'a, bool>;

fn next(choices: &mut Choices<'_>) -> Outcome<bool> {
    match choices.next() {
        Some(choice) => Ok(*choice),
        None => Err(Failure::broken("a transaction ran out of choices")),
    }
}

fn choose(view: &Store, request: &TxnRequest, choices: &mut Vec<bool>) -> Result<(), Error> {
    let succeeded = holds(view, &request.compare)?;
    choices.push(succeeded);
    for op in if succeeded {
        &request.success
    } else {
        &request.failure
    } {
        if let Some(Request::RequestTxn(nested)) = &op.request {
            choose(view, nested, choices)?;
        }
    }
    Ok(())
}

struct Check<'a> {
    store: &'a Store,
    revision: i64,
    compacted: i64,
    /// What the operations before this one delete.
    deleted: Vec<(&'a [u8], &'a [u8])>,
}

impl<'a> Check<'a> {
    fn txn(&mut self, request: &'a TxnRequest, choices: &mut Choices<'_>) -> Outcome<()> {
        let branch = if next(choices)? {
            &request.success
        } else {
            &request.failure
        };
        for op in branch {
            match &op.request {
                Some(Request::RequestRange(range)) => {
                    check_range(range, self.revision, self.compacted)?;
                }
                Some(Request::RequestPut(put)) => self.put(put)?,
                Some(Request::RequestDeleteRange(delete)) => {
                    self.deleted.push((&delete.key, &delete.range_end));
                }
                Some(Request::RequestTxn(nested)) => self.txn(nested, choices)?,
                None => {}
            }
        }
        Ok(())
    }

    /// Differs from etcd: a put that keeps the value of a key which the same transaction deletes
    /// first is refused. etcd panics.
    fn put(&self, put: &PutRequest) -> Outcome<()> {
        check_lease(self.store, put)?;
        if !keeps_something(put) {
            return Ok(());
        }
        let options = RangeOptions {
            keys_only: true,
            ..RangeOptions::default()
        };
        let is_there = !self.store.range(&put.key, &[], &options)?.kvs.is_empty();
        let is_deleted = self
            .deleted
            .iter()
            .any(|(key, end)| covers(key, end, &put.key));
        if !is_there || is_deleted {
            return Err(WireError::KeyNotFound.into());
        }
        Ok(())
    }
}

/// A transaction never sees the v2 tree, whatever a member's flags say: what it compares and writes
/// must be the same on all of them.
fn without_v2(request: &RangeRequest) -> RangeRequest {
    let mut request = request.clone();
    v2::hide(&request.key, &mut request.range_end);
    request
}

/// Whether `[begin, end)` holds `key`, by the rules of `range_end`.
fn covers(begin: &[u8], end: &[u8], key: &[u8]) -> bool {
    match end {
        [] => key == begin,
        [0] => key >= begin,
        end => key >= begin && key < end,
    }
}

/// Refuses a range at a revision that cannot be read.
///
/// A negative revision means the current one elsewhere; here etcd compares it with the compacted
/// revision like any other.
fn check_range(request: &RangeRequest, current: i64, compacted: i64) -> Result<(), Error> {
    let requested = request.revision;
    if requested == 0 {
        Ok(())
    } else if requested > current {
        Err(Error::FutureRevision { requested, current })
    } else if requested < compacted {
        Err(Error::Compacted {
            requested,
            compacted,
        })
    } else {
        Ok(())
    }
}

struct Run<'a> {
    txn: WriteTxn<'a>,
    is_awaited: bool,
}

impl Run<'_> {
    fn txn(&mut self, request: TxnRequest, choices: &mut Choices<'_>) -> Outcome<TxnResponse> {
        let succeeded = next(choices)?;
        let branch = if succeeded {
            request.success
        } else {
            request.failure
        };
        let mut responses = Vec::with_capacity(branch.len());
        for op in branch {
            let response = match op.request {
                Some(request) => Some(self.op(request, choices)?),
                None => None,
            };
            responses.push(ResponseOp { response });
        }
        // The revision of a nested response stays zero, as in etcd.
        let header = Some(ResponseHeader::default());
        Ok(TxnResponse {
            header,
            succeeded,
            responses,
        })
    }

    fn op(&mut self, request: Request, choices: &mut Choices<'_>) -> Outcome<Response> {
        Ok(match request {
            Request::RequestRange(request) => Response::ResponseRange(self.range(&request)?),
            Request::RequestPut(mut request) => {
                request.prev_kv &= self.is_awaited;
                let previous = previous(&self.txn, &request)?;
                Response::ResponsePut(put_in(&mut self.txn, request, previous)?)
            }
            Request::RequestDeleteRange(mut request) => {
                request.prev_kv &= self.is_awaited;
                Response::ResponseDeleteRange(delete_range_in(&mut self.txn, &request)?)
            }
            Request::RequestTxn(request) => Response::ResponseTxn(self.txn(request, choices)?),
        })
    }

    fn range(&self, request: &RangeRequest) -> Outcome<RangeResponse> {
        let mut response = if self.is_awaited {
            range(&self.txn, &without_v2(request))?
        } else {
            RangeResponse::default()
        };
        response.header = Some(header(revision_in(&self.txn)));
        Ok(response)
    }
}

/// Whether all compares hold. No compare at all holds.
fn holds(view: &(impl View + ?Sized), compares: &[Compare]) -> Result<bool, Error> {
    for compare in compares {
        if !compare_holds(view, compare)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a compare holds for every key in its range. A range without keys compares as one key
/// with zeros, except that a value never equals nor differs from one that is not there.
fn compare_holds(view: &(impl View + ?Sized), compare: &Compare) -> Result<bool, Error> {
    let target = CompareTarget::try_from(compare.target).ok();
    let options = RangeOptions {
        // Revisions and versions are in the index; values and leases must be fetched.
        keys_only: !matches!(target, Some(CompareTarget::Value | CompareTarget::Lease)),
        ..RangeOptions::default()
    };
    let mut range_end = compare.range_end.clone();
    v2::hide(&compare.key, &mut range_end);
    let kvs = view.range(&compare.key, &range_end, &options)?.kvs;
    if kvs.is_empty() {
        let is_value = target == Some(CompareTarget::Value);
        return Ok(!is_value && kv_matches(compare, target, &KeyValue::default()));
    }
    for encoded in &kvs {
        if !kv_matches(compare, target, &decode(encoded)?) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Compares one pair. What the compare does not give counts as zero or empty; an unknown target
/// compares as equal, an unknown result holds.
fn kv_matches(compare: &Compare, target: Option<CompareTarget>, kv: &KeyValue) -> bool {
    let wanted = compare.target_union.as_ref();
    let ordering = match target {
        Some(CompareTarget::Version) => kv.version.cmp(&match wanted {
            Some(TargetUnion::Version(version)) => *version,
            _ => 0,
        }),
        Some(CompareTarget::Create) => kv.create_revision.cmp(&match wanted {
            Some(TargetUnion::CreateRevision(revision)) => *revision,
            _ => 0,
        }),
        Some(CompareTarget::Mod) => kv.mod_revision.cmp(&match wanted {
            Some(TargetUnion::ModRevision(revision)) => *revision,
            _ => 0,
        }),
        Some(CompareTarget::Value) => kv.value[..].cmp(match wanted {
            Some(TargetUnion::Value(value)) => value,
            _ => &[],
        }),
        Some(CompareTarget::Lease) => kv.lease.cmp(&match wanted {
            Some(TargetUnion::Lease(lease)) => *lease,
            _ => 0,
        }),
        None => Ordering::Equal,
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => ordering.is_eq(),
        Ok(CompareResult::NotEqual) => ordering.is_ne(),
        Ok(CompareResult::Greater) => ordering.is_gt(),
        Ok(CompareResult::Less) => ordering.is_lt(),
        Err(_) => true,
    }
}
