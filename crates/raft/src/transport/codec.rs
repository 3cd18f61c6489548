//! openraft's types as the messages of `proto/peer.proto`, and back.
//!
//! What comes from a peer may be anything: reading it fails with [`Malformed`], it never panics.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};
use kvd_api::pb::kvdpeerpb as pb;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest, VoteResponse,
};
use openraft::vote::RaftLeaderId;
use prost::Message;

use crate::commands::Commands;
use crate::type_config::{
    Entry, EntryPayload, LeaderId, LogId, Membership, PeerNode, SnapshotMeta, StoredMembership,
    TypeConfig, Vote, log_id,
};

/// A message that lacks something or contradicts itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed {0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

type Read<T> = Result<T, Malformed>;

pub(crate) fn vote_out(vote: &Vote) -> pb::Vote {
    pb::Vote {
        term: vote.leader_id.term,
        node_id: Some(vote.leader_id.voted_for),
        committed: vote.committed,
    }
}

pub(crate) fn vote_in(vote: Option<pb::Vote>) -> Read<Vote> {
    let vote = vote.ok_or(Malformed("vote"))?;
    let node_id = vote.node_id.ok_or(Malformed("vote without a member"))?;
    Ok(Vote {
        leader_id: LeaderId::new(vote.term, node_id),
        committed: vote.committed,
    })
}

pub(crate) fn log_id_out(log_id: &LogId) -> pb::LogId {
    pb::LogId {
        term: log_id.leader_id.term,
        index: log_id.index,
    }
}

pub(crate) fn log_id_in(pb: pb::LogId) -> LogId {
    log_id(pb.term, pb.index)
}

pub(crate) fn membership_out(membership: &Membership) -> pb::Membership {
    let configs = membership.get_joint_config().iter();
    let nodes = membership.nodes().map(|(id, node)| pb::Node {
        id: *id,
        name: node.name.clone(),
        peer_urls: node.peer_urls.clone(),
        learner: node.learner,
    });
    pb::Membership {
        configs: configs
            .map(|ids| pb::VoterSet {
                ids: ids.iter().copied().collect(),
            })
            .collect(),
        nodes: nodes.collect(),
    }
}

pub(crate) fn membership_in(pb: pb::Membership) -> Read<Membership> {
    let configs: Vec<BTreeSet<u64>> = pb
        .configs
        .into_iter()
        .map(|set| set.ids.into_iter().collect())
        .collect();
    let node = |node: pb::Node| {
        (
            node.id,
            PeerNode {
                name: node.name,
                peer_urls: node.peer_urls,
                learner: node.learner,
            },
        )
    };
    let nodes: BTreeMap<u64, PeerNode> = pb.nodes.into_iter().map(node).collect();
    if configs.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, nodes).map_err(|_| Malformed("membership"))
}

pub(crate) fn entry_out(entry: Entry) -> pb::Entry {
    let payload = match entry.payload {
        EntryPayload::Blank => None,
        EntryPayload::Normal(commands) => {
            Some(pb::entry::Payload::Commands(commands.as_bytes().clone()))
        }
        EntryPayload::Membership(m) => Some(pb::entry::Payload::Membership(membership_out(&m))),
    };
    pb::Entry {
        log_id: Some(log_id_out(&entry.log_id)),
        payload,
    }
}

pub(crate) fn entry_in(entry: pb::Entry) -> Read<Entry> {
    let log_id = log_id_in(entry.log_id.ok_or(Malformed("entry without a log id"))?);
    let payload = match entry.payload {
        None => EntryPayload::Blank,
        Some(pb::entry::Payload::Commands(framed)) => {
            let commands = Commands::decode(framed).ok_or(Malformed("commands"))?;
            EntryPayload::Normal(commands)
        }
        Some(pb::entry::Payload::Membership(m)) => EntryPayload::Membership(membership_in(m)?),
    };
    Ok(Entry { log_id, payload })
}

pub(crate) fn append_out(
    request: AppendEntriesRequest<TypeConfig>,
    sequence: u64,
) -> pb::AppendRequest {
    pb::AppendRequest {
        vote: Some(vote_out(&request.vote)),
        prev: request.prev_log_id.as_ref().map(log_id_out),
        entries: request.entries.into_iter().map(entry_out).collect(),
        committed: request.leader_commit.as_ref().map(log_id_out),
        sequence,
    }
}

/// Entries must follow `prev` without a gap: openraft relies on it.
pub(crate) fn append_in(pb: pb::AppendRequest) -> Read<AppendEntriesRequest<TypeConfig>> {
    let prev_log_id = pb.prev.map(log_id_in);
    let entries = pb
        .entries
        .into_iter()
        .map(entry_in)
        .collect::<Read<Vec<Entry>>>()?;
    let mut next = prev_log_id.map_or(0, |prev| prev.index.saturating_add(1));
    for entry in &entries {
        if entry.log_id.index != next {
            return Err(Malformed("append: its entries do not follow one another"));
        }
        next = next.saturating_add(1);
    }
    Ok(AppendEntriesRequest {
        vote: vote_in(pb.vote)?,
        prev_log_id,
        entries,
        leader_commit: pb.committed.map(log_id_in),
    })
}

pub(crate) fn append_reply_out(
    sequence: u64,
    result: Result<AppendEntriesResponse<TypeConfig>, String>,
) -> pb::AppendReply {
    use pb::append_reply::Result as Out;
    let result = match result {
        Ok(AppendEntriesResponse::Success) => Out::Success(true),
        Ok(AppendEntriesResponse::PartialSuccess(Some(up_to))) => Out::Partial(log_id_out(&up_to)),
        Ok(AppendEntriesResponse::PartialSuccess(None)) => Out::Nothing(true),
        Ok(AppendEntriesResponse::Conflict) => Out::Conflict(true),
        Ok(AppendEntriesResponse::HigherVote(vote)) => Out::HigherVote(vote_out(&vote)),
        Err(text) => Out::Failed(text),
    };
    pb::AppendReply {
        sequence,
        result: Some(result),
    }
}

pub(crate) fn vote_request_out(
    request: &VoteRequest<TypeConfig>,
    pre_vote: bool,
) -> pb::VoteRequest {
    pb::VoteRequest {
        vote: Some(vote_out(&request.vote)),
        last_log_id: request.last_log_id.as_ref().map(log_id_out),
        pre_vote,
        leadership_transfer: request.leadership_transfer,
    }
}

pub(crate) fn vote_request_in(pb: pb::VoteRequest) -> Read<VoteRequest<TypeConfig>> {
    Ok(VoteRequest {
        vote: vote_in(pb.vote)?,
        last_log_id: pb.last_log_id.map(log_id_in),
        leadership_transfer: pb.leadership_transfer,
    })
}

pub(crate) fn vote_reply_out(reply: &VoteResponse<TypeConfig>) -> pb::VoteReply {
    pb::VoteReply {
        vote: Some(vote_out(&reply.vote)),
        granted: reply.vote_granted,
        last_log_id: reply.last_log_id.as_ref().map(log_id_out),
    }
}

pub(crate) fn vote_reply_in(pb: pb::VoteReply) -> Read<VoteResponse<TypeConfig>> {
    Ok(VoteResponse {
        vote: vote_in(pb.vote)?,
        vote_granted: pb.granted,
        last_log_id: pb.last_log_id.map(log_id_in),
    })
}

pub(crate) fn transfer_out(request: &TransferLeaderRequest<TypeConfig>) -> pb::TransferRequest {
    pb::TransferRequest {
        from: Some(vote_out(request.from_leader())),
        to: *request.to_node_id(),
        last_log_id: request.last_log_id().map(log_id_out),
    }
}

pub(crate) fn transfer_in(pb: pb::TransferRequest) -> Read<TransferLeaderRequest<TypeConfig>> {
    let from = vote_in(pb.from)?;
    Ok(TransferLeaderRequest::new(
        from,
        pb.to,
        pb.last_log_id.map(log_id_in),
    ))
}

/// The applied log id and the membership at that entry.
pub(crate) type AppliedState = (Option<LogId>, StoredMembership);

pub(crate) fn position_out(applied: Option<&LogId>, stored: &StoredMembership) -> pb::Position {
    pb::Position {
        applied: applied.map(log_id_out),
        membership_log_id: stored.log_id().as_ref().map(log_id_out),
        membership: Some(membership_out(stored.membership())),
    }
}

pub(crate) fn position_in(pb: pb::Position) -> Read<AppliedState> {
    let membership = membership_in(pb.membership.unwrap_or_default())?;
    let stored = StoredMembership::new(pb.membership_log_id.map(log_id_in), membership);
    Ok((pb.applied.map(log_id_in), stored))
}

/// Encodes positions; the membership, which seldom changes, only once.
pub(crate) struct PositionEncoder {
    membership_part: Vec<u8>,
}

impl PositionEncoder {
    pub(crate) fn new(stored: &StoredMembership) -> PositionEncoder {
        PositionEncoder {
            membership_part: position_out(None, stored).encode_to_vec(),
        }
    }

    /// The position of `applied`. A protobuf message is the concatenation of its fields.
    pub(crate) fn encode(&self, applied: &LogId) -> Bytes {
        let head = pb::Position {
            applied: Some(log_id_out(applied)),
            membership_log_id: None,
            membership: None,
        };
        let mut bytes = BytesMut::with_capacity(head.encoded_len() + self.membership_part.len());
        head.encode_raw(&mut bytes);
        bytes.extend_from_slice(&self.membership_part);
        bytes.freeze()
    }
}

pub(crate) fn decode_position(bytes: Bytes) -> Read<AppliedState> {
    let pb = pb::Position::decode(bytes).map_err(|_| Malformed("position"))?;
    position_in(pb)
}

pub(crate) fn meta_in(position: pb::Position) -> Read<SnapshotMeta> {
    let (last_log_id, last_membership) = position_in(position)?;
    Ok(SnapshotMeta {
        last_log_id,
        last_membership,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn membership(voters: &[u64], nodes: &[u64]) -> Membership {
        let node = |id: &u64| {
            let peer_urls = vec![format!("http://m{id}:2380")];
            (
                *id,
                PeerNode {
                    name: format!("m{id}"),
                    peer_urls,
                    learner: *id == 3,
                },
            )
        };
        let nodes: BTreeMap<u64, PeerNode> = nodes.iter().map(node).collect();
        Membership::new(vec![voters.iter().copied().collect()], nodes).expect("valid")
    }

    #[test]
    fn a_position_reads_back_as_it_was_written() {
        let stored = StoredMembership::new(Some(log_id(1, 2)), membership(&[1, 2], &[1, 2, 3]));
        let encoder = PositionEncoder::new(&stored);
        let applied = log_id(7, 900);
        let (back, stored_back) = decode_position(encoder.encode(&applied)).expect("well formed");
        assert_eq!(back, Some(applied));
        assert_eq!(stored_back, stored);
    }

    #[test]
    fn entries_with_a_gap_are_refused() {
        let entry = |index| Entry {
            log_id: log_id(1, index),
            payload: EntryPayload::Blank,
        };
        let request = |entries| AppendEntriesRequest::<TypeConfig> {
            vote: Vote::new_committed(1, 1),
            prev_log_id: Some(log_id(1, 4)),
            entries,
            leader_commit: None,
        };
        assert!(append_in(append_out(request(vec![entry(5), entry(6)]), 0)).is_ok());
        assert!(append_in(append_out(request(vec![entry(5), entry(7)]), 0)).is_err());
        assert!(append_in(append_out(request(vec![entry(6)]), 0)).is_err());
        assert!(
            append_in(pb::AppendRequest::default()).is_err(),
            "a vote is required"
        );
    }

    #[test]
    fn a_membership_without_its_voters_is_refused() {
        let mut pb = membership_out(&membership(&[1, 2], &[1, 2]));
        pb.nodes.pop();
        assert!(membership_in(pb).is_err());
        assert_eq!(
            membership_in(pb::Membership::default()),
            Ok(Membership::default())
        );
    }
}
