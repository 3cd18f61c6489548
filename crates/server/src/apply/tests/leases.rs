//! Leases in the log: grant, attach, revoke, expire, checkpoint.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kvd_api::error::WireError;
use kvd_api::pb::etcdserverpb::alarm_request::AlarmAction;
use kvd_api::pb::etcdserverpb::request_op;
use kvd_api::pb::etcdserverpb::{
    AlarmRequest, AlarmType, LeaseGrantRequest, LeaseRevokeRequest, PutRequest, RangeRequest,
    RequestOp, TxnRequest,
};
use kvd_api::pb::kvdcommandpb::command::Request;
use kvd_api::pb::kvdcommandpb::{LeaseCheckpoint, LeaseExpire, LeaseRecord, LeaseRemaining};
use kvd_mvcc::Table;
use prost::Message;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::harness::Harness;
use super::requests;
use crate::apply::{self, Applied};
use crate::error::Error;
use crate::lease::Leases;

/// The harness' entries are all of this term.
const TERM: u64 = 1;

fn grant(id: i64, ttl: i64) -> Request {
    Request::LeaseGrant(LeaseGrantRequest { id, ttl })
}

fn revoke(id: i64) -> Request {
    Request::LeaseRevoke(LeaseRevokeRequest { id })
}

fn put(key: &str, lease: i64) -> Request {
    Request::Put(PutRequest {
        lease,
        ..requests::put(key, "v")
    })
}

fn checkpoint(id: i64, remaining_ttl: i64, term: u64) -> Request {
    let leases = vec![LeaseRemaining { id, remaining_ttl }];
    Request::LeaseCheckpoint(LeaseCheckpoint { term, leases })
}

fn wire(result: Result<Applied, Error>) -> WireError {
    match result {
        Err(Error::Wire(error)) => error,
        other => panic!("not an answer: {other:?}"),
    }
}

fn attached(leases: &Leases, id: i64) -> Vec<String> {
    let keys = leases.keys(id).expect("granted").into_iter();
    keys.map(|key| String::from_utf8_lossy(&key).into_owned())
        .collect()
}

fn record(harness: &Harness, id: i64) -> Option<LeaseRecord> {
    let record = harness.store.table_get(Table::Lease, &id.to_be_bytes())?;
    Some(LeaseRecord::decode(record).expect("a record"))
}

#[test]
fn a_lease_is_granted_once_and_within_bounds() {
    let mut harness = Harness::new();
    let granted = harness.request(grant(7, 60)).expect("granted");
    assert_eq!(granted, Applied::LeaseGranted { id: 7, ttl: 60 });
    let error = wire(harness.request(grant(7, 90)));
    assert_eq!(error, WireError::LeaseAlreadyExists);
    let error = wire(harness.request(grant(8, 9_000_000_001)));
    assert_eq!(error, WireError::TooLargeLeaseTtl);
    // As in etcd, the bound is looked at first.
    let error = wire(harness.request(grant(7, i64::MAX)));
    assert_eq!(error, WireError::TooLargeLeaseTtl);
    assert!(harness.request(grant(8, 9_000_000_000)).is_ok());
    assert_eq!(harness.leases.ids(), [7, 8]);
    assert_eq!(harness.store.current_revision(), 1);
}

#[test]
fn a_revoke_deletes_its_keys_in_order_at_one_revision() {
    let mut harness = Harness::new();
    harness.request(grant(7, 60)).expect("granted");
    for key in ["c", "a", "b", "z"] {
        harness.request(put(key, 7)).expect("put");
    }
    harness.request(put("z", 0)).expect("put");
    assert_eq!(attached(&harness.leases, 7), ["a", "b", "c"]);
    let before = harness.store.current_revision();
    assert_eq!(
        harness.request(revoke(7)).expect("revoked"),
        Applied::LeaseRevoked
    );
    assert_eq!(harness.store.current_revision(), before + 1);
    assert_eq!(harness.store.keys_count(), 1);
    assert_eq!(record(&harness, 7), None);
    let error = wire(harness.request(revoke(7)));
    assert_eq!(error, WireError::RequestedLeaseNotFound);
    let error = wire(harness.request(put("a", 7)));
    assert_eq!(error, WireError::RequestedLeaseNotFound);
}

#[test]
fn a_lease_without_keys_costs_no_revision() {
    let mut harness = Harness::new();
    harness.request(grant(7, 60)).expect("granted");
    harness.request(put("a", 7)).expect("put");
    let delete = requests::delete("a");
    harness
        .request(Request::DeleteRange(delete))
        .expect("deleted");
    let before = harness.store.current_revision();
    harness.request(revoke(7)).expect("revoked");
    assert_eq!(harness.store.current_revision(), before);
}

#[test]
fn what_a_leader_says_by_its_clock_counts_in_its_own_term_only() {
    let mut harness = Harness::new();
    harness.request(grant(7, 600)).expect("granted");
    let expire = |term| Request::LeaseExpire(LeaseExpire { id: 7, term });
    let error = wire(harness.request(expire(TERM + 1)));
    assert_eq!(error, WireError::LeaderChanged);
    let error = wire(harness.request(checkpoint(7, 300, TERM + 1)));
    assert_eq!(error, WireError::LeaderChanged);
    assert_eq!(
        record(&harness, 7).map(|lease| lease.remaining_ttl),
        Some(0)
    );
    harness.request(checkpoint(7, 300, TERM)).expect("noted");
    assert_eq!(
        record(&harness, 7).map(|lease| lease.remaining_ttl),
        Some(300)
    );
    harness
        .request(checkpoint(9, 300, TERM))
        .expect("passed over");
    assert_eq!(record(&harness, 9), None);
    assert_eq!(
        harness.request(expire(TERM)).expect("expired"),
        Applied::LeaseRevoked
    );
}

#[test]
fn alarms_refuse_leases_as_in_etcd() {
    let mut harness = Harness::new();
    harness.request(grant(7, 60)).expect("granted");
    let raise = |kind: AlarmType| {
        Request::Alarm(AlarmRequest {
            action: AlarmAction::Activate.into(),
            member_id: 1,
            alarm: kind.into(),
        })
    };
    harness.request(raise(AlarmType::Nospace)).expect("raised");
    assert_eq!(wire(harness.request(grant(8, 60))), WireError::NoSpace);
    harness.request(grant(7, 60)).expect_err("refused");
    harness.request(checkpoint(7, 30, TERM)).expect("noted");
    harness.request(revoke(7)).expect("revoking frees space");
    harness.request(raise(AlarmType::Corrupt)).expect("raised");
    assert_eq!(
        wire(harness.request(grant(8, 60))),
        WireError::CorruptCluster
    );
    assert_eq!(wire(harness.request(revoke(7))), WireError::CorruptCluster);
}

fn random_request(random: &mut StdRng) -> Request {
    let lease = random.random_range(0..4);
    let key = ["a", "b", "c", "d", "e"][random.random_range(0..5)];
    match random.random_range(0..10) {
        0 => grant(lease, 60),
        1 => revoke(lease),
        2 => Request::DeleteRange(requests::delete(key)),
        3 => Request::Txn(TxnRequest {
            success: vec![RequestOp {
                request: Some(request_op::Request::RequestPut(PutRequest {
                    lease,
                    ..requests::put(key, "t")
                })),
            }],
            ..TxnRequest::default()
        }),
        4 => Request::Put(PutRequest {
            ignore_lease: true,
            ..requests::put(key, "kept")
        }),
        _ => put(key, lease),
    }
}

/// Random histories: what is attached equals what the pairs say, and what a restart reads back.
#[test]
fn attached_keys_are_those_whose_pairs_name_the_lease() {
    let seed: u64 = rand::rng().random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut harness = Harness::new();
    let mut granted = BTreeSet::new();
    for _ in 0..2_000 {
        let request = random_request(&mut random);
        let result = harness.request(request.clone());
        match (&request, &result) {
            (Request::LeaseGrant(grant), Ok(_)) => assert!(granted.insert(grant.id)),
            (Request::LeaseRevoke(revoke), Ok(_)) => assert!(granted.remove(&revoke.id)),
            (Request::LeaseGrant(grant), Err(_)) => {
                assert!(grant.id == 0 || granted.contains(&grant.id));
            }
            (Request::LeaseRevoke(revoke), Err(_)) => assert!(!granted.contains(&revoke.id)),
            _ => {}
        }
        let mut model: BTreeMap<i64, Vec<Bytes>> =
            granted.iter().map(|id| (*id, Vec::new())).collect();
        let all = RangeRequest {
            key: Bytes::from_static(b"\0"),
            range_end: Bytes::from_static(b"\0"),
            ..RangeRequest::default()
        };
        let found = apply::range(&harness.store, &all).expect("read");
        for kv in found.decode_kvs().expect("decodes") {
            if kv.lease != 0 {
                let keys = model.get_mut(&kv.lease).expect("no key outlives its lease");
                keys.push(kv.key);
            }
        }
        let restored = Leases::restore(&harness.store).expect("restored");
        for leases in [&*harness.leases, &restored] {
            assert_eq!(leases.ids(), granted.iter().copied().collect::<Vec<_>>());
            for (id, keys) in &model {
                assert_eq!(leases.keys(*id).as_ref(), Some(keys));
            }
        }
    }
}
