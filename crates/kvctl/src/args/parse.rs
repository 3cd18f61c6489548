//! From words to a command, with cobra's messages when they make no sense.

use std::error::Error as _;
use std::ffi::{OsStr, OsString};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgMatches, FromArgMatches};

use super::environment::{Environment, is_set};
use super::help;
use super::kv::{Line, LineOp, WatchLine};
use super::tree::{CommandLine, command, line_command, watch_line_command};
use super::{Command, Globals, WatchArgs};
use crate::failure::Failure;

/// What the command line asks for.
#[derive(Debug)]
pub(crate) enum Parsed {
    /// Run this.
    Run(Box<Globals>, Box<Command>),
    /// Print this to standard output.
    Help(String),
}

/// Reads the words after the program's name, and the environment for the commands that talk to a
/// server. Warnings about the environment go to `warn`.
pub(crate) fn parse(
    words: &[OsString],
    environment: &Environment,
    warn: &mut dyn FnMut(String),
) -> Result<Parsed, Failure> {
    let root = command();
    let words = &help::hoist(&root, words).1[..];
    let matches = match read(&root, words) {
        Ok(matches) => matches,
        Err(err) if err.kind() == ErrorKind::DisplayHelp => {
            return Ok(Parsed::Help(help::of(&help::path(&root, words))));
        }
        Err(err) if lacks_subcommand(&err) => {
            return Ok(Parsed::Help(help::of(&help::path(&root, words))));
        }
        Err(err) => return Err(failure(&err, &root, words)),
    };
    let line = from_matches(&matches)?;
    let Some(asked) = line.command else {
        return Ok(Parsed::Help(help::of(&[&root])));
    };
    match asked {
        Command::Help(topic) => Ok(Parsed::Help(help::of(&help::path(&root, &topic.words)))),
        Command::Endpoint(ref endpoint) if endpoint.command.is_none() => {
            Ok(Parsed::Help(help::of(&help::path(&root, words))))
        }
        Command::Version(_) | Command::Completion(_) | Command::Options(_) => {
            Ok(Parsed::Run(Box::new(line.globals), Box::new(asked)))
        }
        _ => {
            let is_watch = matches!(asked, Command::Watch(_));
            let from_environment = environment.flags(&root, &matches, is_watch, warn)?;
            let all: Vec<OsString> = from_environment.into_iter().chain(words.to_vec()).collect();
            let matches = read(&root, &all).map_err(|err| failure(&err, &root, words))?;
            let line = from_matches(&matches)?;
            let mut asked = line.command.unwrap_or(asked);
            if let Command::Watch(watch) = &mut asked {
                watch.is_separated = words.iter().any(|word| word == "--");
                watch.env_key = environment.watch_key();
                watch.env_range_end = environment.watch_range_end();
            }
            Ok(Parsed::Run(Box::new(line.globals), Box::new(asked)))
        }
    }
}

/// Reads one line of a transaction's request lists.
pub(crate) fn line_op(args: Vec<Vec<u8>>) -> Result<LineOp, String> {
    use std::os::unix::ffi::OsStringExt as _;
    let words: Vec<OsString> = args.into_iter().map(OsString::from_vec).collect();
    let matches = line_command()
        .try_get_matches_from(words)
        .map_err(|err| message(&err).unwrap_or_else(|| "help is not available here".to_owned()))?;
    let line = Line::from_arg_matches(&matches).map_err(|err| err.to_string())?;
    Ok(line.op)
}

/// Reads one line of an interactive watch, beginning with the word `watch`.
pub(crate) fn watch_line(args: Vec<Vec<u8>>) -> Result<WatchArgs, String> {
    use std::os::unix::ffi::OsStringExt as _;
    let words: Vec<OsString> = args.into_iter().skip(1).map(OsString::from_vec).collect();
    let is_separated = words.iter().any(|word| word == "--");
    let matches = watch_line_command()
        .try_get_matches_from(words)
        .map_err(|err| message(&err).unwrap_or_else(|| "pflag: help requested".to_owned()))?;
    let line = WatchLine::from_arg_matches(&matches).map_err(|err| err.to_string())?;
    Ok(WatchArgs {
        is_separated,
        ..line.watch
    })
}

pub(super) fn read(root: &clap::Command, words: &[OsString]) -> Result<ArgMatches, clap::Error> {
    let program = OsStr::new("kvctl").to_owned();
    root.clone()
        .try_get_matches_from(std::iter::once(program).chain(words.iter().cloned()))
}

fn from_matches(matches: &ArgMatches) -> Result<CommandLine, Failure> {
    let line = CommandLine::from_arg_matches(matches);
    let mut line = line.map_err(|err| Failure::error(err.to_string()))?;
    line.globals.is_command_timeout_given = is_set(matches, "command_timeout");
    Ok(line)
}

/// A failed parse as cobra tells it: the message, then the usage of the command that was meant.
fn failure(err: &clap::Error, root: &clap::Command, words: &[OsString]) -> Failure {
    let path = help::path(root, words);
    let Some(mut text) = message(err) else {
        return Failure::error(err.to_string());
    };
    // clap names the long form, pflag the one that was written.
    let last = words
        .last()
        .and_then(|word| word.to_str())
        .unwrap_or_default();
    if let (true, Some(letter)) = (text.starts_with("flag needs"), short_flag(last)) {
        text = format!("flag needs an argument: '{letter}' in {last}");
    }
    if err.kind() == ErrorKind::InvalidSubcommand {
        let parents = help::names(&path);
        let word = context(err, ContextKind::InvalidSubcommand).unwrap_or_default();
        let similar = help::similar(path[path.len() - 1], &word);
        let details = format!("{similar}Run '{parents} --help' for usage.\n");
        return Failure::error(format!("{text} for \"{parents}\"")).with_details(details);
    }
    Failure::error(text).with_details(format!("{}\n", help::usage(&path)))
}

/// A word of the form `-w`.
fn short_flag(word: &str) -> Option<char> {
    let mut letters = word.strip_prefix('-')?.chars();
    let letter = letters.next().filter(|letter| *letter != '-')?;
    letters.next().is_none().then_some(letter)
}

/// A command like `member` alone: it lists what there is.
fn lacks_subcommand(err: &clap::Error) -> bool {
    matches!(
        err.kind(),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand
    )
}

/// pflag's message for a parse that failed; `None` when help was asked for.
pub(super) fn message(err: &clap::Error) -> Option<String> {
    let flag = context(err, ContextKind::InvalidArg);
    // clap names a flag with its value: `--limit <int>`, `-w, --write-out <string>`.
    let name = flag
        .as_deref()
        .unwrap_or_default()
        .split(' ')
        .find(|word| word.starts_with("--"));
    let name = name.unwrap_or(flag.as_deref().unwrap_or_default());
    let name = name.split(['=', '[']).next().unwrap_or(name);
    let value = context(err, ContextKind::InvalidValue).unwrap_or_default();
    Some(match err.kind() {
        ErrorKind::DisplayHelp => return None,
        ErrorKind::UnknownArgument => match flag.as_deref() {
            Some(word) if word.starts_with("--") => format!("unknown flag: {name}"),
            Some(word) if word.starts_with('-') => {
                let letter = word.chars().nth(1).unwrap_or('-');
                format!("unknown shorthand flag: '{letter}' in {word}")
            }
            word => format!("unexpected argument {:?}", word.unwrap_or_default()),
        },
        ErrorKind::InvalidValue if value.is_empty() => format!("flag needs an argument: {name}"),
        ErrorKind::ValueValidation => {
            let why = err.source().map(ToString::to_string).unwrap_or_default();
            let value = crate::go_text::quote::quote(value.as_bytes());
            format!("invalid argument {value} for \"{name}\" flag: {why}")
        }
        ErrorKind::InvalidSubcommand => {
            let word = context(err, ContextKind::InvalidSubcommand).unwrap_or_default();
            format!(
                "unknown command {}",
                crate::go_text::quote::quote(word.as_bytes())
            )
        }
        _ => {
            let text = err.to_string();
            let text = text.strip_prefix("error: ").unwrap_or(&text);
            text.lines().next().unwrap_or_default().to_owned()
        }
    })
}

fn context(err: &clap::Error, kind: ContextKind) -> Option<String> {
    match err.get(kind)? {
        ContextValue::String(text) => Some(text.clone()),
        _ => None,
    }
}
