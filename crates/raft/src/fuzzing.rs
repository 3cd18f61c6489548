//! What a peer sends and what the log holds, as a stranger might write it: read, and written again
//! where it could be read. Nothing here may panic. For `fuzz/`, and for this module's own tests.

use bytes::Bytes;
use kvd_api::pb::kvdpeerpb as pb;
use prost::Message;

use crate::commands::Commands;
use crate::transport::codec;
use crate::wal::record::{FRAME_HEADER_BYTES, FrameHeader, Record};

/// Records of the log, and the header of a frame around them.
pub fn wal_records(data: &[u8]) {
    let header = FrameHeader::decode(data, 7);
    if let Some(header) = header {
        let _fits = header.matches(data.get(FRAME_HEADER_BYTES..).unwrap_or_default(), 7);
    }
    let mut bytes = Bytes::copy_from_slice(data);
    while let Some(record) = Record::decode(&mut bytes) {
        let mut written = Vec::new();
        record.encode(&mut written);
        let mut again = Bytes::from(written);
        assert_eq!(Record::decode(&mut again).as_ref(), Some(&record));
    }
}

/// Every message of the peers' protocol; the first byte chooses which.
pub fn peer_message(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else {
        return;
    };
    match kind % 8 {
        0 => {
            if let Ok(message) = pb::AppendRequest::decode(data) {
                let _read = codec::append_in(message);
            }
        }
        1 => {
            if let Ok(message) = pb::VoteRequest::decode(data) {
                let _read = codec::vote_request_in(message);
            }
        }
        2 => {
            if let Ok(message) = pb::VoteReply::decode(data) {
                let _read = codec::vote_reply_in(message);
            }
        }
        3 => {
            if let Ok(message) = pb::TransferRequest::decode(data) {
                let _read = codec::transfer_in(message);
            }
        }
        4 => {
            if let Ok(message) = pb::Position::decode(data) {
                let _read = codec::position_in(message.clone());
                let _read = codec::meta_in(message);
            }
        }
        5 => {
            let _read = codec::decode_position(Bytes::copy_from_slice(data));
        }
        6 => {
            if let Ok(message) = pb::Entry::decode(data) {
                let _read = codec::entry_in(message);
            }
        }
        _ => {
            if let Some(commands) = Commands::decode(Bytes::copy_from_slice(data)) {
                let count = commands.iter().count();
                assert_eq!(count, commands.request_ids().len());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::commands::CommandsBuilder;
    use crate::wal::record::{Entry, LogId, Vote};

    /// Records and messages as they should be, for the random changes to start from.
    fn corpus() -> Vec<Vec<u8>> {
        let mut records = Vec::new();
        let id = LogId { term: 3, index: 9 };
        let entry = Entry {
            id,
            kind: 1,
            data: Bytes::from_static(b"some data"),
        };
        let vote = Vote {
            term: 3,
            node: 5,
            committed: true,
        };
        for record in [
            Record::Entry(entry),
            Record::Vote(vote),
            Record::Committed(id),
            Record::Truncate(None),
            Record::Truncate(Some(id)),
            Record::Purge(id),
        ] {
            record.encode(&mut records);
        }
        let mut builder = CommandsBuilder::with_capacity(64);
        builder.push(1, b"one");
        builder.push(2, b"");
        let commands = builder.finish().as_bytes().to_vec();
        let entry = pb::Entry {
            log_id: Some(pb::LogId { term: 1, index: 2 }),
            ..pb::Entry::default()
        };
        let append = pb::AppendRequest {
            entries: vec![entry.clone()],
            ..pb::AppendRequest::default()
        };
        vec![
            records,
            [&[7][..], &commands].concat(),
            [&[6][..], &entry.encode_to_vec()].concat(),
            [&[0][..], &append.encode_to_vec()].concat(),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn nothing_that_arrives_panics(
            from in 0..5_usize,
            cut in 0..200_usize,
            changes in vec((0..200_usize, any::<u8>()), 0..6),
            noise in vec(any::<u8>(), 0..120),
        ) {
            let mut data = corpus().get(from).cloned().unwrap_or_default();
            data.truncate(data.len().max(cut) - cut / 8);
            for (at, value) in changes {
                if let Some(byte) = data.get_mut(at) {
                    *byte = value;
                }
            }
            data.extend_from_slice(&noise);
            wal_records(&data);
            for kind in 0..8 {
                peer_message(&[&[kind][..], &data].concat());
            }
            peer_message(&data);
        }
    }
}
