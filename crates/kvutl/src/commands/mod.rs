//! One file a command.

pub(crate) mod check;
pub(crate) mod defrag;
pub(crate) mod dump;
pub(crate) mod hashkv;
pub(crate) mod restore;
pub(crate) mod save;
mod scratch;
pub(crate) mod status;
mod store;

use std::io::Write;

use clap::CommandFactory;
use clap_complete::{Shell, generate};

use crate::args::Cli;
use crate::failure::Outcome;

/// Writes a script for a shell.
pub(crate) fn completion(shell: Shell, out: &mut dyn Write) -> Outcome {
    // Through memory: the generator panics when it cannot write, and a closed pipe is no error.
    let mut script = Vec::new();
    generate(shell, &mut Cli::command(), "kvutl", &mut script);
    out.write_all(&script)?;
    Ok(())
}
