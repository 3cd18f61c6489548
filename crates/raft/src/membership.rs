//! Members as the outside sees them, and their translation to openraft's membership.

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
    /// Whether it votes; a learner does not.
    pub voter: bool,
}

impl Member {
    pub(crate) fn node(&self) -> PeerNode {
        PeerNode {
            name: self.name.clone(),
            peer_urls: self.peer_urls.clone(),
        }
    }
}

/// The members of a membership, ascending by id. While voters change, those of the new set vote.
pub(crate) fn to_members(membership: &Membership) -> Vec<Member> {
    let (voters, _) = split(membership);
    let member = |(id, node): (&u64, &PeerNode)| Member {
        id: *id,
        name: node.name.clone(),
        peer_urls: node.peer_urls.clone(),
        voter: voters.binary_search(id).is_ok(),
    };
    membership.nodes().map(member).collect()
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
