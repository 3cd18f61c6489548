//! lease grant, revoke, timetolive, list, keep-alive.

use std::ffi::OsString;

use super::Session;
use crate::args::{Globals, LeaseCommand};
use crate::failure::{self, Failure, Outcome};
use crate::go_text::number;
use crate::print::Streams;

pub(super) async fn run(
    globals: &Globals,
    command: &LeaseCommand,
    to: &mut Streams<'_>,
) -> Outcome {
    match command {
        LeaseCommand::Grant(words) => grant(globals, &words.words, to).await,
        LeaseCommand::Revoke(words) => revoke(globals, &words.words, to).await,
        LeaseCommand::Timetolive(args) => time_to_live(globals, &args.words, args.keys, to).await,
        LeaseCommand::List(_) => list(globals, to).await,
        LeaseCommand::KeepAlive(args) => keep_alive(globals, &args.words, args.once, to).await,
    }
}

async fn grant(globals: &Globals, words: &[OsString], to: &mut Streams<'_>) -> Outcome {
    let word = only(words, "lease grant command needs TTL argument")?;
    let ttl = number::parse_int(&word, 10)
        .map_err(|why| Failure::bad_args(format!("bad TTL ({why})")))?;
    let session = Session::open(globals, to).await?;
    let answer = session.client.lease_grant(ttl, 0).await;
    let answer = answer.map_err(|error| failed("failed to grant lease", error))?;
    session.printer.lease_grant(to, &answer)
}

async fn revoke(globals: &Globals, words: &[OsString], to: &mut Streams<'_>) -> Outcome {
    let id = lease_id(&only(words, "lease revoke command needs 1 argument")?)?;
    let session = Session::open(globals, to).await?;
    let answer = session.client.lease_revoke(id).await;
    let answer = answer.map_err(|error| failed("failed to revoke lease", error))?;
    session.printer.lease_revoke(to, id, &answer)
}

async fn time_to_live(
    globals: &Globals,
    words: &[OsString],
    keys: bool,
    to: &mut Streams<'_>,
) -> Outcome {
    let word = only(words, "lease timetolive command needs lease ID as argument")?;
    let id = lease_id(&word)?;
    let session = Session::open(globals, to).await?;
    let answer = session.client.lease_time_to_live(id, keys).await;
    session
        .printer
        .lease_time_to_live(to, &answer.map_err(bad_connection)?, keys)
}

async fn list(globals: &Globals, to: &mut Streams<'_>) -> Outcome {
    let session = Session::open(globals, to).await?;
    let answer = session.client.leases().await.map_err(bad_connection)?;
    session.printer.leases(to, &answer)
}

async fn keep_alive(
    globals: &Globals,
    words: &[OsString],
    once: bool,
    to: &mut Streams<'_>,
) -> Outcome {
    let word = only(words, "lease keep-alive command needs lease ID as argument")?;
    let id = lease_id(&word)?;
    let session = Session::open(globals, to).await?;
    if once {
        let answer = session.client.lease_keep_alive_once(id).await;
        return session
            .printer
            .lease_keep_alive(to, &answer.map_err(bad_connection)?);
    }
    let mut renewals = session.client.lease_keep_alive(id);
    while let Some(answer) = renewals.next().await {
        session.printer.lease_keep_alive(to, &answer)?;
        to.out.flush()?;
    }
    if session.printer.name() == "simple" {
        writeln!(to.out, "lease {id:016x} expired or revoked.")?;
    }
    Ok(())
}

fn only(words: &[OsString], otherwise: &str) -> Result<String, Failure> {
    match words {
        [word] => Ok(word.to_string_lossy().into_owned()),
        _ => Err(Failure::bad_args(otherwise)),
    }
}

fn lease_id(word: &str) -> Result<i64, Failure> {
    number::parse_int(word, 16)
        .map_err(|why| Failure::bad_args(format!("bad lease ID arg ({why}), expecting ID in Hex")))
}

/// A request's error in brackets behind what was tried, as etcdctl words it for leases.
fn failed(what: &str, error: kvd_client::Error) -> Failure {
    if failure::is_refused_login(&error) {
        return error.into();
    }
    let failure = Failure::from(error);
    Failure::error(format!("{what} ({})", failure.message)).with_details(failure.details)
}

/// etcdctl calls every error of these commands one of the connection.
fn bad_connection(error: kvd_client::Error) -> Failure {
    Failure {
        code: failure::BAD_CONNECTION,
        ..Failure::from(error)
    }
}
