//! The operating system's errors as Go words them.

use std::io;

/// Without a capital and without the number: `no such file or directory`.
pub(crate) fn os_error(err: &io::Error) -> String {
    let text = err.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_files_read_as_in_go() {
        let err = io::Error::from_raw_os_error(2);
        assert_eq!(os_error(&err), "no such file or directory");
    }
}
