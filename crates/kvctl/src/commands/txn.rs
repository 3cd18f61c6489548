//! txn: three blocks of lines from standard input, each ended by an empty line.
//!
//! ```text
//! mod("key1") > "0"          conditions: target("key") operator "value"
//!
//! put key1 "overwrote"       when all hold
//!
//! put key1 "created"         when one does not
//! ```
//!
//! Differs from etcd: an unknown operator and the target `lease`, on which etcdctl panics, are an
//! error and an integer; a request without an answer ends after `--command-timeout`.

use std::io::BufRead;

use bytes::Bytes;
use kvd_client::pb::compare::CompareResult;
use kvd_client::{Compare, CompareBuilder, Op, Txn};

use super::{Session, kv};
use crate::args::{Globals, LineOp, TxnArgs, line_op};
use crate::failure::{Failure, Outcome};
use crate::go_text::argify::argify;
use crate::go_text::number;
use crate::go_text::quote::{quote, unquote_prefix};
use crate::print::Streams;

pub(super) async fn txn(globals: &Globals, args: &TxnArgs, to: &mut Streams<'_>) -> Outcome {
    if !args.words.is_empty() {
        return Err(Failure::bad_args("txn command does not accept argument"));
    }
    let session = Session::open(globals, to).await?;
    let mut input = std::io::stdin().lock();

    prompt(args, to, "compares:")?;
    let mut conditions = Vec::new();
    while let Some(line) = next_line(&mut input)? {
        conditions.push(parse_compare(&line).map_err(Failure::invalid_input)?);
    }
    prompt(args, to, "success requests (get, put, del):")?;
    let success = ops(&mut input, to).await?;
    prompt(args, to, "failure requests (get, put, del):")?;
    let failure = ops(&mut input, to).await?;

    let txn = Txn::new()
        .when(conditions)
        .and_then(success)
        .or_else(failure);
    let answer = session.client.txn(txn).await?;
    session.printer.txn(to, &answer)
}

fn prompt(args: &TxnArgs, to: &mut Streams<'_>, text: &str) -> Outcome {
    if args.interactive {
        writeln!(to.out, "{text}")?;
        to.out.flush()?;
    }
    Ok(())
}

/// The next line of a block, or `None` at the empty line that ends it.
fn next_line(input: &mut impl BufRead) -> Result<Option<Vec<u8>>, Failure> {
    let mut line = Vec::new();
    input
        .read_until(b'\n', &mut line)
        .map_err(|err| Failure::invalid_input(err.to_string()))?;
    if line.last() != Some(&b'\n') {
        return Err(Failure::invalid_input("EOF"));
    }
    let line = line.trim_ascii().to_vec();
    Ok(if line.is_empty() { None } else { Some(line) })
}

async fn ops(input: &mut impl BufRead, to: &mut Streams<'_>) -> Result<Vec<Op>, Failure> {
    let mut ops = Vec::new();
    while let Some(line) = next_line(input)? {
        ops.push(parse_op(&line, to).await?);
    }
    Ok(ops)
}

async fn parse_op(line: &[u8], to: &mut Streams<'_>) -> Result<Op, Failure> {
    let shown = String::from_utf8_lossy(line);
    let words = argify(line).map_err(|_| Failure::invalid_input("invalid syntax"))?;
    if words.len() < 2 {
        return Err(Failure::invalid_input(format!(
            "invalid txn compare request: {shown}"
        )));
    }
    let op = line_op(words).map_err(|why| {
        Failure::invalid_input(format!("invalid txn request: {shown}"))
            .with_details(format!("{why}\n"))
    })?;
    Ok(match op {
        LineOp::Put(args) => {
            let (key, value, options) = kv::put_request(&args, false)?;
            Op::put(key, value, options)
        }
        LineOp::Get(args) => {
            let (key, options) = kv::get_request(&args)?;
            Op::get(key, options)
        }
        LineOp::Del(args) => {
            let (key, options) = kv::del_request(&args)?;
            kv::warn_of_range(&args, to).await?;
            Op::delete(key, options)
        }
    })
}

/// Reads `target("key") operator "value"`. The errors are etcdctl's.
fn parse_compare(line: &[u8]) -> Result<Compare, String> {
    let shown = String::from_utf8_lossy(line);
    let Some(paren) = line.iter().position(|byte| *byte == b'(') else {
        return Err(format!("malformed comparison: {shown}"));
    };
    let (target, rest) = (&line[..paren], &line[paren + 1..]);
    let target = String::from_utf8_lossy(target);
    let (key, operator, value) = scan(rest).map_err(|(key, operator)| {
        let (key, operator) = (quote(&key), String::from_utf8_lossy(&operator).into_owned());
        format!("malformed comparison: {shown}; got {target}({key}) {operator} \"\"")
    })?;
    let result = match &operator[..] {
        b"=" => CompareResult::Equal,
        b"!=" => CompareResult::NotEqual,
        b">" => CompareResult::Greater,
        b"<" => CompareResult::Less,
        _ => {
            let operator = String::from_utf8_lossy(&operator);
            return Err(format!(
                "malformed comparison: {shown} (unknown operator {operator})"
            ));
        }
    };
    let integer = |builder: CompareBuilder<i64>| {
        let text = String::from_utf8_lossy(&value);
        let number = match (&target[..], text.strip_prefix("0x")) {
            ("lease", Some(hex)) => number::parse_int(hex, 16),
            _ => number::parse_int(&text, 10),
        };
        let number = number.map_err(|_| format!("invalid txn compare request: {shown}"))?;
        Ok(builder.with(result, number))
    };
    match &target[..] {
        "ver" | "version" => integer(Compare::version(key)),
        "c" | "create" => integer(Compare::create_revision(key)),
        "m" | "mod" => integer(Compare::mod_revision(key)),
        "lease" => integer(Compare::lease(key)),
        "val" | "value" => Ok(Compare::value(key).with(result, Bytes::from(value.clone()))),
        _ => Err(format!(
            "malformed comparison: {shown} (unknown target {target})"
        )),
    }
}

type Scanned = (Vec<u8>, Vec<u8>, Vec<u8>);

/// Go's `Sscanf` with `%q) %s %q`: what was read before the text stopped fitting is the error.
fn scan(text: &[u8]) -> Result<Scanned, (Vec<u8>, Vec<u8>)> {
    let nothing = || (Vec::new(), Vec::new());
    let (key, rest) = unquote_prefix(text.trim_ascii_start()).ok_or_else(nothing)?;
    let only_key = || (key.clone(), Vec::new());
    let rest = rest.strip_prefix(b")").ok_or_else(only_key)?;
    let rest = some_space(rest).ok_or_else(only_key)?;
    let end = rest
        .iter()
        .position(u8::is_ascii_whitespace)
        .unwrap_or(rest.len());
    if end == 0 {
        return Err(only_key());
    }
    let (operator, rest) = rest.split_at(end);
    let so_far = || (key.clone(), operator.to_vec());
    let rest = some_space(rest).ok_or_else(so_far)?;
    let (value, _) = unquote_prefix(rest).ok_or_else(so_far)?;
    Ok((key, operator.to_vec(), value))
}

/// Skips white space, of which there must be some.
fn some_space(text: &[u8]) -> Option<&[u8]> {
    let rest = text.trim_ascii_start();
    (rest.len() < text.len()).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparisons_are_read_as_in_etcdctl() {
        for (line, compare) in [
            (
                r#"mod("key1") > "0""#,
                Compare::mod_revision("key1").greater(0),
            ),
            (
                r#"m("key1")  <   "7" trailing"#,
                Compare::mod_revision("key1").less(7),
            ),
            (r#"ver( "k") = "1""#, Compare::version("k").equal(1)),
            (
                r#"create("k") != "1""#,
                Compare::create_revision("k").not_equal(1),
            ),
            (
                r#"val("k\x00") = "a\nb""#,
                Compare::value("k\0").equal("a\nb"),
            ),
            (r#"value(`k`) = `v`"#, Compare::value("k").equal("v")),
            (r#"lease("k") = "12""#, Compare::lease("k").equal(12)),
            (
                r#"lease("k") = "0x12ff""#,
                Compare::lease("k").equal(0x12ff),
            ),
        ] {
            assert_eq!(parse_compare(line.as_bytes()), Ok(compare), "{line}");
        }
    }

    #[test]
    fn malformed_comparisons_are_refused_in_etcdctls_words() {
        for (line, why) in [
            ("bogus", "malformed comparison: bogus"),
            (
                r#"mod(key1) > "0""#,
                r#"malformed comparison: mod(key1) > "0"; got mod("")  """#,
            ),
            (
                r#"mod("key1") > 0"#,
                r#"malformed comparison: mod("key1") > 0; got mod("key1") > """#,
            ),
            (
                r#"mod("key1")> "0""#,
                r#"malformed comparison: mod("key1")> "0"; got mod("key1")  """#,
            ),
            (
                r#"mod("key1") >"0""#,
                r#"malformed comparison: mod("key1") >"0"; got mod("key1") >"0" """#,
            ),
            (
                r#"foo("key1") > "0""#,
                r#"malformed comparison: foo("key1") > "0" (unknown target foo)"#,
            ),
            (
                r#"mod("key1") ~ "0""#,
                r#"malformed comparison: mod("key1") ~ "0" (unknown operator ~)"#,
            ),
            (
                r#"mod("key1") > "x""#,
                r#"invalid txn compare request: mod("key1") > "x""#,
            ),
        ] {
            assert_eq!(
                parse_compare(line.as_bytes()),
                Err(why.to_owned()),
                "{line}"
            );
        }
    }
}
