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
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use args::{Cli, Command, DumpCommand, SnapshotCommand};
use failure::{Failure, Outcome};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = match error.use_stderr() {
                true => failure::ERROR,
                false => failure::SUCCESS,
            };
            // Nothing is left to do when stderr is gone.
            let _ = error.print();
            return ExitCode::from(code);
        }
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

fn run(cli: &Cli, out: &mut dyn Write) -> Outcome {
    let format = cli.write_out;
    match &cli.command {
        Command::Snapshot(SnapshotCommand::Status { filename }) => {
            print::status(&commands::status::status(filename)?, format, out)
        }
        Command::Snapshot(SnapshotCommand::Restore(restore)) => commands::restore::run(restore),
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
