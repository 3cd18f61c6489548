use bytes::Bytes;
use kvd_api::pb::etcdserverpb::Compare;
use proptest::prelude::*;

use super::*;

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn op(request: Request) -> RequestOp {
    RequestOp {
        request: Some(request),
    }
}

fn put_op(key: &str) -> RequestOp {
    op(Request::RequestPut(PutRequest {
        key: bytes(key),
        ..Default::default()
    }))
}

fn delete_op(key: &str, range_end: &str) -> RequestOp {
    let request = DeleteRangeRequest {
        key: bytes(key),
        range_end: bytes(range_end),
        prev_kv: false,
    };
    op(Request::RequestDeleteRange(request))
}

fn range_op(key: &str) -> RequestOp {
    op(Request::RequestRange(RangeRequest {
        key: bytes(key),
        ..Default::default()
    }))
}

fn txn_op(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
    op(Request::RequestTxn(TxnRequest {
        success,
        failure,
        ..Default::default()
    }))
}

fn then(success: Vec<RequestOp>) -> TxnRequest {
    TxnRequest {
        success,
        ..Default::default()
    }
}

fn check(success: Vec<RequestOp>) -> Result<(), WireError> {
    txn(&then(success), 128)
}

#[test]
fn range_needs_a_key_and_known_options() {
    let good = RangeRequest {
        key: bytes("a"),
        sort_order: 2,
        sort_target: 4,
        ..Default::default()
    };
    assert_eq!(range(&good), Ok(()));
    assert_eq!(range(&RangeRequest::default()), Err(WireError::EmptyKey));
    let order = RangeRequest {
        sort_order: 3,
        ..good.clone()
    };
    assert_eq!(range(&order), Err(WireError::InvalidSortOption));
    let target = RangeRequest {
        sort_target: 5,
        ..good.clone()
    };
    assert_eq!(range(&target), Err(WireError::InvalidSortOption));
    let negative = RangeRequest {
        sort_target: -1,
        ..good
    };
    assert_eq!(range(&negative), Err(WireError::InvalidSortOption));
}

#[test]
fn range_stream_takes_only_the_order_of_keys() {
    let plain = RangeRequest {
        key: bytes("a"),
        ..Default::default()
    };
    assert_eq!(range_stream(&plain), Ok(()));
    // A target without an order does not count as an order.
    let target = RangeRequest {
        sort_target: SortTarget::Mod as i32,
        ..plain.clone()
    };
    assert_eq!(range_stream(&target), Ok(()));
    let ascending = RangeRequest {
        sort_order: SortOrder::Ascend as i32,
        ..plain.clone()
    };
    assert_eq!(range_stream(&ascending), Ok(()));
    let descending = RangeRequest {
        sort_order: SortOrder::Descend as i32,
        ..plain.clone()
    };
    assert_eq!(range_stream(&descending), Err(WireError::RangeStreamSort));
    let by_value = RangeRequest {
        sort_target: SortTarget::Value as i32,
        ..ascending
    };
    assert_eq!(range_stream(&by_value), Err(WireError::RangeStreamSort));
    let filtered = RangeRequest {
        max_mod_revision: 3,
        ..plain.clone()
    };
    assert_eq!(range_stream(&filtered), Err(WireError::RangeStreamFilter));
    let both = RangeRequest {
        max_mod_revision: 3,
        ..descending
    };
    assert_eq!(range_stream(&both), Err(WireError::RangeStreamSort));
    assert_eq!(
        range_stream(&RangeRequest::default()),
        Err(WireError::EmptyKey)
    );
}

#[test]
fn put_refuses_what_it_is_told_to_ignore() {
    let plain = PutRequest {
        key: bytes("a"),
        value: bytes("1"),
        lease: 7,
        ..Default::default()
    };
    assert_eq!(put(&plain), Ok(()));
    assert_eq!(
        put(&PutRequest {
            key: Bytes::new(),
            ..plain.clone()
        }),
        Err(WireError::EmptyKey)
    );
    let value = PutRequest {
        ignore_value: true,
        ..plain.clone()
    };
    assert_eq!(put(&value), Err(WireError::ValueIsProvided));
    assert_eq!(
        put(&PutRequest {
            value: Bytes::new(),
            ..value
        }),
        Ok(())
    );
    let lease = PutRequest {
        ignore_lease: true,
        ..plain.clone()
    };
    assert_eq!(put(&lease), Err(WireError::LeaseIsProvided));
    assert_eq!(put(&PutRequest { lease: 0, ..lease }), Ok(()));
}

#[test]
fn delete_needs_a_key() {
    assert_eq!(
        delete_range(&DeleteRangeRequest::default()),
        Err(WireError::EmptyKey)
    );
    let all = DeleteRangeRequest {
        key: bytes("\0"),
        range_end: bytes("\0"),
        prev_kv: true,
    };
    assert_eq!(delete_range(&all), Ok(()));
}

#[test]
fn txn_without_anything_is_fine() {
    assert_eq!(txn(&TxnRequest::default(), 0), Ok(()));
}

#[test]
fn txn_counts_its_longest_list() {
    let compare = Compare {
        key: bytes("a"),
        ..Default::default()
    };
    let many = |count| vec![range_op("a"); count];
    for (compares, success, failure, fits) in [
        (3, 3, 3, true),
        (4, 0, 0, false),
        (0, 4, 0, false),
        (0, 0, 4, false),
    ] {
        let request = TxnRequest {
            compare: vec![compare.clone(); compares],
            success: many(success),
            failure: many(failure),
        };
        let expected = if fits {
            Ok(())
        } else {
            Err(WireError::TooManyOps)
        };
        assert_eq!(txn(&request, 3), expected, "{compares} {success} {failure}");
    }
}

#[test]
fn nested_txn_gets_what_its_parent_leaves() {
    let nested = |outer: usize, inner: usize| {
        let mut ops = vec![range_op("a"); outer - 1];
        ops.push(txn_op(vec![range_op("a"); inner], vec![]));
        txn(&then(ops), 5)
    };
    assert_eq!(nested(2, 3), Ok(()));
    assert_eq!(nested(2, 4), Err(WireError::TooManyOps));
    assert_eq!(nested(5, 0), Ok(()));
    assert_eq!(nested(5, 1), Err(WireError::TooManyOps));
}

#[test]
fn txn_nesting_is_bounded() {
    let nested = |levels: usize| {
        let mut request = TxnRequest::default();
        for _ in 1..levels {
            request = then(vec![op(Request::RequestTxn(request))]);
        }
        request
    };
    assert_eq!(txn(&nested(TXN_DEPTH_MAX), 1000), Ok(()));
    assert_eq!(
        txn(&nested(TXN_DEPTH_MAX + 1), 1000),
        Err(WireError::TooManyOps)
    );
}

#[test]
fn what_passes_can_be_decoded_from_the_log() {
    use kvd_api::pb::kvdcommandpb::{Command, command};
    use prost::Message;

    let mut request = then(vec![put_op("a")]);
    for _ in 1..TXN_DEPTH_MAX {
        request = then(vec![op(Request::RequestTxn(request))]);
    }
    assert_eq!(txn(&request, 1000), Ok(()));
    let command = Command {
        request_id: 1,
        caller: None,
        request: Some(command::Request::Txn(request)),
    };
    let decoded = Command::decode(Bytes::from(command.encode_to_vec()));
    assert_eq!(decoded.expect("decodes"), command);
}

#[test]
fn txn_checks_its_parts_in_order() {
    let no_key = Compare::default();
    let request = TxnRequest {
        compare: vec![no_key],
        ..then(vec![RequestOp::default()])
    };
    assert_eq!(txn(&request, 128), Err(WireError::EmptyKey));
    assert_eq!(
        check(vec![RequestOp::default()]),
        Err(WireError::KeyNotFound)
    );
    assert_eq!(check(vec![put_op("")]), Err(WireError::EmptyKey));
    assert_eq!(check(vec![range_op("")]), Err(WireError::EmptyKey));
    assert_eq!(check(vec![delete_op("", "")]), Err(WireError::EmptyKey));
    assert_eq!(
        check(vec![txn_op(vec![], vec![put_op("")])]),
        Err(WireError::EmptyKey)
    );
    let failure = TxnRequest {
        failure: vec![put_op("")],
        ..Default::default()
    };
    assert_eq!(txn(&failure, 128), Err(WireError::EmptyKey));
    // A bad operation is reported before duplicates are looked for.
    assert_eq!(
        check(vec![put_op("a"), put_op("a"), put_op("")]),
        Err(WireError::EmptyKey)
    );
}

#[test]
fn a_key_is_put_once() {
    let duplicate = Err(WireError::DuplicateKey);
    assert_eq!(check(vec![put_op("a"), put_op("b")]), Ok(()));
    assert_eq!(check(vec![put_op("a"), put_op("a")]), duplicate);
    assert_eq!(
        check(vec![put_op("a"), txn_op(vec![put_op("a")], vec![])]),
        duplicate
    );
    assert_eq!(
        check(vec![txn_op(vec![], vec![put_op("a")]), put_op("a")]),
        duplicate
    );
    let sibling = || txn_op(vec![put_op("a")], vec![]);
    assert_eq!(check(vec![sibling(), sibling()]), duplicate);
    assert_eq!(
        check(vec![txn_op(vec![put_op("a")], vec![put_op("a")])]),
        Ok(())
    );
    let either = || txn_op(vec![put_op("a")], vec![put_op("a")]);
    assert_eq!(check(vec![either(), put_op("a")]), duplicate);
    // The branches of the outermost transaction exclude each other.
    let branches = TxnRequest {
        success: vec![put_op("a")],
        failure: vec![put_op("a")],
        ..Default::default()
    };
    assert_eq!(txn(&branches, 128), Ok(()));
    let failure = TxnRequest {
        failure: vec![put_op("a"), put_op("a")],
        ..Default::default()
    };
    assert_eq!(txn(&failure, 128), duplicate);
}

#[test]
fn a_put_key_is_not_deleted() {
    let duplicate = Err(WireError::DuplicateKey);
    assert_eq!(check(vec![put_op("a"), delete_op("a", "")]), duplicate);
    assert_eq!(check(vec![delete_op("a", "c"), put_op("b")]), duplicate);
    assert_eq!(check(vec![delete_op("a", "c"), put_op("c")]), Ok(()));
    assert_eq!(check(vec![delete_op("b", "c"), put_op("a")]), Ok(()));
    assert_eq!(check(vec![delete_op("c", "a"), put_op("b")]), Ok(()));
    assert_eq!(
        check(vec![delete_op("a", "c"), delete_op("b", "d")]),
        Ok(())
    );
    assert_eq!(
        check(vec![txn_op(vec![put_op("b")], vec![]), delete_op("a", "c")]),
        duplicate
    );
    assert_eq!(
        check(vec![txn_op(vec![], vec![delete_op("a", "c")]), put_op("b")]),
        duplicate
    );
    assert_eq!(
        check(vec![txn_op(vec![delete_op("b", "")], vec![put_op("b")])]),
        Ok(())
    );
}

#[test]
fn quirks_of_etcd_are_kept() {
    // "All keys from here on" is read as a range that ends before it starts.
    assert_eq!(check(vec![delete_op("a", "\0"), put_op("b")]), Ok(()));
    // Among siblings only a delete before a put counts.
    let put_first = vec![
        txn_op(vec![put_op("a")], vec![]),
        txn_op(vec![delete_op("a", "")], vec![]),
    ];
    let delete_first = put_first.iter().rev().cloned().collect();
    assert_eq!(check(put_first), Ok(()));
    assert_eq!(check(delete_first), Err(WireError::DuplicateKey));
}

/// Keys put, and ranges deleted with their ends.
type NaiveWrites<'a> = (Vec<&'a [u8]>, Vec<(&'a [u8], Vec<u8>)>);

/// The twin: the same rules over plain lists, every pair compared with every other.
fn naive(ops: &[RequestOp]) -> Result<NaiveWrites<'_>, ()> {
    let mut deletes: Vec<(&[u8], Vec<u8>)> = Vec::new();
    let mut puts: Vec<&[u8]> = Vec::new();
    let hits = |deletes: &[(&[u8], Vec<u8>)], key: &[u8]| {
        deletes
            .iter()
            .any(|(begin, end)| key >= *begin && key < end.as_slice())
    };
    for op in ops {
        if let Some(Request::RequestDeleteRange(delete)) = &op.request {
            let mut end = delete.range_end.to_vec();
            if end.is_empty() {
                end = [&delete.key[..], &[0]].concat();
            }
            deletes.push((&delete.key, end));
        }
    }
    for op in ops {
        let Some(Request::RequestTxn(txn)) = &op.request else {
            continue;
        };
        let (then_puts, then_deletes) = naive(&txn.success)?;
        let (else_puts, else_deletes) = naive(&txn.failure)?;
        if then_puts
            .iter()
            .chain(&else_puts)
            .any(|key| puts.contains(key) || hits(&deletes, key))
        {
            return Err(());
        }
        puts.extend(then_puts.into_iter().chain(else_puts));
        deletes.extend(then_deletes.into_iter().chain(else_deletes));
    }
    for op in ops {
        if let Some(Request::RequestPut(put)) = &op.request {
            if puts.contains(&&put.key[..]) || hits(&deletes, &put.key) {
                return Err(());
            }
            puts.push(&put.key);
        }
    }
    Ok((puts, deletes))
}

fn key() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "\0", "a", "a\0", "aa", "b", "c", "d", "e", "f", "g", "h", "z",
    ])
}

fn end() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["", "", "", "\0", "a", "a\0", "aa", "b", "c", "d", "z"])
}

fn any_op() -> impl Strategy<Value = RequestOp> {
    let leaf = prop_oneof![
        4 => key().prop_map(put_op),
        2 => (key(), end()).prop_map(|(key, end)| delete_op(key, end)),
        1 => key().prop_map(range_op),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        let branch = || prop::collection::vec(inner.clone(), 0..3);
        (branch(), branch()).prop_map(|(success, failure)| txn_op(success, failure))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn duplicates_are_found_as_by_the_twin(ops in prop::collection::vec(any_op(), 0..5)) {
        let expected = naive(&ops).map(|_| ()).map_err(|()| WireError::DuplicateKey);
        prop_assert_eq!(check(ops), expected);
    }

    #[test]
    fn range_set_holds_what_its_ranges_hold(
        ranges in prop::collection::vec((key(), end()), 0..6),
        probe in key(),
    ) {
        let mut set = RangeSet::default();
        for (begin, end) in &ranges {
            set.insert(begin.as_bytes(), end.as_bytes());
        }
        let expected = ranges.iter().any(|(begin, end)| {
            if end.is_empty() { probe == *begin } else { probe >= *begin && probe < *end }
        });
        prop_assert_eq!(set.contains(probe.as_bytes()), expected);
    }
}
