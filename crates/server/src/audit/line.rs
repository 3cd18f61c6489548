//! One line of the audit log.

use std::cell::RefCell;
use std::fmt::Write;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tonic::Code;

use super::entry::{Entry, Op};

thread_local! {
    static PAD: RefCell<Pad> = const { RefCell::new(Pad::new()) };
}

/// What a thread keeps from one line to the next, since writing out times and addresses is most of
/// what a line costs.
struct Pad {
    /// Kept for its capacity.
    line: String,
    /// A second since 1970, and how it is written, without its fractions.
    second: (u64, String),
    /// A client's address, and how it is written.
    client: Option<(SocketAddr, String)>,
}

impl Pad {
    const fn new() -> Pad {
        Pad {
            line: String::new(),
            second: (0, String::new()),
            client: None,
        }
    }

    /// RFC 3339 in UTC, with microseconds.
    fn time(&mut self, moment: SystemTime) {
        let since = moment.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (known, text) = &mut self.second;
        if *known != since.as_secs() || text.is_empty() {
            *known = since.as_secs();
            text.clear();
            second(text, *known);
        }
        self.line.push_str(text);
        self.line.push('.');
        digits(&mut self.line, since.subsec_micros(), 100_000);
        self.line.push('Z');
    }

    fn address(&mut self, address: SocketAddr) {
        match &self.client {
            Some((known, text)) if *known == address => self.line.push_str(text),
            _ => {
                let text = address.to_string();
                self.line.push_str(&text);
                self.client = Some((address, text));
            }
        }
    }
}

/// Hands over the line of a request, with its end.
pub(super) fn with(entry: &Entry, code: Option<Code>, took: Duration, write: impl FnOnce(&str)) {
    PAD.with_borrow_mut(|pad| {
        pad.line.clear();
        format(pad, entry, code, took);
        write(&pad.line);
    });
}

fn format(pad: &mut Pad, entry: &Entry, code: Option<Code>, took: Duration) {
    pad.line.push_str("{\"ts\":\"");
    pad.time(entry.came);
    pad.line.push('"');
    field(&mut pad.line, "rpc", &entry.rpc);
    let known = entry.known.lock();
    if let Some(user) = &known.user {
        field(&mut pad.line, "user", user);
    }
    if let Some(name) = &entry.peer.common_name {
        field(&mut pad.line, "cn", name);
    }
    if let Some(address) = entry.peer.address {
        pad.line.push_str(",\"client\":\"");
        pad.address(address);
        pad.line.push('"');
    }
    let line = &mut pad.line;
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
        line.push_str(",\"code\":\"");
        match code {
            Code::Ok => line.push_str("Ok"),
            // Writing to a string cannot fail.
            code => {
                let _ = write!(line, "{code:?}");
            }
        }
        line.push('"');
    }
    let micros = took.as_micros();
    let _ = write!(line, ",\"ms\":{}.", micros / 1000);
    digits(line, (micros % 1000) as u32, 100);
    line.push_str("}\n");
}

/// `number` with leading zeros; `first` is what its first digit counts.
fn digits(line: &mut String, number: u32, first: u32) {
    let mut unit = first;
    while unit > 0 {
        line.push(char::from(b'0' + (number / unit % 10) as u8));
        unit /= 10;
    }
}

fn op_object(line: &mut String, op: &Op) {
    line.push_str("{\"op\":\"");
    line.push_str(op.op);
    line.push('"');
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
    line.push_str(",\"");
    line.push_str(name);
    line.push_str("\":");
    text(line, value);
}

/// A JSON string.
fn text(line: &mut String, value: &str) {
    line.push('"');
    let mut rest = value;
    // All of them are one byte, and no byte of another character looks like them.
    let is_special = |byte: u8| byte < b' ' || matches!(byte, b'"' | b'\\' | 0x7f);
    while let Some(at) = rest.bytes().position(is_special) {
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

/// A second since 1970 in UTC, as RFC 3339 has it.
fn second(text: &mut String, second: u64) {
    let (days, seconds) = (second / 86_400, second % 86_400);
    let (year, month, day) = date(days);
    let _ = write!(
        text,
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
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
            let mut pad = Pad::new();
            pad.time(UNIX_EPOCH + Duration::from_secs(seconds));
            assert_eq!(pad.line, wanted);
        }
        let mut pad = Pad::new();
        for micros in [1_000_042, 1_999_999, 3_000_000] {
            pad.time(UNIX_EPOCH + Duration::from_micros(micros));
        }
        assert_eq!(
            pad.line,
            "1970-01-01T00:00:01.000042Z1970-01-01T00:00:01.999999Z1970-01-01T00:00:03.000000Z"
        );
        pad.line.clear();
        for port in [1, 1, 2] {
            pad.address(SocketAddr::from(([10, 0, 0, 7], port)));
        }
        assert_eq!(pad.line, "10.0.0.7:110.0.0.7:110.0.0.7:2");
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
