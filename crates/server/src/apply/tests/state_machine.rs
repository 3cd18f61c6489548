//! The contract with Raft: batches, positions, faults, snapshots.

use std::sync::atomic::Ordering;

use kvd_api::pb::etcdserverpb::alarm_request::AlarmAction;
use kvd_api::pb::etcdserverpb::{AlarmRequest, AlarmType};
use kvd_api::pb::kvdcommandpb::command::Request;
use kvd_raft::{Payload, Position, StateMachine};

use super::harness::{Harness, commands, frame};
use super::requests::{get, put};
use crate::apply::{Applied, range};
use crate::error::Error;

fn put_request(key: &str, value: &str) -> Request {
    Request::Put(put(key, value))
}

#[test]
fn one_call_answers_once_after_the_changes_can_be_read() {
    let mut harness = Harness::new();
    assert_eq!(harness.applier.position(), None);
    let payloads = vec![
        Payload::Blank,
        commands(&[(1, put_request("a", "1")), (2, put_request("b", "1"))]),
        commands(&[(3, put_request("a", "2"))]),
    ];
    harness.entries(payloads).expect("no fault");
    assert_eq!(harness.kept.calls.load(Ordering::Relaxed), 1);
    let results = std::mem::take(&mut *harness.kept.results.lock().expect("not poisoned"));
    let revisions: Vec<(u64, i64)> = results
        .into_iter()
        .map(|(id, result)| match result.expect("applied") {
            Applied::Put(response) => (id, response.header.expect("a header").revision),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(revisions, [(1, 2), (2, 3), (3, 4)]);
    assert_eq!(harness.applied.load(Ordering::Relaxed), 3);
    assert_eq!(harness.applier.position().expect("a position"), "3");
    assert_eq!(harness.store.applied().expect("a position").index, 3);
}

#[test]
fn entries_without_results_answer_nobody() {
    let mut harness = Harness::new();
    harness.entries(vec![Payload::Blank]).expect("no fault");
    harness
        .entries(vec![commands(&[(0, put_request("a", "1"))])])
        .expect("no fault");
    assert_eq!(harness.kept.calls.load(Ordering::Relaxed), 0);
    assert_eq!(harness.applied.load(Ordering::Relaxed), 2);
    assert_eq!(harness.store.current_revision(), 2);
}

#[test]
fn a_refused_command_leaves_its_neighbours_alone() {
    let mut harness = Harness::new();
    let mut leased = put("b", "1");
    leased.lease = 5;
    let payload = commands(&[
        (1, put_request("a", "1")),
        (2, Request::Put(leased)),
        (3, put_request("c", "1")),
    ]);
    harness.entries(vec![payload]).expect("no fault");
    let results = std::mem::take(&mut *harness.kept.results.lock().expect("not poisoned"));
    let outcomes: Vec<_> = results
        .iter()
        .map(|(id, result)| (*id, result.is_ok()))
        .collect();
    assert_eq!(outcomes, [(1, true), (2, false), (3, true)]);
    assert_eq!(range(&harness.store, &get("a..")).expect("reads").count, 2);
}

#[test]
fn what_cannot_be_decoded_is_a_fault() {
    let mut harness = Harness::new();
    let garbage = frame([(1, vec![0xff, 0xff, 0xff])]);
    let fault = harness.entries(vec![garbage]).expect_err("a fault");
    assert!(fault.to_string().contains("log entry 1"), "{fault}");
    // A command of a newer version: known framing, unknown content.
    let unknown = frame([(1, vec![0x08, 0x01])]);
    harness.entries(vec![unknown]).expect_err("a fault");
    assert_eq!(harness.applied.load(Ordering::Relaxed), 0);
}

#[test]
fn a_snapshot_carries_keys_alarms_and_position() {
    let mut source = Harness::new();
    source.request(put_request("a", "1")).expect("applied");
    let alarm = AlarmRequest {
        action: AlarmAction::Activate as i32,
        member_id: 7,
        alarm: AlarmType::Nospace as i32,
    };
    source.request(Request::Alarm(alarm)).expect("applied");
    let mut snapshot = source.applier.snapshot().expect("a snapshot");
    let mut content = Vec::new();
    while let Some(chunk) = snapshot.next_chunk().expect("a chunk") {
        content.extend_from_slice(&chunk);
    }
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("snapshot");
    std::fs::write(&file, content).expect("written");

    let mut target = Harness::new();
    target.request(put_request("gone", "1")).expect("applied");
    let position = Position {
        index: 2,
        bytes: "2".into(),
    };
    target.applier.install(&file, position).expect("installed");
    assert_eq!(target.applied.load(Ordering::Relaxed), 2);
    assert_eq!(target.applier.position().expect("a position"), "2");
    assert_eq!(range(&target.store, &get("gone")).expect("reads").count, 0);
    assert_eq!(range(&target.store, &get("a")).expect("reads").count, 1);
    assert!(target.alarms.is_active(AlarmType::Nospace));
    target.index = 2;
    let refused = target.request(put_request("b", "1")).expect_err("no space");
    assert!(
        matches!(refused, Error::Wire(kvd_api::error::WireError::NoSpace)),
        "{refused}"
    );
}
