//! `kvctl`, the command line of kvd and etcd: commands, flags, output and exit codes of etcdctl.
//!
//! A command's way: `args` reads the words and the environment, `commands` makes the request with
//! `kvd_client`, `print` writes the answer in the format asked for, and this file turns the outcome
//! into an exit code. Data goes to stdout, talk to stderr; a reader that closes the pipe early is
//! no error.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod args;
mod commands;
mod failure;
mod go_text;
mod print;
mod v2;

use std::ffi::OsString;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use args::{Environment, Parsed};
use failure::{Failure, Outcome};
use print::Streams;

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let environment = Environment::new(std::env::vars_os());
    let mut out = BufWriter::new(io::stdout().lock());
    let mut err = io::stderr();
    let mut streams = Streams {
        out: &mut out,
        err: &mut err,
    };
    if v2::is_wanted() {
        return ExitCode::from(v2::main(&words, &mut streams));
    }
    let outcome = run(&words, &environment, &mut streams);
    let outcome = outcome.and(out.flush().map_err(Failure::from));
    match outcome {
        Ok(()) => ExitCode::from(failure::SUCCESS),
        Err(failure) => {
            // Nothing is left to do when stderr is gone as well.
            let _ = err.write_all(failure.report().as_bytes());
            ExitCode::from(failure.code)
        }
    }
}

fn run(words: &[OsString], environment: &Environment, to: &mut Streams<'_>) -> Outcome {
    let mut warnings = Vec::new();
    let parsed = args::parse(words, environment, &mut |warning| warnings.push(warning));
    for warning in warnings {
        writeln!(to.err, "{warning}")?;
    }
    match parsed? {
        Parsed::Help(text) => {
            to.out.write_all(text.as_bytes())?;
            Ok(())
        }
        Parsed::Run(globals, command) => commands::run(&globals, &command, to),
    }
}
