//! Query strings and form bodies, as Go's `net/url` reads them: any bytes, not only UTF-8.

use bytes::Bytes;

/// Names and values in order; of several values the first counts.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Form(Vec<(Vec<u8>, Bytes)>);

impl Form {
    /// Adds what `text` says behind what is there.
    ///
    /// Errors: Go's words for what is wrong with it.
    pub(super) fn parse(&mut self, text: &[u8]) -> Result<(), String> {
        for part in text.split(|byte| *byte == b'&') {
            if part.contains(&b';') {
                return Err("invalid semicolon separator in query".to_owned());
            }
            if part.is_empty() {
                continue;
            }
            let mut sides = part.splitn(2, |byte| *byte == b'=');
            let name = unescape(sides.next().unwrap_or_default(), true)?;
            let value = unescape(sides.next().unwrap_or_default(), true)?;
            self.0.push((name, value.into()));
        }
        Ok(())
    }

    /// The value of `name`, if it is there.
    pub(super) fn get(&self, name: &str) -> Option<&Bytes> {
        let mut values = self.0.iter();
        let found = values.find(|(known, _)| known == name.as_bytes());
        found.map(|(_, value)| value)
    }
}

/// Undoes percent-encoding; in a form a plus sign is a space.
///
/// Errors: Go's words for an escape that is none.
pub(super) fn unescape(text: &[u8], is_form: bool) -> Result<Vec<u8>, String> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        match byte {
            b'%' => {
                let digits = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
                let is_hex = |digits: &&str| digits.bytes().all(|byte| byte.is_ascii_hexdigit());
                let value = digits
                    .filter(is_hex)
                    .and_then(|digits| u8::from_str_radix(digits, 16).ok());
                let Some(value) = value else {
                    let escape = &rest[..rest.len().min(3)];
                    let escape = String::from_utf8_lossy(escape);
                    return Err(format!("invalid URL escape {escape:?}"));
                };
                plain.push(value);
                rest = &after[2..];
            }
            b'+' if is_form => {
                plain.push(b' ');
                rest = after;
            }
            byte => {
                plain.push(byte);
                rest = after;
            }
        }
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_read_as_go_does() {
        let mut form = Form::default();
        form.parse(b"value=a+b%20%26%ff&&x&value=second&y=1=2")
            .unwrap();
        assert_eq!(form.get("value").unwrap(), &b"a b &\xff"[..]);
        assert_eq!(form.get("x").unwrap(), "");
        assert_eq!(form.get("y").unwrap(), "1=2");
        assert_eq!(form.get("z"), None);
        for (text, error) in [
            (&b"a=%zz1"[..], "invalid URL escape \"%zz\""),
            (b"a=%+1", "invalid URL escape \"%+1\""),
            (b"a=1%f", "invalid URL escape \"%f\""),
            (b"a;b", "invalid semicolon separator in query"),
        ] {
            assert_eq!(Form::default().parse(text).unwrap_err(), error);
        }
    }
}
