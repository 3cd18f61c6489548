//! What may change in the membership, and what is answered otherwise.
//!
//! Source: etcd `server/etcdserver/server.go` (`mayAddMember` and its siblings),
//! `server/etcdserver/api/membership/cluster.go` (`IsReadyTo…`, `ValidateConfigurationChange`).

use std::time::{Duration, Instant};

use kvd_api::error::WireError;
use kvd_api::pb::etcdserverpb::Member;
use kvd_raft::Change;

use crate::limits;

/// What a member knows when it judges a change.
pub struct View<'a> {
    /// The members.
    pub members: &'a [Member],
    /// The member that judges.
    pub local_id: u64,
    /// Since when the way to a member has been open.
    pub connected_since: &'a dyn Fn(u64) -> Option<Instant>,
}

impl View<'_> {
    fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| !member.is_learner)
    }

    /// Voters whom this member has reached for a while, itself among them.
    fn healthy(&self, now: Instant) -> usize {
        let is_healthy = |id| id == self.local_id || self.connected_for(id, now);
        self.voters().filter(|voter| is_healthy(voter.id)).count()
    }

    fn connected_for(&self, id: u64, now: Instant) -> bool {
        let since = (self.connected_since)(id);
        // etcd counts from the connection, kvd from the first answer that came over it.
        let enough = limits::HEALTH_INTERVAL.saturating_sub(limits::HEALTH_SLACK);
        let long = |since| now.saturating_duration_since(since) >= enough;
        since.is_some_and(long)
    }

    /// Refuses what would endanger the quorum (`--strict-reconfig-check`).
    ///
    /// Errors: [`WireError::NotEnoughStartedMembers`], [`WireError::UnhealthyCluster`].
    pub fn check_quorum(&self, change: &Change) -> Result<(), WireError> {
        let now = Instant::now();
        match change {
            Change::Add(member) => {
                let voters = self.voters().count();
                if member.voter && !self.enough_started(None, 1, 0) {
                    return Err(WireError::NotEnoughStartedMembers);
                }
                // The new member does not run yet.
                if voters > 1 && self.healthy(now) < quorum(voters + 1) {
                    return Err(WireError::UnhealthyCluster);
                }
            }
            Change::Remove(id) => return self.check_removal(*id, now),
            Change::Promote(_) if !self.enough_started(None, 1, 1) => {
                return Err(WireError::NotEnoughStartedMembers);
            }
            Change::Promote(_) | Change::Update { .. } => {}
        }
        Ok(())
    }

    fn check_removal(&self, id: u64, now: Instant) -> Result<(), WireError> {
        let is_learner = |member: &Member| member.id == id && member.is_learner;
        if self.members.iter().any(is_learner) {
            return Ok(());
        }
        if !self.enough_started(Some(id), 0, 0) {
            return Err(WireError::NotEnoughStartedMembers);
        }
        // One that cannot be reached has no part in the quorum: without it, the rest is safer.
        if id != self.local_id && (self.connected_since)(id).is_none() {
            return Ok(());
        }
        let others = self.voters().count().saturating_sub(1);
        match self.healthy(now).saturating_sub(1) < 1 + others / 2 {
            true => Err(WireError::UnhealthyCluster),
            false => Ok(()),
        }
    }

    /// Whether the voters that have been started once are a quorum of all, without `gone`, and
    /// with so many more.
    fn enough_started(&self, gone: Option<u64>, more: usize, more_started: usize) -> bool {
        let stay = || self.voters().filter(|voter| Some(voter.id) != gone);
        let all = stay().count() + more;
        let started = stay().filter(|voter| !voter.name.is_empty()).count() + more_started;
        // The second member of a cluster of one cannot be added otherwise.
        let is_second = more > more_started && started == 1 && all == 2;
        is_second || started >= quorum(all)
    }

    /// Refuses what contradicts the members.
    ///
    /// Errors: etcd's, by the change.
    pub fn validate(
        &self,
        change: &Change,
        is_removed: impl Fn(u64) -> bool,
        learners_max: usize,
    ) -> Result<(), WireError> {
        let known = |id| self.members.iter().find(|member| member.id == id);
        let is_used = |urls: &[String], but: u64| {
            let others = self.members.iter().filter(|member| member.id != but);
            let mut used = others.flat_map(|member| &member.peer_ur_ls);
            used.any(|url| urls.contains(url))
        };
        let id = match change {
            Change::Add(member) => member.id,
            Change::Promote(id) | Change::Remove(id) | Change::Update { id, .. } => *id,
        };
        if is_removed(id) {
            return Err(WireError::MemberNotFound);
        }
        match (change, known(id)) {
            (Change::Add(_), Some(_)) => Err(WireError::MemberIdAlreadyExist),
            (Change::Add(member), None) => {
                let learners = self.members.iter().filter(|member| member.is_learner);
                if is_used(&member.peer_urls, id) {
                    return Err(WireError::PeerUrlsAlreadyExists);
                }
                match !member.voter && learners.count() >= learners_max {
                    true => Err(WireError::TooManyLearnerMembersInCluster),
                    false => Ok(()),
                }
            }
            (_, None) => Err(WireError::MemberNotFound),
            (Change::Promote(_), Some(member)) if !member.is_learner => {
                Err(WireError::MemberNotLearner)
            }
            (Change::Update { peer_urls, .. }, Some(_)) if is_used(peer_urls, id) => {
                Err(WireError::PeerUrlsAlreadyExists)
            }
            _ => Ok(()),
        }
    }
}

/// Whether a learner has enough of the leader's log to be promoted.
pub fn is_ready(learner_matched: u64, leader_last: u64) -> bool {
    // Indexes are far below 2^52, where a float would begin to round.
    learner_matched as f64 >= leader_last as f64 * limits::LEARNER_READY
}

/// The reason that etcd's metric of failed promotions gives.
pub fn promote_failure(error: WireError) -> &'static str {
    match error {
        WireError::MemberNotFound => "membership: ID not found",
        WireError::MemberNotLearner => "membership: can only promote a learner member",
        other => other.message(),
    }
}

fn quorum(members: usize) -> usize {
    members / 2 + 1
}

/// How long a member that has just been promoted is waited for to get its vote.
pub(super) const VOTE_PATIENCE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, started: bool, is_learner: bool) -> Member {
        Member {
            id,
            name: if started {
                format!("m{id}")
            } else {
                String::new()
            },
            peer_ur_ls: vec![format!("http://m{id}:2380")],
            is_learner,
            ..Member::default()
        }
    }

    fn add(id: u64, voter: bool) -> Change {
        Change::Add(kvd_raft::Member {
            id,
            name: String::new(),
            peer_urls: vec![format!("http://m{id}:2380")],
            voter,
        })
    }

    /// Judges as member 1; `connected` have been reached for a long time.
    fn judge(members: &[Member], connected: &[u64], change: &Change) -> Result<(), WireError> {
        let long = Instant::now().checked_sub(2 * limits::HEALTH_INTERVAL);
        let since = |id| long.filter(|_| connected.contains(&id));
        let view = View {
            members,
            local_id: 1,
            connected_since: &since,
        };
        view.check_quorum(change)
    }

    #[test]
    fn a_cluster_of_one_takes_one_member_at_a_time() {
        let one = [member(1, true, false)];
        assert_eq!(judge(&one, &[], &add(2, true)), Ok(()));
        let two = [member(1, true, false), member(2, false, false)];
        let refused = judge(&two, &[], &add(3, true));
        assert_eq!(refused, Err(WireError::NotEnoughStartedMembers));
    }

    #[test]
    fn members_come_only_while_a_quorum_with_them_is_reached() {
        let three = [1, 2, 3].map(|id| member(id, true, false));
        assert_eq!(judge(&three, &[2, 3], &add(4, true)), Ok(()));
        let refused = judge(&three, &[2], &add(4, true));
        assert_eq!(refused, Err(WireError::UnhealthyCluster));
        let refused = judge(&three, &[2], &add(4, false));
        assert_eq!(refused, Err(WireError::UnhealthyCluster));
    }

    #[test]
    fn the_dead_may_go_and_the_living_only_while_enough_stay() {
        let three = [1, 2, 3].map(|id| member(id, true, false));
        assert_eq!(judge(&three, &[2], &Change::Remove(3)), Ok(()));
        let refused = judge(&three, &[2], &Change::Remove(2));
        assert_eq!(refused, Err(WireError::UnhealthyCluster));
        assert_eq!(judge(&three, &[2, 3], &Change::Remove(2)), Ok(()));
        let two = [member(1, true, false), member(2, false, false)];
        let refused = judge(&two, &[], &Change::Remove(1));
        assert_eq!(refused, Err(WireError::NotEnoughStartedMembers));
        assert_eq!(judge(&two, &[], &Change::Remove(2)), Ok(()));
        let last = judge(&two[..1], &[], &Change::Remove(1));
        assert_eq!(last, Err(WireError::NotEnoughStartedMembers));
        let learner = [member(1, true, false), member(2, false, true)];
        assert_eq!(judge(&learner, &[], &Change::Remove(2)), Ok(()));
    }

    #[test]
    fn contradictions_are_refused_with_etcds_errors() {
        let members = [member(1, true, false), member(2, true, true)];
        let view = View {
            members: &members,
            local_id: 1,
            connected_since: &|_| None,
        };
        let validate = |change| view.validate(&change, |id| id == 9, 1);
        let url = |id: u64| vec![format!("http://m{id}:2380")];
        let update = |id, peer_urls| Change::Update { id, peer_urls };
        for (change, expected) in [
            (add(3, true), Ok(())),
            (add(2, true), Err(WireError::MemberIdAlreadyExist)),
            (add(9, true), Err(WireError::MemberNotFound)),
            (
                add(3, false),
                Err(WireError::TooManyLearnerMembersInCluster),
            ),
            (Change::Remove(7), Err(WireError::MemberNotFound)),
            (Change::Remove(9), Err(WireError::MemberNotFound)),
            (Change::Promote(7), Err(WireError::MemberNotFound)),
            (Change::Promote(1), Err(WireError::MemberNotLearner)),
            (Change::Promote(2), Ok(())),
            (update(7, url(7)), Err(WireError::MemberNotFound)),
            (update(1, url(2)), Err(WireError::PeerUrlsAlreadyExists)),
            (update(1, url(1)), Ok(())),
        ] {
            assert_eq!(validate(change.clone()), expected, "{change:?}");
        }
        let Change::Add(mut twin) = add(3, true) else {
            unreachable!("it adds")
        };
        twin.peer_urls = url(1);
        let refused = validate(Change::Add(twin));
        assert_eq!(refused, Err(WireError::PeerUrlsAlreadyExists));
    }

    #[test]
    fn a_learner_is_ready_at_nine_tenths_of_the_log() {
        assert!(!is_ready(0, 1));
        assert!(!is_ready(89, 100));
        assert!(is_ready(90, 100));
    }
}
