//! The command line, read as Go's `flag` package reads it, and what was assigned to each flag.

use std::collections::BTreeMap;

use super::table::{Flag, Kind, Status, find};
use super::value;
use crate::error::{Error, Result};
use crate::notes::Note;

/// Where a flag's value came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// An argument.
    CommandLine,
    /// An environment variable.
    Environment,
    /// The config file.
    File,
}

/// The values that were given, by flag; every one has been checked against its kind.
#[derive(Clone, Debug, Default)]
pub struct Assignments {
    values: BTreeMap<&'static str, (String, Source)>,
    /// Old boolean flags that are gates today, as `Name=value` pairs.
    old_gates: Vec<String>,
    refused: Vec<(&'static str, &'static str)>,
    notes: Vec<Note>,
}

impl Assignments {
    /// Takes a value for `flag`. The error is the complaint alone; the caller says whose it is.
    pub fn set(
        &mut self,
        flag: &'static Flag,
        text: &str,
        source: Source,
    ) -> std::result::Result<(), value::Complaint> {
        value::check(flag.kind, text)?;
        match flag.status {
            Status::Alias(name) => {
                self.notes.push(Note::OldName {
                    old: flag.name,
                    new: name,
                });
                return match find(name) {
                    Some(today) => self.set(today, text, source),
                    None => Err(format!("--{name} does not exist")),
                };
            }
            Status::Gate(gate) => {
                self.notes.push(Note::OldName {
                    old: flag.name,
                    new: "feature-gates",
                });
                let on = value::bool(text).unwrap_or(false);
                self.old_gates.push(format!("{gate}={on}"));
                return Ok(());
            }
            Status::Ignored(reason) => {
                self.notes.push(Note::Ignored {
                    name: flag.name,
                    reason,
                });
            }
            Status::NotYet(sentence) if !value::same(flag.kind, text, flag.default) => {
                self.refused.push((flag.name, sentence));
            }
            Status::NotYet(_) | Status::Works => {}
        }
        let before = self.values.insert(flag.name, (text.to_owned(), source));
        if source == Source::CommandLine && before.is_some() {
            self.notes.push(Note::Twice { name: flag.name });
        }
        Ok(())
    }

    /// Whether anything was given for `name`.
    pub fn is_set(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// Whether the command line gave `name`.
    pub fn is_on_command_line(&self, name: &str) -> bool {
        self.values
            .get(name)
            .is_some_and(|(_, source)| *source == Source::CommandLine)
    }

    /// The text given for `name`.
    pub fn given(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(|(text, _)| text.as_str())
    }

    /// The text given for `name`, else the flag's default.
    pub fn get(&self, name: &str) -> &str {
        match self.values.get(name) {
            Some((text, _)) => text,
            None => find(name).map_or("", |flag| flag.default),
        }
    }

    /// The old boolean flags that became gates, as text for `--feature-gates`.
    pub fn old_gates(&self) -> String {
        self.old_gates.join(",")
    }

    /// Fails when a flag that is not built was set to anything but its default.
    pub fn check_built(&self) -> Result<()> {
        if self.refused.is_empty() {
            return Ok(());
        }
        Err(Error::NotBuilt(self.refused.clone()))
    }

    /// Adds something to be said once logging works.
    pub fn note(&mut self, note: Note) {
        self.notes.push(note);
    }

    /// What is to be said once logging works.
    pub fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Asked {
    /// `-h` or `--help` stood where a flag stands.
    Help,
    /// Anything else.
    Run(Assignments),
}

/// Reads the arguments behind the program's name.
///
/// Errors: see [`Error::exit_code`]; a word that is no flag is an error too.
/// Source: Go's `flag.FlagSet.parseOne`; etcd's `etcdmain/config.go`.
pub fn command_line(arguments: &[String]) -> Result<Asked> {
    if let Some(name) = arguments
        .first()
        .filter(|a| ["gateway", "grpc-proxy"].contains(&a.as_str()))
    {
        return Err(Error::Subcommand { name: name.clone() });
    }
    let mut assignments = Assignments::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let Some(body) = body_of(argument)? else {
            let positional = if argument == "--" {
                rest.next()
            } else {
                Some(argument)
            };
            return match positional {
                Some(word) => Err(Error::Positional {
                    argument: word.clone(),
                }),
                None => Ok(Asked::Run(assignments)),
            };
        };
        let (name, inline) = match body.split_once('=') {
            Some((name, text)) => (name, Some(text)),
            None => (body, None),
        };
        let Some(flag) = find(name) else {
            if ["h", "help"].contains(&name) {
                return Ok(Asked::Help);
            }
            return Err(Error::NotDefined {
                name: name.to_owned(),
            });
        };
        take(&mut assignments, flag, inline, || {
            rest.next().map(String::as_str)
        })?;
    }
    Ok(Asked::Run(assignments))
}

/// The argument without its dashes; `None` where flags end.
fn body_of(argument: &str) -> Result<Option<&str>> {
    let Some(one) = argument.strip_prefix('-') else {
        return Ok(None);
    };
    if one.is_empty() || one == "-" {
        return Ok(None);
    }
    let body = one.strip_prefix('-').unwrap_or(one);
    if body.is_empty() || body.starts_with(['-', '=']) {
        return Err(Error::BadSyntax {
            argument: argument.to_owned(),
        });
    }
    Ok(Some(body))
}

fn take<'a>(
    assignments: &mut Assignments,
    flag: &'static Flag,
    inline: Option<&'a str>,
    next: impl FnOnce() -> Option<&'a str>,
) -> Result<()> {
    let name = flag.name;
    let bare = matches!(flag.kind, Kind::Bool | Kind::Bare);
    let value = match inline {
        Some(text) => text,
        None if bare => "true",
        None => next().ok_or_else(|| Error::NeedsArgument {
            name: name.to_owned(),
        })?,
    };
    assignments
        .set(flag, value, Source::CommandLine)
        .map_err(|complaint| {
            let value = value.to_owned();
            if bare {
                Error::InvalidBoolean {
                    name,
                    value,
                    complaint,
                }
            } else {
                Error::InvalidValue {
                    name,
                    value,
                    complaint,
                }
            }
        })
}
