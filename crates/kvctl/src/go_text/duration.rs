//! Durations as Go writes them: `1m30s`, `2.5ms`.
//!
//! Source: Go `time.ParseDuration`, `Duration.String`.

use std::time::Duration;

use super::quote::quote;

const UNITS: [(&str, f64); 8] = [
    ("ns", 1.0),
    ("us", 1e3),
    ("µs", 1e3),
    ("μs", 1e3),
    ("ms", 1e6),
    ("s", 1e9),
    ("m", 60e9),
    ("h", 3600e9),
];

/// Reads a duration; a negative one, as a time limit, means no time at all. The error is Go's.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let invalid = || format!("time: invalid duration {}", quote(text.as_bytes()));
    let is_negative = text.starts_with('-');
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut nanos = 0.0;
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !(c.is_ascii_digit() || c == '.'))
            .unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        if number.is_empty() || number == "." || number.matches('.').count() > 1 {
            return Err(invalid());
        }
        let number: f64 = format!("0{number}0").parse().map_err(|_| invalid())?;
        // "5" became "050": the trailing zero is a digit unless there was a point.
        let number = if rest[..end].contains('.') {
            number
        } else {
            number / 10.0
        };
        let end = after
            .find(|c: char| c == '.' || c.is_ascii_digit())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        if unit.is_empty() {
            return Err(format!(
                "time: missing unit in duration {}",
                quote(text.as_bytes())
            ));
        }
        let Some((_, scale)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            let (unit, text) = (quote(unit.as_bytes()), quote(text.as_bytes()));
            return Err(format!("time: unknown unit {unit} in duration {text}"));
        };
        nanos += number * scale;
        rest = after;
    }
    if nanos > i64::MAX as f64 {
        return Err(invalid());
    }
    Ok(if is_negative {
        Duration::ZERO
    } else {
        Duration::from_nanos(nanos.round() as u64)
    })
}

/// Prints a duration.
pub(crate) fn format(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => format!("{}µs", fraction(nanos, 1_000)),
        1_000_000..1_000_000_000 => format!("{}ms", fraction(nanos, 1_000_000)),
        _ => {
            let (minutes, rest) = (nanos / 60_000_000_000, nanos % 60_000_000_000);
            let seconds = fraction(rest, 1_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{seconds}s"),
                (0, minutes) => format!("{minutes}m{seconds}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

/// `nanos / unit` with as many decimals as are needed and no more.
fn fraction(nanos: u128, unit: u128) -> String {
    let (whole, part) = (nanos / unit, nanos % unit);
    if part == 0 {
        return whole.to_string();
    }
    let width = unit.ilog10() as usize;
    let decimals = format!("{part:0width$}");
    format!("{whole}.{}", decimals.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_in_go() {
        for (text, nanos) in [
            ("5s", 5_000_000_000),
            ("1m30s", 90_000_000_000),
            ("2.5ms", 2_500_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("1h", 3_600_000_000_000),
            ("10us", 10_000),
            ("10µs", 10_000),
            ("1ns", 1),
            ("0", 0),
            ("-1s", 0),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
        for (text, why) in [
            ("3", "time: missing unit in duration \"3\""),
            ("3x", "time: unknown unit \"x\" in duration \"3x\""),
            ("abc", "time: invalid duration \"abc\""),
            ("", "time: invalid duration \"\""),
            ("1.2.3s", "time: invalid duration \"1.2.3s\""),
            ("9999999h", "time: invalid duration \"9999999h\""),
        ] {
            assert_eq!(parse(text), Err(why.to_owned()));
        }
    }

    #[test]
    fn durations_are_printed_as_in_go() {
        for (nanos, text) in [
            (0, "0s"),
            (999, "999ns"),
            (1_500, "1.5µs"),
            (3_587_146, "3.587146ms"),
            (100_000_000, "100ms"),
            (5_009_018_655, "5.009018655s"),
            (60_000_000_000, "1m0s"),
            (3_661_000_000_000, "1h1m1s"),
        ] {
            assert_eq!(format(Duration::from_nanos(nanos)), text);
        }
    }
}
