//! Splits a line of interactive input into arguments.
//!
//! A double-quoted argument takes Go's escapes, a single-quoted one is taken as it is, anything
//! else ends at the next white space. A quote that does not close is skipped, as in etcdctl.
//!
//! Source: etcd `etcdctl/ctlv3/command/util.go`, `Argify`.

use super::quote::unquote_prefix;

/// A double-quoted argument with an escape that Go does not know.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct InvalidSyntax;

/// The arguments of a line.
pub(crate) fn argify(line: &[u8]) -> Result<Vec<Vec<u8>>, InvalidSyntax> {
    let mut args = Vec::new();
    let mut rest = line;
    while let Some((first, after)) = rest.split_first() {
        let end = match first {
            b'"' => double_quoted(rest),
            b'\'' => after
                .iter()
                .position(|byte| *byte == b'\'')
                .map(|at| at + 2),
            byte if is_space(*byte) => None,
            _ => Some(
                rest.iter()
                    .position(|byte| is_space(*byte))
                    .unwrap_or(rest.len()),
            ),
        };
        let Some(end) = end else {
            rest = after;
            continue;
        };
        let (token, remaining) = rest.split_at(end);
        rest = remaining;
        args.push(match first {
            b'"' => unquote_prefix(token).ok_or(InvalidSyntax)?.0,
            b'\'' => token[1..token.len() - 1].to_vec(),
            _ => token.to_vec(),
        });
    }
    Ok(args)
}

/// Length of the double-quoted string at the start of `text`, when it closes.
fn double_quoted(text: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        match text.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0c)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::go_text::quote::quote;

    fn split(line: &str) -> Vec<String> {
        let args = argify(line.as_bytes()).expect("valid");
        args.into_iter()
            .map(|arg| String::from_utf8(arg).expect("text"))
            .collect()
    }

    #[test]
    fn lines_are_split_as_in_etcdctl() {
        assert_eq!(split(r#"put a "b c""#), ["put", "a", "b c"]);
        assert_eq!(split("put  a\t'b \"c'"), ["put", "a", "b \"c"]);
        assert_eq!(split(r#"put "x"y z"#), ["put", "x", "y", "z"]);
        assert_eq!(
            split(r#"put a "unterminated"#),
            ["put", "a", "unterminated"]
        );
        assert_eq!(split(r#"put a 'open b"#), ["put", "a", "open", "b"]);
        assert_eq!(split(r#"put a"b c"d"#), ["put", "a\"b", "c\"d"]);
        assert_eq!(split(r#"put "" ''"#), ["put", "", ""]);
        assert_eq!(split("  "), Vec::<String>::new());
        assert_eq!(argify(br#"put a "bad\q""#), Err(InvalidSyntax));
    }

    proptest! {
        #[test]
        fn no_line_breaks_it(line: Vec<u8>) {
            let _ = argify(&line);
        }

        #[test]
        fn any_bytes_survive_double_quotes(args: Vec<Vec<u8>>) {
            let line = args.iter().map(|arg| quote(arg)).collect::<Vec<_>>().join(" ");
            prop_assert_eq!(argify(line.as_bytes()), Ok(args));
        }

        #[test]
        fn anything_without_quotes_survives_single_quotes(args: Vec<String>) {
            let args: Vec<String> = args.iter().map(|arg| arg.replace('\'', "")).collect();
            let line = args.iter().map(|arg| format!("'{arg}'")).collect::<Vec<_>>().join(" ");
            let bytes: Vec<Vec<u8>> = args.into_iter().map(String::into_bytes).collect();
            prop_assert_eq!(argify(line.as_bytes()), Ok(bytes));
        }

        #[test]
        fn plain_words_need_no_quotes(words in prop::collection::vec("[a-z0-9/_=.-]+", 0..9)) {
            let bytes: Vec<Vec<u8>> = words.iter().map(|word| word.clone().into_bytes()).collect();
            prop_assert_eq!(argify(words.join(" ").as_bytes()), Ok(bytes));
        }
    }
}
