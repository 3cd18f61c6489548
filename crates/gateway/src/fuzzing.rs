//! Bodies of requests to the JSON gateway, as a stranger might write them: read, and written again
//! where they could be read. Nothing here may panic. For `fuzz/`, and for this module's own tests.

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

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

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
        fn deep_bodies_are_refused(depth in 1..20_000_usize, kind in any::<u8>()) {
            let body = [&[kind][..], "{\"success\":[".repeat(depth).as_bytes()].concat();
            json_body(&body);
        }
    }
}
