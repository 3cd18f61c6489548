//! Range requests over any view of the store.
//!
//! Pairs stay in their stored encoding from the store to the wire. They are decoded only when the
//! request sorts or filters by something other than the key.
//!
//! Source: etcd `server/etcdserver/txn/range.go`.

use std::cmp::Ordering;

use bytes::Bytes;
use kvd_api::pb::etcdserverpb::range_request::{SortOrder, SortTarget};
use kvd_api::pb::etcdserverpb::{RangeRequest, ResponseHeader};
use kvd_api::pb::mvccpb::KeyValue;
use kvd_api::wire::RangeResponse;
use kvd_mvcc::{Error, RangeOptions, RangeResult, Result, Store, WriteTxn};
use prost::Message;

use crate::services::validate::{has_revision_filters, is_default_order};

/// Something that keys can be read from.
pub trait View {
    /// Reads `[key, range_end)`, in the order of keys.
    ///
    /// Errors: [`Error::Compacted`] and [`Error::FutureRevision`]; faults of the store.
    fn range(&self, key: &[u8], range_end: &[u8], options: &RangeOptions) -> Result<RangeResult>;
}

impl View for Store {
    fn range(&self, key: &[u8], range_end: &[u8], options: &RangeOptions) -> Result<RangeResult> {
        Store::range(self, key, range_end, options)
    }
}

/// Sees what the transaction has written so far.
impl View for WriteTxn<'_> {
    fn range(&self, key: &[u8], range_end: &[u8], options: &RangeOptions) -> Result<RangeResult> {
        WriteTxn::range(self, key, range_end, options)
    }
}

/// The store as it stood at one revision, for reads that must agree with each other.
pub(crate) struct Pinned<'a> {
    store: &'a Store,
    revision: i64,
}

impl<'a> Pinned<'a> {
    /// Pins the current revision.
    pub(crate) fn new(store: &'a Store) -> Pinned<'a> {
        Pinned {
            store,
            revision: store.current_revision(),
        }
    }

    /// The pinned revision.
    pub(crate) fn revision(&self) -> i64 {
        self.revision
    }
}

impl View for Pinned<'_> {
    fn range(&self, key: &[u8], range_end: &[u8], options: &RangeOptions) -> Result<RangeResult> {
        let mut options = *options;
        if options.revision <= 0 {
            options.revision = self.revision;
        }
        if options.revision > self.revision {
            let requested = options.revision;
            return Err(Error::FutureRevision {
                requested,
                current: self.revision,
            });
        }
        let mut result = self.store.range(key, range_end, &options)?;
        result.revision = self.revision;
        Ok(result)
    }
}

/// Answers `request` from `view`. The header carries the view's current revision.
///
/// [`RangeResponse::count`] ignores the limit and the filters. The limit applies before sorting
/// when the request names a sort target but no order, and after it otherwise.
///
/// Errors: [`Error::Compacted`], [`Error::FutureRevision`]; faults of the store.
/// Source: etcd `KV.Range`; `server/etcdserver/txn/range.go`, `executeRange`.
pub fn range(view: &(impl View + ?Sized), request: &RangeRequest) -> Result<RangeResponse> {
    range_counting(view, request, 0)
}

/// As [`range`], but stops counting at `count_max` keys unless it is zero.
pub(crate) fn range_counting(
    view: &(impl View + ?Sized),
    request: &RangeRequest,
    count_max: usize,
) -> Result<RangeResponse> {
    // Sorting by value needs the values; they are taken out at the end.
    let strips_values = request.keys_only && request.sort_target == SortTarget::Value as i32;
    let options = RangeOptions {
        revision: request.revision,
        limit: limit_at_store(request),
        count_only: request.count_only,
        keys_only: request.keys_only && !strips_values,
        count_max,
    };
    let RangeResult {
        kvs,
        count,
        revision,
        ..
    } = view.range(&request.key, &request.range_end, &options)?;
    let mut kvs = arrange(kvs, request)?;
    let mut more = false;
    if let Ok(limit @ 1..) = usize::try_from(request.limit)
        && kvs.len() > limit
    {
        kvs.truncate(limit);
        more = true;
    }
    if strips_values {
        for kv in &mut kvs {
            *kv = without_value(kv)?;
        }
    }
    let header = Some(ResponseHeader {
        revision,
        ..ResponseHeader::default()
    });
    Ok(RangeResponse {
        header,
        kvs,
        more,
        count,
    })
}

/// How many pairs the store has to yield: one more than asked for tells whether there are more.
/// Zero is all.
fn limit_at_store(request: &RangeRequest) -> usize {
    if request.limit <= 0 || !is_default_order(request) || has_revision_filters(request) {
        return 0;
    }
    usize::try_from(request.limit)
        .unwrap_or(usize::MAX)
        .saturating_add(1)
}

/// Filters and sorts encoded pairs that come in the order of keys.
fn arrange(kvs: Vec<Bytes>, request: &RangeRequest) -> Result<Vec<Bytes>> {
    let target = SortTarget::try_from(request.sort_target).unwrap_or(SortTarget::Key);
    let order = match SortOrder::try_from(request.sort_order).unwrap_or(SortOrder::None) {
        SortOrder::None if target != SortTarget::Key => SortOrder::Ascend,
        order => order,
    };
    let is_sorted = target == SortTarget::Key && order != SortOrder::Descend;
    let is_filtered = has_revision_filters(request);
    if kvs.is_empty() || (is_sorted && !is_filtered) {
        return Ok(kvs);
    }
    let mut pairs = Vec::with_capacity(kvs.len());
    for encoded in kvs {
        let kv = decode(&encoded)?;
        if !is_filtered || passes(&kv, request) {
            pairs.push((kv, encoded));
        }
    }
    // Equal pairs stay in the order of their keys, whichever the direction.
    match order {
        SortOrder::Descend => pairs.sort_by(|(a, _), (b, _)| compare(b, a, target)),
        SortOrder::Ascend | SortOrder::None if !is_sorted => {
            pairs.sort_by(|(a, _), (b, _)| compare(a, b, target));
        }
        SortOrder::Ascend | SortOrder::None => {}
    }
    Ok(pairs.into_iter().map(|(_, encoded)| encoded).collect())
}

fn passes(kv: &KeyValue, request: &RangeRequest) -> bool {
    let within = |revision: i64, min: i64, max: i64| {
        (min == 0 || revision >= min) && (max == 0 || revision <= max)
    };
    within(
        kv.mod_revision,
        request.min_mod_revision,
        request.max_mod_revision,
    ) && within(
        kv.create_revision,
        request.min_create_revision,
        request.max_create_revision,
    )
}

fn compare(a: &KeyValue, b: &KeyValue, target: SortTarget) -> Ordering {
    match target {
        SortTarget::Key => a.key.cmp(&b.key),
        SortTarget::Version => a.version.cmp(&b.version),
        SortTarget::Create => a.create_revision.cmp(&b.create_revision),
        SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
        SortTarget::Value => a.value.cmp(&b.value),
    }
}

fn without_value(encoded: &Bytes) -> Result<Bytes> {
    let kv = KeyValue {
        value: Bytes::new(),
        ..decode(encoded)?
    };
    Ok(kv.encode_to_vec().into())
}

/// Decodes a stored pair.
///
/// Errors: [`Error::Corrupt`] when the bytes are not a `KeyValue`.
pub(super) fn decode(encoded: &Bytes) -> Result<KeyValue> {
    KeyValue::decode(encoded.clone()).map_err(|error| Error::Corrupt {
        place: "a stored pair".to_owned(),
        problem: error.to_string(),
    })
}

#[cfg(test)]
mod tests;
