//! Who takes part, and who leads.

use std::time::{Duration, Instant};

use kvd_raft::{Change, Error, Role};

use crate::harness::{Cluster, Setup, eventually, member};

#[test]
fn leadership_is_handed_over_quickly_and_by_one_term() {
    let cluster = Cluster::start(3, Setup::default());
    let old = &cluster.members[cluster.leader()];
    old.write(1);
    let term = old.status().term;
    let target = cluster.members[cluster.follower()].id;
    let started = Instant::now();
    let new = old
        .wait(old.node().transfer_leadership(Some(target)))
        .expect("handed over");
    let took = started.elapsed();
    assert_eq!(new, target);
    assert!(took < Duration::from_secs(5), "it took {took:?}");
    assert_eq!(cluster.members[cluster.leader()].id, target);
    assert_eq!(old.status().term, term + 1);
    assert_ne!(old.status().role, Role::Leader);
    let again = old.wait(old.node().transfer_leadership(None));
    assert!(matches!(again, Err(Error::NotLeader { .. })), "{again:?}");
}

#[test]
fn writes_go_on_while_leadership_moves_around() {
    let cluster = Cluster::start(3, Setup::default());
    let mut next = 0;
    for _ in 0..5 {
        let leader = cluster.leader();
        for member in &cluster.members {
            for _ in 0..100 {
                next += 1;
                member.propose(next, b"x");
            }
        }
        let leader = &cluster.members[leader];
        leader
            .wait(leader.node().transfer_leadership(None))
            .expect("handed over");
    }
    // A proposal that was under way on the old leader may be reported, but none is lost.
    let reported: usize = cluster.running().map(|m| m.failures.lock().len()).sum();
    let ids = cluster.converge(next as usize - reported);
    assert!(ids.len() <= next as usize, "none is applied twice");
}

#[test]
fn a_single_member_cannot_hand_over() {
    let cluster = Cluster::start(1, Setup::default());
    let only = &cluster.members[cluster.leader()];
    let result = only.wait(only.node().transfer_leadership(None));
    assert!(matches!(result, Err(Error::Membership(_))), "{result:?}");
    only.write(1);
}

#[test]
fn a_learner_follows_is_promoted_votes_and_is_removed() {
    let mut cluster = Cluster::start(1, Setup::default());
    cluster.leader();
    (1..=10).for_each(|id| cluster.members[0].write(id));

    let place = cluster.prepare_member(Setup::default());
    cluster.members[place].start(None);
    let leader = &cluster.members[0];
    leader.change(Change::Add(member(2, false))).expect("added");
    cluster.converge(10);
    let learner = &cluster.members[place];
    eventually("it knows what it is", || {
        (learner.status().role == Role::Learner).then_some(())
    });
    assert_eq!(
        (leader.status().voters, leader.status().learners),
        (vec![1], vec![2])
    );
    let members = learner.state.content.lock().members.clone();
    assert_eq!(members, [member(1, true), member(2, false)]);

    learner.write(11);
    leader.change(Change::Promote(2)).expect("promoted");
    eventually("it votes", || {
        (learner.status().voters == [1, 2]).then_some(())
    });
    assert_eq!(learner.status().learners, [] as [u64; 0]);

    leader
        .wait(leader.node().transfer_leadership(Some(2)))
        .expect("handed over");
    let refused = leader.change(Change::Remove(1));
    assert!(
        matches!(refused, Err(Error::NotLeader { leader: Some(2) })),
        "{refused:?}"
    );
    learner.change(Change::Remove(1)).expect("removed");
    eventually("it is alone", || {
        (learner.status().voters == [2]).then_some(())
    });
    learner.write(12);
    let members = learner.state.content.lock().members.clone();
    assert_eq!(members, [member(2, true)]);
    let last = learner.change(Change::Remove(2));
    assert!(matches!(last, Err(Error::Membership(_))), "{last:?}");
}

#[test]
fn a_leader_that_removes_itself_is_replaced() {
    let cluster = Cluster::start(3, Setup::default());
    let old = cluster.leader();
    let id = cluster.members[old].id;
    let others: Vec<usize> = (0..3).filter(|place| *place != old).collect();
    cluster.members[old]
        .change(Change::Remove(id))
        .expect("removed");
    let new = cluster.leader_of(&others);
    cluster.members[new].write(1);
    assert!(!cluster.members[new].status().voters.contains(&id));
}

#[test]
fn a_member_that_moves_is_reached_at_its_new_address() {
    let cluster = Cluster::start(3, Setup::default());
    let leader = &cluster.members[cluster.leader()];
    let id = cluster.members[cluster.follower()].id;
    let mut moved = member(id, true);
    moved.peer_urls = vec!["http://elsewhere:2380".into()];
    let peer_urls = moved.peer_urls.clone();
    leader
        .change(Change::Update { id, peer_urls })
        .expect("updated");
    leader.write(1);
    cluster.converge(1);
    let members = leader.state.content.lock().members.clone();
    assert!(members.contains(&moved));
    let unknown = leader.change(Change::Remove(77));
    assert!(matches!(unknown, Err(Error::Membership(_))), "{unknown:?}");
}

#[test]
fn a_member_with_a_vote_gets_it_when_it_has_caught_up_and_not_before() {
    let mut cluster = Cluster::start(1, Setup::default());
    cluster.leader();
    let place = cluster.prepare_member(Setup::default());
    let leader = &cluster.members[0];
    leader.change(Change::Add(member(2, true))).expect("added");
    let members = leader.state.content.lock().members.clone();
    assert_eq!(members, [member(1, true), member(2, true)]);
    // The second member does not run, and the cluster goes on.
    leader.write(1);
    assert_eq!(leader.status().voters, [1]);
    cluster.members[place].start(None);
    let leader = &cluster.members[0];
    eventually("it votes", || {
        (leader.status().voters == [1, 2]).then_some(())
    });
    leader.write(2);
    cluster.converge(2);
}

#[test]
fn a_change_on_what_has_passed_is_refused_and_writes_nothing() {
    let mut cluster = Cluster::start(1, Setup::default());
    cluster.leader();
    let leader = &cluster.members[0];
    leader.write(1);
    let old = leader.node().basis().expect("it leads");
    leader.change(Change::Add(member(2, false))).expect("added");
    let change = Change::Add(member(3, false));
    let refused = leader.wait(leader.node().change(&old, change));
    assert!(matches!(refused, Err(Error::Superseded)), "{refused:?}");
    let twice = leader.change(Change::Add(member(2, false)));
    assert!(matches!(twice, Err(Error::Membership(_))), "{twice:?}");
    let members = leader.state.content.lock().members.clone();
    assert_eq!(members, [member(1, true), member(2, false)]);
    cluster.members[0].kill();
    cluster.members[0].start(None);
    cluster.leader();
    assert_eq!(cluster.members[0].status().learners, [2]);
}

#[test]
fn a_removed_member_learns_of_it_also_when_it_was_down() {
    let mut cluster = Cluster::start(3, Setup::default());
    let leader = cluster.leader();
    let gone: Vec<usize> = (0..3).filter(|place| *place != leader).collect();
    let [up, down] = gone[..] else {
        unreachable!("three members")
    };
    let remove = |cluster: &Cluster, place: usize| {
        let id = cluster.members[place].id;
        cluster.members[leader]
            .change(Change::Remove(id))
            .expect("removed");
        cluster.members[leader].state.removed.lock().insert(id);
    };
    remove(&cluster, up);
    eventually("it knows", || {
        cluster.members[up].status().removed.then_some(())
    });
    cluster.members[down].kill();
    cluster.members[leader].kill();
    cluster.members[up].kill();
    cluster.members[leader].start(None);
    cluster.members[down].start(None);
    let leads = cluster.leader_of(&[leader, down]);
    assert!(!cluster.members[leads].status().removed);
}

#[test]
fn one_of_three_goes_on_alone_with_all_its_data_when_it_is_told_to() {
    let mut cluster = Cluster::start(3, Setup::default());
    let leader = cluster.leader();
    (1..=20).for_each(|id| cluster.members[leader].write(id));
    cluster.converge(20);
    let lone = cluster.follower();
    for member in &mut cluster.members {
        member.kill();
    }
    for forced in [true, true, false] {
        cluster.members[lone].setup.force_new_cluster = forced;
        cluster.members[lone].start(None);
        cluster.leader_of(&[lone]);
        let member = &cluster.members[lone];
        assert_eq!(member.status().voters, [member.id]);
        let id = cluster.new_id();
        member.write(id);
        assert!(cluster.members[lone].state.has(20));
        cluster.members[lone].shutdown();
    }
    let members = cluster.members[lone].state.content.lock().members.clone();
    assert_eq!(members.len(), 1);
}
