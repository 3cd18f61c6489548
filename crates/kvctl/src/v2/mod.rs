//! The commands of etcdctl's API 2, for `KVCTL_API=2` or `ETCDCTL_API=2`: scripts of that time.
//!
//! `table` says which commands and flags there are, `args` reads the words and the environment,
//! `client` goes from endpoint to endpoint over `exchange`, and `keys`, `watch`, `members` and `health`
//! are the commands. Output, messages and exit codes are those of etcdctl 3.4 with API 2.
//!
//! Source: etcd 3.4 `etcdctl/ctlv2`, `client`.

mod args;
mod client;
mod exchange;
mod failure;
mod health;
mod help;
mod keys;
mod members;
mod print;
mod table;
mod watch;

use std::collections::BTreeMap;
use std::ffi::OsString;

use kvd_api::ETCD_VERSION;

use crate::print::Streams;
use args::{Parsed, Words};
use failure::{Failure, Outcome};

/// Whether the environment asks for API 2. `KVCTL_API` goes before `ETCDCTL_API`.
pub(crate) fn is_wanted() -> bool {
    let api = ["KVCTL_API", "ETCDCTL_API"]
        .into_iter()
        .find_map(std::env::var_os);
    api.is_some_and(|api| api == "2")
}

/// Runs the command that `words` name, and returns the exit code.
pub(crate) fn main(words: &[OsString], to: &mut Streams<'_>) -> u8 {
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let words: Option<Vec<String>> = words
        .iter()
        .map(|word| word.to_str().map(str::to_owned))
        .collect();
    let outcome = match words {
        Some(words) => run(&words, &environment, to),
        None => Err(Failure::bad_args("the arguments are not UTF-8")),
    };
    let flushed = to.out.flush();
    match outcome {
        Ok(()) => match flushed {
            Ok(()) => failure::SUCCESS,
            // The reader has seen enough.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => failure::SUCCESS,
            Err(_) => failure::BAD_ARGS,
        },
        Err(failure) => {
            // Nothing is left to do when stderr is gone as well.
            let _ = to.err.write_all(failure.text.as_bytes());
            failure.code
        }
    }
}

fn run(words: &[String], environment: &BTreeMap<String, String>, to: &mut Streams<'_>) -> Outcome {
    let words = match args::parse(words, environment)? {
        Parsed::Run(words) => words,
        Parsed::Version => {
            write!(to.out, "kvctl version: {ETCD_VERSION}\nAPI version: 2\n")?;
            return Ok(());
        }
        Parsed::Help(text) => {
            to.out.write_all(text.as_bytes())?;
            return Ok(());
        }
        Parsed::Misused { usage, message } => {
            to.out.write_all(usage.as_bytes())?;
            return Err(Failure::new(failure::BAD_ARGS, format!("{message}\n")));
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(command(&words, to))
}

async fn command(words: &Words, to: &mut Streams<'_>) -> Outcome {
    match words.command {
        "cluster-health" => health::cluster_health(words, to).await,
        "member list" => members::list(words, to).await,
        "member add" => members::add(words, to).await,
        "member remove" => members::remove(words, to).await,
        "member update" => members::update(words, to).await,
        "watch" => watch::watch(words, to).await,
        "exec-watch" => watch::exec_watch(words, to).await,
        "get" => keys::get(words, to).await,
        "ls" => keys::ls(words, to).await,
        "set" => keys::set(words, to).await,
        "mk" => keys::mk(words, to).await,
        "update" => keys::update(words, to).await,
        "mkdir" => keys::set_directory(words, Some(false), to).await,
        "setdir" => keys::set_directory(words, None, to).await,
        "updatedir" => keys::set_directory(words, Some(true), to).await,
        "rm" | "rmdir" => keys::rm(words, to).await,
        other => Err(Failure::bad_args(format!(
            "kvctl has no '{other}' for API 2; its API 3 (KVCTL_API=3) has users, roles, auth and \
             snapshots"
        ))),
    }
}
