//! Flags from the environment: `KVCTL_<FLAG>`, else `ETCDCTL_<FLAG>`, for every global flag.
//!
//! A flag that is also on the command line is an error, as in etcdctl: which one is meant would be
//! a guess. Differs from etcd: a value that cannot be read is an error, where etcdctl goes on with
//! the default; and `ETCDCTL_API`, which every old script sets, is passed over without a warning.
//!
//! Source: etcd `pkg/flags/flag.go`.

use std::collections::BTreeMap;
use std::ffi::OsString;

use clap::ArgMatches;
use clap::parser::ValueSource;

use super::parse::{message, read};
use crate::failure::Failure;

const PREFIXES: [&str; 2] = ["KVCTL_", "ETCDCTL_"];

/// Variables of `watch` alone, without their prefix.
const WATCH_KEY: &str = "WATCH_KEY";
const WATCH_RANGE_END: &str = "WATCH_RANGE_END";

/// The variables that may concern us.
#[derive(Debug, Default)]
pub(crate) struct Environment {
    variables: BTreeMap<String, OsString>,
}

impl Environment {
    /// This process's variables that begin with one of our prefixes.
    pub(crate) fn new(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let ours = variables.into_iter().filter_map(|(name, value)| {
            let name = name.into_string().ok()?;
            PREFIXES
                .iter()
                .any(|prefix| name.starts_with(prefix))
                .then_some((name, value))
        });
        Environment {
            variables: ours.collect(),
        }
    }

    /// What `watch` watches when it is given no key.
    pub(super) fn watch_key(&self) -> Option<OsString> {
        self.first(WATCH_KEY)
    }

    /// The end of the range that starts at [`Environment::watch_key`].
    pub(super) fn watch_range_end(&self) -> Option<OsString> {
        self.first(WATCH_RANGE_END)
    }

    fn first(&self, name: &str) -> Option<OsString> {
        let values = PREFIXES
            .iter()
            .map(|prefix| self.variables.get(&format!("{prefix}{name}")));
        values.flatten().find(|value| !value.is_empty()).cloned()
    }

    /// The flags that the environment adds to a command line, as `--flag=value`.
    pub(super) fn flags(
        &self,
        root: &clap::Command,
        matches: &ArgMatches,
        is_watch: bool,
        warn: &mut dyn FnMut(String),
    ) -> Result<Vec<OsString>, Failure> {
        let mut known = vec!["ETCDCTL_API".to_owned(), "KVCTL_API".to_owned()];
        if is_watch {
            let own = [WATCH_KEY, WATCH_RANGE_END];
            known.extend(
                own.iter()
                    .flat_map(|name| PREFIXES.map(|prefix| format!("{prefix}{name}"))),
            );
        }
        let mut flags = Vec::new();
        for arg in root.get_arguments().filter(|arg| arg.is_global_set()) {
            let Some(name) = arg.get_long() else { continue };
            let variables = PREFIXES.map(|prefix| variable(prefix, name));
            let on_command_line = is_set(matches, arg.get_id().as_str());
            let mut found = variables
                .iter()
                .filter_map(|variable| self.variables.get_key_value(variable))
                .filter(|(_, value)| !value.is_empty());
            let first = found.next();
            known.extend(variables.iter().cloned());
            let Some((variable, value)) = first else {
                continue;
            };
            if on_command_line {
                return Err(Failure::error(format!(
                    "conflicting environment variable is shadowed by corresponding command-line \
                     flag (either unset environment variable or disable flag)): {variable}"
                )));
            }
            let mut flag = OsString::from(format!("--{name}="));
            flag.push(value);
            if let Err(err) = read(root, std::slice::from_ref(&flag)) {
                let why = message(&err).unwrap_or_default();
                let why = why
                    .split_once(" flag: ")
                    .map_or(why.as_str(), |(_, why)| why);
                return Err(Failure::error(format!(
                    "invalid value {:?} for {variable}: {why}",
                    value.to_string_lossy()
                )));
            }
            flags.push(flag);
        }
        for name in self.variables.keys().filter(|name| !known.contains(name)) {
            warn(format!("Warning: unrecognized environment variable {name}"));
        }
        Ok(flags)
    }
}

/// `write-out` → `KVCTL_WRITE_OUT`.
pub(crate) fn variable(prefix: &str, flag: &str) -> String {
    format!("{prefix}{}", flag.to_uppercase().replace('-', "_"))
}

/// Whether a flag was given on the command line, before or after the command's name.
pub(super) fn is_set(matches: &ArgMatches, id: &str) -> bool {
    let here = matches.try_contains_id(id).is_ok()
        && matches.value_source(id) == Some(ValueSource::CommandLine);
    here || matches
        .subcommand()
        .is_some_and(|(_, below)| is_set(below, id))
}
