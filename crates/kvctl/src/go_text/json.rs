//! JSON as Go's `encoding/json` writes it: no spaces, members in order, zero values left out.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// A JSON object under construction. The plain methods leave a zero value out, as `omitempty` does.
#[derive(Debug)]
pub(crate) struct Object {
    text: String,
}

impl Object {
    pub(crate) fn new() -> Self {
        Object {
            text: "{".to_owned(),
        }
    }

    /// A member whose value is JSON already.
    pub(crate) fn raw(mut self, name: &str, value: &str) -> Self {
        if self.text.len() > 1 {
            self.text.push(',');
        }
        self.text.push_str(&string(name));
        self.text.push(':');
        self.text.push_str(value);
        self
    }

    pub(crate) fn optional(self, name: &str, value: Option<String>) -> Self {
        match value {
            Some(value) => self.raw(name, &value),
            None => self,
        }
    }

    pub(crate) fn int(self, name: &str, value: i64) -> Self {
        if value == 0 {
            self
        } else {
            self.raw(name, &value.to_string())
        }
    }

    pub(crate) fn uint(self, name: &str, value: u64) -> Self {
        if value == 0 {
            self
        } else {
            self.raw(name, &value.to_string())
        }
    }

    pub(crate) fn bool(self, name: &str, value: bool) -> Self {
        if value { self.raw(name, "true") } else { self }
    }

    pub(crate) fn string(self, name: &str, value: &str) -> Self {
        if value.is_empty() {
            self
        } else {
            self.raw(name, &string(value))
        }
    }

    pub(crate) fn bytes(self, name: &str, value: &[u8]) -> Self {
        if value.is_empty() {
            self
        } else {
            self.raw(name, &base64(value))
        }
    }

    pub(crate) fn list(self, name: &str, values: impl IntoIterator<Item = String>) -> Self {
        let list = array(values);
        if list == "[]" {
            self
        } else {
            self.raw(name, &list)
        }
    }

    pub(crate) fn finish(mut self) -> String {
        self.text.push('}');
        self.text
    }
}

/// An array of values that are JSON already.
pub(crate) fn array(values: impl IntoIterator<Item = String>) -> String {
    let values: Vec<String> = values.into_iter().collect();
    format!("[{}]", values.join(","))
}

/// Bytes as Go writes them: base64 in quotes.
pub(crate) fn base64(value: &[u8]) -> String {
    format!("\"{}\"", STANDARD.encode(value))
}

/// A string, with the characters that Go escapes for the sake of HTML.
pub(crate) fn string(value: &str) -> String {
    let mut quoted = String::with_capacity(value.len() + 2);
    quoted.push('"');
    for character in value.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\u{08}' => quoted.push_str("\\b"),
            '\u{0c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                // Writing to a String cannot fail.
                let _ = write!(quoted, "\\u{:04x}", u32::from(character));
            }
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_values_are_left_out_and_strings_escaped_as_in_go() {
        let object = Object::new()
            .int("zero", 0)
            .int("one", -1)
            .uint("big", u64::MAX)
            .bool("no", false)
            .bytes("bytes", b"foo")
            .string("text", "<a&\"b\"\n\u{1}>")
            .list("none", [])
            .list("some", [string("x")])
            .finish();
        assert_eq!(
            object,
            "{\"one\":-1,\"big\":18446744073709551615,\"bytes\":\"Zm9v\",\
             \"text\":\"\\u003ca\\u0026\\\"b\\\"\\n\\u0001\\u003e\",\"some\":[\"x\"]}"
        );
    }
}
