//! Texts that etcd reads by Go's library.

/// A boolean in any of Go's forms; `None` for anything else.
///
/// Source: Go `strconv.ParseBool`.
pub fn parse_bool(text: &[u8]) -> Option<bool> {
    match text {
        b"1" | b"t" | b"T" | b"true" | b"TRUE" | b"True" => Some(true),
        b"0" | b"f" | b"F" | b"false" | b"FALSE" | b"False" => Some(false),
        _ => None,
    }
}
