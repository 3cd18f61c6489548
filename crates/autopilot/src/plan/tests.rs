use proptest::prelude::*;

use super::*;

const POLICY: Policy = Policy {
    stabilization: Duration::from_secs(10),
    leave_after: Duration::from_secs(10),
    abandon_after: Duration::from_secs(60),
    cleanup: None,
    first_ordinal: 0,
};

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// The same member without a number in its name.
fn host(member: Member) -> Member {
    let name = format!("host{}.db", member.id);
    Member {
        peer_urls: vec![format!("http://{name}:2380")],
        name: if member.name.is_empty() {
            String::new()
        } else {
            name
        },
        ..member
    }
}

/// A voter `db-N` that is well; the first is the leader.
fn well(number: u64) -> Member {
    Member {
        id: number + 1,
        name: format!("db-{number}"),
        peer_urls: vec![format!("http://db-{number}.db:2380")],
        votes: true,
        local: number == 0,
        reachable_for: (number > 0).then_some(seconds(100)),
        caught_up_for: Some(seconds(100)),
        lag: Some(0),
        ..Member::default()
    }
}

fn dead(number: u64, silent: u64) -> Member {
    Member {
        reachable_for: None,
        caught_up_for: None,
        unreachable_for: seconds(silent),
        ..well(number)
    }
}

fn learner(number: u64) -> Member {
    Member {
        learner: true,
        votes: false,
        ..well(number)
    }
}

fn view(members: Vec<Member>, desired: Option<u32>) -> View {
    View { members, desired }
}

fn applicant(number: u64) -> Applicant {
    Applicant {
        id: 1_000 + number,
        name: format!("db-{number}"),
        peer_urls: vec![format!("http://db-{number}.db:2380")],
    }
}

#[test]
fn a_learner_is_promoted_when_it_has_been_well_for_long_enough() {
    let kind = |plan: Plan| plan.next.map(|action| (action.kind, action.id));
    let members = vec![well(0), learner(1)];
    assert_eq!(
        kind(plan(&view(members, None), &POLICY)),
        Some((Kind::Promote, 2))
    );
    for changed in [
        Member {
            caught_up_for: Some(seconds(9)),
            ..learner(1)
        },
        Member {
            caught_up_for: None,
            ..learner(1)
        },
        Member {
            reachable_for: Some(seconds(9)),
            ..learner(1)
        },
        Member {
            reachable_for: None,
            ..learner(1)
        },
        Member {
            name: String::new(),
            ..learner(1)
        },
    ] {
        let plan = plan(&view(vec![well(0), changed], None), &POLICY);
        assert!(plan.next.is_none() && plan.held.len() == 1, "{plan:?}");
    }
    let never = Member {
        name: String::new(),
        learner: true,
        votes: false,
        ..dead(1, 61)
    };
    let plan = plan(&view(vec![well(0), never], None), &POLICY);
    assert_eq!(kind(plan), Some((Kind::Abandoned, 2)));
}

#[test]
fn who_is_wanted_no_more_is_removed_once_it_is_silent() {
    let five = |last: Member| view(vec![well(0), well(1), well(2), well(3), last], Some(3));
    let plan_of = |last| plan(&five(last), &POLICY);
    let action = plan_of(dead(4, 11)).next.expect("it is removed");
    assert_eq!((action.kind, action.id), (Kind::Leave, 5));
    assert_eq!(plan_of(dead(4, 9)).next, None);
    // As long as it lives it leaves by itself.
    let alive = plan_of(well(4));
    assert_eq!((alive.next, alive.held.len()), (None, 2));
    // Nobody says how many, or none: nobody leaves.
    for desired in [None, Some(0), Some(5)] {
        let plan = plan(&view(vec![well(0), well(1), dead(2, 99)], desired), &POLICY);
        assert_eq!(plan.next, None, "{desired:?}");
    }
    // Two at once go one after the other, and never without a quorum.
    let both = vec![well(0), well(1), well(2), dead(3, 99), dead(4, 99)];
    let plan_of = |members| plan(&view(members, Some(3)), &POLICY);
    let first = plan_of(both);
    assert_eq!((first.next.map(|a| a.id), first.held.len()), (Some(4), 1));
    let no_quorum = plan_of(vec![
        well(0),
        dead(1, 1),
        dead(2, 1),
        dead(3, 99),
        dead(4, 99),
    ]);
    assert!(
        no_quorum.next.is_none() && no_quorum.held.len() == 2,
        "{no_quorum:?}"
    );
}

#[test]
fn the_dead_are_removed_only_by_the_policy() {
    let members = || vec![well(0), well(1), well(2), well(3), dead(4, 1000)];
    assert_eq!(plan(&view(members(), None), &POLICY).next, None);
    let with = |threshold, min_quorum| Policy {
        cleanup: Some(Cleanup {
            threshold: seconds(threshold),
            min_quorum,
        }),
        ..POLICY
    };
    let kind = |policy| plan(&view(members(), None), &policy).next.map(|a| a.kind);
    assert_eq!(kind(with(900, 3)), Some(Kind::Cleanup));
    assert_eq!(kind(with(1001, 3)), None);
    assert_eq!(kind(with(900, 5)), None);
}

#[test]
fn a_lost_disk_is_replaced_only_when_the_old_one_is_dead_and_the_rest_is_enough() {
    let ask = |members| admit(&view(members, None), &POLICY, &applicant(2), 1);
    let replaced = ask(vec![well(0), well(1), dead(2, 1)]);
    assert!(
        matches!(replaced, Admission::Replace(Action { id: 3, .. })),
        "{replaced:?}"
    );
    assert!(matches!(
        ask(vec![well(0), well(1), well(2)]),
        Admission::Refuse(_)
    ));
    assert!(matches!(
        ask(vec![well(0), dead(1, 1), dead(2, 1)]),
        Admission::Wait(_)
    ));
    assert_eq!(ask(vec![well(0), well(1)]), Admission::Add);
    assert!(matches!(ask(vec![well(0), learner(1)]), Admission::Wait(_)));
    let pending = Member {
        votes: false,
        ..well(1)
    };
    assert!(matches!(
        ask(vec![well(0), pending, dead(2, 9)]),
        Admission::Wait(_)
    ));
    let known = Member {
        id: 1_002,
        ..learner(2)
    };
    assert_eq!(ask(vec![well(0), known]), Admission::Known);
    let surplus = admit(&view(vec![well(0)], Some(2)), &POLICY, &applicant(2), 1);
    assert!(matches!(surplus, Admission::Wait(_)), "{surplus:?}");
    let own = admit(&view(vec![well(0)], None), &POLICY, &applicant(0), 1);
    assert!(matches!(own, Admission::Refuse(_)), "{own:?}");
}

fn any_member(number: u64) -> impl Strategy<Value = Member> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (flags, 0_u64..2_000, 0_u64..200).prop_map(
        move |((alive, learns, votes, named), silent, up)| {
            let base = if alive || number == 0 {
                well(number)
            } else {
                dead(number, silent)
            };
            Member {
                learner: learns && number > 0,
                votes: number == 0 || (!learns && votes),
                name: if named || number == 0 {
                    base.name.clone()
                } else {
                    String::new()
                },
                caught_up_for: base.caught_up_for.map(|_| seconds(up)),
                ..base
            }
        },
    )
}

fn any_view() -> impl Strategy<Value = View> {
    let members = (1_u64..8).prop_flat_map(|count| {
        (0..count)
            .map(|number| any_member(number).boxed())
            .collect::<Vec<_>>()
    });
    let numbered = any::<bool>();
    (members, proptest::option::of(0_u32..8), numbered).prop_map(|(members, desired, numbered)| {
        let name = |member| if numbered { member } else { host(member) };
        View {
            members: members.into_iter().map(name).collect(),
            desired,
        }
    })
}

/// What must hold before any removal, said once more and in another way.
fn check_removed(view: &View, id: u64, least: usize) -> Result<(), TestCaseError> {
    let gone = view
        .members
        .iter()
        .find(|member| member.id == id)
        .expect("a member");
    prop_assert!(
        !gone.local && gone.reachable_for.is_none(),
        "the living stay"
    );
    if gone.learner {
        return Ok(());
    }
    let others = || view.members.iter().filter(|member| member.id != id);
    let pending = others().any(|member| !member.learner && !member.votes);
    prop_assert!(!pending, "another change is under way");
    let left: Vec<&Member> = view
        .members
        .iter()
        .filter(|m| m.id != id && !m.learner)
        .collect();
    let alive = left
        .iter()
        .filter(|m| m.local || m.reachable_for.is_some())
        .count();
    prop_assert!(
        alive * 2 > left.len(),
        "{alive} of {} are no quorum",
        left.len()
    );
    prop_assert!(left.len() >= least);
    Ok(())
}

proptest! {
    #[test]
    fn nothing_that_is_planned_costs_the_quorum(
        view in any_view(),
        dead in any::<bool>(),
        least in 0_u32..6,
    ) {
        let cleanup = dead.then_some(Cleanup { threshold: seconds(500), min_quorum: least });
        let plan = plan(&view, &Policy { cleanup, ..POLICY });
        let Some(action) = plan.next else { return Ok(()) };
        match action.kind {
            Kind::Promote => {}
            Kind::Cleanup => {
                prop_assert!(dead);
                check_removed(&view, action.id, least as usize)?;
            }
            Kind::Leave => {
                prop_assert!(view.desired.is_some_and(|desired| desired > 0));
                check_removed(&view, action.id, 1)?;
            }
            Kind::Abandoned => check_removed(&view, action.id, 0)?,
            Kind::Replace | Kind::Join => prop_assert!(false, "nobody asked"),
        }
    }

    #[test]
    fn nothing_that_is_asked_costs_the_quorum(view in any_view(), number in 0_u64..8) {
        match admit(&view, &POLICY, &applicant(number), 1) {
            Admission::Replace(action) => check_removed(&view, action.id, 1)?,
            Admission::Add => {
                prop_assert!(view.members.iter().all(|member| !member.learner));
                let name = format!("db-{number}");
                prop_assert!(view.members.iter().all(|member| member.called() != name));
            }
            _ => {}
        }
    }
}

#[test]
fn members_without_numbers_are_counted() {
    let next = |members: Vec<Member>, desired| {
        let plan = plan(&view(members, desired), &POLICY);
        plan.next.map(|action| (action.kind, action.id))
    };
    // Three are wanted, and a fourth has taken the place of one that is gone.
    let four = |third: Member, fourth: Member| vec![well(0), well(1), third, fourth].into_iter();
    let members: Vec<Member> = four(dead(2, 10), well(3)).map(host).collect();
    assert_eq!(next(members.clone(), Some(3)), Some((Kind::Leave, 3)));
    for desired in [None, Some(0), Some(4), Some(5)] {
        assert_eq!(next(members.clone(), desired), None, "{desired:?}");
    }
    // Not yet; one that answers never; and of two the one that has been silent for longer.
    for spared in [dead(2, 9), well(2)] {
        let members = four(spared, well(3)).map(host).collect();
        assert_eq!(next(members, Some(3)), None);
    }
    let members = vec![well(0), well(1), well(2), dead(3, 20), dead(4, 30)];
    let members: Vec<Member> = members.into_iter().map(host).collect();
    assert_eq!(next(members, Some(3)), Some((Kind::Leave, 5)));
    // Never when too few of those that stay answer.
    let members = vec![well(0), dead(1, 20), dead(2, 20)];
    assert_eq!(next(members.into_iter().map(host).collect(), Some(1)), None);
    // Numbers say who stays; a name without one among them says nothing.
    let members: Vec<Member> = four(dead(2, 10), host(dead(3, 10))).collect();
    assert_eq!(next(members, Some(3)), None);
}

#[test]
fn who_is_told_to_stop_goes_for_good_only_when_more_answer_than_are_wanted() {
    let members = |list: Vec<Member>| view(list.into_iter().map(host).collect(), None);
    let goes = |view: &View, desired| goes_for_good(view, "host1.db", desired, 0);
    let four = members(vec![well(0), well(1), well(2), well(3)]);
    assert!(goes(&four, 3) && goes(&four, 1));
    assert!(!goes(&four, 4) && !goes(&four, 5) && !goes(&four, 0));
    // The dead one is the one too many, and this one only restarts.
    let one_dead = members(vec![well(0), well(1), well(2), dead(3, 5)]);
    assert!(!goes(&one_dead, 3) && goes(&one_dead, 2));
    let numbered = view(vec![well(0), well(1)], None);
    assert!(goes_for_good(&numbered, "db-1", 1, 0));
    assert!(!goes_for_good(&numbered, "db-0", 1, 0));
    assert!(!goes_for_good(&numbered, "other", 1, 0));
}

#[test]
fn as_many_as_are_wanted_are_let_in_where_members_are_counted() {
    let ask = |members: Vec<Member>, desired| {
        let who = Applicant {
            id: 99,
            name: "new.db".to_owned(),
            peer_urls: vec!["http://new.db:2380".to_owned()],
        };
        let members = members.into_iter().map(host).collect();
        admit(&view(members, desired), &POLICY, &who, 1)
    };
    let three = || vec![well(0), well(1), well(2)];
    assert_eq!(ask(three(), Some(4)), Admission::Add);
    assert_eq!(ask(three(), None), Admission::Add);
    assert!(matches!(ask(three(), Some(3)), Admission::Wait(_)));
    // In the place of one that does not answer, which goes later.
    assert_eq!(
        ask(vec![well(0), well(1), dead(2, 1)], Some(3)),
        Admission::Add
    );
}
