//! Offline: beginning the log of a member whose store comes from a backup, and reading what a
//! stored position says.
//!
//! etcd writes one entry per member for a restored cluster and a snapshot after them. Here no entry
//! is written: the log begins as one whose entries are all purged, and the store says that it has
//! applied them. Every member of the new cluster is seeded alike, so they agree on where they are.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;

use bytes::Bytes;

use crate::disk::RealDisk;
use crate::error::{Error, Result};
use crate::log_store::entry_in;
use crate::membership::{self, Member};
use crate::state_machine::{Payload, Position};
use crate::transport::codec::{PositionEncoder, decode_position};
use crate::type_config::{EntryPayload, Membership, StoredMembership, log_id};
use crate::wal::{self, Wal};

/// The term of everything that happened before the new cluster's first election.
const TERM: u64 = 1;

/// What a stored position says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The index of the last entry applied.
    pub index: u64,
    /// The term of that entry.
    pub term: u64,
    /// The members at that entry, ascending by ID.
    pub members: Vec<Member>,
}

/// Reads a position as [`StateMachine::position`](crate::StateMachine::position) returned it.
///
/// Errors: [`Error::Position`] when it is damaged.
pub fn read_position(bytes: Bytes) -> Result<Place> {
    let (applied, stored) =
        decode_position(bytes).map_err(|error| Error::Position(error.to_string()))?;
    Ok(Place {
        index: applied.map_or(0, |id| id.index),
        term: applied.map_or(0, |id| id.leader_id.term),
        members: membership::to_members(stored.membership()),
    })
}

/// What an entry of the log says.
///
/// Errors: [`Error::Position`] when its form is unknown.
pub fn read_entry(entry: wal::Entry) -> Result<Payload> {
    let entry = entry_in(entry).map_err(|error| Error::Position(error.to_string()))?;
    Ok(match entry.payload {
        EntryPayload::Blank => Payload::Blank,
        EntryPayload::Normal(commands) => Payload::Commands(commands),
        EntryPayload::Membership(members) => Payload::Membership(membership::to_members(&members)),
    })
}

/// Begins the log of member `member_id` in `dir`, which must not hold one: as that of a cluster
/// that `members` have begun. Returns the position that the store has to start with; all of it is
/// durable then. Blocks on the disk.
///
/// Errors: [`Error::Membership`] when the members make no cluster, [`Error::Wal`].
pub fn seed_log(
    dir: &Path,
    cluster_id: u64,
    member_id: u64,
    members: &[Member],
) -> Result<Position> {
    let nodes: BTreeMap<_, _> = members.iter().map(|m| (m.id, m.node())).collect();
    let voters = members.iter().filter(|m| m.voter).map(|m| m.id).collect();
    let membership = Membership::new(vec![voters], nodes)
        .map_err(|error| Error::Membership(error.to_string()))?;
    let last = log_id(TERM, members.len() as u64);
    let stored = StoredMembership::new(Some(last), membership);
    let mut options = wal::Options::new(dir, cluster_id, member_id);
    options.disk = Arc::new(RealDisk);
    let wal = Wal::open(options)?;
    // Votes are durable before anything of their term. The first members' lowest ID is voted for
    // by all, as in etcd; nobody has won.
    let vote = wal::Vote {
        term: TERM,
        node: members.iter().map(|member| member.id).min().unwrap_or(0),
        committed: false,
    };
    let (done, durable) = mpsc::sync_channel(1);
    wal.save_vote(
        vote,
        Box::new(move |outcome| {
            // The receiver waits below.
            let _ = done.send(outcome);
        }),
    )?;
    let voted = durable.recv().map_err(|_| Error::Stopped { fault: None })?;
    voted.map_err(|error| Error::Stopped {
        fault: Some(error.to_string()),
    })?;
    wal.purge(wal::LogId {
        term: TERM,
        index: last.index,
    })?;
    wal.close()?;
    Ok(Position {
        index: last.index,
        bytes: PositionEncoder::new(&stored).encode(&last),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seeded_log_is_empty_after_the_position_it_gave() {
        let dir = tempfile::tempdir().unwrap();
        let member = |id: u64| Member {
            id,
            name: format!("m{id}"),
            peer_urls: vec![format!("http://m{id}:2380")],
            voter: true,
        };
        let members = [member(3), member(1), member(2)];
        let position = seed_log(dir.path(), 7, 2, &members).unwrap();
        let place = read_position(position.bytes).unwrap();
        assert_eq!((place.index, place.term), (3, 1));
        assert_eq!(place.members, [member(1), member(2), member(3)]);
        let wal = Wal::open(wal::Options::new(dir.path(), 7, 2)).unwrap();
        let id = wal::LogId { term: 1, index: 3 };
        assert_eq!(wal.bounds(), (Some(id), Some(id)));
        assert_eq!(wal.vote().unwrap().term, 1);
        assert!(Wal::open(wal::Options::new(dir.path(), 8, 2)).is_err());
        assert!(seed_log(&dir.path().join("other"), 7, 2, &[]).is_err());
    }
}
