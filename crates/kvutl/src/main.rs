//! `kvutl`, the offline tool: commands, flags, output and exit codes of etcdutl, for data
//! directories of kvd and for snapshot files of both.
//!
//! A command's way: `args` reads the words, `commands` does the work on files, `print` writes the
//! answer in the format asked for, and this file turns the outcome into an exit code. Data goes to
//! stdout, talk to stderr. Nothing here speaks to a running member: `kvctl` does.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod args;
mod commands;
mod failure;
mod print;

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use tracing_subscriber::EnvFilter;

use args::{Cli, Command, DumpCommand, SnapshotCommand};
use failure::{Failure, Outcome};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refused(&error),
    };
    let filter = EnvFilter::try_from_env("KVUTL_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_target(false)
        .with_ansi(false)
        .init();
    let mut out = BufWriter::new(io::stdout().lock());
    let outcome = run(&cli, &mut out).and(out.flush().map_err(Failure::from));
    match outcome {
        Ok(()) => ExitCode::from(failure::SUCCESS),
        // A reader that has seen enough is no error.
        Err(failure) if failure.is_broken_pipe() => ExitCode::from(failure::SUCCESS),
        Err(failure) => {
            let _ = writeln!(io::stderr(), "Error: {failure}");
            ExitCode::from(failure.code)
        }
    }
}

/// Says what the words cannot mean, or gives the help that they ask for.
fn refused(error: &clap::Error) -> ExitCode {
    // Nothing is left to do when stderr is gone.
    if names_no_format(error) {
        let _ = writeln!(io::stderr(), "Error: unsupported output format");
        return ExitCode::from(failure::BAD_FEATURE);
    }
    let _ = error.print();
    ExitCode::from(match error.use_stderr() {
        true => failure::ERROR,
        false => failure::SUCCESS,
    })
}

/// Whether `--write-out` has a value that is no format, which has an exit code of its own.
fn names_no_format(error: &clap::Error) -> bool {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => &text[..],
        _ => "",
    };
    error.kind() == ErrorKind::InvalidValue
        && text(ContextKind::InvalidArg).starts_with("--write-out")
        && !text(ContextKind::InvalidValue).is_empty()
}

/// The one file that a command of `snapshot` is about.
fn only<'a>(files: &'a [PathBuf], command: &str) -> Outcome<&'a Path> {
    match files {
        [file] => Ok(file),
        _ => Err(Failure::with_code(
            failure::BAD_ARGS,
            format!("snapshot {command} requires exactly one argument"),
        )),
    }
}

fn run(cli: &Cli, out: &mut dyn Write) -> Outcome {
    let format = cli.write_out;
    match &cli.command {
        Command::Snapshot(SnapshotCommand::Status { filename }) => {
            let file = only(filename, "status")?;
            print::status(&commands::status::status(file)?, format, out)
        }
        Command::Snapshot(SnapshotCommand::Restore(restore)) => {
            commands::restore::run(only(&restore.filename, "restore")?, restore)
        }
        Command::Snapshot(SnapshotCommand::Save(save)) => {
            commands::save::run(save, cli.timeout, out)
        }
        Command::Hashkv { filename, rev } => {
            let hash = commands::hashkv::hash(filename, *rev, cli.timeout)?;
            print::hashkv(&hash, format, out)
        }
        Command::Defrag { data_dir } => commands::defrag::run(data_dir, cli.timeout),
        Command::Check(place) => commands::check::run(&place.data_dir, place.wal_dir.as_ref(), out),
        Command::Dump(DumpCommand::Wal(place)) => {
            commands::dump::wal(&place.data_dir, place.wal_dir.as_ref(), out)
        }
        Command::Dump(DumpCommand::Store { data_dir }) => commands::dump::store(data_dir, out),
        Command::Completion { shell } => commands::completion(*shell, out),
        Command::Version => {
            writeln!(out, "kvutl version: {}", env!("CARGO_PKG_VERSION"))?;
            writeln!(out, "etcdutl version: {}", kvd_api::ETCD_VERSION)?;
            writeln!(out, "API version: 3.7")?;
            Ok(())
        }
    }
}
