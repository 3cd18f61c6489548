//! Values in Go's syntax: what etcd's flags accept, ours accept, with the same complaints.

use std::time::Duration;

use super::table::Kind;
use crate::gates::FeatureGates;
use crate::urls;

/// Why a value is not of its kind. The text is the tail of etcd's message.
pub type Complaint = String;

/// Checks `text` as a value of `kind`.
pub fn check(kind: Kind, text: &str) -> Result<(), Complaint> {
    match kind {
        Kind::Bool => bool(text).map(drop).ok_or_else(parse_error),
        Kind::Bare | Kind::Text | Kind::List => Ok(()),
        Kind::Int => int(text).map(drop),
        Kind::Uint => uint(text).map(drop),
        Kind::Uint32 => uint32(text).map(drop),
        Kind::Duration => duration(text).map(drop).ok_or_else(parse_error),
        Kind::Origins if text == "*" => Ok(()),
        Kind::Urls | Kind::Origins => urls::parse_list(text).map(drop).map_err(|e| e.to_string()),
        Kind::Choice(words) => {
            if words.contains(&text) {
                Ok(())
            } else {
                Err("invalid value".into())
            }
        }
        Kind::Gates => FeatureGates::default().set(text),
    }
}

/// Whether two texts mean the same value, so that a flag set to its default counts as not set.
pub fn same(kind: Kind, left: &str, right: &str) -> bool {
    match kind {
        Kind::Bool => bool(left) == bool(right),
        Kind::Int => int(left).ok() == int(right).ok(),
        Kind::Uint | Kind::Uint32 => uint(left).ok() == uint(right).ok(),
        Kind::Duration => duration(left) == duration(right),
        _ => left == right,
    }
}

fn parse_error() -> Complaint {
    "parse error".into()
}

/// Go's `strconv.ParseBool`.
pub fn bool(text: &str) -> Option<bool> {
    kvd_api::go::parse_bool(text.as_bytes())
}

/// Go's `strconv.ParseInt(text, 0, 64)`.
pub fn int(text: &str) -> Result<i64, Complaint> {
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let magnitude = i128::from(uint(digits)?);
    let value = if negative { -magnitude } else { magnitude };
    i64::try_from(value).map_err(|_| "value out of range".into())
}

/// Go's `strconv.ParseUint(text, 0, 64)`: decimal, `0x`, `0o` or leading `0`, `0b`, underscores.
pub fn uint(text: &str) -> Result<u64, Complaint> {
    let lower = text.to_ascii_lowercase();
    let (radix, digits) = if let Some(rest) = lower.strip_prefix("0x") {
        (16, rest)
    } else if let Some(rest) = lower.strip_prefix("0o") {
        (8, rest)
    } else if let Some(rest) = lower.strip_prefix("0b") {
        (2, rest)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (8, &lower[1..])
    } else {
        (10, lower.as_str())
    };
    let misplaced = lower.starts_with('_') || lower.ends_with('_') || lower.contains("__");
    let digits: String = digits.chars().filter(|c| *c != '_').collect();
    if misplaced || digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(parse_error());
    }
    u64::from_str_radix(&digits, radix).map_err(|_| "value out of range".into())
}

fn uint32(text: &str) -> Result<u32, Complaint> {
    let complain =
        |what: &str| -> Complaint { format!("strconv.ParseUint: parsing {text:?}: {what}") };
    let wide = uint(text).map_err(|e| match e.as_str() {
        "parse error" => complain("invalid syntax"),
        _ => complain("value out of range"),
    })?;
    u32::try_from(wide).map_err(|_| complain("value out of range"))
}

/// Go's `time.ParseDuration`, in nanoseconds.
pub fn duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let number_len = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, tail) = rest.split_at(number_len);
        let unit_len = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        total = total.checked_add(part(number, unit_nanos(unit)?)?)?;
        rest = tail;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

fn unit_nanos(unit: &str) -> Option<i128> {
    Some(match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

/// One number with its unit; the digits behind the point are worth less, never lost twice.
fn part(number: &str, unit: i128) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let whole: i128 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let mut value = whole.checked_mul(unit)?;
    let mut scale = unit;
    for digit in fraction.bytes() {
        scale /= 10;
        value = value.checked_add(i128::from(digit - b'0') * scale)?;
    }
    Some(value)
}

/// A checked duration as a length of time; negative ones count as zero.
pub fn to_duration(nanos: i64) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
}

/// The parts of a comma-separated list; empty text is the empty list.
pub fn list(text: &str) -> Vec<String> {
    let mut parts = Vec::new();
    for part in text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        if !parts.iter().any(|known| known == part) {
            parts.push(part.to_owned());
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_go() {
        assert_eq!(uint("0x10"), Ok(16));
        assert_eq!(uint("010"), Ok(8));
        assert_eq!(uint("1_000"), Ok(1000));
        assert_eq!(uint("0"), Ok(0));
        assert_eq!(uint(""), Err("parse error".into()));
        assert_eq!(uint("-1"), Err("parse error".into()));
        assert_eq!(
            uint("99999999999999999999999"),
            Err("value out of range".into())
        );
        assert_eq!(int("-5"), Ok(-5));
        assert_eq!(int("-9223372036854775808"), Ok(i64::MIN));
        assert_eq!(int("9223372036854775808"), Err("value out of range".into()));
        assert!(check(Kind::Uint32, "4294967295").is_ok());
        assert_eq!(
            check(Kind::Uint32, "99999999999"),
            Err("strconv.ParseUint: parsing \"99999999999\": value out of range".into())
        );
    }

    #[test]
    fn durations_follow_go() {
        let second = 1_000_000_000;
        assert_eq!(duration("5s"), Some(5 * second));
        assert_eq!(duration("1h30m"), Some(5400 * second));
        assert_eq!(duration("1.5s"), Some(second + second / 2));
        assert_eq!(duration("-1s"), Some(-second));
        assert_eq!(duration("0"), Some(0));
        assert_eq!(duration("100µs"), Some(100_000));
        for bad in ["", "5", "s", "1x", "1..5s", ".s", "-", "9999999999h", "é"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn booleans_follow_go() {
        assert_eq!(bool("T"), Some(true));
        assert_eq!(bool("False"), Some(false));
        assert_eq!(bool("yes"), None);
    }
}
