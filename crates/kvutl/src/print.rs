//! Answers in the formats of etcdutl.

use std::io::Write;

use crate::args::Format;
use crate::commands::hashkv::HashKv;
use crate::commands::status::Status;
use crate::failure::{BAD_FEATURE, Failure, Outcome};

/// Prints the status of a snapshot file.
pub(crate) fn status(status: &Status, format: Format, out: &mut dyn Write) -> Outcome {
    let row = vec![
        format!("{:x}", status.hash),
        status.revision.to_string(),
        status.total_key.to_string(),
        human_size(status.total_size),
        status.version.clone(),
    ];
    match format {
        Format::Simple => writeln!(out, "{}", row.join(", "))?,
        Format::Table => {
            let header = ["HASH", "REVISION", "TOTAL KEYS", "TOTAL SIZE", "VERSION"];
            boxed(out, &header, &row)?;
        }
        Format::Json => writeln!(out, "{}", serde_json::to_string(status)?)?,
        Format::Fields => {
            writeln!(out, "\"Hash\" : {}", status.hash)?;
            writeln!(out, "\"Revision\" : {}", status.revision)?;
            writeln!(out, "\"Keys\" : {}", status.total_key)?;
            writeln!(out, "\"Size\" : {}", status.total_size)?;
            writeln!(out, "\"Version\" : {}", status.version)?;
        }
        Format::Protobuf => return unsupported(),
    }
    Ok(())
}

/// Prints a hash.
pub(crate) fn hashkv(hash: &HashKv, format: Format, out: &mut dyn Write) -> Outcome {
    let row = vec![
        hash.hash.to_string(),
        hash.hash_revision.to_string(),
        hash.compact_revision.to_string(),
    ];
    match format {
        Format::Simple => writeln!(out, "{}", row.join(", "))?,
        Format::Table => {
            let header = ["HASH", "HASH REVISION", "COMPACT REVISION"];
            boxed(out, &header, &row)?;
        }
        Format::Json => writeln!(out, "{}", serde_json::to_string(hash)?)?,
        Format::Fields => {
            writeln!(out, "\"Hash\" : {}", hash.hash)?;
            writeln!(out, "\"Hash revision\" : {}", hash.hash_revision)?;
            writeln!(out, "\"Compact revision\" : {}", hash.compact_revision)?;
        }
        Format::Protobuf => return unsupported(),
    }
    Ok(())
}

fn unsupported() -> Outcome {
    Err(Failure::with_code(
        BAD_FEATURE,
        "protobuf not supported as output format",
    ))
}

/// A size in powers of a thousand: `20 kB`, `2.1 GB`.
fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let power = bytes.ilog(1000) as usize;
    let value = (bytes as f64 / 1000f64.powi(power as i32) * 10.0 + 0.5).floor() / 10.0;
    let unit = UNITS[power];
    if value < 10.0 {
        format!("{value:.1} {unit}")
    } else {
        format!("{value:.0} {unit}")
    }
}

/// Draws a box with one row: header centred, cells to the right.
fn boxed(out: &mut dyn Write, header: &[&str], row: &[String]) -> Outcome {
    let widths: Vec<usize> = header
        .iter()
        .zip(row)
        .map(|(title, cell)| title.len().max(cell.chars().count()))
        .collect();
    let rule = |left: &str, middle: &str, right: &str| {
        let lines: Vec<String> = widths.iter().map(|width| "─".repeat(width + 2)).collect();
        format!("{left}{}{right}", lines.join(middle))
    };
    let titles = header.iter().zip(&widths);
    let titles: Vec<String> = titles
        .map(|(title, width)| format!(" {title:^width$} "))
        .collect();
    let cells = row.iter().zip(&widths);
    let cells: Vec<String> = cells
        .map(|(cell, width)| format!(" {cell:>width$} "))
        .collect();
    writeln!(out, "{}", rule("┌", "┬", "┐"))?;
    writeln!(out, "│{}│", titles.join("│"))?;
    writeln!(out, "{}", rule("├", "┼", "┤"))?;
    writeln!(out, "│{}│", cells.join("│"))?;
    writeln!(out, "{}", rule("└", "┴", "┘"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    // Printed by etcdutl 3.7.1 for a snapshot of one key.
    #[test]
    fn a_status_looks_as_in_etcdutl() {
        let snapshot = Status {
            hash: 1_959_660_434,
            revision: 2,
            total_key: 1,
            total_size: 20_480,
            version: "3.7.0".into(),
        };
        let text = |format| {
            let mut out = Vec::new();
            status(&snapshot, format, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(text(Format::Simple), "74ce0b92, 2, 1, 20 kB, 3.7.0\n");
        assert_eq!(
            text(Format::Json),
            "{\"hash\":1959660434,\"revision\":2,\"totalKey\":1,\"totalSize\":20480,\
             \"version\":\"3.7.0\"}\n"
        );
        assert_eq!(
            text(Format::Fields),
            "\"Hash\" : 1959660434\n\"Revision\" : 2\n\"Keys\" : 1\n\"Size\" : 20480\n\
             \"Version\" : 3.7.0\n"
        );
        let table = "\
┌──────────┬──────────┬────────────┬────────────┬─────────┐
│   HASH   │ REVISION │ TOTAL KEYS │ TOTAL SIZE │ VERSION │
├──────────┼──────────┼────────────┼────────────┼─────────┤
│ 74ce0b92 │        2 │          1 │      20 kB │   3.7.0 │
└──────────┴──────────┴────────────┴────────────┴─────────┘
";
        assert_eq!(text(Format::Table), table);
        let refused = status(&snapshot, Format::Protobuf, &mut Vec::new()).unwrap_err();
        assert_eq!(refused.code, BAD_FEATURE);
    }

    #[test]
    fn a_hash_looks_as_in_etcdutl() {
        let hash = HashKv {
            hash: 3_628_877_040,
            hash_revision: 2,
            compact_revision: -1,
        };
        let mut out = Vec::new();
        hashkv(&hash, Format::Simple, &mut out).unwrap();
        hashkv(&hash, Format::Json, &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "3628877040, 2, -1\n\
             {\"hash\":3628877040,\"hashRevision\":2,\"compactRevision\":-1}\n"
        );
    }
}
