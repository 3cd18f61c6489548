//! Deadlines of a leader, with the time given.

use super::*;

fn leases(granted: &[(i64, i64)]) -> Leases {
    let leases = Leases {
        state: Mutex::default(),
        checkpoints: tokio::sync::Mutex::default(),
    };
    for (id, ttl) in granted {
        assert!(leases.grant(*id, *ttl));
    }
    leases
}

const ELECTION: Duration = Duration::from_secs(1);

fn after(start: Instant, seconds: u64) -> Instant {
    start + Duration::from_secs(seconds)
}

#[test]
fn a_new_leader_grants_the_whole_ttl_and_an_election_timeout() {
    let start = Instant::now();
    let leases = leases(&[(1, 10), (2, 20)]);
    assert!(
        leases.take_expired(after(start, 99), 10).is_empty(),
        "no leader yet"
    );
    leases.promote(3, start, ELECTION);
    assert!(leases.take_expired(after(start, 10), 10).is_empty());
    assert_eq!(leases.take_expired(after(start, 11), 10), [1]);
    assert_eq!(leases.ids(), [1, 2]);
    leases.demote();
    assert!(leases.take_expired(after(start, 99), 10).is_empty());
}

#[test]
fn a_checkpoint_is_what_a_new_leader_grants() {
    let start = Instant::now();
    let leases = leases(&[(1, 1000)]);
    leases.promote(3, start, Duration::ZERO);
    assert_eq!(leases.take_checkpoints(after(start, 300), 10), [(1, 700)]);
    assert!(leases.checkpoint(1, 700).is_some());
    leases.demote();
    leases.promote(4, after(start, 400), ELECTION);
    assert!(leases.take_expired(after(start, 1100), 10).is_empty());
    assert_eq!(leases.take_expired(after(start, 1101), 10), [1]);
}

#[test]
fn a_renewal_first_clears_the_checkpoint() {
    let start = Instant::now();
    let leases = leases(&[(1, 1000)]);
    leases.promote(3, start, Duration::ZERO);
    assert!(matches!(
        leases.renew(1, 3, after(start, 1)),
        Renewal::Renewed(1000)
    ));
    assert_eq!(leases.take_checkpoints(after(start, 301), 10), [(1, 700)]);
    // Given out, and perhaps in the log already, though not applied.
    assert!(matches!(
        leases.renew(1, 3, after(start, 302)),
        Renewal::Checkpointed
    ));
    assert!(leases.checkpoint(1, 700).is_some());
    assert!(matches!(
        leases.renew(1, 3, after(start, 302)),
        Renewal::Checkpointed
    ));
    assert!(leases.checkpoint(1, 0).is_some());
    leases.cleared(1);
    assert!(matches!(
        leases.renew(1, 3, after(start, 302)),
        Renewal::Renewed(1000)
    ));
}

#[test]
fn an_expired_lease_cannot_be_renewed_and_its_waiter_learns_of_the_revoke() {
    let start = Instant::now();
    let leases = leases(&[(1, 10), (2, 10)]);
    leases.promote(3, start, Duration::ZERO);
    let Renewal::Expired(mut first) = leases.renew(1, 3, after(start, 10)) else {
        panic!("renewed after its deadline");
    };
    let Renewal::Expired(mut second) = leases.renew(2, 3, after(start, 10)) else {
        panic!("renewed after its deadline");
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    leases.revoke(1);
    assert!(runtime.block_on(first.changed()).is_err());
    assert!(matches!(
        leases.renew(1, 3, after(start, 10)),
        Renewal::Unknown
    ));
    assert!(!second.has_changed().expect("still waits"));
    leases.demote();
    assert!(runtime.block_on(second.changed()).is_err());
    assert!(matches!(
        leases.renew(2, 3, after(start, 10)),
        Renewal::NotPrimary
    ));
}

#[test]
fn only_the_leader_of_the_term_renews_and_tells() {
    let start = Instant::now();
    let leases = leases(&[(1, 10)]);
    leases.promote(3, start, Duration::ZERO);
    assert!(matches!(leases.renew(1, 4, start), Renewal::NotPrimary));
    let told = leases.time_to_live(1, 4, start, false);
    assert_eq!(told, TimeToLive::NotPrimary);
    let known = |ttl| TimeToLive::Known {
        ttl,
        granted_ttl: 10,
        keys: Vec::new(),
    };
    let at = start + Duration::from_millis(2500);
    assert_eq!(leases.time_to_live(1, 3, at, true), known(7));
    assert_eq!(leases.time_to_live(1, 3, after(start, 12), true), known(-2));
    assert_eq!(leases.time_to_live(2, 3, start, true), TimeToLive::Unknown);
}

#[test]
fn many_leases_do_not_run_out_in_the_same_second_after_an_election() {
    let start = Instant::now();
    let granted: Vec<(i64, i64)> = (1..=2_000).map(|id| (id, 10)).collect();
    let leases = leases(&granted);
    leases.promote(3, start, Duration::ZERO);
    let mut counts = Vec::new();
    for second in 9..14 {
        let mut expired = 0;
        for id in leases.take_expired(after(start, second), 5_000) {
            leases.revoke(id);
            expired += 1;
        }
        counts.push(expired);
    }
    assert_eq!(counts, [0, 750, 750, 500, 0]);
}
