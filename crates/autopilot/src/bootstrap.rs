//! Begins a cluster exactly once, or finds the one that is there.
//!
//! # The protocol
//!
//! A *disk* is an empty data directory; it has a random *nonce*, so that a disk that was lost and
//! made anew is another one. A *configuration* `C` is the sorted list of all N founders: name, peer
//! URLs and nonce. A disk keeps at most one *promise* `(epoch, C)`, durably, before anybody hears of
//! it. Members ask one another in rounds; each round's answers are used once, in [`decide`]:
//!
//! - The lowest of the founders' names, when it has heard all of them and everybody else whom the
//!   name server lists, promises `(e, C)` with an epoch above all that it has heard of.
//! - Whoever hears of a promise that lists it, of an epoch above its own, promises the same.
//! - Whoever has promised `(e, C)` and hears in one round that all founders of `C` have, starts `C`.
//! - A disk that has started promises nothing any more, and tells with what it started.
//! - A disk whose nonce is in a configuration that somebody has started may start it, too.
//! - A disk that hears of a started cluster in which it has no part asks to join it.
//!
//! # Why there is one cluster
//!
//! *No two disks, neither of them lost, start different configurations.* Say `m` starts `C` of
//! epoch `e`, by unanimity, and `k` starts `D` of epoch `f`; let `e ≤ f`. The founders' names are
//! the same in both (with ordinals they are given; else see below), so `D` has an entry for `m`'s
//! name. If that is `m` itself, it has promised `(f, D)`. Epochs of a disk only grow and it promises
//! nothing after it has started with `(e, C)`, so it promised `D` before: `f < e`, against `e ≤ f`;
//! or the two are one promise, `C = D`. If it is another disk under `m`'s name, and `m` was there
//! before it, then `m` is lost. If `m` came after it, then all of `D` had promised while that disk
//! was there, before `C` was made; `k` is in `D`, so if it is in `C`, too, it has promised `C` later,
//! and `f < e`; and if not, another disk has `k`'s name, and `k` is lost. And a configuration that is
//! started because somebody else has started it, was started by unanimity before. ∎
//!
//! A slow name server shows some of the addresses and hides others. It may delay, by keeping a
//! founder unheard, but no founder is ever counted that has not answered itself.
//!
//! *Without ordinals* the founders are N hosts that find one another, and N must be more than half
//! of those that are started in auto mode: two configurations then share a host. A promise is only
//! ever exchanged for one that has all of its names, so the shared host's two promises have the same
//! names, and the proof goes on as above. What it needs is that this host's disk is not lost between
//! its two promises: list the hosts by name when that must be ruled out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::name;
use crate::status::Seen;

/// One of the disks that begin a cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Founder {
    /// The member's name.
    pub name: String,
    /// Where its peers reach it, sorted.
    pub peer_urls: Vec<String>,
    /// Tells its disk from every other.
    pub nonce: String,
}

/// What a disk has agreed to begin with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Promise {
    /// Grows with each new promise.
    pub epoch: u64,
    /// All founders, ascending by name.
    pub founders: Vec<Founder>,
}

impl Promise {
    fn has(&self, name: &str) -> bool {
        self.founders.iter().any(|founder| founder.name == name)
    }

    fn names(&self) -> String {
        let names: Vec<&str> = self.founders.iter().map(|f| f.name.as_str()).collect();
        names.join(", ")
    }
}

/// A member of a running cluster, as one of its members tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Known {
    /// Its ID, in hexadecimal.
    pub id: String,
    /// Its name; empty until it has been started.
    pub name: String,
    /// Where its peers reach it.
    pub peer_urls: Vec<String>,
}

/// What a member with data says of its cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Started {
    /// The cluster's ID, in hexadecimal.
    pub cluster_id: String,
    /// Its own ID, in hexadecimal.
    pub member_id: String,
    /// The leader's ID, in hexadecimal; empty while it knows none.
    pub leader: String,
    /// The members; empty while the process has not read its data.
    pub members: Vec<Known>,
}

/// What a process on a peer port says of itself: `GET /autopilot/identity`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Answer {
    /// `--initial-cluster-token`.
    pub token: String,
    /// `--name`.
    pub name: String,
    /// Where its peers reach it, sorted.
    pub peer_urls: Vec<String>,
    /// Tells its disk from every other; empty for members that never were in auto mode.
    pub nonce: String,
    /// What it has promised; if it has started, what it began with.
    pub promise: Option<Promise>,
    /// There when it has data.
    pub started: Option<Started>,
}

/// The member that decides.
#[derive(Clone, Debug)]
pub struct Own {
    /// Its name, peer URLs and nonce.
    pub founder: Founder,
    /// `--initial-cluster-token`.
    pub token: String,
    /// N: how many begin the cluster.
    pub expect: u32,
    /// The lowest number of names with ordinals.
    pub first_ordinal: u32,
    /// What its disk has promised.
    pub promise: Option<Promise>,
}

/// Asks the leader to be added: `POST /autopilot/join` on the peer port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct JoinRequest {
    /// `--initial-cluster-token`.
    pub token: String,
    /// The cluster, in hexadecimal.
    pub cluster_id: String,
    /// Who asks.
    pub name: String,
    /// Where its peers reach it.
    pub peer_urls: Vec<String>,
    /// Tells its disk from every other.
    pub nonce: String,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum JoinReply {
    /// It is a member now, and may start.
    Member {
        /// The cluster, in hexadecimal.
        cluster_id: String,
        /// Its ID, in hexadecimal.
        member_id: String,
    },
    /// Later.
    Wait {
        /// Why.
        reason: String,
    },
    /// Not unless somebody changes something.
    Refused {
        /// Why.
        reason: String,
    },
    /// This disk was a member once: it must begin anew, with another nonce.
    Renew,
}

/// How many members are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Desired {
    /// Nobody is asked.
    #[default]
    Unasked,
    /// Whoever is asked has never answered.
    Unknown,
    /// So many.
    Count(u32),
}

/// What one round of questions found.
#[derive(Clone, Debug, Default)]
pub struct Round {
    /// Whatever answered: its address, and what it said. Own answers may be among them.
    pub answers: Vec<(String, Answer)>,
    /// Addresses that did not answer, and places that could not be looked up, with the reason.
    pub silent: Vec<(String, String)>,
    /// How many members are wanted.
    pub desired: Desired,
}

/// What is to be done after a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask again; the text says what is missing.
    Wait(String),
    /// Write this promise down, then ask again.
    Promise(Promise),
    /// Begin the cluster with these founders, of which this is one.
    Start(Promise),
    /// Ask the leader of the cluster `cluster_id` to be added: it is the member at these peer URLs.
    Join {
        /// The cluster, in hexadecimal.
        cluster_id: String,
        /// Where its leader is.
        leader: Vec<String>,
    },
    /// Nothing helps until somebody changes something; the text says what. Ask again all the same.
    Refuse(String),
}

/// Decides after a round. A round's answers must all have been asked for after the last promise was
/// written down.
pub fn decide(own: &Own, round: &Round) -> Step {
    let others: Vec<&Answer> = others(own, round).collect();
    if let Some(twin) = others.iter().find(|other| other.name == own.founder.name) {
        return Step::Refuse(format!(
            "another process with other data answers as {:?}, at {}: two members with one name; \
             stop one of the two",
            twin.name,
            twin.peer_urls.join(", ")
        ));
    }
    let started: Vec<&Answer> = others
        .iter()
        .filter(|other| other.started.is_some())
        .copied()
        .collect();
    if started.is_empty() {
        return begin(own, round, &others);
    }
    let begun = started.iter().filter_map(|other| other.promise.as_ref());
    if let Some(promise) = begun
        .into_iter()
        .find(|promise| promise.founders.contains(&own.founder))
    {
        return Step::Start(promise.clone());
    }
    join(&started)
}

/// Who was seen, for the status.
pub fn seen(own: &Own, round: &Round) -> Vec<Seen> {
    let answers = round.answers.iter();
    let answers = answers.filter(|(_, answer)| answer.nonce != own.founder.nonce);
    let mut all: Vec<Seen> = answers
        .map(|(address, answer)| Seen {
            address: address.clone(),
            name: answer.name.clone(),
            state: match (&answer.started, &answer.promise) {
                _ if answer.token != own.token => format!(
                    "stranger: its cluster has the token {:?}, this member has {:?}",
                    answer.token, own.token
                ),
                (Some(started), _) => format!("started: cluster {}", started.cluster_id),
                (None, Some(promise)) => format!("promised: {}", promise.names()),
                (None, None) => "empty".to_owned(),
            },
        })
        .collect();
    all.extend(round.silent.iter().map(|(address, why)| Seen {
        address: address.clone(),
        name: String::new(),
        state: why.clone(),
    }));
    all.sort_by(|a, b| (&a.name, &a.address).cmp(&(&b.name, &b.address)));
    all
}

/// Those of this cluster's token, each once, without this member itself.
fn others<'a>(own: &'a Own, round: &'a Round) -> impl Iterator<Item = &'a Answer> {
    let mut known: BTreeMap<(&str, &str), &Answer> = BTreeMap::new();
    for (_, answer) in &round.answers {
        let is_own = answer.nonce == own.founder.nonce;
        if answer.token == own.token && !is_own {
            known.insert((&answer.name, &answer.nonce), answer);
        }
    }
    known.into_values()
}

fn join(started: &[&Answer]) -> Step {
    let mut clusters: BTreeMap<&str, Option<Vec<String>>> = BTreeMap::new();
    let mut names: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for answer in started {
        let Some(cluster) = &answer.started else {
            continue;
        };
        let leader = cluster
            .members
            .iter()
            .find(|member| !cluster.leader.is_empty() && member.id == cluster.leader);
        let entry = clusters.entry(&cluster.cluster_id).or_default();
        if let Some(leader) = leader {
            *entry = Some(leader.peer_urls.clone());
        }
        names
            .entry(&cluster.cluster_id)
            .or_default()
            .push(&answer.name);
    }
    let listed: Vec<String> = names
        .iter()
        .map(|(id, names)| format!("{id} ({})", names.join(", ")))
        .collect();
    let listed = listed.join(" and ");
    let mut led = clusters
        .iter()
        .filter_map(|(id, leader)| Some((id, leader.as_ref()?)));
    match (led.next(), led.next()) {
        (Some((id, leader)), None) => Step::Join {
            cluster_id: (*id).to_owned(),
            leader: leader.clone(),
        },
        (None, _) => Step::Wait(format!(
            "the cluster {listed} is there and has no leader: nobody can be added while a quorum \
             of its members is missing"
        )),
        (Some(_), Some(_)) => Step::Refuse(format!(
            "several clusters with the same token answer, {listed}: give each its own \
             --initial-cluster-token and --discovery-dns"
        )),
    }
}

/// Nobody has started.
fn begin(own: &Own, round: &Round, others: &[&Answer]) -> Step {
    if let Some(promise) = &own.promise {
        let agrees = |founder: &Founder| {
            *founder == own.founder
                || others.iter().any(|other| {
                    other.nonce == founder.nonce && other.promise.as_ref() == Some(promise)
                })
        };
        if promise.founders.contains(&own.founder) && promise.founders.iter().all(agrees) {
            return Step::Start(promise.clone());
        }
    }
    let universe = match universe(own, others) {
        Ok(universe) => universe,
        Err(step) => return step,
    };
    if let Some(promise) = newer(own, others, &universe) {
        return match kept(own, &promise.founders) {
            Ok(()) => Step::Promise(promise.clone()),
            Err(why) => Step::Refuse(why),
        };
    }
    propose(own, round, others, &universe)
}

/// The names of the founders, ascending.
fn universe(own: &Own, others: &[&Answer]) -> Result<Vec<String>, Step> {
    let heard =
        |name: &str| name == own.founder.name || others.iter().any(|other| other.name == name);
    let missing = |names: Vec<String>| {
        let all = own.expect;
        Step::Wait(format!("waits for {} of {all} to answer", names.join(", ")))
    };
    let Some((set, number)) = name::ordinal(&own.founder.name) else {
        let mut names: Vec<String> = others.iter().map(|other| other.name.clone()).collect();
        names.push(own.founder.name.clone());
        names.sort();
        let expect = own.expect as usize;
        if names.len() < expect {
            let there = names.join(", ");
            return Err(Step::Wait(format!(
                "waits for {} more of {expect} members; {there} are there",
                expect - names.len()
            )));
        }
        // Whoever has promised goes on with those of its promise.
        let promised = own
            .promise
            .iter()
            .chain(others.iter().filter_map(|o| o.promise.as_ref()));
        let promised = promised.max_by_key(|promise| promise.epoch);
        if let Some(promise) = promised.filter(|promise| promise.has(&own.founder.name)) {
            let names = promise.founders.iter().map(|f| f.name.clone());
            let (there, gone): (Vec<_>, Vec<_>) = names.partition(|name| heard(name));
            return match gone.is_empty() {
                true => Ok(there),
                false => Err(missing(gone)),
            };
        }
        names.truncate(expect);
        if !names.contains(&own.founder.name) {
            return Err(Step::Wait(format!(
                "waits for {} to begin the cluster, which it joins then",
                names.join(", ")
            )));
        }
        return Ok(names);
    };
    let last = own
        .first_ordinal
        .saturating_add(own.expect.saturating_sub(1));
    let names: Vec<String> = (own.first_ordinal..=last)
        .map(|n| format!("{set}-{n}"))
        .collect();
    if !(own.first_ordinal..=last).contains(&number) {
        return Err(Step::Wait(format!(
            "{} is none of the first {} members: waits for {set}-{} to {set}-{last} to begin the \
             cluster, which it joins then",
            own.founder.name, own.expect, own.first_ordinal
        )));
    }
    let gone: Vec<String> = names.iter().filter(|name| !heard(name)).cloned().collect();
    match gone.is_empty() {
        // Ascending as texts, as founders are.
        true => {
            let mut names = names;
            names.sort();
            Ok(names)
        }
        false => Err(missing(gone)),
    }
}

/// A promise of somebody else, above this member's own, with it in it and of the right names.
fn newer<'a>(own: &Own, others: &[&'a Answer], universe: &[String]) -> Option<&'a Promise> {
    let own_epoch = own.promise.as_ref().map_or(0, |promise| promise.epoch);
    let is_fit = |promise: &&Promise| {
        promise.epoch > own_epoch
            && promise.founders.contains(&own.founder)
            && promise.founders.iter().map(|f| &f.name).eq(universe)
    };
    let promises = others.iter().filter_map(|other| other.promise.as_ref());
    promises.filter(is_fit).max()
}

/// A promise is exchanged only for one with all of its names.
fn kept(own: &Own, founders: &[Founder]) -> Result<(), String> {
    let Some(old) = &own.promise else {
        return Ok(());
    };
    let has = |name: &str| founders.iter().any(|founder| founder.name == name);
    let lacks: Vec<&str> = old
        .founders
        .iter()
        .map(|founder| founder.name.as_str())
        .filter(|name| !has(name))
        .collect();
    match lacks.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "this disk has promised to begin with {}, and they may have begun: it cannot begin \
             without {}; start them, or if that cluster was never used remove this data directory",
            old.names(),
            lacks.join(", ")
        )),
    }
}

fn propose(own: &Own, round: &Round, others: &[&Answer], universe: &[String]) -> Step {
    let leads = universe.first() == Some(&own.founder.name);
    if !leads {
        let first = universe.first().map_or("", String::as_str);
        return Step::Wait(match &own.promise {
            Some(promise) => format!("waits for {} to promise the same", promise.names()),
            None => format!("waits for {first} to propose the first members"),
        });
    }
    if let Some(why) = held_back(own, round, others) {
        return Step::Wait(why);
    }
    let mut founders = vec![own.founder.clone()];
    for other in others.iter().filter(|other| universe.contains(&other.name)) {
        founders.push(Founder {
            name: other.name.clone(),
            peer_urls: other.peer_urls.clone(),
            nonce: other.nonce.clone(),
        });
    }
    founders.sort();
    if founders.len() != universe.len() {
        let twins: Vec<&str> = founders
            .windows(2)
            .filter(|pair| pair[0].name == pair[1].name)
            .map(|pair| pair[0].name.as_str())
            .collect();
        return Step::Refuse(format!(
            "two processes with different data answer as {}: stop one of them",
            twins.join(", ")
        ));
    }
    if let Err(why) = kept(own, &founders) {
        return Step::Refuse(why);
    }
    let highest = others.iter().filter_map(|other| other.promise.as_ref());
    let highest = highest.map(|promise| promise.epoch).max().unwrap_or(0);
    match &own.promise {
        Some(promise) if promise.founders == founders && promise.epoch >= highest => {
            let same = |other: &&&Answer| other.promise.as_ref() == Some(promise);
            let rival = others.iter().any(|other| {
                let epoch = other.promise.as_ref().map_or(0, |promise| promise.epoch);
                epoch == promise.epoch && !same(&other)
            });
            if !rival {
                let names: Vec<&str> = others
                    .iter()
                    .filter(|other| universe.contains(&other.name) && !same(other))
                    .map(|other| other.name.as_str())
                    .collect();
                return Step::Wait(format!(
                    "waits for {} to promise the same",
                    names.join(", ")
                ));
            }
        }
        _ => {}
    }
    let own_epoch = own.promise.as_ref().map_or(0, |promise| promise.epoch);
    Step::Promise(Promise {
        epoch: own_epoch.max(highest).saturating_add(1),
        founders,
    })
}

/// Why nothing is proposed although all founders have answered.
fn held_back(own: &Own, round: &Round, others: &[&Answer]) -> Option<String> {
    if let Some((address, why)) = round.silent.first() {
        return Some(format!(
            "{address} was found and does not answer ({why}): it may belong to a cluster that is \
             there; nothing begins before it answers or is no longer listed"
        ));
    }
    let heard = others.len() + 1;
    match round.desired {
        Desired::Unasked => None,
        Desired::Unknown => Some(
            "it is not known yet how many members are wanted: nothing begins before that can be \
             read"
                .to_owned(),
        ),
        Desired::Count(desired) if heard * 2 > desired as usize => None,
        Desired::Count(desired) => Some(format!(
            "{heard} of {desired} wanted members answer, {} among them: nothing begins before it \
             is more than half",
            own.founder.name
        )),
    }
}

#[cfg(test)]
mod tests;
