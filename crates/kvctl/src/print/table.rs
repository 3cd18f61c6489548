//! `table`: boxes; and the rows that the simple format prints with commas.

use kvd_autopilot::status::Status;
use kvd_client::pb::MemberListResponse;

use super::autopilot;
use super::{EndpointHashKv, EndpointHealth, EndpointStatus, Printer, SnapshotStatus, Streams};
use crate::failure::Outcome;

pub(super) struct Table;

impl Printer for Table {
    fn name(&self) -> &'static str {
        "table"
    }

    fn member_list(&self, to: &mut Streams<'_>, answer: &MemberListResponse) -> Outcome {
        let header = [
            "ID",
            "STATUS",
            "NAME",
            "PEER ADDRS",
            "CLIENT ADDRS",
            "IS LEARNER",
        ];
        boxed(to, &header, &member_rows(answer))
    }

    fn endpoint_health(&self, to: &mut Streams<'_>, all: &[EndpointHealth]) -> Outcome {
        let rows: Vec<Vec<String>> = all
            .iter()
            .map(|one| {
                vec![
                    one.endpoint.clone(),
                    one.is_healthy.to_string(),
                    one.took.clone(),
                    one.error.clone(),
                ]
            })
            .collect();
        boxed(to, &["ENDPOINT", "HEALTH", "TOOK", "ERROR"], &rows)
    }

    fn endpoint_status(&self, to: &mut Streams<'_>, all: &[EndpointStatus]) -> Outcome {
        let header = [
            "ENDPOINT",
            "ID",
            "VERSION",
            "STORAGE VERSION",
            "DB SIZE",
            "IN USE",
            "PERCENTAGE NOT IN USE",
            "QUOTA",
            "IS LEADER",
            "IS LEARNER",
            "RAFT TERM",
            "RAFT INDEX",
            "RAFT APPLIED INDEX",
            "ERRORS",
            "DOWNGRADE TARGET VERSION",
            "DOWNGRADE ENABLED",
        ];
        boxed(to, &header, &status_rows(all))
    }

    fn autopilot(&self, to: &mut Streams<'_>, status: &Status) -> Outcome {
        autopilot::lines(to, status)?;
        match status.members.is_empty() {
            true => Ok(()),
            false => boxed(to, &autopilot::HEADER, &autopilot::rows(status)),
        }
    }

    fn snapshot_status(&self, to: &mut Streams<'_>, status: &SnapshotStatus) -> Outcome {
        let header = ["HASH", "REVISION", "TOTAL KEYS", "TOTAL SIZE", "VERSION"];
        boxed(to, &header, &[snapshot_row(status)])
    }

    fn endpoint_hashkv(&self, to: &mut Streams<'_>, all: &[EndpointHashKv]) -> Outcome {
        boxed(
            to,
            &["ENDPOINT", "HASH", "HASH REVISION"],
            &hashkv_rows(all),
        )
    }
}

pub(super) fn snapshot_row(status: &SnapshotStatus) -> Vec<String> {
    vec![
        format!("{:x}", status.hash),
        status.revision.to_string(),
        status.keys.to_string(),
        human_size(i64::try_from(status.size).unwrap_or(i64::MAX)),
        status.version.clone(),
    ]
}

pub(super) fn member_rows(answer: &MemberListResponse) -> Vec<Vec<String>> {
    answer
        .members
        .iter()
        .map(|member| {
            let status = if member.name.is_empty() {
                "unstarted"
            } else {
                "started"
            };
            vec![
                format!("{:x}", member.id),
                status.to_owned(),
                member.name.clone(),
                member.peer_ur_ls.join(","),
                member.client_ur_ls.join(","),
                member.is_learner.to_string(),
            ]
        })
        .collect()
}

pub(super) fn status_rows(all: &[EndpointStatus]) -> Vec<Vec<String>> {
    all.iter()
        .map(|one| {
            let status = &one.status;
            let member_id = status.header.as_ref().map_or(0, |header| header.member_id);
            let downgrade = status.downgrade_info.clone().unwrap_or_default();
            vec![
                one.endpoint.clone(),
                format!("{member_id:x}"),
                status.version.clone(),
                status.storage_version.clone(),
                human_size(status.db_size),
                human_size(status.db_size_in_use),
                format!(
                    "{}%",
                    percentage_not_in_use(status.db_size, status.db_size_in_use)
                ),
                human_size(status.db_size_quota),
                (status.leader == member_id).to_string(),
                status.is_learner.to_string(),
                status.raft_term.to_string(),
                status.raft_index.to_string(),
                status.raft_applied_index.to_string(),
                status.errors.join(", "),
                downgrade.target_version,
                downgrade.enabled.to_string(),
            ]
        })
        .collect()
}

pub(super) fn hashkv_rows(all: &[EndpointHashKv]) -> Vec<Vec<String>> {
    all.iter()
        .map(|one| {
            vec![
                one.endpoint.clone(),
                one.hash.hash.to_string(),
                one.hash.hash_revision.to_string(),
            ]
        })
        .collect()
}

/// An empty store, on which etcdctl divides by zero, has nothing unused.
fn percentage_not_in_use(size: i64, in_use: i64) -> i64 {
    in_use
        .saturating_mul(100)
        .checked_div(size)
        .map_or(0, |used| 100 - used)
}

/// A size in powers of a thousand: `20 kB`, `2.1 GB`.
fn human_size(bytes: i64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    // A negative size is what etcdctl prints as a huge one.
    let bytes = bytes as u64;
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

/// Draws a box: header centred, cells to the right.
fn boxed(to: &mut Streams<'_>, header: &[&str], rows: &[Vec<String>]) -> Outcome {
    let width = |text: &str| text.chars().count();
    let widths: Vec<usize> = header
        .iter()
        .enumerate()
        .map(|(column, title)| {
            let cells = rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| width(cell));
            cells.max().unwrap_or(0).max(width(title))
        })
        .collect();
    let rule = |left: &str, middle: &str, right: &str| {
        let lines: Vec<String> = widths.iter().map(|width| "─".repeat(width + 2)).collect();
        format!("{left}{}{right}", lines.join(middle))
    };
    let line = |cells: Vec<String>| format!("│{}│", cells.join("│"));

    writeln!(to.out, "{}", rule("┌", "┬", "┐"))?;
    let titles = header
        .iter()
        .zip(&widths)
        .map(|(title, width)| format!(" {title:^width$} "));
    writeln!(to.out, "{}", line(titles.collect()))?;
    if !rows.is_empty() {
        writeln!(to.out, "{}", rule("├", "┼", "┤"))?;
    }
    for row in rows {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!(" {cell:>width$} "));
        writeln!(to.out, "{}", line(cells.collect()))?;
    }
    writeln!(to.out, "{}", rule("└", "┴", "┘"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_printed_as_in_etcdctl() {
        for (bytes, text) in [
            (0, "0 B"),
            (9, "9 B"),
            (10, "10 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (16_384, "16 kB"),
            (20_480, "20 kB"),
            (2_147_483_648, "2.1 GB"),
            (9_990_000, "10 MB"),
        ] {
            assert_eq!(human_size(bytes), text);
        }
    }

    #[test]
    fn the_unused_share_of_an_empty_store_is_nothing() {
        assert_eq!(percentage_not_in_use(20_480, 16_384), 20);
        assert_eq!(percentage_not_in_use(0, 0), 0);
    }
}
