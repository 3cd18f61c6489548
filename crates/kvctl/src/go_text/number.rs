//! Integers and booleans as `strconv` reads them.

use kvd_api::go;

/// Reads a signed 64-bit integer. The error is Go's.
pub(crate) fn parse_int(text: &str, radix: u32) -> Result<i64, String> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let all_digits = !digits.is_empty() && digits.chars().all(|digit| digit.is_digit(radix));
    if !all_digits {
        return Err(failed("ParseInt", text, "invalid syntax"));
    }
    i64::from_str_radix(text, radix).map_err(|_| failed("ParseInt", text, "value out of range"))
}

/// Reads an unsigned 64-bit integer. The error is Go's.
pub(crate) fn parse_uint(text: &str, radix: u32) -> Result<u64, String> {
    let all_digits = !text.is_empty() && text.chars().all(|digit| digit.is_digit(radix));
    if !all_digits {
        return Err(failed("ParseUint", text, "invalid syntax"));
    }
    u64::from_str_radix(text, radix).map_err(|_| failed("ParseUint", text, "value out of range"))
}

/// Reads a boolean in any of Go's forms. The error is Go's.
pub(crate) fn parse_bool(text: &str) -> Result<bool, String> {
    go::parse_bool(text.as_bytes()).ok_or_else(|| failed("ParseBool", text, "invalid syntax"))
}

fn failed(function: &str, text: &str, why: &str) -> String {
    format!(
        "strconv.{function}: parsing {}: {why}",
        super::quote::quote(text.as_bytes())
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_read_and_refused_as_in_go() {
        assert_eq!(parse_int("-12", 10), Ok(-12));
        assert_eq!(parse_int("+12ff", 16), Ok(0x12ff));
        for (text, why) in [
            ("abc", "strconv.ParseInt: parsing \"abc\": invalid syntax"),
            ("", "strconv.ParseInt: parsing \"\": invalid syntax"),
            (
                "99999999999999999999",
                "strconv.ParseInt: parsing \"99999999999999999999\": value out of range",
            ),
        ] {
            assert_eq!(parse_int(text, 10), Err(why.to_owned()));
        }
    }

    #[test]
    fn booleans_are_read_and_refused_as_in_go() {
        assert_eq!(parse_bool("T"), Ok(true));
        assert_eq!(parse_bool("0"), Ok(false));
        let why = "strconv.ParseBool: parsing \"maybe\": invalid syntax";
        assert_eq!(parse_bool("maybe"), Err(why.to_owned()));
    }
}
