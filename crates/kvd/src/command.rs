//! From arguments and environment to settings: parse, resolve, and say what was odd.

use std::path::Path;

use crate::config_file;
use crate::error::{Error, Result};
use crate::flags::env::{self, Environment};
use crate::flags::parse::{Asked, command_line};
use crate::flags::value;
use crate::notes::Note;
use crate::settings::{Settings, resolve};

/// What the program is to do.
#[derive(Debug)]
pub enum Command {
    /// Print the help.
    Help,
    /// Print the version.
    Version,
    /// Run a member.
    Run(Box<Settings>, Vec<Note>),
}

/// A start that failed, with what was noticed before.
#[derive(Debug)]
pub struct Failure {
    /// Why.
    pub error: Error,
    /// What was noticed.
    pub notes: Vec<Note>,
}

/// Reads `arguments` (without the program's name), `environment` and the config file, if any.
///
/// Order as in etcd: the command line's form; help; version; then the file, or else the
/// environment; then the rules between flags.
pub fn prepare(
    arguments: &[String],
    environment: &Environment,
) -> std::result::Result<Command, Failure> {
    let bare = |error| Failure {
        error,
        notes: Vec::new(),
    };
    let mut given = match command_line(arguments).map_err(bare)? {
        Asked::Help => return Ok(Command::Help),
        Asked::Run(given) => given,
    };
    if value::bool(given.get("version")).unwrap_or(false) {
        return Ok(Command::Version);
    }
    let file = match given.get("config-file") {
        "" => env::config_file(environment),
        path => Some(path),
    }
    .map(str::to_owned);
    let from_file = file.is_some();
    let read: Result<()> = match file {
        Some(path) => config_file::read(Path::new(&path)).map(|read| given = read),
        None => env::apply(&mut given, environment),
    };
    let resolved = read.and_then(|()| resolve(&mut given, from_file));
    let notes = given.take_notes();
    match resolved {
        Ok(settings) => Ok(Command::Run(Box::new(settings), notes)),
        Err(error) => Err(Failure { error, notes }),
    }
}
