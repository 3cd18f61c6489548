//! The status of autopilot, in lines and cells.

use kvd_autopilot::status::{MemberStatus, Phase, Status};

use super::Streams;
use crate::failure::Outcome;

/// The columns of a member.
pub(super) const HEADER: [&str; 9] = [
    "NAME",
    "ID",
    "ROLE",
    "HEALTHY",
    "LAST CONTACT",
    "LAG",
    "STABLE",
    "DESIRED",
    "PEER ADDRS",
];

/// One row a member.
pub(super) fn rows(status: &Status) -> Vec<Vec<String>> {
    status.members.iter().map(row).collect()
}

fn row(member: &MemberStatus) -> Vec<String> {
    let or_unknown = |text: Option<String>| text.unwrap_or_else(|| "unknown".to_owned());
    vec![
        member.name.clone(),
        member.id.clone(),
        member.role.clone(),
        member.healthy.to_string(),
        or_unknown(member.last_contact_ms.map(time)),
        or_unknown(member.lag.map(|lag| lag.to_string())),
        time(member.stable_ms),
        or_unknown(member.desired.map(|desired| desired.to_string())),
        member.peer_urls.join(","),
    ]
}

fn time(millis: u64) -> String {
    match millis {
        0..10_000 => format!("{millis}ms"),
        _ => format!("{}s", millis / 1_000),
    }
}

/// What stands above the members.
pub(super) fn lines(to: &mut Streams<'_>, status: &Status) -> Outcome {
    let phase = match status.phase {
        Phase::Waiting => "waiting to begin or find a cluster",
        Phase::Joining => "joining",
        Phase::Refused => "refused",
        Phase::Member => "member",
    };
    writeln!(to.out, "{}: {phase}", status.name)?;
    if !status.reason.is_empty() {
        writeln!(to.out, "reason: {}", status.reason)?;
    }
    for seen in &status.seen {
        let name = if seen.name.is_empty() {
            "-"
        } else {
            &seen.name
        };
        writeln!(to.out, "seen: {} ({name}): {}", seen.address, seen.state)?;
    }
    if status.phase == Phase::Member {
        writeln!(to.out, "acts by itself: {}", status.enabled)?;
        match status.from_leader {
            true => writeln!(
                to.out,
                "healthy: {}, voters: {}, failure tolerance: {}",
                status.healthy, status.voters, status.failure_tolerance
            )?,
            false => writeln!(to.out, "healthy: unknown, no leader tells")?,
        }
    }
    if !status.desired_source.is_empty() {
        let desired = status.desired_replicas;
        let desired = desired.map_or_else(|| "unknown".to_owned(), |count| count.to_string());
        writeln!(
            to.out,
            "desired replicas: {desired}, by {}",
            status.desired_source
        )?;
    }
    if !status.desired_error.is_empty() {
        writeln!(
            to.out,
            "desired replicas cannot be read: {}",
            status.desired_error
        )?;
    }
    if let Some(next) = &status.next {
        writeln!(
            to.out,
            "next: {} {}: {}",
            next.action, next.member, next.reason
        )?;
    }
    for held in &status.held {
        writeln!(to.out, "waits: {}: {}", held.member, held.reason)?;
    }
    actions(to, status)
}

fn actions(to: &mut Streams<'_>, status: &Status) -> Outcome {
    for done in &status.actions {
        let outcome = match done.error.as_str() {
            "" => String::new(),
            error => format!(" (failed: {error})"),
        };
        writeln!(
            to.out,
            "{} ago: {} {}: {}{outcome}",
            time(done.age_ms),
            done.action,
            done.member,
            done.reason
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use kvd_autopilot::status::{Held, Next};

    use super::super::printer;
    use super::*;

    fn shown(format: &str, status: &Status) -> String {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut to = Streams {
            out: &mut out,
            err: &mut err,
        };
        let printer = printer(format, false).expect("a format");
        printer.autopilot(&mut to, status).expect("printed");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn what_is_done_and_what_is_not_is_said_above_the_members() {
        let status = Status {
            enabled: true,
            name: "db-0".into(),
            phase: Phase::Member,
            from_leader: true,
            healthy: true,
            voters: 3,
            failure_tolerance: 1,
            desired_replicas: Some(4),
            desired_source: "statefulset db".into(),
            next: Some(Next {
                action: "promote".into(),
                member: "db-3".into(),
                reason: "it has caught up".into(),
            }),
            held: vec![Held {
                member: "db-4".into(),
                reason: "one after the other".into(),
            }],
            members: vec![MemberStatus {
                id: "a1".into(),
                name: "db-0".into(),
                role: "leader".into(),
                healthy: true,
                last_contact_ms: Some(0),
                lag: Some(0),
                stable_ms: 61_000,
                peer_urls: vec!["http://db-0.db:2380".into()],
                ..MemberStatus::default()
            }],
            ..Status::default()
        };
        let expected = "db-0: member\nacts by itself: true\n\
            healthy: true, voters: 3, failure tolerance: 1\n\
            desired replicas: 4, by statefulset db\n\
            next: promote db-3: it has caught up\nwaits: db-4: one after the other\n\
            db-0, a1, leader, true, 0ms, 0, 61s, unknown, http://db-0.db:2380\n";
        assert_eq!(shown("simple", &status), expected);
        let table = shown("table", &status);
        assert!(
            table.contains("LAST CONTACT") && table.contains("next: promote"),
            "{table}"
        );
        let back: Status = serde_json::from_str(&shown("json", &status)).expect("JSON");
        assert_eq!(back, status);
    }

    #[test]
    fn a_process_that_waits_says_for_what() {
        let status = Status {
            name: "db-1".into(),
            reason: "waits for db-0 of 3 to answer".into(),
            ..Status::default()
        };
        let text = shown("simple", &status);
        assert_eq!(
            text,
            "db-1: waiting to begin or find a cluster\nreason: waits for db-0 of 3 to answer\n"
        );
    }
}
