//! Go's `%q`: quoting and unquoting of strings that may hold any bytes.
//!
//! Source: Go `strconv/quote.go`.

use std::fmt::Write as _;

/// Quotes as `%q` does: printable characters as they are, the rest escaped, invalid UTF-8 as
/// `\x..`.
pub(crate) fn quote(bytes: &[u8]) -> String {
    let mut quoted = String::with_capacity(bytes.len() + 2);
    quoted.push('"');
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            push_escaped(&mut quoted, character);
        }
        for byte in chunk.invalid() {
            push(&mut quoted, format_args!("\\x{byte:02x}"));
        }
    }
    quoted.push('"');
    quoted
}

fn push_escaped(quoted: &mut String, character: char) {
    match character {
        '"' => quoted.push_str("\\\""),
        '\\' => quoted.push_str("\\\\"),
        '\u{07}' => quoted.push_str("\\a"),
        '\u{08}' => quoted.push_str("\\b"),
        '\u{0c}' => quoted.push_str("\\f"),
        '\n' => quoted.push_str("\\n"),
        '\r' => quoted.push_str("\\r"),
        '\t' => quoted.push_str("\\t"),
        '\u{0b}' => quoted.push_str("\\v"),
        _ if is_printable(character) => quoted.push(character),
        _ => match u32::from(character) {
            code @ (..0x20 | 0x7f) => push(quoted, format_args!("\\x{code:02x}")),
            code @ ..0x1_0000 => push(quoted, format_args!("\\u{code:04x}")),
            code => push(quoted, format_args!("\\U{code:08x}")),
        },
    }
}

fn push(quoted: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = quoted.write_fmt(text);
}

/// Go's `IsPrint`: letters, marks, numbers, punctuation, symbols and the ASCII space. Rust
/// escapes by the same Unicode categories; the letter in front keeps it from treating a mark as a
/// special case.
fn is_printable(character: char) -> bool {
    let pair: String = ['a', character].iter().collect();
    matches!(character, '\'' | '"' | '\\') || pair.escape_debug().eq(pair.chars())
}

/// Reads a quoted string at the start of `text`, in double quotes or backquotes, and returns what
/// follows it. `None` when it does not begin with a quote, does not end, or holds a bad escape.
pub(crate) fn unquote_prefix(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let (quote, mut rest) = text.split_first()?;
    match quote {
        b'`' => {
            let end = rest.iter().position(|byte| *byte == b'`')?;
            let raw = rest[..end]
                .iter()
                .copied()
                .filter(|byte| *byte != b'\r')
                .collect();
            Some((raw, &rest[end + 1..]))
        }
        b'"' => {
            let mut bytes = Vec::new();
            loop {
                let (first, after) = rest.split_first()?;
                rest = match first {
                    b'"' => return Some((bytes, after)),
                    b'\\' => unescape(after, &mut bytes)?,
                    b'\n' => return None,
                    byte => {
                        bytes.push(*byte);
                        after
                    }
                };
            }
        }
        _ => None,
    }
}

/// Reads what follows a backslash.
fn unescape<'t>(text: &'t [u8], bytes: &mut Vec<u8>) -> Option<&'t [u8]> {
    let (kind, rest) = text.split_first()?;
    let plain = match kind {
        b'a' => 0x07,
        b'b' => 0x08,
        b'f' => 0x0c,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'v' => 0x0b,
        b'\\' => b'\\',
        b'"' => b'"',
        b'x' => {
            let (code, rest) = digits(rest, 2, 16)?;
            bytes.push(u8::try_from(code).ok()?);
            return Some(rest);
        }
        b'u' | b'U' => {
            let (code, rest) = digits(rest, if *kind == b'u' { 4 } else { 8 }, 16)?;
            let character = char::from_u32(code)?;
            bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            return Some(rest);
        }
        b'0'..=b'7' => {
            let (code, rest) = digits(text, 3, 8)?;
            bytes.push(u8::try_from(code).ok()?);
            return Some(rest);
        }
        _ => return None,
    };
    bytes.push(plain);
    Some(rest)
}

fn digits(text: &[u8], count: usize, radix: u32) -> Option<(u32, &[u8])> {
    let (head, rest) = text.split_at_checked(count)?;
    let head = std::str::from_utf8(head).ok()?;
    if head.starts_with('+') {
        return None;
    }
    Some((u32::from_str_radix(head, radix).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn strings_are_quoted_as_in_go() {
        for (bytes, quoted) in [
            (&b"plain"[..], r#""plain""#),
            (b"a\"b\\c'd", r#""a\"b\\c'd""#),
            (
                b"\x00\x07\x08\x0c\n\r\t\x0b\x1f\x7f",
                r#""\x00\a\b\f\n\r\t\v\x1f\x7f""#,
            ),
            (b"\xff\xc3", r#""\xff\xc3""#),
            ("é 日本 e\u{301}".as_bytes(), "\"é 日本 e\u{301}\""),
            (
                "\u{a0}\u{200b}\u{feff}\u{10ffff}".as_bytes(),
                r#""\u00a0\u200b\ufeff\U0010ffff""#,
            ),
        ] {
            assert_eq!(quote(bytes), quoted);
        }
    }

    #[test]
    fn escapes_are_read_as_in_go() {
        let read = |text: &'static str| unquote_prefix(text.as_bytes());
        assert_eq!(
            read(r#""\x41\u00e9\U0001f600\101\n" x"#),
            Some(("A\u{e9}\u{1f600}A\n".into(), &b" x"[..]))
        );
        assert_eq!(read("`a\\n`"), Some((b"a\\n".to_vec(), &b""[..])));
        for bad in [
            r#""\q""#,
            r#""\'""#,
            r#""\x4""#,
            r#""\400""#,
            r#""\ud800""#,
            "\"a",
            "a",
            "",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_quoted_is_read_back(bytes: Vec<u8>) {
            let quoted = quote(&bytes);
            prop_assert_eq!(unquote_prefix(quoted.as_bytes()), Some((bytes, &b""[..])));
        }
    }
}
