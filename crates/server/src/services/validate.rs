//! Checks that a KV request is well formed, before anything is proposed or read.
//!
//! The rules, their order and the errors are etcd's: clients recognise errors by their text, and
//! scripts rely on which of two mistakes is reported first.
//!
//! A transaction is checked in two passes. The first walks it for empty keys, bad options and its
//! size; the second looks for keys that the same run would write twice. In that order, because
//! the second is the expensive one and the first bounds it.
//!
//! Source: etcd `server/etcdserver/api/v3rpc/key.go`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use kvd_api::error::WireError;
use kvd_api::pb::etcdserverpb::range_request::{SortOrder, SortTarget};
use kvd_api::pb::etcdserverpb::request_op::Request;
use kvd_api::pb::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};

use crate::apply::v2;

/// Most levels of transactions in transactions, the outermost included.
///
/// A log entry is decoded by every member, and the decoder refuses messages nested deeper than 100
/// levels; a level of transaction takes two of them. What passes here can always be applied.
///
/// Differs from etcd: there only `max-txn-ops` bounds the nesting.
pub const TXN_DEPTH_MAX: usize = 32;

/// Checks a range request.
///
/// Errors: [`WireError::EmptyKey`]; [`WireError::InvalidSortOption`] for unknown enum numbers.
pub fn range(request: &RangeRequest) -> Result<(), WireError> {
    if request.key.is_empty() {
        return Err(WireError::EmptyKey);
    }
    if SortOrder::try_from(request.sort_order).is_err()
        || SortTarget::try_from(request.sort_target).is_err()
    {
        return Err(WireError::InvalidSortOption);
    }
    Ok(())
}

/// Checks a streamed range request: only results in the order of keys can be streamed.
///
/// Errors: those of [`range`]; [`WireError::RangeStreamSort`], [`WireError::RangeStreamFilter`].
pub fn range_stream(request: &RangeRequest) -> Result<(), WireError> {
    range(request)?;
    if !is_default_order(request) {
        return Err(WireError::RangeStreamSort);
    }
    if has_revision_filters(request) {
        return Err(WireError::RangeStreamFilter);
    }
    Ok(())
}

/// Whether the pairs are asked for in the order in which the store yields them.
///
/// A request that names a sort target but no order counts as default order: etcd cuts it to the
/// limit first and sorts afterwards.
pub fn is_default_order(request: &RangeRequest) -> bool {
    request.sort_order == SortOrder::None as i32
        || (request.sort_order == SortOrder::Ascend as i32
            && request.sort_target == SortTarget::Key as i32)
}

/// Whether pairs are to be left out by their create or mod revision.
pub fn has_revision_filters(request: &RangeRequest) -> bool {
    request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0
}

/// Checks a put request.
///
/// Errors: [`WireError::EmptyKey`]; [`WireError::ValueIsProvided`] and
/// [`WireError::LeaseIsProvided`] when a value or lease comes along that is to be ignored;
/// [`WireError::ReservedKey`] for a key of the v2 tree.
pub fn put(request: &PutRequest) -> Result<(), WireError> {
    if request.key.is_empty() {
        return Err(WireError::EmptyKey);
    }
    if v2::is_reserved(&request.key) {
        return Err(WireError::ReservedKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(WireError::ValueIsProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(WireError::LeaseIsProvided);
    }
    Ok(())
}

/// Checks a delete request.
///
/// Errors: [`WireError::EmptyKey`].
pub fn delete_range(request: &DeleteRangeRequest) -> Result<(), WireError> {
    if request.key.is_empty() {
        return Err(WireError::EmptyKey);
    }
    Ok(())
}

/// Checks a transaction with everything in it.
///
/// `ops_max`: most compares, and most operations of each branch. A nested transaction gets what
/// its parent leaves of it: the parent's largest list is subtracted.
///
/// Errors: [`WireError::TooManyOps`] for too many operations, or nesting deeper than
/// [`TXN_DEPTH_MAX`]; [`WireError::KeyNotFound`] for an operation without content;
/// [`WireError::DuplicateKey`] when one run would write a key twice; those of the operations.
pub fn txn(request: &TxnRequest, ops_max: usize) -> Result<(), WireError> {
    txn_ops(request, ops_max, TXN_DEPTH_MAX)?;
    writes(&request.success)?;
    writes(&request.failure)?;
    Ok(())
}

fn txn_ops(request: &TxnRequest, ops_max: usize, depth_left: usize) -> Result<(), WireError> {
    let largest = request
        .compare
        .len()
        .max(request.success.len())
        .max(request.failure.len());
    let Some(ops_left) = ops_max.checked_sub(largest) else {
        return Err(WireError::TooManyOps);
    };
    let Some(depth_left) = depth_left.checked_sub(1) else {
        return Err(WireError::TooManyOps);
    };
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(WireError::EmptyKey);
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(Request::RequestRange(inner)) => range(inner)?,
            Some(Request::RequestPut(inner)) => put(inner)?,
            Some(Request::RequestDeleteRange(inner)) => delete_range(inner)?,
            Some(Request::RequestTxn(inner)) => txn_ops(inner, ops_left, depth_left)?,
            // The text is odd for an empty operation, but it is what etcd answers.
            None => return Err(WireError::KeyNotFound),
        }
    }
    Ok(())
}

/// What one list of operations writes, nested transactions included.
#[derive(Default)]
struct Writes<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: RangeSet<'a>,
}

impl<'a> Writes<'a> {
    /// Adds the puts of a nested branch or of this level.
    ///
    /// `excused`: keys that may be there already, because they come from the other branch of the
    /// same nested transaction.
    fn add_put(&mut self, key: &'a [u8], excused: &BTreeSet<&[u8]>) -> Result<(), WireError> {
        let is_duplicate = !self.puts.insert(key) && !excused.contains(key);
        if is_duplicate || self.deletes.contains(key) {
            return Err(WireError::DuplicateKey);
        }
        Ok(())
    }
}

/// Collects what `ops` write, refusing a key that the same run would put twice or put and delete.
///
/// Deletes of this level count for all nested puts. Among nested transactions the order matters,
/// as it does in etcd: a put after an earlier sibling's delete is refused, a put before it passes.
fn writes(ops: &[RequestOp]) -> Result<Writes<'_>, WireError> {
    let mut writes = Writes::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(delete)) = &op.request {
            writes.deletes.insert(&delete.key, &delete.range_end);
        }
    }
    let nobody = BTreeSet::new();
    for op in ops {
        if let Some(Request::RequestTxn(txn)) = &op.request {
            let success = self::writes(&txn.success)?;
            let failure = self::writes(&txn.failure)?;
            for key in &success.puts {
                writes.add_put(key, &nobody)?;
            }
            for key in &failure.puts {
                writes.add_put(key, &success.puts)?;
            }
            writes.deletes.append(success.deletes);
            writes.deletes.append(failure.deletes);
        }
    }
    for op in ops {
        if let Some(Request::RequestPut(put)) = &op.request {
            writes.add_put(&put.key, &nobody)?;
        }
    }
    Ok(writes)
}

/// Disjoint half-open ranges of keys, by their first key.
#[derive(Default)]
struct RangeSet<'a>(BTreeMap<&'a [u8], End<'a>>);

/// Where a range ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End<'a> {
    /// Right after the key with which the range starts: it holds that key only.
    OneKey,
    /// Before this key.
    Before(&'a [u8]),
}

impl<'a> RangeSet<'a> {
    /// Adds `[key, range_end)`; an empty `range_end` means `key` alone.
    ///
    /// A range that ends before it starts holds nothing. That includes `\0`, which means "all keys
    /// from here on" everywhere else: etcd reads it as an ordinary end in this one place, so a
    /// delete of that kind never collides with a put.
    fn insert(&mut self, key: &'a [u8], range_end: &'a [u8]) {
        if range_end.is_empty() {
            if !self.contains(key) {
                self.0.insert(key, End::OneKey);
            }
            return;
        }
        if range_end <= key {
            return;
        }
        let (mut begin, mut end) = (key, range_end);
        if let Some((&before, &End::Before(before_end))) = self.last_at_or_before(key)
            && before_end >= key
        {
            begin = before;
            end = end.max(before_end);
        }
        let swallowed: Vec<&[u8]> = self
            .0
            .range::<[u8], _>((Bound::Included(begin), Bound::Excluded(end)))
            .map(|(&begin, &inner)| {
                if let End::Before(inner_end) = inner {
                    end = end.max(inner_end);
                }
                begin
            })
            .collect();
        for key in swallowed {
            self.0.remove(key);
        }
        self.0.insert(begin, End::Before(end));
    }

    fn append(&mut self, other: RangeSet<'a>) {
        for (begin, end) in other.0 {
            match end {
                End::OneKey => self.insert(begin, &[]),
                End::Before(end) => self.insert(begin, end),
            }
        }
    }

    fn contains(&self, key: &[u8]) -> bool {
        match self.last_at_or_before(key) {
            Some((&begin, End::OneKey)) => begin == key,
            Some((_, End::Before(end))) => key < *end,
            None => false,
        }
    }

    fn last_at_or_before(&self, key: &[u8]) -> Option<(&&'a [u8], &End<'a>)> {
        self.0
            .range::<[u8], _>((Bound::Unbounded, Bound::Included(key)))
            .next_back()
    }
}

#[cfg(test)]
mod tests;
