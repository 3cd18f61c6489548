//! Proposals, reads and catching up while nothing worse than a restart happens.

use std::future::poll_fn;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kvd_raft::{Error, ProposeFailure, Role};

use crate::harness::{Cluster, ELECTION, Setup, eventually};

#[test]
fn a_single_member_elects_itself_and_applies() {
    let cluster = Cluster::start(1, Setup::default());
    let only = &cluster.members[cluster.leader()];
    for id in 1..=20 {
        only.write(id);
    }
    assert_eq!(only.state.ids(), (1..=20).collect::<Vec<_>>());
    let status = only.status();
    assert_eq!((status.role, status.leader), (Role::Leader, Some(1)));
    assert_eq!((status.voters, status.learners), (vec![1], vec![]));
    assert_eq!(status.applied_index, only.state.applied());
    let read = only.wait(only.node().read_index()).expect("it leads");
    assert!(read <= only.state.applied());
    assert!(read >= 20, "every acknowledged write is covered");
}

/// Nobody's answers renew the time of a leader that is alone; it leads all the same.
#[test]
fn a_single_member_that_has_nothing_to_do_goes_on_leading() {
    let cluster = Cluster::start(1, Setup::default());
    let only = &cluster.members[cluster.leader()];
    let until = Instant::now() + 4 * ELECTION;
    eventually("time passes", || {
        assert_eq!(only.status().leader, Some(1));
        (Instant::now() > until).then_some(())
    });
    only.write(1);
}

#[test]
fn a_restarted_member_continues_in_a_later_term() {
    let mut cluster = Cluster::start(1, Setup::default());
    cluster.leader();
    (1..=5).for_each(|id| cluster.members[0].write(id));
    let term = cluster.members[0].status().term;
    cluster.members[0].shutdown();
    cluster.members[0].start(None);
    cluster.leader();
    cluster.members[0].write(6);
    cluster.members[0].kill();
    cluster.members[0].start(None);
    cluster.leader();
    cluster.members[0].write(7);
    assert_eq!(cluster.members[0].state.ids(), (1..=7).collect::<Vec<_>>());
    assert!(
        cluster.members[0].status().term >= term + 2,
        "each life is a term of its own"
    );
}

#[test]
fn proposals_of_all_members_are_applied_everywhere_in_the_same_order() {
    let cluster = Cluster::start(3, Setup::default());
    cluster.leader();
    for round in 0..200 {
        for member in &cluster.members {
            member.propose(member.id * 1_000 + round, b"x");
        }
    }
    let ids = cluster.converge(600);
    let mut sorted = ids.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!((ids.len(), sorted.len()), (600, 600), "each exactly once");
    assert!(
        cluster
            .running()
            .all(|member| member.failures.lock().is_empty())
    );
}

#[test]
fn large_commands_pass_and_an_entry_holds_one_of_them() {
    let cluster = Cluster::start(3, Setup::default());
    let follower = &cluster.members[cluster.follower()];
    let command = vec![7; 3 << 20];
    for id in 1..=4 {
        follower.propose(id, &command);
    }
    cluster.converge(4);
    let content = follower.state.content.lock();
    assert!(
        content
            .commands
            .iter()
            .all(|(_, bytes)| bytes.len() == command.len())
    );
}

#[test]
fn a_read_index_covers_what_was_acknowledged_before_it() {
    let cluster = Cluster::start(3, Setup::default());
    let leader = &cluster.members[cluster.leader()];
    let follower = &cluster.members[cluster.follower()];
    for _ in 0..20 {
        leader.write(cluster.new_id());
        let acknowledged = leader.state.applied();
        for member in [leader, follower] {
            let read = member
                .wait(member.node().read_index())
                .expect("there is a leader");
            assert!(read >= acknowledged, "{read} misses {acknowledged}");
            eventually("it is applied", || {
                (member.state.applied() >= read).then_some(())
            });
        }
    }
}

#[test]
fn concurrent_readers_share_rounds_and_all_get_an_answer() {
    let cluster = Cluster::start(3, Setup::default());
    let follower = &cluster.members[cluster.follower()];
    follower.write(1);
    let acknowledged = follower.state.applied();
    follower.wait(async {
        let mut readers = tokio::task::JoinSet::new();
        for number in 0..500 {
            let node = follower.node().clone();
            readers.spawn(async move {
                let reading = node.read_index();
                match number % 5 {
                    // Some go away before they are answered, also those who run the round.
                    0 => tokio::time::timeout(Duration::from_micros(50), reading)
                        .await
                        .ok(),
                    _ => Some(reading.await),
                }
            });
        }
        for read in readers.join_all().await.into_iter().flatten() {
            assert!(read.expect("there is a leader") >= acknowledged);
        }
    });
}

/// Who asks may be a stream whose client does not read: it is not polled again until it does.
#[test]
fn a_reader_that_is_not_polled_holds_up_nobody() {
    let cluster = Cluster::start(3, Setup::default());
    cluster.leader();
    let mut left = Vec::new();
    for member in &cluster.members {
        let mut reading = Box::pin(member.node().read_index());
        member.wait(async {
            let polled = poll_fn(|context| Poll::Ready(reading.as_mut().poll(context))).await;
            assert!(polled.is_pending(), "a quorum is asked");
        });
        left.push(reading);
    }
    for member in &cluster.members {
        for _ in 0..3 {
            let reading = member
                .wait(async { tokio::time::timeout(ELECTION, member.node().read_index()).await });
            reading.expect("in time").expect("there is a leader");
        }
    }
    drop(left);
}

#[test]
fn a_member_that_was_away_catches_up_from_the_log() {
    let mut cluster = Cluster::start(3, Setup::default());
    let away = cluster.follower();
    cluster.members[away].kill();
    let leader = cluster.leader();
    (1..=300).for_each(|id| cluster.members[leader].propose(id, b"while away"));
    cluster.converge(300);
    cluster.members[away].start(None);
    cluster.converge(300);
    assert_eq!(
        cluster.members[away].state.installs.load(Ordering::SeqCst),
        0
    );
}

#[test]
fn a_member_that_needs_purged_entries_gets_a_snapshot() {
    let setup = Setup {
        snapshot_count: 50,
        catchup_entries: 10,
        ..Setup::default()
    };
    let mut cluster = Cluster::start(3, setup);
    let away = cluster.follower();
    let behind = cluster.members[away].status().last_index;
    cluster.members[away].kill();
    let leader = cluster.leader();
    eventually("the log is purged", || {
        cluster.members[leader].write(cluster.new_id());
        (cluster.members[leader].status().purged_index > behind + 20).then_some(())
    });
    cluster.members[away].start(None);
    cluster.members[leader].write(cluster.new_id());
    let ids = cluster.converge(1);
    assert!(cluster.members[away].state.installs.load(Ordering::SeqCst) > 0);
    // What it got is durable: it continues from there after a crash.
    cluster.members[away].kill();
    cluster.members[away].start(None);
    let leader = cluster.leader();
    cluster.members[leader].write(cluster.new_id());
    assert!(cluster.converge(ids.len() + 1).starts_with(&ids));
}

#[test]
fn the_log_is_not_purged_above_what_the_application_has_made_durable() {
    let setup = Setup {
        snapshot_count: 20,
        catchup_entries: 0,
        ..Setup::default()
    };
    let cluster = Cluster::start(1, setup);
    let only = &cluster.members[cluster.leader()];
    (1..=100).for_each(|id| only.write(id));
    eventually("the log is purged", || {
        (only.status().purged_index > 50).then_some(())
    });
    let status = only.status();
    assert!(status.purged_index <= status.snapshot_index);
    assert!(status.purged_index <= only.state.purgeable.load(Ordering::SeqCst));
}

#[test]
fn a_full_queue_refuses_and_nothing_that_waited_too_long_is_applied() {
    let setup = Setup {
        queue_max: 5,
        ..Setup::default()
    };
    // Two of three members are missing: there is no leader.
    let mut cluster = Cluster::prepare(3, setup);
    let bootstrap: Vec<_> = (1..=3).map(|id| crate::harness::member(id, true)).collect();
    cluster.members[0].start(Some(bootstrap.clone()));
    let soon = Instant::now() + Duration::from_millis(100);
    for id in 1.. {
        match cluster.members[0]
            .node()
            .propose(id, Bytes::from_static(b"x"), soon)
        {
            Ok(()) => assert!(id < 100, "never full"),
            Err(Error::Overloaded) => break,
            Err(error) => panic!("{error}"),
        }
    }
    eventually("the deadline has passed", || {
        (Instant::now() > soon).then_some(())
    });
    cluster.members[1].start(Some(bootstrap.clone()));
    cluster.members[2].start(Some(bootstrap));
    cluster.leader();
    cluster.members[0].write(999);
    assert_eq!(cluster.members[0].state.ids(), [999]);
    assert!(
        cluster.members[0].failures.lock().is_empty(),
        "dropped without a word"
    );
}

#[test]
fn proposals_that_wait_at_shutdown_are_reported() {
    let mut cluster = Cluster::prepare(3, Setup::default());
    let bootstrap: Vec<_> = (1..=3).map(|id| crate::harness::member(id, true)).collect();
    cluster.members[0].start(Some(bootstrap));
    (1..=3).for_each(|id| cluster.members[0].propose(id, b"x"));
    let node = cluster.members[0].node().clone();
    cluster.members[0].shutdown();
    let mut failures = cluster.members[0].failures.lock().clone();
    failures.sort_unstable_by_key(|(id, _)| *id);
    let stopped = |id| (id, ProposeFailure::Stopped);
    assert_eq!(failures, (1..=3).map(stopped).collect::<Vec<_>>());
    let late = node.propose(4, Bytes::new(), Instant::now() + Duration::from_secs(1));
    assert!(matches!(late, Err(Error::Stopped { .. })), "{late:?}");
}
