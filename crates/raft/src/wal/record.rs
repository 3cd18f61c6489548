//! Records, and the frames that carry them.
//!
//! A frame is one drained batch. All integers are little-endian.
//!
//! ```text
//!  0      4       8            16           20            24
//!  ┌──────┬───────┬────────────┬────────────┬─────────────┬──────────────────┐
//!  │ KVDf │ length│ sequence   │ header crc │ payload crc │ records, `length`│
//!  └──────┴───────┴────────────┴────────────┴─────────────┴──────────────────┘
//!   magic  u32      u64          u32          u32
//! ```
//! Both checksums are CRC-32C and start from the segment's seed, so a frame left over from the
//! life of a recycled file before its present one never passes. The header has its own checksum
//! so that a search for later frames costs one short checksum per candidate.
//!
//! ```text
//!  entry     01 │ term u64 │ index u64 │ kind u8 │ length u32 │ data
//!  vote      02 │ term u64 │ node u64  │ committed u8
//!  committed 03 │ term u64 │ index u64
//!  truncate  04 │ present u8 │ term u64 │ index u64     keep up to here; not present: nothing
//!  purge     05 │ term u64 │ index u64                  forget up to here
//! ```
//! Example: a vote for node 1 in term 5, granted: `02  05 00…00  01 00…00  01` (18 bytes).

use bytes::{Buf, Bytes};

/// First bytes of a frame, `KVDf`.
pub(crate) const FRAME_MAGIC: [u8; 4] = *b"KVDf";

/// Bytes before a frame's records.
pub(crate) const FRAME_HEADER_BYTES: usize = 24;

/// Position of an entry: the term of the leader that wrote it, and its log index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// The leader's term.
    pub term: u64,
    /// Place in the log.
    pub index: u64,
}

/// A member's vote: for whom, in which term, and whether a quorum granted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vote {
    /// The term voted in.
    pub term: u64,
    /// The member voted for.
    pub node: u64,
    /// Whether that member is known to have won.
    pub committed: bool,
}

/// An entry of the log; the log does not look into `data`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it stands.
    pub id: LogId,
    /// What the owner says `data` is.
    pub kind: u8,
    /// Opaque bytes.
    pub data: Bytes,
}

/// One change of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// An entry was appended.
    Entry(Entry),
    /// The vote changed.
    Vote(Vote),
    /// Everything up to here is known to be committed.
    Committed(LogId),
    /// Entries after this one are gone; all of them when `None`.
    Truncate(Option<LogId>),
    /// Entries up to this one are gone.
    Purge(LogId),
}

const ENTRY: u8 = 1;
const VOTE: u8 = 2;
const COMMITTED: u8 = 3;
const TRUNCATE: u8 = 4;
const PURGE: u8 = 5;

impl Record {
    /// Appends the record's bytes.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Record::Entry(entry) => encode_entry(entry, out),
            Record::Vote(vote) => {
                out.push(VOTE);
                out.extend_from_slice(&vote.term.to_le_bytes());
                out.extend_from_slice(&vote.node.to_le_bytes());
                out.push(u8::from(vote.committed));
            }
            Record::Committed(id) => {
                out.push(COMMITTED);
                encode_id(*id, out);
            }
            Record::Truncate(id) => {
                out.push(TRUNCATE);
                out.push(u8::from(id.is_some()));
                encode_id(id.unwrap_or(LogId { term: 0, index: 0 }), out);
            }
            Record::Purge(id) => {
                out.push(PURGE);
                encode_id(*id, out);
            }
        }
    }

    /// Takes the next record off the front; `None` when the bytes are no record. An entry's data
    /// is a slice of `bytes`.
    pub(crate) fn decode(bytes: &mut Bytes) -> Option<Record> {
        if bytes.is_empty() {
            return None;
        }
        match bytes.get_u8() {
            ENTRY => decode_entry(bytes).map(Record::Entry),
            VOTE if bytes.len() >= 17 => Some(Record::Vote(Vote {
                term: bytes.get_u64_le(),
                node: bytes.get_u64_le(),
                committed: decode_flag(bytes)?,
            })),
            COMMITTED => decode_id(bytes).map(Record::Committed),
            TRUNCATE if !bytes.is_empty() => {
                let present = decode_flag(bytes)?;
                let id = decode_id(bytes)?;
                Some(Record::Truncate(present.then_some(id)))
            }
            PURGE => decode_id(bytes).map(Record::Purge),
            _ => None,
        }
    }
}

/// Appends the bytes of an entry's record.
pub(crate) fn encode_entry(entry: &Entry, out: &mut Vec<u8>) {
    // Checked when the entry was handed in: see `Wal::append`.
    let length = u32::try_from(entry.data.len()).expect("an entry is below 4 GiB");
    out.push(ENTRY);
    encode_id(entry.id, out);
    out.push(entry.kind);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&entry.data);
}

fn encode_id(id: LogId, out: &mut Vec<u8>) {
    out.extend_from_slice(&id.term.to_le_bytes());
    out.extend_from_slice(&id.index.to_le_bytes());
}

fn decode_entry(bytes: &mut Bytes) -> Option<Entry> {
    let id = decode_id(bytes)?;
    if bytes.len() < 5 {
        return None;
    }
    let kind = bytes.get_u8();
    let length = bytes.get_u32_le() as usize;
    (bytes.len() >= length).then(|| Entry {
        id,
        kind,
        data: bytes.split_to(length),
    })
}

fn decode_id(bytes: &mut Bytes) -> Option<LogId> {
    (bytes.len() >= 16).then(|| LogId {
        term: bytes.get_u64_le(),
        index: bytes.get_u64_le(),
    })
}

fn decode_flag(bytes: &mut Bytes) -> Option<bool> {
    match bytes.get_u8() {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

/// What a frame's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) sequence: u64,
    /// Bytes of records after the header.
    pub(crate) length: u32,
    payload_crc: u32,
}

impl FrameHeader {
    /// Reads a header; `None` when it was not written under this segment's seed.
    pub(crate) fn decode(bytes: &[u8], seed: u32) -> Option<FrameHeader> {
        let bytes = bytes.get(..FRAME_HEADER_BYTES)?;
        if bytes[..4] != FRAME_MAGIC {
            return None;
        }
        let crc = crc32c::crc32c_append(seed, &bytes[..16]);
        let mut rest = &bytes[4..];
        let length = rest.get_u32_le();
        let sequence = rest.get_u64_le();
        let header_crc = rest.get_u32_le();
        let payload_crc = rest.get_u32_le();
        (crc == header_crc).then_some(FrameHeader {
            sequence,
            length,
            payload_crc,
        })
    }

    /// Whether these are the records the header was written for.
    pub(crate) fn matches(&self, payload: &[u8], seed: u32) -> bool {
        payload.len() == self.length as usize
            && crc32c::crc32c_append(seed, payload) == self.payload_crc
    }
}

/// Writes a frame's header into the room left for it at the front of `frame`.
pub(crate) fn seal_frame(frame: &mut [u8], sequence: u64, seed: u32) {
    let (header, payload) = frame.split_at_mut(FRAME_HEADER_BYTES);
    let length = u32::try_from(payload.len()).expect("a batch is below 4 GiB");
    header[..4].copy_from_slice(&FRAME_MAGIC);
    header[4..8].copy_from_slice(&length.to_le_bytes());
    header[8..16].copy_from_slice(&sequence.to_le_bytes());
    let header_crc = crc32c::crc32c_append(seed, &header[..16]);
    header[16..20].copy_from_slice(&header_crc.to_le_bytes());
    header[20..24].copy_from_slice(&crc32c::crc32c_append(seed, payload).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn log_id() -> impl Strategy<Value = LogId> {
        (any::<u64>(), any::<u64>()).prop_map(|(term, index)| LogId { term, index })
    }

    fn record() -> impl Strategy<Value = Record> {
        let data = proptest::collection::vec(any::<u8>(), 0..300);
        prop_oneof![
            (log_id(), any::<u8>(), data).prop_map(|(id, kind, data)| {
                Record::Entry(Entry {
                    id,
                    kind,
                    data: data.into(),
                })
            }),
            (any::<u64>(), any::<u64>(), any::<bool>()).prop_map(|(term, node, committed)| {
                Record::Vote(Vote {
                    term,
                    node,
                    committed,
                })
            }),
            log_id().prop_map(Record::Committed),
            proptest::option::of(log_id()).prop_map(Record::Truncate),
            log_id().prop_map(Record::Purge),
        ]
    }

    proptest! {
        #[test]
        fn records_read_back_as_written(records in proptest::collection::vec(record(), 0..20)) {
            let mut bytes = Vec::new();
            records.iter().for_each(|record| record.encode(&mut bytes));
            let mut bytes = Bytes::from(bytes);
            let mut back = Vec::new();
            while !bytes.is_empty() {
                back.push(Record::decode(&mut bytes).expect("a whole record"));
            }
            prop_assert_eq!(back, records);
        }

        #[test]
        fn a_cut_record_is_refused(record in record(), cut in any::<proptest::sample::Index>()) {
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            bytes.truncate(cut.index(bytes.len()));
            prop_assert_eq!(Record::decode(&mut Bytes::from(bytes)), None);
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..99)) {
            let mut bytes = Bytes::from(bytes);
            while Record::decode(&mut bytes).is_some() {}
        }

        #[test]
        fn a_frame_passes_only_under_its_own_seed_and_unchanged(
            payload in proptest::collection::vec(any::<u8>(), 0..200),
            sequence in any::<u64>(),
            (seed, other) in (any::<u32>(), any::<u32>()),
            bit in any::<proptest::sample::Index>(),
        ) {
            let mut frame = vec![0; FRAME_HEADER_BYTES];
            frame.extend_from_slice(&payload);
            seal_frame(&mut frame, sequence, seed);
            let passes = |frame: &[u8], seed| {
                let (header, payload) = frame.split_at(FRAME_HEADER_BYTES);
                FrameHeader::decode(header, seed).is_some_and(|h| h.matches(payload, seed))
            };
            prop_assert!(passes(&frame, seed));
            prop_assert_eq!(passes(&frame, other), other == seed);
            let bit = bit.index(frame.len() * 8);
            frame[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!passes(&frame, seed));
        }
    }

    #[test]
    fn a_vote_is_written_as_documented() {
        let mut bytes = Vec::new();
        Record::Vote(Vote {
            term: 5,
            node: 1,
            committed: true,
        })
        .encode(&mut bytes);
        assert_eq!(bytes, b"\x02\x05\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x01");
    }
}
