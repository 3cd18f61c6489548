//! Transactions whose shape scripts cannot tell.

use kvd_api::pb::etcdserverpb::compare::CompareResult;
use kvd_api::pb::etcdserverpb::response_op::Response;
use kvd_api::pb::etcdserverpb::{Compare, RequestOp, TxnRequest, TxnResponse};
use kvd_api::pb::kvdcommandpb::command::Request;
use kvd_api::wire::RangeResponse;

use super::harness::{Harness, commands};
use super::requests::{bytes, put, txn};
use crate::apply::{Applied, is_read_only, is_serializable, range, read_only_txn};

fn request(text: &str) -> TxnRequest {
    txn(text).expect("a transaction")
}

fn apply(harness: &mut Harness, request: TxnRequest) -> TxnResponse {
    match harness.request(Request::Txn(request)).expect("applied") {
        Applied::Txn(response) => response,
        other => panic!("{other:?}"),
    }
}

#[test]
fn only_ranges_at_the_top_are_read_only() {
    for (text, read_only, serializable) in [
        (" ? : ", true, true),
        ("a.version = 1 ? : ", true, true),
        (" ? get a : get b", true, false),
        (" ? get a +serializable : get b", true, false),
        (" ? get a +serializable : get b +serializable", true, true),
        (" ? : put a 1", false, false),
        (" ? del a : ", false, false),
        (" ? ( ? get a +serializable : ) : ", false, false),
    ] {
        let request = request(text);
        assert_eq!(is_read_only(&request), read_only, "{text}");
        assert_eq!(is_serializable(&request), serializable, "{text}");
    }
    let empty = TxnRequest {
        success: vec![RequestOp::default()],
        ..Default::default()
    };
    assert!(!is_read_only(&empty) && !is_serializable(&empty));
}

#[test]
fn unknown_targets_are_equal_and_unknown_results_hold() {
    let mut harness = Harness::new();
    let holds = |harness: &mut Harness, result: i32, target: i32| {
        let compare = Compare {
            result,
            target,
            key: bytes("a"),
            ..Default::default()
        };
        let request = TxnRequest {
            compare: vec![compare],
            ..Default::default()
        };
        read_only_txn(&harness.store, &request)
            .expect("reads")
            .succeeded
    };
    assert!(holds(&mut harness, CompareResult::Equal as i32, 17));
    assert!(!holds(&mut harness, CompareResult::NotEqual as i32, 17));
    assert!(holds(&mut harness, 17, 0));
    harness
        .request(Request::Put(put("a", "1")))
        .expect("applied");
    assert!(holds(&mut harness, CompareResult::Equal as i32, 17));
    assert!(holds(&mut harness, 17, 0));
}

#[test]
fn an_operation_without_content_does_nothing() {
    let mut harness = Harness::new();
    let request = TxnRequest {
        success: vec![RequestOp::default()],
        ..Default::default()
    };
    let response = apply(&mut harness, request);
    assert_eq!(response.responses.len(), 1);
    assert_eq!(response.responses[0].response, None);
    assert_eq!(response.header.expect("a header").revision, 1);
}

#[test]
fn read_only_answers_as_the_log_would() {
    let mut harness = Harness::new();
    for (key, value) in [("a", "1"), ("b", "2"), ("a", "3")] {
        harness
            .request(Request::Put(put(key, value)))
            .expect("applied");
    }
    for text in [
        "a.version = 2 ? get a..; get a +rev=2 : get b",
        "b.mod = 9 ? : get a.. +limit=1",
    ] {
        let request = request(text);
        let read = read_only_txn(&harness.store, &request).expect("reads");
        assert_eq!(read, apply(&mut harness, request), "{text}");
    }
}

#[test]
fn what_nobody_awaits_is_written_but_not_read() {
    let mut harness = Harness::new();
    harness
        .request(Request::Put(put("a", "1")))
        .expect("applied");
    harness
        .kept
        .awaited_max
        .store(50, std::sync::atomic::Ordering::Relaxed);
    let text = "a.version = 1 ? get a..; put a +ignore_value; del b.. +prev; put c 1 +prev : ";
    let payload = commands(&[
        (99, Request::Txn(request(text))),
        (7, Request::Put(put("z", ""))),
    ]);
    harness.entries(vec![payload]).expect("no fault");
    let results = std::mem::take(&mut *harness.kept.results.lock().expect("not poisoned"));
    assert_eq!(results.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [7]);
    let all = super::requests::get("a..");
    let stored = range(&harness.store, &all)
        .expect("reads")
        .decode_kvs()
        .expect("valid");
    let stored: Vec<_> = stored
        .iter()
        .map(|kv| (&kv.key[..], &kv.value[..]))
        .collect();
    assert_eq!(stored, [(&b"a"[..], &b"1"[..]), (b"c", b"1"), (b"z", b"")]);
}

#[test]
fn nested_ranges_keep_their_pairs_encoded() {
    let mut harness = Harness::new();
    let response = apply(&mut harness, request(" ? put a 1; ( ? get a : ) : "));
    let Some(Response::ResponseTxn(nested)) = &response.responses[1].response else {
        panic!("{response:?}");
    };
    let Some(Response::ResponseRange(RangeResponse {
        header, kvs, count, ..
    })) = &nested.responses[0].response
    else {
        panic!("{nested:?}");
    };
    assert_eq!((kvs.len(), *count), (1, 1));
    assert_eq!(header.as_ref().expect("a header").revision, 2);
    assert_eq!(nested.header.as_ref().expect("a header").revision, 0);
}
