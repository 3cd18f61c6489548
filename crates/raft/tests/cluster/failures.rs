//! Crashes, partitions, faults and strangers.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use kvd_raft::{Error, Role};

use crate::harness::{
    Cluster, DEADLINE, ELECTION, HEARTBEAT, Setup, TestMember, eventually, member,
};

#[test]
fn writes_go_on_after_the_leader_is_killed_and_it_catches_up() {
    let mut cluster = Cluster::start(3, Setup::default());
    let first = cluster.leader();
    let term = cluster.members[first].status().term;
    (1..=50).for_each(|id| cluster.members[first].write(id));
    cluster.members[first].kill();
    let second = cluster.leader();
    assert_ne!(first, second);
    assert!(cluster.members[second].status().term > term);
    (51..=100).for_each(|id| cluster.members[second].write(id));
    cluster.members[first].start(None);
    let ids = cluster.converge(100);
    assert_eq!(ids, (1..=100).collect::<Vec<_>>());
}

/// Nothing is applied twice, and what was answered is never lost, whatever happens to leaders.
#[test]
fn commands_are_applied_at_most_once_while_leaders_are_killed() {
    let mut cluster = Cluster::start(3, Setup::default());
    let mut proposed = 0_u64;
    for _ in 0..4 {
        let leader = cluster.leader();
        let mut propose = |cluster: &Cluster, count| {
            for member in cluster.running() {
                for _ in 0..count {
                    proposed += 1;
                    member.propose(proposed, b"x");
                }
            }
        };
        propose(&cluster, 200);
        cluster.members[leader].kill();
        propose(&cluster, 100);
        // Every proposal of a member that lives is answered one way or the other.
        let next = cluster.leader();
        cluster.members[next].write(cluster.new_id() + 1_000_000);
        cluster.members[leader].start(None);
    }
    cluster.leader();
    let last = cluster.new_id() + 2_000_000;
    cluster.members[0].write(last);
    eventually("all have it", || {
        cluster.running().all(|m| m.state.has(last)).then_some(())
    });
    cluster.converge(1);
    for member in cluster.running() {
        let twice: Vec<_> = member
            .state
            .tally()
            .into_iter()
            .filter(|(_, n)| *n > 1)
            .collect();
        assert_eq!(twice, [], "applied twice by member {}", member.id);
    }
}

#[test]
fn a_restarted_member_is_reached_at_once() {
    let mut cluster = Cluster::start(3, Setup::default());
    let away = cluster.follower();
    cluster.members[away].kill();
    let leader = cluster.leader();
    (1..=10).for_each(|id| cluster.members[leader].write(id));
    cluster.members[away].start(None);
    let started = Instant::now();
    eventually("it is reached", || {
        cluster.members[away].state.has(10).then_some(())
    });
    let took = started.elapsed();
    assert!(took < Duration::from_secs(10), "it took {took:?}");
}

#[test]
fn a_leader_that_is_cut_off_is_replaced_and_follows_when_it_is_back() {
    let cluster = Cluster::start(3, Setup::default());
    let old = cluster.leader();
    let others: Vec<usize> = (0..3).filter(|place| *place != old).collect();
    cluster.members[old].write(1);
    let other_ids: Vec<u64> = others
        .iter()
        .map(|place| cluster.members[*place].id)
        .collect();
    cluster.net.isolate(cluster.members[old].id, &other_ids);
    // It may append this, but a quorum will never have it.
    cluster.members[old].propose(2, b"lost or late");
    let new = cluster.leader_of(&others);
    cluster.members[new].write(3);
    eventually("the old leader knows that it does not lead", || {
        cluster.members[old].status().leader.is_none().then_some(())
    });
    assert_ne!(cluster.members[old].status().role, Role::Leader);
    assert!(!cluster.members[old].state.has(3));
    cluster.net.heal();
    cluster.leader();
    cluster.members[old].write(4);
    let ids = cluster.converge(3);
    let known = |id: &u64| [1, 2, 3, 4].contains(id);
    assert!(ids.iter().all(known) && ids.len() <= 4, "{ids:?}");
}

#[test]
fn a_follower_that_is_cut_off_does_not_depose_the_leader() {
    let cluster = Cluster::start(3, Setup::default());
    let leader = cluster.leader();
    let term = cluster.members[leader].status().term;
    let away = cluster.follower();
    let ids: Vec<u64> = cluster.members.iter().map(|member| member.id).collect();
    let others: Vec<u64> = ids
        .into_iter()
        .filter(|id| *id != cluster.members[away].id)
        .collect();
    cluster.net.isolate(cluster.members[away].id, &others);
    eventually("it notices", || {
        cluster.members[away]
            .status()
            .leader
            .is_none()
            .then_some(())
    });
    // Long enough for it to ask for votes a few times.
    let asked = Instant::now() + 4 * ELECTION;
    eventually("time passes", || {
        cluster.members[leader].write(cluster.new_id());
        (Instant::now() > asked).then_some(())
    });
    cluster.net.heal();
    cluster.converge(1);
    assert_eq!(cluster.leader(), leader);
    assert_eq!(
        cluster.members[leader].status().term,
        term,
        "nobody was elected meanwhile"
    );
}

#[test]
fn a_member_of_another_cluster_is_refused() {
    let mut cluster = Cluster::start(3, Setup::default());
    let leader = cluster.leader();
    let term = cluster.members[leader].status().term;
    let away = cluster.follower();
    cluster.members[away].kill();
    // A member with the same id, but of another cluster, takes its place.
    let setup = Setup {
        cluster_id: 0xbad,
        ..Setup::default()
    };
    let place = cluster.prepare_member(setup.clone());
    let dir = tempfile::tempdir().expect("a temporary folder");
    let id = cluster.members[away].id;
    cluster.members[place] = TestMember::new(id, dir.path().to_owned(), cluster.net.clone(), setup);
    let bootstrap = (1..=3).map(|id| member(id, true)).collect();
    cluster.members[place].start(Some(bootstrap));
    let until = Instant::now() + 5 * ELECTION;
    eventually("time passes", || {
        cluster.members[leader].write(cluster.new_id());
        (Instant::now() > until).then_some(())
    });
    let stranger = cluster.members[place].status();
    assert_eq!((stranger.leader, stranger.commit_index), (None, 0));
    assert_eq!(cluster.members[place].state.count(), 0);
    assert_eq!(cluster.members[leader].status().term, term);
    cluster.members[place].kill();
}

/// A transfer that is interrupted anywhere leaves nothing behind that disturbs the next one.
#[test]
fn interrupted_snapshots_are_sent_again_and_leave_no_files() {
    let setup = Setup {
        snapshot_count: 20,
        catchup_entries: 5,
        ..Setup::default()
    };
    let mut cluster = Cluster::start(3, setup);
    let away = cluster.follower();
    let behind = cluster.members[away].status().last_index;
    cluster.members[away].kill();
    let leader = cluster.leader();
    let large = vec![3; 256 << 10];
    eventually("the log is purged", || {
        let id = cluster.new_id();
        cluster.members[leader].propose(id, &large);
        eventually("applied", || {
            cluster.members[leader].state.has(id).then_some(())
        });
        let enough = cluster.members[leader].state.count() > 100;
        let purged = cluster.members[leader].status().purged_index > behind + 10;
        (enough && purged).then_some(())
    });
    for _ in 0..3 {
        cluster.members[away].start(None);
        let state = cluster.members[away].state.clone();
        eventually("a transfer has begun", || {
            let begun = cluster.members[away].received_files() > 0;
            (begun || state.installs.load(Ordering::SeqCst) > 0).then_some(())
        });
        cluster.members[away].kill();
    }
    cluster.members[away].start(None);
    cluster.converge(100);
    assert!(cluster.members[away].state.installs.load(Ordering::SeqCst) > 0);
    eventually("no file is left", || {
        (cluster.members[away].received_files() == 0).then_some(())
    });
}

#[test]
fn a_fault_of_the_state_machine_stops_the_member_and_the_others_go_on() {
    let cluster = Cluster::start(3, Setup::default());
    let broken = &cluster.members[cluster.leader()];
    broken.write(1);
    broken.state.broken.store(true, Ordering::SeqCst);
    broken.propose(2, b"x");
    let status = eventually("it stops", || {
        let status = broken.node().status().borrow().clone();
        (!status.running).then_some(status)
    });
    assert!(status.fault.expect("a fault").contains("broken on purpose"));
    let late = broken.wait(broken.node().read_index());
    assert!(
        matches!(late, Err(Error::Stopped { fault: Some(_) })),
        "{late:?}"
    );
    let others: Vec<usize> = (0..3)
        .filter(|place| cluster.members[*place].id != broken.id)
        .collect();
    let leader = &cluster.members[cluster.leader_of(&others)];
    leader.write(3);
    assert!(
        leader.state.has(2),
        "it was committed before it was applied"
    );
}

/// A task that was woken on the thread that waits, such as openraft's, must not wait with it.
#[test]
fn a_leader_whose_store_waits_for_its_disk_stays_leader() {
    let cluster = Cluster::start(3, Setup::default());
    let leader = &cluster.members[cluster.leader()];
    leader.write(1);
    let term = leader.status().term;
    let stall = 3 * ELECTION;
    leader
        .state
        .stall
        .store(stall.as_millis() as u64, Ordering::SeqCst);
    let started = Instant::now();
    let mut last = 1;
    // The next entries wait behind those that are being applied.
    while started.elapsed() < 4 * stall {
        last += 1;
        leader.propose(last, b"x");
        std::thread::sleep(HEARTBEAT / 2);
    }
    leader.state.stall.store(0, Ordering::SeqCst);
    eventually("all of it is applied", || {
        leader.state.has(last).then_some(())
    });
    assert_eq!(leader.status().term, term);
    assert_eq!(leader.status().leader, Some(leader.id));
}

#[test]
fn without_a_leader_a_read_index_fails_in_the_end() {
    let mut cluster = Cluster::prepare(3, Setup::default());
    let bootstrap = (1..=3).map(|id| member(id, true)).collect();
    cluster.members[0].start(Some(bootstrap));
    let only = &cluster.members[0];
    let started = Instant::now();
    let read = only.wait(only.node().read_index());
    assert!(
        matches!(read, Err(Error::NoLeader | Error::Timeout)),
        "{read:?}"
    );
    assert!(started.elapsed() < DEADLINE);
}
