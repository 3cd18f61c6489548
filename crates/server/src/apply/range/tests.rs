//! Ranges against a twin that reads everything and decides pair by pair.

use kvd_mvcc::{EngineKind, Options};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

fn store() -> (Store, TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let options = Options {
        engine: EngineKind::Memory,
        ..Options::default()
    };
    let (store, mut writer) = kvd_mvcc::open(dir.path(), options).expect("opens");
    let mut txn = writer.txn();
    for key in ["a", "c", "e"] {
        txn.put(key.into(), "4".into(), 0).expect("written");
    }
    txn.end();
    for (key, value) in [
        ("d", "1"),
        ("a", "2"),
        ("b", "2"),
        ("c", "9"),
        ("a", "7"),
        ("f", ""),
        ("b", "2"),
    ] {
        let mut txn = writer.txn();
        txn.put(key.into(), value.into(), 5).expect("written");
        txn.end();
    }
    (store, dir)
}

/// etcd's `executeRange`, over pairs that come in the order of keys.
fn twin(kvs: Vec<KeyValue>, request: &RangeRequest) -> (Vec<KeyValue>, bool) {
    let default_order = request.sort_order == 0
        || (request.sort_order == SortOrder::Ascend as i32 && request.sort_target == 0);
    let bounds = [
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    ];
    let mut kvs = kvs;
    if request.limit > 0 && default_order && bounds == [0; 4] {
        kvs.truncate(request.limit as usize + 1);
    }
    let keep = |min: i64, max: i64, at: i64| (min == 0 || at >= min) && (max == 0 || at <= max);
    kvs.retain(|kv| keep(bounds[0], bounds[1], kv.mod_revision));
    kvs.retain(|kv| keep(bounds[2], bounds[3], kv.create_revision));
    let by = |kv: &KeyValue| match request.sort_target {
        0 => (0, kv.key.clone()),
        1 => (kv.version, Bytes::new()),
        2 => (kv.create_revision, Bytes::new()),
        3 => (kv.mod_revision, Bytes::new()),
        _ => (0, kv.value.clone()),
    };
    if request.sort_order == SortOrder::Descend as i32 {
        kvs.sort_by_key(|kv| std::cmp::Reverse(by(kv)));
    } else {
        kvs.sort_by_key(by);
    }
    let more = request.limit > 0 && kvs.len() as i64 > request.limit;
    if more {
        kvs.truncate(request.limit as usize);
    }
    if request.keys_only {
        let is_fast = request.sort_target != SortTarget::Value as i32;
        for kv in &mut kvs {
            kv.value = Bytes::new();
            if is_fast {
                kv.lease = 0;
            }
        }
    }
    (kvs, more)
}

fn any_request() -> impl Strategy<Value = RangeRequest> {
    let bound = || prop_oneof![3 => Just(0_i64), 2 => 1..12_i64];
    let ends = prop::sample::select(vec!["", "\0", "b", "d", "f", "z"]);
    let keys = prop::sample::select(vec!["\0", "a", "b", "c", "e", "x"]);
    (
        (keys, ends, -1..8_i64, 0..3, 0..5, any::<bool>()),
        (bound(), bound(), bound(), bound(), 0..10_i64),
    )
        .prop_map(
            |((key, end, limit, sort_order, sort_target, keys_only), bounds)| RangeRequest {
                key: key.into(),
                range_end: end.into(),
                limit,
                sort_order,
                sort_target,
                keys_only,
                min_mod_revision: bounds.0,
                max_mod_revision: bounds.1,
                min_create_revision: bounds.2,
                max_create_revision: bounds.3,
                revision: bounds.4,
                ..RangeRequest::default()
            },
        )
}

#[test]
fn ranges_answer_as_the_twin_does() {
    let (store, _dir) = store();
    proptest!(ProptestConfig::with_cases(3000), |(request in any_request())| {
        let plain = RangeRequest {
            key: request.key.clone(),
            range_end: request.range_end.clone(),
            revision: request.revision,
            ..RangeRequest::default()
        };
        let plain = range(&store, &plain).expect("reads");
        let (kvs, more) = twin(plain.decode_kvs().expect("valid"), &request);
        let response = range(&store, &request).expect("reads");
        prop_assert_eq!(response.decode_kvs().expect("valid"), kvs);
        prop_assert_eq!(response.more, more);
        prop_assert_eq!(response.count, plain.kvs.len() as i64);
        prop_assert_eq!(response.header, plain.header);
    });
}

#[test]
fn plain_ranges_pass_the_stored_bytes_through() {
    let (store, _dir) = store();
    let everything = RangeRequest {
        key: "\0".into(),
        range_end: "\0".into(),
        ..Default::default()
    };
    let read = store
        .range(b"\0", b"\0", &RangeOptions::default())
        .expect("reads");
    assert_eq!(range(&store, &everything).expect("reads").kvs, read.kvs);
    let sorted = RangeRequest {
        sort_order: SortOrder::Descend as i32,
        ..everything
    };
    let mut reversed = range(&store, &sorted).expect("reads").kvs;
    reversed.reverse();
    assert_eq!(reversed, read.kvs);
}

#[test]
fn a_pinned_view_does_not_move() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = Options {
        engine: EngineKind::Memory,
        ..Options::default()
    };
    let (store, mut writer) = kvd_mvcc::open(dir.path(), options).expect("opens");
    let mut put = |value: &'static str| {
        let mut txn = writer.txn();
        txn.put("a".into(), value.into(), 0).expect("written");
        txn.end();
    };
    put("1");
    let pinned = Pinned::new(&store);
    put("2");
    let request = RangeRequest {
        key: "a".into(),
        ..Default::default()
    };
    let response = range(&pinned, &request).expect("reads");
    assert_eq!(response.header.as_ref().expect("a header").revision, 2);
    assert_eq!(response.decode_kvs().expect("valid")[0].value, "1");
    let future = range(
        &pinned,
        &RangeRequest {
            revision: 3,
            ..request
        },
    );
    assert!(matches!(
        future,
        Err(Error::FutureRevision {
            requested: 3,
            current: 2
        })
    ));
}

#[test]
fn damaged_pairs_are_a_fault() {
    let error = decode(&Bytes::from_static(&[0xff])).expect_err("damaged");
    assert!(!error.is_answer(), "{error}");
}
