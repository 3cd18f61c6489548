//! Members that apply the same entries agree, however the entries reach them.

use kvd_api::pb::etcdserverpb::{AlarmRequest, CompactionRequest, DeleteRangeRequest, PutRequest};
use kvd_api::pb::kvdcommandpb::command::Request;
use kvd_api::pb::kvdcommandpb::{LeaseExpire, PublishMember, SetClusterVersion, V2Request};
use kvd_mvcc::Table;
use kvd_raft::{Member, Payload};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::harness::{Harness, commands};
use super::requests;
use crate::apply::range;

const TABLES: [Table; 5] = [
    Table::Alarm,
    Table::Members,
    Table::MembersRemoved,
    Table::Cluster,
    Table::Lease,
];
const TXNS: [&str; 6] = [
    "a.version > 1 ? put b 1; del c..; get a.. : put a 2 +prev; get a",
    "b.value = 1 ? (c.mod > 5 ? put c 3 : del d +prev); put e +ignore_value : put e 1",
    "a..f.version > 0 ? del a..c +prev : put f 1; put g 1",
    " ? put h 1; ( ? put i 1; ( ? put j 1; get h.. : ) : ) : ",
    "d.lease = 0 ? put d 1 +lease=4 : ",
    " ? get a +rev=12; put k 1 : ",
];

fn key(random: &mut StdRng) -> String {
    char::from(b'a' + random.random_range(0..8)).to_string()
}

fn request(random: &mut StdRng) -> Request {
    match random.random_range(0..28) {
        0..8 => Request::Put(PutRequest {
            prev_kv: random.random(),
            ignore_value: random.random_ratio(1, 4),
            ..requests::put(&key(random), &random.random_range(0..100).to_string())
        }),
        8..11 => Request::DeleteRange(DeleteRangeRequest {
            range_end: if random.random() {
                requests::bytes("e")
            } else {
                requests::bytes("")
            },
            prev_kv: random.random(),
            ..requests::delete(&key(random))
        }),
        11..16 => {
            let text = TXNS[random.random_range(0..TXNS.len())];
            Request::Txn(requests::txn(text).expect("a transaction"))
        }
        16 => Request::Compaction(CompactionRequest {
            revision: random.random_range(0..60),
            physical: false,
        }),
        17 => Request::Alarm(AlarmRequest {
            // Cleared more often than raised.
            action: random.random_range(0..8_i32).min(2),
            member_id: random.random_range(1..3),
            alarm: random.random_range(0..3),
        }),
        18 => Request::PublishMember(PublishMember {
            member_id: random.random_range(1..5),
            name: format!("name-{}", random.random_range(0..10)),
            client_urls: vec!["http://localhost:2379".to_owned()],
        }),
        19 => Request::SetClusterVersion(SetClusterVersion {
            version: "3.7.0".to_owned(),
        }),
        20 => Request::LeaseExpire(LeaseExpire {
            id: random.random_range(1..20),
            term: 1,
        }),
        _ => Request::V2(v2_request(random)),
    }
}

fn v2_request(random: &mut StdRng) -> V2Request {
    let names = ["/a", "/a/b", "/a/b/c", "/a/d", "/e"];
    V2Request {
        method: random.random_range(0..3),
        path: names[random.random_range(0..names.len())].into(),
        value: random.random_range(0..3).to_string().into(),
        dir: random.random_ratio(1, 4),
        recursive: random.random_ratio(1, 4),
        prev_value: if random.random_ratio(1, 4) { "1" } else { "" }.into(),
        prev_exist: [None, None, Some(true), Some(false)][random.random_range(0..4)],
        refresh: random.random_ratio(1, 6),
        now: random.random_range(0..1_000_000_000_000),
        ttl: random.random_ratio(1, 3).then_some(60),
        lease: random.random_range(1..20),
        ..V2Request::default()
    }
}

fn payload(random: &mut StdRng, first_id: u64) -> Payload {
    match random.random_range(0..10) {
        0 => Payload::Blank,
        1 => {
            let ids = (1..5).filter(|_| random.random());
            let member = |id: u64| Member {
                id,
                name: format!("member-{id}"),
                peer_urls: vec![format!("http://{id}:2380")],
                voter: id != 4,
            };
            Payload::Membership(ids.collect::<Vec<_>>().into_iter().map(member).collect())
        }
        _ => {
            let count = random.random_range(1..6);
            let requests: Vec<_> = (first_id..first_id + count)
                .map(|id| (id, request(random)))
                .collect();
            commands(&requests)
        }
    }
}

/// Everything that members must agree on.
fn state(harness: &Harness) -> String {
    let store = &harness.store;
    // The scrub of a compaction runs beside apply: what it has not removed yet may be in the hash.
    store.wait_compacted(store.compacted_revision());
    let tables: Vec<_> = TABLES
        .iter()
        .map(|table| store.table_scan(*table))
        .collect();
    let hash = store.hash_kv(0).expect("a hash");
    let kvs = range(store, &requests::get("\0.."))
        .expect("reads")
        .decode_kvs()
        .expect("valid");
    let position = store.applied();
    let results = harness.kept.results.lock().expect("not poisoned");
    format!(
        "rev {} compacted {} hash {} position {position:?}\n{tables:?}\n{kvs:?}\n{results:?}",
        store.current_revision(),
        store.compacted_revision(),
        hash.hash,
    )
}

#[test]
fn members_agree_however_entries_are_batched() {
    for round in 0..20 {
        let seed = rand::rng().random::<u64>();
        println!("round {round}: seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let entries: Vec<Payload> = (0..60).map(|n| payload(&mut random, n * 10 + 1)).collect();
        let mut all_at_once = Harness::new();
        let mut one_by_one = Harness::new();
        let mut at_random = Harness::new();
        all_at_once.entries(entries.clone()).expect("no fault");
        for entry in &entries {
            one_by_one.entries(vec![entry.clone()]).expect("no fault");
        }
        let mut rest = &entries[..];
        while !rest.is_empty() {
            let (batch, later) = rest.split_at(random.random_range(1..=rest.len().min(9)));
            at_random.entries(batch.to_vec()).expect("no fault");
            rest = later;
        }
        let expected = state(&all_at_once);
        assert_eq!(state(&one_by_one), expected, "one by one, seed {seed}");
        assert_eq!(state(&at_random), expected, "at random, seed {seed}");
    }
}
