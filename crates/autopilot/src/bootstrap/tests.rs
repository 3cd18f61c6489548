//! Cases one by one, and a model: members that ask, crash, and lose disks in any order, with a name
//! server that shows what it likes.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::*;

fn founder(name: &str, nonce: &str) -> Founder {
    Founder {
        name: name.to_owned(),
        peer_urls: vec![format!("http://{name}.db:2380")],
        nonce: nonce.to_owned(),
    }
}

fn own(name: &str, nonce: &str) -> Own {
    Own {
        founder: founder(name, nonce),
        token: "t".to_owned(),
        expect: 3,
        first_ordinal: 0,
        promise: None,
    }
}

fn empty(name: &str, nonce: &str) -> Answer {
    Answer {
        token: "t".to_owned(),
        name: name.to_owned(),
        peer_urls: founder(name, nonce).peer_urls,
        nonce: nonce.to_owned(),
        ..Answer::default()
    }
}

fn started(name: &str, cluster: &str, leader: bool) -> Answer {
    let member = Known {
        id: "1".to_owned(),
        name: name.to_owned(),
        peer_urls: vec![format!("http://{name}.db:2380")],
    };
    Answer {
        started: Some(Started {
            cluster_id: cluster.to_owned(),
            member_id: "1".to_owned(),
            leader: if leader { "1" } else { "" }.to_owned(),
            members: vec![member],
        }),
        ..empty(name, &format!("disk of {name}"))
    }
}

fn round(answers: Vec<Answer>) -> Round {
    Round {
        answers: answers.into_iter().map(|a| (a.name.clone(), a)).collect(),
        ..Round::default()
    }
}

fn text(step: Step) -> String {
    match step {
        Step::Wait(why) | Step::Refuse(why) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_lowest_name_proposes_when_all_have_answered() {
    let all = || vec![empty("db-1", "b"), empty("db-2", "c")];
    let Step::Promise(promise) = decide(&own("db-0", "a"), &round(all())) else {
        panic!("it proposes");
    };
    assert_eq!((promise.epoch, promise.founders.len()), (1, 3));
    let waits = text(decide(&own("db-0", "a"), &round(vec![empty("db-2", "c")])));
    assert!(waits.contains("db-1"), "{waits}");
    let higher = own("db-1", "b");
    let waits = text(decide(
        &higher,
        &round(vec![empty("db-0", "a"), empty("db-2", "c")]),
    ));
    assert!(waits.contains("db-0 to propose"), "{waits}");
    // It promises the same when it hears of it, and starts when all have.
    let with = |name, nonce| Answer {
        promise: Some(promise.clone()),
        ..empty(name, nonce)
    };
    let heard = round(vec![with("db-0", "a"), empty("db-2", "c")]);
    assert_eq!(decide(&higher, &heard), Step::Promise(promise.clone()));
    let agreed = Own {
        promise: Some(promise.clone()),
        ..higher
    };
    assert!(matches!(decide(&agreed, &heard), Step::Wait(_)));
    let all = round(vec![with("db-0", "a"), with("db-2", "c")]);
    assert_eq!(decide(&agreed, &all), Step::Start(promise.clone()));
    // A disk that was lost meanwhile has promised nothing.
    let lost = round(vec![with("db-0", "a"), empty("db-2", "new")]);
    assert!(matches!(decide(&agreed, &lost), Step::Wait(_)));
}

#[test]
fn whatever_is_listed_and_silent_holds_the_beginning_back() {
    let mut seen = round(vec![empty("db-1", "b"), empty("db-2", "c")]);
    seen.silent
        .push(("10.0.0.9:2380".to_owned(), "timeout".to_owned()));
    let waits = text(decide(&own("db-0", "a"), &seen));
    assert!(waits.contains("10.0.0.9:2380"), "{waits}");
    seen.silent.clear();
    seen.desired = Desired::Unknown;
    assert!(matches!(decide(&own("db-0", "a"), &seen), Step::Wait(_)));
    seen.desired = Desired::Count(6);
    let waits = text(decide(&own("db-0", "a"), &seen));
    assert!(waits.contains("3 of 6"), "{waits}");
    seen.desired = Desired::Count(5);
    assert!(matches!(decide(&own("db-0", "a"), &seen), Step::Promise(_)));
}

#[test]
fn a_cluster_that_is_there_is_joined_and_strangers_are_not_counted() {
    let me = own("db-3", "d");
    let joined = decide(&me, &round(vec![started("db-0", "c1", true)]));
    let expected = Step::Join {
        cluster_id: "c1".to_owned(),
        leader: vec!["http://db-0.db:2380".to_owned()],
    };
    assert_eq!(joined, expected);
    let waits = text(decide(&me, &round(vec![started("db-0", "c1", false)])));
    assert!(waits.contains("no leader"), "{waits}");
    let two = vec![started("db-0", "c1", true), started("db-1", "c2", true)];
    let refused = text(decide(&me, &round(two)));
    assert!(refused.contains("c1 (db-0) and c2 (db-1)"), "{refused}");
    let stranger = Answer {
        token: "other".to_owned(),
        ..started("x", "c9", true)
    };
    let seen = round(vec![
        stranger,
        empty("db-0", "a"),
        empty("db-1", "b"),
        empty("db-2", "c"),
    ]);
    let waits = text(decide(&me, &seen));
    assert!(waits.contains("none of the first 3"), "{waits}");
    let told = super::seen(&me, &seen);
    assert!(
        told.iter().any(|seen| seen.state.starts_with("stranger")),
        "{told:?}"
    );
}

#[test]
fn two_members_with_one_name_are_refused() {
    let twin = text(decide(&own("db-0", "a"), &round(vec![empty("db-0", "z")])));
    assert!(twin.contains("two members with one name"), "{twin}");
    let twins = vec![empty("db-1", "b"), empty("db-1", "y"), empty("db-2", "c")];
    let refused = text(decide(&own("db-0", "a"), &round(twins)));
    assert!(refused.contains("db-1"), "{refused}");
}

#[test]
fn hosts_without_numbers_keep_to_their_promise() {
    let names = |step| match step {
        Step::Promise(promise) => promise.names(),
        other => panic!("{other:?}"),
    };
    let all = vec![empty("b", "2"), empty("c", "3"), empty("d", "4")];
    assert_eq!(
        names(decide(&own("a", "1"), &round(all.clone()))),
        "a, b, c"
    );
    let mut late = own("d", "4");
    let others = vec![empty("a", "1"), empty("b", "2"), empty("c", "3")];
    assert!(text(decide(&late, &round(others))).contains("a, b, c"));
    late.founder = founder("a", "1");
    late.promise = Some(Promise {
        epoch: 1,
        founders: vec![founder("a", "1"), founder("x", "7"), founder("y", "8")],
    });
    let waits = text(decide(&late, &round(all)));
    assert!(waits.contains("x, y"), "{waits}");
}

/// A member of the model: its disk, and the round that it is in.
struct Member {
    name: String,
    nonce: String,
    promise: Option<Promise>,
    started: Option<Promise>,
    asking: Option<Asking>,
}

/// A round that is under way: whom it asks, and what came.
struct Asking {
    to: Vec<usize>,
    round: Round,
}

struct Model {
    random: StdRng,
    members: Vec<Member>,
    expect: u32,
    nonces: u64,
    ordinals: bool,
}

impl Model {
    fn new(seed: u64, ordinals: bool) -> Model {
        let mut random = StdRng::seed_from_u64(seed);
        let count = if ordinals {
            4
        } else {
            random.random_range(3..=5)
        };
        let mut model = Model {
            random,
            members: Vec::new(),
            expect: 3,
            nonces: 0,
            ordinals,
        };
        for number in 0..count {
            let name = if ordinals {
                format!("db-{number}")
            } else {
                format!("host{number}")
            };
            let nonce = model.nonce();
            model.members.push(Member {
                name,
                nonce,
                promise: None,
                started: None,
                asking: None,
            });
        }
        model
    }

    fn nonce(&mut self) -> String {
        self.nonces += 1;
        format!("n{}", self.nonces)
    }

    fn answer(&self, index: usize) -> Answer {
        let member = &self.members[index];
        let own = member.started.as_ref();
        Answer {
            token: "t".to_owned(),
            promise: own.or(member.promise.as_ref()).cloned(),
            started: own.map(|_| Started {
                cluster_id: format!("{own:?}"),
                ..Started::default()
            }),
            ..empty(&member.name, &member.nonce)
        }
    }

    /// One thing happens: a question is asked, reaches somebody, or a round ends; rarely a crash or
    /// the loss of a disk.
    fn step(&mut self) {
        let index = self.random.random_range(0..self.members.len());
        let chance = self.random.random_range(0..1000);
        if chance < 10 {
            // A crash: what was under way is lost, the disk stays.
            self.members[index].asking = None;
        } else if chance < 14 && self.ordinals {
            let nonce = self.nonce();
            let member = &mut self.members[index];
            (member.nonce, member.promise, member.started) = (nonce, None, None);
            member.asking = None;
        } else if self.members[index].started.is_none() {
            match self.members[index].asking.take() {
                None => self.ask(index),
                Some(asking) if asking.to.is_empty() => self.end(index, &asking.round),
                Some(asking) => self.deliver(index, asking),
            }
        }
    }

    fn ask(&mut self, index: usize) {
        // The name server shows each of the others or not; often all of them.
        let all = self.random.random_bool(0.5);
        let to = (0..self.members.len())
            .filter(|_| all || self.random.random_bool(0.7))
            .collect();
        self.members[index].asking = Some(Asking {
            to,
            round: Round::default(),
        });
    }

    fn deliver(&mut self, index: usize, mut asking: Asking) {
        let place = self.random.random_range(0..asking.to.len());
        let whom = asking.to.swap_remove(place);
        let name = self.members[whom].name.clone();
        if self.random.random_bool(0.05) {
            asking.round.silent.push((name, "lost".to_owned()));
        } else {
            asking.round.answers.push((name, self.answer(whom)));
        }
        self.members[index].asking = Some(asking);
    }

    fn end(&mut self, index: usize, round: &Round) {
        let member = &self.members[index];
        let own = Own {
            founder: founder(&member.name, &member.nonce),
            token: "t".to_owned(),
            expect: self.expect,
            first_ordinal: 0,
            promise: member.promise.clone(),
        };
        let member = &mut self.members[index];
        match decide(&own, round) {
            Step::Promise(promise) => {
                let before = member.promise.as_ref().map_or(0, |promise| promise.epoch);
                assert!(promise.epoch > before, "epochs grow");
                member.promise = Some(promise);
            }
            Step::Start(promise) => {
                assert!(promise.founders.contains(&own.founder));
                member.started = Some(promise);
            }
            _ => {}
        }
    }

    /// What was started by disks that are not lost.
    fn clusters(&self) -> BTreeMap<&Promise, Vec<&str>> {
        let mut clusters: BTreeMap<&Promise, Vec<&str>> = BTreeMap::new();
        for member in &self.members {
            if let Some(started) = &member.started {
                clusters.entry(started).or_default().push(&member.name);
            }
        }
        clusters
    }
}

fn never_two(ordinals: bool, runs: u64) {
    let first: u64 = rand::rng().random();
    let mut begun = 0;
    for seed in first..first.saturating_add(runs) {
        let mut model = Model::new(seed, ordinals);
        for _ in 0..1_500 {
            model.step();
            let clusters = model.clusters();
            assert!(clusters.len() <= 1, "seed {seed}: {clusters:#?}");
        }
        begun += u64::from(!model.clusters().is_empty());
    }
    assert!(
        begun > runs / 2,
        "only {begun} of {runs} runs began a cluster"
    );
}

/// Members lose disks and crash while the name server shows what it likes.
#[test]
fn never_two_clusters_with_ordinals() {
    never_two(true, 500);
}

/// Three to five hosts, three of which begin; disks stay.
#[test]
fn never_two_clusters_among_hosts_that_find_one_another() {
    never_two(false, 500);
}

/// Once everybody sees everybody, and nobody is lost any more, there is a cluster soon, whatever
/// was promised before: one round each for the proposal, the promises, and the start.
#[test]
fn a_name_server_that_recovers_lets_the_cluster_begin() {
    let mut random = StdRng::seed_from_u64(rand::rng().random());
    for _ in 0..300 {
        let mut model = Model::new(random.random(), true);
        for _ in 0..*[0, 50, 200, 400].choose(&mut random).expect("some") {
            model.step();
        }
        // A cluster of which most disks were lost does not come back: nobody begins another.
        let started = model.members.iter().any(|member| member.started.is_some());
        for member in &mut model.members {
            member.asking = None;
        }
        for _ in 0..6 {
            for index in 0..model.members.len() {
                if model.members[index].started.is_some() {
                    continue;
                }
                let answers = (0..model.members.len()).map(|whom| model.answer(whom));
                let all = round(answers.collect());
                model.end(index, &all);
            }
        }
        let begun = model.clusters().values().map(Vec::len).sum::<usize>();
        assert!(started || begun == 3, "{:#?}", model.clusters());
    }
}
