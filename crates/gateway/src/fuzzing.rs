//! Requests to the JSON gateway and the v2 API, as a stranger might write them: read, and written
//! again where they could be read. Nothing here may panic. For `fuzz/`, and for this module's own tests.

use std::sync::LazyLock;

use bytes::Bytes;
use prost_reflect::{DescriptorPool, MessageDescriptor};

use crate::json::{self, ObjectScanner};

static MESSAGES: LazyLock<Vec<MessageDescriptor>> = LazyLock::new(|| {
    let pool = DescriptorPool::decode(kvd_api::DESCRIPTORS)
        .expect("the descriptors come from the build of kvd-api");
    pool.all_messages().collect()
});

/// A JSON body, whole and as a stream; the first byte chooses the type of the message.
pub fn json_body(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else {
        return;
    };
    let descriptor = &MESSAGES[usize::from(*kind) % MESSAGES.len()];
    if let Ok(message) = json::decode(descriptor, data) {
        let mut written = Vec::new();
        let encoded = json::encode(descriptor, message.into(), &mut written);
        encoded.expect("what was read can be written");
    }
    let mut scanner = ObjectScanner::default();
    let mut buffer = data.to_vec();
    while let Ok(Some(end)) = scanner.next_end(&buffer) {
        buffer.drain(..end);
    }
}

/// A protobuf message, written as JSON; the first byte chooses its type.
pub fn protobuf_body(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else {
        return;
    };
    let descriptor = &MESSAGES[usize::from(*kind) % MESSAGES.len()];
    let mut written = Vec::new();
    // Bytes that are no message are refused.
    let _refused = json::encode(descriptor, Bytes::copy_from_slice(data), &mut written);
}

/// A request of the v2 API: `PATH?QUERY`, a newline and a form; or a stored event in protobuf. The
/// first byte chooses the method, or the event.
pub fn v2_request(data: &[u8]) {
    crate::v2::fuzzing::v2_request(data);
}

#[cfg(test)]
mod tests {
    use kvd_api::pb::kvdcommandpb::{V2Event, V2Node};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use prost::Message;

    use super::*;

    /// Pieces of bodies, so that random ones get past the first character.
    const PIECES: [&str; 16] = [
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\"key\"",
        "\"Zm9v\"",
        "\"compare\"",
        "1e400",
        "-9",
        "\"\\ud800\"",
        "null",
        "true",
        "\"requestPut\"",
        " ",
    ];

    /// Pieces of requests to the v2 API.
    const V2_PIECES: [&str; 20] = [
        "/a",
        "/",
        "?",
        "&",
        "=",
        "%",
        "%2",
        "%zz",
        "+",
        ";",
        "\n",
        "prevExist",
        "prevIndex",
        "ttl",
        "value",
        "wait",
        "recursive",
        "true",
        "-1",
        "99999999999999999999",
    ];

    /// An event as it is stored, for random changes to start from.
    fn event() -> Vec<u8> {
        let child = V2Node {
            key: "/a/b".into(),
            value: "<v>".into(),
            has_value: true,
            expiration: i64::MAX,
            ttl: -1,
            modified_index: 7,
            ..V2Node::default()
        };
        let event = V2Event {
            action: "set".into(),
            node: Some(V2Node {
                dir: true,
                nodes: vec![child.clone()],
                ..V2Node::default()
            }),
            prev_node: Some(child),
            refresh: false,
        };
        event.encode_to_vec()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn no_body_panics(
            kind in any::<u8>(),
            pieces in vec(0..PIECES.len(), 0..24),
            noise in vec(any::<u8>(), 0..60),
        ) {
            let mut body = vec![kind];
            body.extend(pieces.iter().flat_map(|piece| PIECES[*piece].bytes()));
            json_body(&body);
            body.extend_from_slice(&noise);
            json_body(&body);
            protobuf_body(&body);
            protobuf_body(&[&[kind][..], &noise].concat());
        }

        #[test]
        fn no_v2_request_panics(
            kind in any::<u8>(),
            pieces in vec(0..V2_PIECES.len(), 0..24),
            changes in vec((0..80_usize, any::<u8>()), 0..6),
            noise in vec(any::<u8>(), 0..60),
        ) {
            let mut request = vec![kind];
            request.extend(pieces.iter().flat_map(|piece| V2_PIECES[*piece].bytes()));
            v2_request(&request);
            request.extend_from_slice(&noise);
            v2_request(&request);
            let mut stored = [&[5], &event()[..]].concat();
            for (at, value) in changes {
                if let Some(byte) = stored.get_mut(at + 1) {
                    *byte = value;
                }
            }
            v2_request(&stored);
        }

        #[test]
        fn deep_bodies_are_refused(depth in 1..20_000_usize, kind in any::<u8>()) {
            let body = [&[kind][..], "{\"success\":[".repeat(depth).as_bytes()].concat();
            json_body(&body);
        }
    }
}
