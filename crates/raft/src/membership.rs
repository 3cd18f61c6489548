//! Members as the outside sees them, and their translation to openraft's membership.
//!
//! A member that is added with a vote does not get it at once: openraft lists it as one that
//! follows until it has caught up, so that a cluster of one goes on while its second member is
//! being started. To the outside it is a voter from the entry that added it.

use crate::type_config::{Membership, PeerNode};

/// A member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its id, never reused.
    pub id: u64,
    /// Its human-readable name; may be empty until the member has started.
    pub name: String,
    /// Where it listens for peers, tried in order.
    pub peer_urls: Vec<String>,
    /// Whether it votes, or will as soon as it has caught up; a learner does not.
    pub voter: bool,
}

impl Member {
    pub(crate) fn node(&self) -> PeerNode {
        PeerNode {
            name: self.name.clone(),
            peer_urls: self.peer_urls.clone(),
            learner: !self.voter,
        }
    }
}

/// The members of a membership, ascending by id.
pub(crate) fn to_members(membership: &Membership) -> Vec<Member> {
    let (voters, _) = split(membership);
    let configs = membership.get_joint_config();
    let member = |(id, node): (&u64, &PeerNode)| {
        let votes = voters.binary_search(id).is_ok();
        // While voters change, those of the new set count; no voter ever becomes a learner.
        let leaves = !votes && configs.iter().any(|config| config.contains(id));
        (!leaves).then(|| Member {
            id: *id,
            name: node.name.clone(),
            peer_urls: node.peer_urls.clone(),
            voter: votes || !node.learner,
        })
    };
    membership.nodes().filter_map(member).collect()
}

/// Those that were given a vote and have not caught up yet, ascending.
pub(crate) fn pending(membership: &Membership) -> Vec<u64> {
    let (_, others) = split(membership);
    let is_pending = |id: &u64| membership.get_node(id).is_some_and(|node| !node.learner);
    others.into_iter().filter(is_pending).collect()
}

/// The ids of voters and of learners, each ascending.
pub(crate) fn split(membership: &Membership) -> (Vec<u64>, Vec<u64>) {
    let voters: Vec<u64> = match membership.get_joint_config().last() {
        Some(config) => config.iter().copied().collect(),
        None => Vec::new(),
    };
    let is_learner = |id: &u64| voters.binary_search(id).is_err();
    let learners = membership
        .nodes()
        .map(|(id, _)| *id)
        .filter(is_learner)
        .collect();
    (voters, learners)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn node(learner: bool) -> PeerNode {
        PeerNode {
            learner,
            ..PeerNode::default()
        }
    }

    #[test]
    fn who_was_given_a_vote_is_a_voter_before_it_has_caught_up() {
        let nodes = BTreeMap::from([(1, node(false)), (2, node(false)), (3, node(true))]);
        let membership = Membership::new(vec![BTreeSet::from([1])], nodes).expect("valid");
        let voters: Vec<(u64, bool)> = to_members(&membership)
            .iter()
            .map(|member| (member.id, member.voter))
            .collect();
        assert_eq!(voters, [(1, true), (2, true), (3, false)]);
        assert_eq!(pending(&membership), [2]);
        assert_eq!(split(&membership), (vec![1], vec![2, 3]));
    }

    #[test]
    fn who_leaves_is_no_member_while_voters_change() {
        let nodes = BTreeMap::from([(1, node(false)), (2, node(false))]);
        let configs = vec![BTreeSet::from([1, 2]), BTreeSet::from([1])];
        let membership = Membership::new(configs, nodes).expect("valid");
        let ids: Vec<u64> = to_members(&membership).iter().map(|m| m.id).collect();
        assert_eq!(ids, [1]);
    }
}
