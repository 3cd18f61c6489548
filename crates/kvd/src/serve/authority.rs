//! Mends the `:authority` that etcd's Go clients up to 3.4 send when a command asks one endpoint
//! by its URL: `etcdctl endpoint status --cluster` calls `http://10.0.0.1:2379`, not
//! `10.0.0.1:2379`. Servers in Go take it, our HTTP/2 library resets the stream.
//!
//! Only the first HEADERS frame of a connection is looked at: a later one refers to what the first
//! has put in the table of headers. The bytes before it are held back until their frame is whole,
//! those after it pass untouched.
//!
//! `http://` becomes a user name, which nobody reads, of exactly as many bits, so that no length
//! changes. In Huffman code:
//!
//! ```text
//! h      t     t     p      :       /      /           h      t     t     p      -      @
//! 100111 01001 01001 101011 1011100 011000 011000  ->  100111 01001 01001 101011 010110 1111111111010
//! 9d 29 ae e3 0c and a 0                               9d 29 ad 6f fd and a 0
//! ```
//!
//! Source: RFC 7541 (HPACK), sections 5, 6 and appendix B; RFC 9113, section 6.2.

use bytes::{Bytes, BytesMut};

/// What an HTTP/2 client sends first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD: usize = 9;
/// No client sends a larger frame before it has read our settings.
const FRAME_MAX: usize = 16 * 1024;

const HEADERS: u8 = 1;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// The place of `:authority` in the static table.
const AUTHORITY: usize = 1;
const PLAIN: (&[u8], &[u8]) = (b"http://", b"http--@");
const HUFFMAN: (&[u8], &[u8]) = (
    &[0x9d, 0x29, 0xae, 0xe3, 0x0c],
    &[0x9d, 0x29, 0xad, 0x6f, 0xfd],
);

/// The start of a connection, up to its first HEADERS frame.
#[derive(Debug, Default)]
pub(super) struct Start {
    held: BytesMut,
    after_preface: bool,
    over: bool,
}

impl Start {
    /// Whether `first` starts an HTTP/2 connection.
    pub(super) fn is_http2(first: &[u8]) -> bool {
        first.starts_with(PREFACE)
    }

    /// Whether nothing is left to look at.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// Takes what was read and returns what may be passed on.
    pub(super) fn take(&mut self, read: &[u8]) -> Bytes {
        self.held.extend_from_slice(read);
        let mut whole = 0;
        if !self.after_preface {
            if self.held.len() < PREFACE.len() {
                return Bytes::new();
            }
            self.after_preface = true;
            whole = PREFACE.len();
        }
        while let Some(&[a, b, c, kind, flags, ..]) = self.held.get(whole..whole + FRAME_HEAD) {
            let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            let end = whole + FRAME_HEAD + length;
            if length > FRAME_MAX {
                self.over = true;
                break;
            }
            let Some(payload) = self.held.get_mut(whole + FRAME_HEAD..end) else {
                break;
            };
            if kind == HEADERS {
                // `None`: not what HPACK allows. Whoever reads it next will say so.
                let _malformed = mend(payload, flags);
                self.over = true;
                break;
            }
            whole = end;
        }
        if self.over {
            return self.rest();
        }
        self.held.split_to(whole).freeze()
    }

    /// Everything that is held back, when there will be no more.
    pub(super) fn rest(&mut self) -> Bytes {
        self.over = true;
        self.held.split().freeze()
    }
}

/// Looks for `:authority` in the payload of a HEADERS frame and mends it in place.
fn mend(payload: &mut [u8], flags: u8) -> Option<()> {
    let mut at = 0;
    if flags & PADDED != 0 {
        at += 1;
    }
    if flags & PRIORITY != 0 {
        at += 5;
    }
    while at < payload.len() {
        let first = payload[at];
        // Indexed, and a new size of the table: no text follows.
        if first & 0x80 != 0 {
            integer(payload, &mut at, 7)?;
            continue;
        }
        if first & 0xe0 == 0x20 {
            integer(payload, &mut at, 5)?;
            continue;
        }
        let bits = if first & 0x40 != 0 { 6 } else { 4 };
        let name = integer(payload, &mut at, bits)?;
        if name == 0 {
            text(payload, &mut at)?;
        }
        let value = text(payload, &mut at)?;
        if name != AUTHORITY {
            continue;
        }
        let (start, end, is_huffman) = value;
        let value = payload.get_mut(start..end)?;
        let (wrong, right) = if is_huffman { HUFFMAN } else { PLAIN };
        // The last bit of the last slash is the first of the byte behind the pattern.
        let ends = !is_huffman || value.get(wrong.len()).is_some_and(|byte| byte & 0x80 == 0);
        if value.starts_with(wrong) && ends {
            value[..right.len()].copy_from_slice(right);
        }
        return Some(());
    }
    Some(())
}

/// Reads an integer whose first `bits` bits are in the byte at `at`, and moves behind it.
fn integer(bytes: &[u8], at: &mut usize, bits: u32) -> Option<usize> {
    let mask = (1_u8 << bits) - 1;
    let first = bytes.get(*at)? & mask;
    *at += 1;
    let mut value = usize::from(first);
    if first < mask {
        return Some(value);
    }
    for shift in [0, 7, 14] {
        let byte = bytes.get(*at)?;
        *at += 1;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Finds where a string lies and whether it is in Huffman code, and moves behind it.
fn text(bytes: &[u8], at: &mut usize) -> Option<(usize, usize, bool)> {
    let is_huffman = bytes.get(*at)? & 0x80 != 0;
    let length = integer(bytes, at, 7)?;
    let start = *at;
    let end = start.checked_add(length)?;
    if end > bytes.len() {
        return None;
    }
    *at = end;
    Some((start, end, is_huffman))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame of SETTINGS without any.
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

    fn frame(block: &[u8]) -> Vec<u8> {
        let length = u8::try_from(block.len()).expect("a short block");
        let mut frame = vec![0, 0, length, HEADERS, 4, 0, 0, 0, 1];
        frame.extend_from_slice(block);
        frame
    }

    /// `:method POST`, `:path /x` as a literal, then `:authority` with the given string.
    fn block(authority: &[u8]) -> Vec<u8> {
        let mut block = vec![0x83, 0x86, 0x44, 2, b'/', b'x', 0x41];
        block.extend_from_slice(authority);
        block
    }

    /// `http://127.0.0.1:80` and `http-@127.0.0.1:80` in Huffman code.
    const HUFFMAN_URL: [u8; 16] = [
        0x8f, 0x9d, 0x29, 0xae, 0xe3, 0x0c, 0x04, 0x4e, 0xb8, 0x0b, 0x81, 0x70, 0x2e, 0x7f, 0xff,
        0xff,
    ];

    fn through(pieces: &[&[u8]]) -> Vec<u8> {
        let mut start = Start::default();
        let mut out = Vec::new();
        for piece in pieces {
            if start.is_over() {
                out.extend_from_slice(piece);
            } else {
                out.extend_from_slice(&start.take(piece));
            }
        }
        out.extend_from_slice(&start.rest());
        out
    }

    #[test]
    fn a_url_becomes_an_authority_however_the_bytes_arrive() {
        let plain = b"\x13http://127.0.0.1:80";
        for (authority, wrong, right) in [
            (&plain[..], PLAIN.0, PLAIN.1),
            (&HUFFMAN_URL[..], HUFFMAN.0, HUFFMAN.1),
        ] {
            let sent = [PREFACE, &SETTINGS, &frame(&block(authority)), b"tail"].concat();
            let mut expected = sent.clone();
            let at = sent
                .windows(wrong.len())
                .position(|window| window == wrong)
                .expect("it is there");
            expected[at..at + right.len()].copy_from_slice(right);
            for cut in 0..sent.len() {
                let (left, right) = sent.split_at(cut);
                assert_eq!(through(&[left, right]), expected, "cut at {cut}");
            }
            let single: Vec<&[u8]> = sent.chunks(1).collect();
            assert_eq!(through(&single), expected);
        }
    }

    #[test]
    fn whole_frames_are_not_held_back() {
        let mut start = Start::default();
        let first = [PREFACE, &SETTINGS, &[0, 0, 50]].concat();
        assert_eq!(start.take(&first).len(), PREFACE.len() + SETTINGS.len());
        assert!(!start.is_over());
    }

    #[test]
    fn everything_else_is_passed_on_as_it_is() {
        let good = block(b"\x0c127.0.0.1:80");
        // The pattern in another header's value, and blocks that end too early or are too long.
        let mut other = vec![0x04, 0x13];
        other.extend_from_slice(b"http://127.0.0.1:80");
        for sent in [
            frame(&good),
            frame(&other),
            frame(&[0x41, 0xff]),
            frame(&[0x7f, 0xff, 0xff, 0xff, 0xff]),
            frame(&[]),
            vec![0xff; 40],
        ] {
            let sent = [PREFACE, &sent].concat();
            assert_eq!(through(&[&sent]), sent);
        }
        assert!(!Start::is_http2(b"GET / HTTP/1.1\r\n"));
    }

    #[test]
    fn random_bytes_neither_panic_nor_change_their_length() {
        let mut seed = 7_u32;
        for _ in 0..2000 {
            let mut bytes = PREFACE.to_vec();
            for _ in 0..80 {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                bytes.push((seed >> 24) as u8 & if seed & 1 == 0 { 0x4f } else { 0xff });
            }
            bytes[24..27].copy_from_slice(&[0, 0, 60]);
            bytes[27] = HEADERS;
            assert_eq!(through(&[&bytes]).len(), bytes.len());
        }
    }
}
