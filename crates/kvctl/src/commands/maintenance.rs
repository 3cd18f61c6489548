//! defrag, move-leader, downgrade.
//!
//! Source: etcd `etcdctl/ctlv3/command/{defrag,move_leader,downgrade}_command.go`.

use std::ffi::OsString;
use std::time::Instant;

use kvd_client::DowngradeAction;

use super::Session;
use super::endpoint::endpoints;
use crate::args::{DefragArgs, DowngradeCommand, Globals};
use crate::failure::{self, Failure, Outcome};
use crate::go_text::{duration, number};
use crate::print::{Done, Streams};

pub(super) async fn defrag(globals: &Globals, args: &DefragArgs, to: &mut Streams<'_>) -> Outcome {
    let session = Session::open(globals, to).await?;
    let mut has_failed = false;
    for endpoint in endpoints(&session, args.cluster).await? {
        let started = Instant::now();
        let answer = session.client.defragment(&endpoint).await;
        let took = duration::format(started.elapsed());
        match answer {
            Ok(_) => {
                let text = format!("Finished defragmenting etcd member[{endpoint}]. took {took}");
                writeln!(to.out, "{text}")?;
                to.out.flush()?;
            }
            Err(err) if failure::is_refused_login(&err) => return Err(err.into()),
            Err(err) => {
                has_failed = true;
                let why = failure::text(&err);
                let text = format!("Failed to defragment etcd member[{endpoint}]. took {took}.");
                writeln!(to.err, "{text} ({why})")?;
                to.err.write_all(failure::advice(&err).as_bytes())?;
            }
        }
    }
    if has_failed {
        return Err(Failure::silent(failure::ERROR));
    }
    Ok(())
}

pub(super) async fn move_leader(
    globals: &Globals,
    words: &[OsString],
    to: &mut Streams<'_>,
) -> Outcome {
    let [word] = words else {
        return Err(Failure::bad_args("move-leader command needs 1 argument"));
    };
    let target = number::parse_uint(&word.to_string_lossy(), 16).map_err(Failure::bad_args)?;
    let session = Session::open(globals, to).await?;
    let endpoints: Vec<String> = session.client.endpoints().map(str::to_owned).collect();
    for endpoint in &endpoints {
        let status = session.client.status(endpoint).await?;
        let member = status.header.map_or(0, |header| header.member_id);
        if member != status.leader {
            continue;
        }
        let leader = session.client.only(endpoint)?;
        let answer = leader.move_leader(target).await?;
        let line = format!("Leadership transferred from {member:x} to {target:x}");
        return session
            .printer
            .done(to, &Done::without_fields(line, answer.header));
    }
    let endpoints = endpoints.join(" ");
    Err(Failure::bad_args(format!(
        "no leader endpoint given at [{endpoints}]"
    )))
}

pub(super) async fn downgrade(
    globals: &Globals,
    command: &DowngradeCommand,
    to: &mut Streams<'_>,
) -> Outcome {
    let (action, name, version) = match command {
        DowngradeCommand::Validate(args) => {
            (DowngradeAction::Validate, "validate", version(&args.words)?)
        }
        DowngradeCommand::Enable(args) => {
            (DowngradeAction::Enable, "enable", version(&args.words)?)
        }
        DowngradeCommand::Cancel(_) => (DowngradeAction::Cancel, "cancel", String::new()),
    };
    let session = Session::open(globals, to).await?;
    let answer = session.client.downgrade(action, &version).await?;
    let now = &answer.version;
    let line = format!("Downgrade {name} success, cluster version {now}");
    let mut done = Done::without_fields(line, answer.header);
    done.version = answer.version;
    session.printer.done(to, &done)
}

fn version(words: &[OsString]) -> Result<String, Failure> {
    match words {
        [] => Err(Failure::bad_args("TARGET_VERSION not provided")),
        [word] if word.is_empty() => Err(Failure::bad_args("target version not provided")),
        [word] => Ok(word.to_string_lossy().into_owned()),
        _ => Err(Failure::bad_args("too many arguments")),
    }
}
