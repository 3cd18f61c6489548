use kvd_mvcc::HashKv;

use super::tally::{PeerHash, Refusal, Verdict, differing, suspect, verdict};

fn hash(hash: u32, compact_revision: i64, current_revision: i64) -> HashKv {
    HashKv {
        hash,
        compact_revision,
        revision: 10,
        current_revision,
    }
}

fn peer(id: u64, answer: HashKv) -> PeerHash {
    PeerHash {
        id,
        answer: Ok(answer),
    }
}

fn silent(id: u64) -> PeerHash {
    PeerHash {
        id,
        answer: Err(Refusal::Silent("gone".into())),
    }
}

#[test]
fn only_hashes_from_the_same_compacted_revision_are_compared() {
    let own = hash(1, 5, 10);
    let peers = [
        peer(2, hash(1, 5, 10)),
        peer(3, hash(9, 6, 10)),
        peer(4, hash(9, 5, 12)),
        silent(5),
    ];
    assert_eq!(differing(&own, &peers), [4]);
}

#[test]
fn a_peer_ahead_of_its_leader_is_suspect() {
    let (first, then) = (hash(1, 5, 10), hash(2, 5, 12));
    assert_eq!(suspect(&first, &then, &[peer(2, hash(1, 5, 11))]), None);
    let id = |peers: &[PeerHash]| suspect(&first, &then, peers).map(|(id, _)| id);
    assert_eq!(id(&[peer(2, hash(1, 5, 13))]), Some(2));
    assert_eq!(id(&[peer(2, hash(1, 6, 11))]), Some(2));
    assert_eq!(id(&[silent(2), peer(3, hash(7, 5, 11))]), Some(3));
    // Compacted less far: its hash says nothing.
    assert_eq!(id(&[peer(2, hash(7, 4, 11))]), None);
}

#[test]
fn the_minority_is_corrupt_and_nobody_when_there_is_no_majority() {
    let own = hash(1, 5, 10);
    let same = |id| peer(id, hash(1, 5, 10));
    let other = |id, number| peer(id, hash(number, 5, 10));
    assert_eq!(verdict(1, &own, &[same(2), same(3)]), Verdict::Same);
    assert_eq!(verdict(1, &own, &[same(2), silent(3)]), Verdict::Unknown);
    let one = Verdict::Corrupt(vec![3]);
    assert_eq!(verdict(1, &own, &[same(2), other(3, 9)]), one);
    let leader = Verdict::Corrupt(vec![1]);
    assert_eq!(verdict(1, &own, &[other(2, 9), other(3, 9)]), leader);
    let peers = [other(2, 8), other(3, 9)];
    assert_eq!(verdict(1, &own, &peers), Verdict::Undecided);
    // Of two members nobody knows which one is right.
    assert_eq!(verdict(1, &own, &[other(2, 9)]), Verdict::Undecided);
}
