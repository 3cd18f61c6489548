//! One file per family of commands. Each checks its words, makes its request, prints the answer.

use std::ffi::OsString;

use kvd_api::ETCD_VERSION;
use tokio::runtime::Runtime;

use crate::args::{AlarmCommand, AutopilotCommand, CheckCommand, Command, Globals, help};
use crate::failure::{Failure, Outcome};
use crate::print::Streams;

mod alarm;
mod auth;
mod autopilot;
mod check;
mod child;
mod completion;
mod datascale;
pub(crate) mod discovery;
mod elect;
mod endpoint;
mod kv;
mod lease;
mod lock;
mod maintenance;
mod member;
mod mirror;
pub(crate) mod prompt;
mod session;
mod snapshot;
mod txn;
mod watch;

pub(crate) use discovery::Discovery;
use session::Session;

/// Runs one command to its end.
pub(crate) fn run(globals: &Globals, command: &Command, to: &mut Streams<'_>) -> Outcome {
    match command {
        Command::Get(args) => runtime(1)?.block_on(kv::get(globals, args, to)),
        Command::Put(args) => runtime(1)?.block_on(kv::put(globals, args, to)),
        Command::Del(args) => runtime(1)?.block_on(kv::del(globals, args, to)),
        Command::Compaction(args) => runtime(1)?.block_on(kv::compaction(globals, args, to)),
        Command::Txn(args) => runtime(1)?.block_on(txn::txn(globals, args, to)),
        Command::Member(command) => runtime(1)?.block_on(member::run(globals, command, to)),
        Command::Endpoint(args) => runtime(1)?.block_on(endpoint::run(globals, args, to)),
        Command::Alarm(AlarmCommand::List(words)) => {
            runtime(1)?.block_on(alarm::list(globals, &words.words, to))
        }
        Command::Alarm(AlarmCommand::Disarm(words)) => {
            runtime(1)?.block_on(alarm::disarm(globals, &words.words, to))
        }
        Command::Check(CheckCommand::Perf(args)) => {
            runtime(2)?.block_on(check::perf(globals, args, to))
        }
        Command::Check(CheckCommand::Datascale(args)) => {
            runtime(2)?.block_on(datascale::run(globals, args, to))
        }
        Command::Version(_) => version(to),
        Command::Completion(words) => completion::completion(&words.words, to),
        Command::Options(_) | Command::Help(_) => {
            to.out.write_all(help::options().as_bytes())?;
            Ok(())
        }
        Command::Defrag(args) => runtime(1)?.block_on(maintenance::defrag(globals, args, to)),
        Command::MoveLeader(words) => {
            runtime(1)?.block_on(maintenance::move_leader(globals, &words.words, to))
        }
        Command::Downgrade(command) => {
            runtime(1)?.block_on(maintenance::downgrade(globals, command, to))
        }
        Command::Watch(args) => runtime(1)?.block_on(watch::run(globals, args, to)),
        Command::Lease(command) => runtime(1)?.block_on(lease::run(globals, command, to)),
        Command::Snapshot(command) => runtime(1)?.block_on(snapshot::run(globals, command, to)),
        Command::MakeMirror(args) => runtime(1)?.block_on(mirror::run(globals, args, to)),
        Command::Lock(args) => runtime(1)?.block_on(lock::run(globals, args, to)),
        Command::Elect(args) => runtime(1)?.block_on(elect::run(globals, args, to)),
        Command::Auth(command) => runtime(1)?.block_on(auth::auth(globals, command, to)),
        Command::Autopilot(AutopilotCommand::Status(_)) => {
            runtime(1)?.block_on(autopilot::status(globals, to))
        }
        Command::User(command) => runtime(1)?.block_on(auth::user(globals, command, to)),
        Command::Role(command) => runtime(1)?.block_on(auth::role(globals, command, to)),
    }
}

fn version(to: &mut Streams<'_>) -> Outcome {
    let (api_version, _) = ETCD_VERSION.rsplit_once('.').unwrap_or((ETCD_VERSION, ""));
    writeln!(to.out, "kvctl version: {}", env!("CARGO_PKG_VERSION"))?;
    writeln!(to.out, "API version: {api_version}")?;
    Ok(())
}

fn runtime(threads: usize) -> Result<Runtime, Failure> {
    let mut builder = match threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    builder
        .enable_all()
        .build()
        .map_err(|err| Failure::error(format!("cannot start: {err}")))
}

/// `l` or `s`: whether a read may be answered by one member alone.
fn is_serializable(consistency: &str) -> Result<bool, Failure> {
    match consistency {
        "l" => Ok(false),
        "s" => Ok(true),
        other => {
            let quoted = crate::go_text::quote::quote(other.as_bytes());
            Err(Failure::bad_feature(format!(
                "unknown consistency flag {quoted}"
            )))
        }
    }
}

/// The bytes of a word, which need not be text.
fn bytes(word: &OsString) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt as _;
    word.as_bytes().to_vec()
}
