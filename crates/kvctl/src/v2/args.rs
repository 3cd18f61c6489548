//! Reads the words of a command line of API 2.
//!
//! Flags may stand anywhere before `--`, with one dash or two, as `--flag value` or `--flag=value`.
//! Differs from etcdctl: global flags may also stand behind the command.

use std::collections::BTreeMap;
use std::io::Read;
use std::time::Duration;

use kvd_api::go::parse_bool;

use super::failure::{Failure, NO_TOPIC, Outcome};
use super::help;
use super::table::{COMMANDS, Command, Flag, GLOBALS, Kind, MEMBER_COMMANDS, UNBUILT};
use crate::go_text::duration;

/// What a command line asks for.
#[derive(Debug)]
pub(super) enum Parsed {
    Run(Words),
    Version,
    Help(String),
    /// A flag is wrong: what stdout and stderr say.
    Misused {
        usage: String,
        message: String,
    },
}

/// A command with its flags and arguments.
#[derive(Debug, Default)]
pub(super) struct Words {
    pub(super) command: &'static str,
    pub(super) args: Vec<String>,
    /// Where `--` stood among the arguments.
    pub(super) dashes_at: Option<usize>,
    flags: BTreeMap<&'static str, String>,
}

/// Reads `words`, with what `environment` says where a global flag is not given.
///
/// Errors: the command is not known.
pub(super) fn parse(words: &[String], environment: &BTreeMap<String, String>) -> Outcome<Parsed> {
    let mut reading = Reading::default();
    let mut rest = words.iter();
    let mut only_args = false;
    while let Some(word) = rest.next() {
        let is_flag = !only_args && word.len() > 1 && word.starts_with('-');
        if !is_flag {
            if reading.takes_for_command(word)? {
                continue;
            }
            reading.words.args.push(word.clone());
        } else if word == "--" {
            only_args = true;
            reading.words.dashes_at = Some(reading.words.args.len());
        } else if let Err(parsed) = reading.flag(word, &mut rest) {
            return Ok(parsed);
        }
    }
    let Reading {
        mut words,
        command,
        in_member,
        ..
    } = reading;
    let Some(command) = command else {
        return Ok(Parsed::Help(match in_member {
            true => help::member(),
            false => help::root(),
        }));
    };
    words.command = command.name;
    for flag in GLOBALS {
        if words.flags.contains_key(flag.name) {
            continue;
        }
        let name = flag.name.to_uppercase().replace('-', "_");
        let variables = [format!("KVCTL_{name}"), format!("ETCDCTL_{name}")];
        let value = variables
            .iter()
            .find_map(|variable| environment.get(variable));
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            if let Err(why) = check(flag, value) {
                let variable = variables
                    .iter()
                    .find(|name| environment.contains_key(*name));
                let variable = variable.map_or("", String::as_str);
                return Err(Failure::bad_args(format!(
                    "invalid value {value:?} for {variable}: {why}"
                )));
            }
            words.flags.insert(flag.name, value.clone());
        }
    }
    Ok(Parsed::Run(words))
}

#[derive(Default)]
struct Reading {
    words: Words,
    command: Option<&'static Command>,
    in_member: bool,
    wants_help: bool,
}

impl Reading {
    /// Whether the word names the command rather than being an argument.
    fn takes_for_command(&mut self, word: &str) -> Outcome<bool> {
        if self.command.is_some() {
            return Ok(false);
        }
        if self.in_member {
            let full = format!("member {word}");
            self.command = MEMBER_COMMANDS.iter().find(|command| command.name == full);
        } else if matches!(word, "help" | "h") && !self.wants_help {
            self.wants_help = true;
            return Ok(true);
        } else if word == "member" {
            self.in_member = true;
            return Ok(true);
        } else {
            self.command = COMMANDS.iter().find(|command| command.name == word);
        }
        match self.command {
            Some(command) if self.wants_help => Err(Failure {
                code: super::failure::SUCCESS,
                text: help::command(command),
            }),
            Some(_) => Ok(true),
            None if UNBUILT.contains(&word) => Err(Failure::bad_args(format!(
                "kvctl has no '{word}' for API 2; see kvctl's API 3 (KVCTL_API=3)"
            ))),
            None => Err(Failure::new(
                NO_TOPIC,
                format!("No help topic for '{word}'\n"),
            )),
        }
    }

    fn flag<'w>(
        &mut self,
        word: &str,
        rest: &mut impl Iterator<Item = &'w String>,
    ) -> Result<(), Parsed> {
        let named = word.strip_prefix("--").or_else(|| word.strip_prefix('-'));
        let named = named.unwrap_or_default();
        let (name, value) = match named.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (named, None),
        };
        match name {
            "help" | "h" => return Err(Parsed::Help(self.help())),
            "version" | "v" if self.command.is_none() => return Err(Parsed::Version),
            _ => {}
        }
        let own = self.command.map_or(&[][..], |command| command.flags);
        let mut known = own.iter().chain(GLOBALS);
        let Some(flag) = known.find(|flag| flag.name == name || flag.short == name) else {
            return Err(self.misused(format!("flag provided but not defined: -{name}")));
        };
        let value = match (value, flag.kind) {
            (Some(value), _) => value,
            (None, Kind::Bool) => "true".to_owned(),
            (None, _) => match rest.next() {
                Some(value) => value.clone(),
                None => return Err(self.misused(format!("flag needs an argument: -{name}"))),
            },
        };
        if let Err(why) = check(flag, &value) {
            let message = match flag.kind {
                Kind::Bool => format!("invalid boolean value {value:?} for -{name}: {why}"),
                _ => format!("invalid value {value:?} for flag -{name}: {why}"),
            };
            return Err(self.misused(message));
        }
        self.words.flags.insert(flag.name, value);
        Ok(())
    }

    fn help(&self) -> String {
        match self.command {
            Some(command) => help::command(command),
            None if self.in_member => help::member(),
            None => help::root(),
        }
    }

    fn misused(&self, message: String) -> Parsed {
        let usage = format!("Incorrect Usage: {message}\n\n{}", self.help());
        Parsed::Misused { usage, message }
    }
}

/// Whether a flag can have a value; the words say why not.
fn check(flag: &Flag, value: &str) -> Result<(), String> {
    let is_good = match flag.kind {
        Kind::Bool => parse_bool(value.as_bytes()).is_some(),
        Kind::Int => value.parse::<i64>().is_ok(),
        Kind::Text => true,
        Kind::Duration => duration::parse(value).is_ok(),
    };
    match is_good {
        true => Ok(()),
        false => Err("parse error".to_owned()),
    }
}

impl Words {
    /// Whether a flag is set.
    pub(super) fn is(&self, flag: &str) -> bool {
        self.flags
            .get(flag)
            .and_then(|value| parse_bool(value.as_bytes()))
            .unwrap_or(false)
    }

    /// The text of a flag; empty when it is not given.
    pub(super) fn text(&self, flag: &str) -> &str {
        self.flags.get(flag).map_or("", String::as_str)
    }

    /// The number of a flag; zero when it is not given.
    pub(super) fn number(&self, flag: &str) -> i64 {
        self.text(flag).parse().unwrap_or(0)
    }

    /// The duration of a flag; zero turns it off.
    pub(super) fn duration(&self, flag: &str, default: Duration) -> Option<Duration> {
        let given = self
            .flags
            .get(flag)
            .and_then(|value| duration::parse(value).ok());
        Some(given.unwrap_or(default)).filter(|duration| !duration.is_zero())
    }

    /// The output format.
    pub(super) fn output(&self) -> &str {
        match self.text("output") {
            "" => "simple",
            output => output,
        }
    }

    /// The first argument.
    ///
    /// Errors: there is none.
    pub(super) fn key(&self) -> Outcome<&str> {
        let key = self.args.first();
        key.map(String::as_str)
            .ok_or_else(|| Failure::bad_args("key required"))
    }

    /// The second argument, or what standard input holds.
    ///
    /// Errors: both are missing.
    pub(super) fn value(&self) -> Outcome<String> {
        if let Some(value) = self.args.get(1) {
            return Ok(value.clone());
        }
        let mut value = String::new();
        let read = std::io::stdin().lock().read_to_string(&mut value);
        match read {
            Ok(1..) => Ok(value),
            Ok(0) | Err(_) => Err(Failure::bad_args("value required")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Words {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        match parse(&words, &BTreeMap::new()).unwrap() {
            Parsed::Run(words) => words,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_stand_anywhere_before_the_dashes() {
        let words = parsed("-o json set k v --ttl 5 --endpoints=a,b");
        assert_eq!((words.command, words.output()), ("set", "json"));
        assert_eq!((words.number("ttl"), words.text("endpoints")), (5, "a,b"));
        assert_eq!(words.args, ["k", "v"]);
        let words = parsed("exec-watch -r k -- sh -c env");
        assert!(words.is("recursive"));
        assert_eq!(
            (words.dashes_at, &words.args[1..]),
            (Some(1), &["sh", "-c", "env"].map(String::from)[..])
        );
        let words = parsed("set -- k -v");
        assert_eq!(words.args, ["k", "-v"]);
        assert_eq!(parsed("member list").command, "member list");
    }

    #[test]
    fn the_environment_stands_in_for_global_flags() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let environment = BTreeMap::from([
            pair("ETCDCTL_ENDPOINTS", "e"),
            pair("KVCTL_ENDPOINTS", "k"),
            pair("ETCDCTL_TIMEOUT", "7s"),
        ]);
        let words = ["ls".to_owned()];
        let Ok(Parsed::Run(words)) = parse(&words, &environment) else {
            panic!("it is a command");
        };
        assert_eq!(words.text("endpoints"), "k");
        let timeout = words.duration("timeout", Duration::from_secs(2));
        assert_eq!(timeout, Some(Duration::from_secs(7)));
    }
}
