//! From a data directory to who this member is: rounds of questions until that is decided.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use kvd_autopilot::bootstrap::{
    self, Answer, Desired as Wanted, Founder, JoinReply, JoinRequest, Own, Promise, Round, Started,
    Step,
};
use kvd_autopilot::name;
use kvd_autopilot::status::{Phase, Status};
use kvd_raft::Dialer;
use kvd_server::autopilot::Desired;
use kvd_server::identity::{self, Identity};
use tokio::time::Instant;

use super::board::Board;
use super::disk::Disk;
use super::exchange::{self, Ask};
use super::find;
use super::lookup;
use crate::settings::{Autopilot, Settings};
use crate::tls::PeerDialer;
use crate::urls::Url;

/// Most time for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// Most time for the answer to a request to be added, which may change the membership twice.
const JOIN_LIMIT: Duration = Duration::from_secs(10);
/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(300);
/// How often it is read how many members are wanted.
const DESIRED_PAUSE: Duration = Duration::from_secs(2);

/// How a member begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Began {
    /// A new cluster, with these founders.
    Founders(Promise),
    /// As a learner of the cluster that is there.
    Joined {
        /// The cluster's ID.
        cluster_id: u64,
        /// This member's ID.
        member_id: u64,
        /// The other members' peer URLs.
        peers: Vec<String>,
    },
}

/// What is needed to find out.
pub struct Beginner<'a> {
    settings: &'a Settings,
    auto: &'a Autopilot,
    dialer: PeerDialer,
    disk: Arc<Disk>,
    desired: &'a Desired,
    board: Arc<Board>,
    peer_urls: Vec<String>,
    port: u16,
    scheme: &'static str,
}

impl<'a> Beginner<'a> {
    /// Begins for the disk in the data directory of `settings`. `identity`: whose data it is, if it
    /// has any.
    pub fn new(
        settings: &'a Settings,
        auto: &'a Autopilot,
        dialer: PeerDialer,
        disk: Arc<Disk>,
        desired: &'a Desired,
        identity: Option<&Identity>,
    ) -> Beginner<'a> {
        let mut peer_urls: Vec<String> = settings
            .advertise_peer_urls
            .iter()
            .map(Url::to_string)
            .collect();
        peer_urls.sort();
        let (port, scheme) = find::own_port_and_scheme(settings);
        let answer = Answer {
            token: settings.initial_cluster_token.clone(),
            name: settings.name.clone(),
            peer_urls: peer_urls.clone(),
            nonce: disk.nonce(),
            promise: match identity {
                Some(identity) => begun_with(&disk, identity, &settings.initial_cluster_token),
                None => disk.promise(),
            },
            started: identity.map(|identity| Started {
                cluster_id: format!("{:x}", identity.cluster_id),
                member_id: format!("{:x}", identity.member_id),
                ..Started::default()
            }),
        };
        let status = Status {
            enabled: true,
            name: settings.name.clone(),
            cluster_id: answer.started.clone().unwrap_or_default().cluster_id,
            member_id: answer.started.clone().unwrap_or_default().member_id,
            desired_source: desired.source(),
            reason: "looks for other members".to_owned(),
            ..Status::default()
        };
        Beginner {
            settings,
            auto,
            dialer,
            disk,
            desired,
            board: Board::new(answer, status),
            peer_urls,
            port,
            scheme,
        }
    }

    /// What it shows meanwhile.
    pub fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// Asks round after round until this member, whose disk is empty, knows how it begins.
    ///
    /// Errors: what it has to remember cannot be written down.
    pub async fn begin(&self) -> anyhow::Result<Began> {
        let mut read: Option<Instant> = None;
        loop {
            if read.is_none_or(|at| at.elapsed() >= DESIRED_PAUSE) {
                self.desired.refresh().await;
                read = Some(Instant::now());
            }
            let round = self.ask().await;
            let own = self.own();
            self.board
                .see(bootstrap::seen(&own, &round), &self.desired.last());
            match bootstrap::decide(&own, &round) {
                Step::Wait(why) => self.board.say(Phase::Waiting, &why),
                Step::Refuse(why) => self.board.say(Phase::Refused, &why),
                Step::Promise(promise) => {
                    tracing::info!(
                        epoch = promise.epoch,
                        founders = ?names(&promise),
                        "promises to begin a cluster with these members"
                    );
                    self.disk.set_promise(&promise)?;
                    self.board
                        .set_answer(|answer| answer.promise = Some(promise));
                    continue;
                }
                Step::Start(promise) => {
                    if self.disk.promise().as_ref() != Some(&promise) {
                        self.disk.set_promise(&promise)?;
                    }
                    tracing::info!(
                        epoch = promise.epoch,
                        founders = ?names(&promise),
                        "all of them have promised: the cluster begins"
                    );
                    return Ok(Began::Founders(promise));
                }
                Step::Join { cluster_id, leader } => {
                    let peers = peers(&round, &cluster_id);
                    if let Some(began) = self.join(cluster_id, leader, peers).await? {
                        return Ok(began);
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Waits until nothing speaks against starting with the data that is there: as long as members
    /// of the same set answer that belong to another cluster, and none of this one's, it is the disk
    /// of another cluster.
    pub async fn check(&self, identity: &Identity) {
        let own_cluster = format!("{:x}", identity.cluster_id);
        loop {
            let round = self.ask().await;
            let own = self.own();
            self.board
                .see(bootstrap::seen(&own, &round), &self.desired.last());
            let mut foreign = Vec::new();
            let mut ours = 0;
            for (_, answer) in &round.answers {
                let Some(started) = &answer.started else {
                    continue;
                };
                if answer.nonce == own.founder.nonce || !is_sibling(&answer.name, &own.founder.name)
                {
                    continue;
                }
                match started.cluster_id == own_cluster {
                    true => ours += 1,
                    false => foreign.push(format!("{} ({})", answer.name, started.cluster_id)),
                }
            }
            if foreign.is_empty() || ours > 0 {
                return;
            }
            let why = format!(
                "the data directory {} is of member {:x} of the cluster {own_cluster}, but {} \
                 belong to another cluster: give this member its own disk, or remove the data for \
                 it to join them",
                self.settings.data_dir.display(),
                identity.member_id,
                foreign.join(", ")
            );
            self.board.say(Phase::Refused, &why);
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Says that the data is of a cluster with another token, for as long as the process lives.
    pub async fn refuse_token(&self, identity: &Identity) {
        let why = format!(
            "the data directory {} belongs to the cluster with the token {:?} (ID {:x}), but \
             --initial-cluster-token is {:?}: give this member its own disk, or remove the data for \
             it to join",
            self.settings.data_dir.display(),
            identity.token,
            identity.cluster_id,
            self.settings.initial_cluster_token
        );
        self.board.say(Phase::Refused, &why);
        std::future::pending().await
    }

    fn without_own(&self, mut urls: Vec<String>) -> Vec<String> {
        urls.retain(|url| !self.peer_urls.contains(url));
        urls
    }

    fn own(&self) -> Own {
        Own {
            founder: Founder {
                name: self.settings.name.clone(),
                peer_urls: self.peer_urls.clone(),
                nonce: self.disk.nonce(),
            },
            token: self.settings.initial_cluster_token.clone(),
            expect: self.auto.expect,
            first_ordinal: self.auto.first_ordinal,
            promise: self.disk.promise(),
        }
    }

    /// One round: every address is looked up and asked once.
    async fn ask(&self) -> Round {
        let found = lookup::lookup(&self.auto.discovery, self.port).await;
        let asking = found.places.into_iter().map(|(address, host)| async move {
            let place = find::place(address, &host, self.scheme);
            let answer = find::who(&self.dialer, &place, ANSWER_LIMIT).await;
            (address.to_string(), answer)
        });
        let mut round = Round {
            silent: found.failures,
            desired: match (self.auto.desired.is_some(), self.desired.last().count) {
                (false, _) => Wanted::Unasked,
                (true, None) => Wanted::Unknown,
                (true, Some(count)) => Wanted::Count(count),
            },
            ..Round::default()
        };
        for (address, answer) in join_all(asking).await {
            match answer {
                Ok(answer) => round.answers.push((address, answer)),
                Err(why) => round.silent.push((address, why)),
            }
        }
        round
    }

    /// Asks the leader to be added. `peers`: the members' peer URLs.
    async fn join(
        &self,
        cluster: String,
        leader: Vec<String>,
        peers: Vec<String>,
    ) -> anyhow::Result<Option<Began>> {
        let request = JoinRequest {
            token: self.settings.initial_cluster_token.clone(),
            cluster_id: cluster.clone(),
            name: self.settings.name.clone(),
            peer_urls: self.peer_urls.clone(),
            nonce: self.disk.nonce(),
        };
        let host = leader.first().and_then(|url| url.split_once("://"));
        let host = host.map_or("", |(_, host)| host).to_owned();
        let ask = Ask {
            host: &host,
            path: "/autopilot/join",
            body: Some(serde_json::to_string(&request)?),
            authorization: None,
        };
        let dialing = self.dialer.dial(0, leader);
        let to = format!("asks the leader of the cluster {cluster} at {host} to be added");
        match exchange::json::<JoinReply>(dialing, ask, JOIN_LIMIT).await {
            Ok(JoinReply::Member {
                cluster_id,
                member_id,
            }) => {
                let id = |text: &str| u64::from_str_radix(text, 16).ok().filter(|id| *id != 0);
                if let (Some(cluster_id), Some(member_id)) = (id(&cluster_id), id(&member_id)) {
                    tracing::info!(
                        cluster_id = format!("{cluster_id:x}"),
                        local_member_id = format!("{member_id:x}"),
                        "joins the cluster that is there"
                    );
                    return Ok(Some(Began::Joined {
                        cluster_id,
                        member_id,
                        peers: self.without_own(peers),
                    }));
                }
                self.board
                    .say(Phase::Joining, &format!("{to}: its answer has no IDs"));
            }
            Ok(JoinReply::Wait { reason }) => {
                self.board.say(Phase::Joining, &format!("{to}: {reason}"))
            }
            Ok(JoinReply::Refused { reason }) => {
                self.board
                    .say(Phase::Refused, &format!("{to}, which refuses: {reason}"));
            }
            Ok(JoinReply::Renew) => {
                tracing::info!("this disk was a member before: it joins as another one");
                self.disk.renew()?;
                let nonce = self.disk.nonce();
                self.board.set_answer(|answer| {
                    answer.nonce = nonce;
                    answer.promise = None;
                });
            }
            Err(why) => self.board.say(Phase::Joining, &format!("{to}: {why}")),
        }
        Ok(None)
    }
}

/// What the cluster of `identity` began with, if this disk was there. One that has joined may have
/// promised something before that never came to be.
pub fn begun_with(disk: &Disk, identity: &Identity, token: &str) -> Option<Promise> {
    let promise = disk.promise()?;
    let began = identity::founders_token(token, &promise.founders) == identity.token;
    began.then_some(promise)
}

/// The peer URLs of all whom the members of `cluster` that answered know, each once.
fn peers(round: &Round, cluster: &str) -> Vec<String> {
    let answers = round.answers.iter().map(|(_, answer)| answer);
    let started = answers.filter_map(|answer| answer.started.as_ref());
    let members = started
        .filter(|started| started.cluster_id == cluster)
        .flat_map(|started| &started.members);
    let urls: BTreeSet<&String> = members.flat_map(|member| &member.peer_urls).collect();
    urls.into_iter().cloned().collect()
}

fn names(promise: &Promise) -> Vec<&str> {
    promise
        .founders
        .iter()
        .map(|founder| founder.name.as_str())
        .collect()
}

/// Whether two names are of one set.
fn is_sibling(one: &str, other: &str) -> bool {
    match (name::ordinal(one), name::ordinal(other)) {
        (Some((one, _)), Some((other, _))) => one == other,
        _ => false,
    }
}
