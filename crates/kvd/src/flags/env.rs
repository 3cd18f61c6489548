//! Environment variables: `ETCD_DATA_DIR` as etcd has it, and `KVD_DATA_DIR`, which wins.

use std::collections::BTreeMap;

use super::parse::{Assignments, Source};
use super::table;
use crate::error::{Error, Result};
use crate::notes::Note;

/// In order of their power.
const PREFIXES: [&str; 2] = ["ETCD", "KVD"];

/// Variables that tools around etcd set and that mean nothing here.
const SILENT: [&str; 1] = ["ETCD_UNSUPPORTED_ARCH"];

/// The environment as the program sees it. A map, so that what is logged has an order.
pub type Environment = BTreeMap<String, String>;

/// The config file that the environment names.
pub fn config_file(environment: &Environment) -> Option<&str> {
    let named = |prefix: &&str| environment.get(&format!("{prefix}_CONFIG_FILE"));
    let found = PREFIXES.iter().rev().find_map(named).map(String::as_str);
    found.filter(|path| !path.is_empty())
}

/// Gives the flags that the command line left open their values from the environment.
///
/// Empty values count as not set. A flag that the command line gave as well is an error.
/// Source: etcd `pkg/flags/flag.go`, `SetFlagsFromEnv`.
pub fn apply(assignments: &mut Assignments, environment: &Environment) -> Result<()> {
    let mut known = Vec::new();
    for prefix in PREFIXES {
        for flag in table::all() {
            let variable = flag.variable(prefix);
            let Some(value) = environment.get(&variable) else {
                continue;
            };
            let today = match flag.status {
                table::Status::Alias(name) => name,
                _ => flag.name,
            };
            if assignments.is_on_command_line(today) {
                return Err(Error::Shadowed { variable });
            }
            known.push(variable.clone());
            if value.is_empty() {
                continue;
            }
            if flag.name == "version" {
                assignments.note(Note::VersionVariable { variable });
                continue;
            }
            if let Err(complaint) = assignments.set(flag, value, Source::Environment) {
                return Err(Error::InvalidVariable {
                    variable,
                    value: value.clone(),
                    complaint,
                });
            }
            let value = if flag.name.contains("password") {
                "…"
            } else {
                value
            }
            .to_owned();
            assignments.note(Note::Variable { variable, value });
        }
    }
    for variable in environment.keys() {
        let ours = PREFIXES.iter().any(|prefix| {
            variable
                .strip_prefix(prefix)
                .is_some_and(|rest| rest.starts_with('_'))
        });
        if ours && !known.contains(variable) && !SILENT.contains(&variable.as_str()) {
            assignments.note(Note::UnknownVariable {
                variable: variable.clone(),
            });
        }
    }
    Ok(())
}
