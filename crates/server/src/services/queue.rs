//! Keys below one prefix as a queue: the oldest one's turn it is.
//!
//! ```text
//!  NAME/6f2a   created at 12   holds the lock, leads
//!  NAME/71c4   created at 15   waits for the deletion of the one before it, and of no other:
//!  NAME/70b9   created at 19   a deletion wakes one waiter
//! ```
//!
//! A key is named for its lease, so one lease stands in a queue once, and a key goes when its lease
//! does. Whoever gives up while waiting takes its key away.
//!
//! Source: etcd `client/v3/concurrency/key.go`.

use bytes::Bytes;
use kvd_api::error::WireError;
use kvd_api::pb::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use kvd_api::pb::etcdserverpb::range_request::{SortOrder, SortTarget};
use kvd_api::pb::etcdserverpb::request_op::Request as Op;
use kvd_api::pb::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, ResponseHeader, TxnRequest, TxnResponse,
};
use kvd_api::pb::mvccpb::KeyValue;
use kvd_mvcc::{Delivery, WatchOptions};
use tokio::runtime::Handle;
use tonic::Status;

use super::on_behalf::{OnBehalf, op, pairs_of};

/// All keys of the queue `name`: its prefix, and the end of the range.
pub(super) fn bounds(name: &[u8]) -> (Bytes, Bytes) {
    // `0` comes after `/`.
    (
        Bytes::from([name, b"/"].concat()),
        Bytes::from([name, b"0"].concat()),
    )
}

/// A key in a queue.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// `NAME/LEASE`.
    pub(super) key: Bytes,
    /// Where it was created: its place in the queue, and the fencing token of who holds it.
    pub(super) revision: i64,
    /// The lease that it is attached to.
    pub(super) lease: i64,
}

/// The key of a lease in the queue `name`, with the number as Go prints it.
pub(super) fn key(name: &[u8], lease: i64) -> Bytes {
    let sign = if lease < 0 { "-" } else { "" };
    Bytes::from(
        [
            name,
            format!("/{sign}{:x}", lease.unsigned_abs()).as_bytes(),
        ]
        .concat(),
    )
}

/// A read of the oldest key of a queue.
pub(super) fn oldest(name: &[u8]) -> RangeRequest {
    let (key, range_end) = bounds(name);
    RangeRequest {
        key,
        range_end,
        limit: 1,
        sort_order: SortOrder::Ascend as i32,
        sort_target: SortTarget::Create as i32,
        ..RangeRequest::default()
    }
}

/// A read of one key.
pub(super) fn get(key: &Bytes) -> RangeRequest {
    RangeRequest {
        key: key.clone(),
        ..RangeRequest::default()
    }
}

/// Holds if `key` was created at `revision`; zero means that it is not there.
fn created_at(key: &Bytes, revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal as i32,
        target: CompareTarget::Create as i32,
        key: key.clone(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
        ..Compare::default()
    }
}

/// Takes a place in the queue `name` for `lease`, or finds the one that it has. `also` is read in
/// the same transaction, as its second operation.
///
/// Errors: those of Txn; a lease that is not there among them.
pub(super) async fn enter(
    caller: &OnBehalf,
    (name, lease): (&[u8], i64),
    value: Bytes,
    also: Option<RangeRequest>,
) -> Result<(Place, TxnResponse), Status> {
    let key = key(name, lease);
    let put = PutRequest {
        key: key.clone(),
        value,
        lease,
        ..PutRequest::default()
    };
    let also = || also.clone().map(|range| op(Op::RequestRange(range)));
    let txn = TxnRequest {
        compare: vec![created_at(&key, 0)],
        success: [op(Op::RequestPut(put))]
            .into_iter()
            .chain(also())
            .collect(),
        failure: [op(Op::RequestRange(get(&key)))]
            .into_iter()
            .chain(also())
            .collect(),
    };
    let answer = caller.txn(txn).await?;
    let revision = if answer.succeeded {
        answer.header.map_or(0, |header| header.revision)
    } else {
        pairs_of(&answer, 0)?
            .first()
            .map_or(0, |kv| kv.create_revision)
    };
    let place = Place {
        key,
        revision,
        lease,
    };
    Ok((place, answer))
}

/// Writes the value of a place, unless it is lost.
///
/// Errors: those of Txn.
pub(super) async fn write(
    caller: &OnBehalf,
    place: &Place,
    value: Bytes,
) -> Result<TxnResponse, Status> {
    let put = PutRequest {
        key: place.key.clone(),
        value,
        lease: place.lease,
        ..PutRequest::default()
    };
    if_there(caller, place, Op::RequestPut(put)).await
}

/// Gives a place up, unless it is lost.
///
/// Errors: those of Txn.
pub(super) async fn leave(caller: &OnBehalf, place: &Place) -> Result<TxnResponse, Status> {
    let delete = DeleteRangeRequest {
        key: place.key.clone(),
        ..DeleteRangeRequest::default()
    };
    if_there(caller, place, Op::RequestDeleteRange(delete)).await
}

async fn if_there(caller: &OnBehalf, place: &Place, then: Op) -> Result<TxnResponse, Status> {
    let txn = TxnRequest {
        compare: vec![created_at(&place.key, place.revision)],
        success: vec![op(then)],
        failure: Vec::new(),
    };
    caller.txn(txn).await
}

/// Waits until `place` is the oldest of the queue `name`. Returns the header of the read that saw
/// it so; `None` when the place is lost: its lease is over, or somebody deleted the key.
///
/// Differs from etcd: there a lost place waits on until all that are older are gone.
///
/// Errors: those of Txn; [`WireError::ServerStopped`].
pub(super) async fn wait_for_turn(
    caller: &OnBehalf,
    name: &[u8],
    place: &Place,
) -> Result<Option<ResponseHeader>, Status> {
    let (prefix, range_end) = bounds(name);
    let before = RangeRequest {
        key: prefix,
        range_end,
        limit: 1,
        sort_order: SortOrder::Descend as i32,
        sort_target: SortTarget::Create as i32,
        max_create_revision: place.revision - 1,
        keys_only: true,
        ..RangeRequest::default()
    };
    let look = TxnRequest {
        success: vec![
            op(Op::RequestRange(get(&place.key))),
            op(Op::RequestRange(before)),
        ],
        ..TxnRequest::default()
    };
    loop {
        let seen = caller.txn(look.clone()).await?;
        let header = seen.header.unwrap_or_default();
        let own = pairs_of(&seen, 0)?;
        if own.first().map(|kv| kv.create_revision) != Some(place.revision) {
            return Ok(None);
        }
        let Some(KeyValue { key: before, .. }) = pairs_of(&seen, 1)?.pop() else {
            return Ok(Some(header));
        };
        one_deleted(caller, [before, place.key.clone()], header.revision).await?;
    }
}

/// Waits until one of `keys`, which are there at `revision`, is deleted after it.
///
/// It may come back without that, so the caller looks.
///
/// Errors: [`WireError::ServerStopped`].
async fn one_deleted(caller: &OnBehalf, keys: [Bytes; 2], revision: i64) -> Result<(), Status> {
    let core = caller.core();
    let mut watches = core.store().watch_stream();
    for key in keys {
        let options = WatchOptions {
            key,
            start_revision: revision + 1,
            no_put: true,
            ..WatchOptions::default()
        };
        let made = watches.watch(options);
        made.map_err(|error| kvd_api::error::internal(error.to_string()))?;
    }
    loop {
        let delivery = tokio::select! {
            delivery = watches.next() => delivery,
            () = core.stopped() => None,
        };
        match delivery {
            Some(Delivery::Events { .. } | Delivery::Compacted { .. }) => return Ok(()),
            Some(Delivery::Progress { .. }) => {}
            None => return Err(WireError::ServerStopped.into()),
        }
    }
}

/// Gives a place up when it is dropped: the caller went away while it waited.
pub(super) struct Waiting {
    caller: OnBehalf,
    place: Option<Place>,
    runtime: Handle,
}

impl Waiting {
    /// Watches over `place`. To be made on a runtime.
    pub(super) fn new(caller: &OnBehalf, place: &Place) -> Waiting {
        Waiting {
            caller: caller.clone(),
            place: Some(place.clone()),
            runtime: Handle::current(),
        }
    }

    /// The wait is over, and the place is kept.
    pub(super) fn keep(mut self) {
        self.place = None;
    }

    /// The wait is over, and the place is given up before this returns. A failure is logged: the
    /// place goes with its lease at the latest.
    pub(super) async fn leave(mut self) {
        if let Some(place) = self.place.take() {
            give_up(&self.caller, &place).await;
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            let caller = self.caller.clone();
            self.runtime
                .spawn(async move { give_up(&caller, &place).await });
        }
    }
}

async fn give_up(caller: &OnBehalf, place: &Place) {
    if let Err(error) = leave(caller, place).await {
        let lease_id = format!("{:016x}", place.lease);
        tracing::debug!(lease_id, %error, "a place in a queue was not given up; it goes with its lease");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_named_as_etcd_names_them() {
        assert_eq!(key(b"lock", 0x7d7b_a223_4891_5a03), "lock/7d7ba22348915a03");
        assert_eq!(key(b"", 10), "/a");
        assert_eq!(key(b"n", -1), "n/-1");
        assert_eq!(key(b"n", i64::MIN), "n/-8000000000000000");
        let (prefix, end) = bounds(b"n");
        assert_eq!((&prefix[..], &end[..]), (&b"n/"[..], &b"n0"[..]));
    }
}
