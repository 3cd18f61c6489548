//! The commands of one log entry, framed once by the batcher and never copied again: the same
//! bytes go to the log, to the followers and to the state machine.
//!
//! ```text
//!  ┌─────────────────┬────────────┬───────────────┐
//!  │ request_id: u64 │ length: u32│ command bytes │ … repeated, integers little-endian
//!  └─────────────────┴────────────┴───────────────┘
//! ```
//! Example: request 7 with the command `ab` is `07 00 00 00 00 00 00 00  02 00 00 00  61 62`.

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes that framing adds to each command.
pub(crate) const FRAME_HEADER_BYTES: usize = 8 + 4;

/// Framed commands of one entry, in the order in which they were proposed.
///
/// The frames are checked when the bytes come from outside ([`Commands::decode`]), so that
/// iterating never fails.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Commands {
    framed: Bytes,
}

impl Commands {
    /// Takes framed bytes that came from a peer or from the log. `None` when the frames do not
    /// fill the bytes exactly.
    pub fn decode(framed: Bytes) -> Option<Commands> {
        let mut rest: &[u8] = &framed;
        while !rest.is_empty() {
            if rest.len() < FRAME_HEADER_BYTES {
                return None;
            }
            rest.advance(8);
            let length = rest.get_u32_le() as usize;
            if rest.len() < length {
                return None;
            }
            rest.advance(length);
        }
        Some(Commands { framed })
    }

    /// The framed bytes, as they are stored and sent.
    pub fn as_bytes(&self) -> &Bytes {
        &self.framed
    }

    /// The commands with their request ids, as slices of the entry's bytes.
    pub fn iter(&self) -> CommandIter {
        CommandIter {
            rest: self.framed.clone(),
        }
    }

    /// The request ids alone.
    pub fn request_ids(&self) -> Vec<u64> {
        self.iter().map(|(request_id, _)| request_id).collect()
    }
}

impl IntoIterator for &Commands {
    type Item = (u64, Bytes);
    type IntoIter = CommandIter;

    fn into_iter(self) -> CommandIter {
        self.iter()
    }
}

impl fmt::Debug for Commands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of commands", self.framed.len())
    }
}

impl fmt::Display for Commands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Yields `(request_id, command)`; see [`Commands::iter`].
pub struct CommandIter {
    rest: Bytes,
}

impl Iterator for CommandIter {
    type Item = (u64, Bytes);

    fn next(&mut self) -> Option<(u64, Bytes)> {
        if self.rest.len() < FRAME_HEADER_BYTES {
            return None;
        }
        let request_id = self.rest.get_u64_le();
        let length = self.rest.get_u32_le() as usize;
        let length = length.min(self.rest.len());
        Some((request_id, self.rest.split_to(length)))
    }
}

/// Frames commands one after the other.
#[derive(Default)]
pub(crate) struct CommandsBuilder {
    framed: BytesMut,
    count: usize,
}

impl CommandsBuilder {
    pub(crate) fn with_capacity(bytes: usize) -> CommandsBuilder {
        CommandsBuilder {
            framed: BytesMut::with_capacity(bytes),
            count: 0,
        }
    }

    /// Adds a command. Commands are bounded by the server far below 4 GiB.
    pub(crate) fn push(&mut self, request_id: u64, command: &[u8]) {
        let length = u32::try_from(command.len()).expect("a command is far below 4 GiB");
        self.framed.put_u64_le(request_id);
        self.framed.put_u32_le(length);
        self.framed.put_slice(command);
        self.count += 1;
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    pub(crate) fn finish(self) -> Commands {
        Commands {
            framed: self.framed.freeze(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(commands: &[(u64, &[u8])]) -> Commands {
        let mut builder = CommandsBuilder::with_capacity(64);
        for (request_id, command) in commands {
            builder.push(*request_id, command);
        }
        builder.finish()
    }

    #[test]
    fn framing_is_as_documented_and_reads_back() {
        let commands = framed(&[(7, b"ab")]);
        assert_eq!(
            commands.as_bytes().as_ref(),
            b"\x07\0\0\0\0\0\0\0\x02\0\0\0ab"
        );
        let commands = framed(&[(1, b""), (2, b"x"), (u64::MAX, &[9; 300])]);
        let back = Commands::decode(commands.as_bytes().clone()).expect("whole frames");
        let pairs: Vec<_> = back.iter().collect();
        assert_eq!(pairs.len(), 3);
        assert_eq!(pairs[1], (2, Bytes::from_static(b"x")));
        assert_eq!(pairs[2].1.len(), 300);
        assert_eq!(back.request_ids(), [1, 2, u64::MAX]);
    }

    #[test]
    fn torn_frames_are_refused() {
        let commands = framed(&[(1, b"abc"), (2, b"defg")]);
        let bytes = commands.as_bytes();
        let boundary = FRAME_HEADER_BYTES + 3;
        for cut in 1..bytes.len() {
            let decoded = Commands::decode(bytes.slice(..cut));
            assert_eq!(decoded.is_some(), cut == boundary, "cut at {cut}");
        }
    }
}
