//! What the answers of the peers mean; no member is asked here.

use std::collections::BTreeMap;

use kvd_mvcc::HashKv;

/// What a peer answered for a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PeerHash {
    /// The peer.
    pub(super) id: u64,
    /// Its hash, or why there is none.
    pub(super) answer: Result<HashKv, Refusal>,
}

/// Why a peer has no hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It has compacted the revision.
    Compacted,
    /// It has not got so far.
    Future,
    /// It did not answer.
    Silent(String),
}

/// The peers that differ from this member at the revision of `own`.
pub(super) fn differing(own: &HashKv, peers: &[PeerHash]) -> Vec<u64> {
    let differs = |peer: &&PeerHash| {
        peer.answer.as_ref().is_ok_and(|hash| {
            hash.compact_revision == own.compact_revision && hash.hash != own.hash
        })
    };
    peers.iter().filter(differs).map(|peer| peer.id).collect()
}

/// What the leader, who had `first` before it asked and has `then` after it, finds odd: a peer that
/// is further than its leader, or has other data.
pub(super) fn suspect(first: &HashKv, then: &HashKv, peers: &[PeerHash]) -> Option<(u64, String)> {
    peers.iter().find_map(|peer| {
        let hash = peer.answer.as_ref().ok()?;
        let what = if hash.current_revision > then.current_revision {
            format!(
                "its revision {} is above the leader's, {}",
                hash.current_revision, then.current_revision
            )
        } else if hash.compact_revision > then.compact_revision {
            format!(
                "its compacted revision {} is above the leader's, {}",
                hash.compact_revision, then.compact_revision
            )
        } else if hash.compact_revision == first.compact_revision && hash.hash != first.hash {
            format!(
                "its hash at revision {} is {}, the leader's {}",
                first.revision, hash.hash, first.hash
            )
        } else {
            return None;
        };
        Some((peer.id, what))
    })
}

/// What the hashes of one compaction say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All members have the same.
    Same,
    /// Those that answered have the same.
    Unknown,
    /// These members differ from a majority.
    Corrupt(Vec<u64>),
    /// They differ, and no hash has a majority.
    Undecided,
}

/// Compares the leader's hash of a compaction with those of its peers.
pub(super) fn verdict(leader: u64, own: &HashKv, peers: &[PeerHash]) -> Verdict {
    let mut members: BTreeMap<u32, Vec<u64>> = BTreeMap::from([(own.hash, vec![leader])]);
    let mut checked = 0;
    for peer in peers {
        if let Ok(hash) = &peer.answer
            && hash.compact_revision == own.compact_revision
        {
            checked += 1;
            members.entry(hash.hash).or_default().push(peer.id);
        }
    }
    if members.len() == 1 {
        return match checked == peers.len() {
            true => Verdict::Same,
            false => Verdict::Unknown,
        };
    }
    let quorum = peers.len().div_ceil(2) + 1;
    let majority = members
        .iter()
        .find(|(_, ids)| ids.len() >= quorum)
        .map(|(hash, _)| *hash);
    let Some(majority) = majority else {
        return Verdict::Undecided;
    };
    members.remove(&majority);
    let mut corrupt: Vec<u64> = members.into_values().flatten().collect();
    corrupt.sort_unstable();
    Verdict::Corrupt(corrupt)
}
