//! One line of the audit log.

use std::cell::RefCell;
use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tonic::Code;

use super::entry::{Entry, Op};

thread_local! {
    /// Kept for its capacity.
    static LINE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Hands over the line of a request, with its end.
pub(super) fn with(entry: &Entry, code: Option<Code>, took: Duration, write: impl FnOnce(&str)) {
    LINE.with_borrow_mut(|line| {
        line.clear();
        format(line, entry, code, took);
        write(line);
    });
}

fn format(line: &mut String, entry: &Entry, code: Option<Code>, took: Duration) {
    line.push_str("{\"ts\":\"");
    time(line, entry.came);
    line.push('"');
    field(line, "rpc", &entry.rpc);
    let known = entry.known.lock();
    if let Some(user) = &known.user {
        field(line, "user", user);
    }
    if let Some(name) = &entry.peer.common_name {
        field(line, "cn", name);
    }
    if let Some(address) = &entry.peer.address {
        // Writing to a string cannot fail.
        let _ = write!(line, ",\"client\":\"{address}\"");
    }
    if entry.peer.gateway {
        line.push_str(",\"gateway\":true");
    }
    let about = &known.about;
    if !about.ops.is_empty() {
        line.push_str(",\"ops\":[");
        for (at, op) in about.ops.iter().enumerate() {
            if at > 0 {
                line.push(',');
            }
            op_object(line, op);
        }
        line.push(']');
    }
    if about.more > 0 {
        let _ = write!(line, ",\"more_ops\":{}", about.more);
    }
    if !about.names.is_empty() {
        line.push_str(",\"names\":[");
        for (at, name) in about.names.iter().enumerate() {
            if at > 0 {
                line.push(',');
            }
            text(line, name);
        }
        line.push(']');
    }
    if about.lease != 0 {
        let _ = write!(line, ",\"lease\":\"{:x}\"", about.lease);
    }
    if let Some(code) = code {
        let _ = write!(line, ",\"code\":\"{code:?}\"");
    }
    let micros = took.as_micros();
    let _ = writeln!(line, ",\"ms\":{}.{:03}}}", micros / 1000, micros % 1000);
}

fn op_object(line: &mut String, op: &Op) {
    let _ = write!(line, "{{\"op\":\"{}\"", op.op);
    key(line, "key", &op.key);
    if !op.range_end.is_empty() {
        key(line, "range_end", &op.range_end);
    }
    line.push('}');
}

/// A key as text where it is text, else in base64 under another name.
fn key(line: &mut String, name: &str, key: &[u8]) {
    match std::str::from_utf8(key) {
        Ok(text) => field(line, name, text),
        Err(_) => {
            let _ = write!(line, ",\"{name}64\":\"");
            STANDARD.encode_string(key, line);
            line.push('"');
        }
    }
}

fn field(line: &mut String, name: &str, value: &str) {
    let _ = write!(line, ",\"{name}\":");
    text(line, value);
}

/// A JSON string.
fn text(line: &mut String, value: &str) {
    line.push('"');
    let mut rest = value;
    while let Some(at) = rest.find(|c: char| c < ' ' || c == '"' || c == '\\' || c == '\x7f') {
        let (plain, after) = rest.split_at(at);
        line.push_str(plain);
        let mut chars = after.chars();
        if let Some(special) = chars.next() {
            let _ = match special {
                '"' | '\\' => write!(line, "\\{special}"),
                other => write!(line, "\\u{:04x}", u32::from(other)),
            };
        }
        rest = chars.as_str();
    }
    line.push_str(rest);
    line.push('"');
}

/// RFC 3339 in UTC, with microseconds.
fn time(line: &mut String, moment: SystemTime) {
    let since = moment.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = date(days);
    let _ = write!(
        line,
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:06}Z",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        since.subsec_micros()
    );
}

/// The date of a day since 1970, by the Gregorian calendar: eras of 400 years from the first of
/// March of the year 0, so that leap days come last.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        for (seconds, wanted) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000000Z"),
            (4_102_444_800, "2100-01-01T00:00:00.000000Z"),
        ] {
            let mut line = String::new();
            time(&mut line, UNIX_EPOCH + Duration::from_secs(seconds));
            assert_eq!(line, wanted);
        }
    }

    #[test]
    fn strings_are_json() {
        for value in ["", "plain", "a\"b\\c\n\u{1}\u{7f}é", "\""] {
            let mut line = String::new();
            text(&mut line, value);
            let read: String = serde_json::from_str(&line).expect("JSON");
            assert_eq!(read, value);
        }
        let mut line = String::new();
        key(&mut line, "key", &[0xff, 0]);
        assert_eq!(line, ",\"key64\":\"/wA=\"");
    }
}
