//! Usage texts in cobra's layout, from the same definitions that parse the command line.

use std::ffi::OsString;

use clap::{Arg, Command};

use crate::go_text::quote::quote;

const OPTIONS_HINT: &str =
    "Use \"kvctl options\" for a list of global command-line options (applies to all commands).\n";

/// Names of commands are padded to this width at least.
const NAMES_WIDTH: usize = 11;

/// The commands of the top level under etcdctl's headings.
const GROUPS: [(&str, &[&str]); 5] = [
    (
        "Key-value commands",
        &["compaction", "del", "get", "lease", "put", "txn", "watch"],
    ),
    (
        "Cluster maintenance commands",
        &[
            "alarm",
            "autopilot",
            "defrag",
            "downgrade",
            "endpoint",
            "member",
            "move-leader",
            "snapshot",
        ],
    ),
    ("Concurrency commands", &["elect", "lock"]),
    ("Authentication commands", &["auth", "role", "user"]),
    (
        "Utility commands",
        &[
            "check",
            "completion",
            "help",
            "make-mirror",
            "options",
            "version",
        ],
    ),
];

/// The command that the words name, with its parents, as far as they name one.
pub(super) fn path<'c>(root: &'c Command, words: &[OsString]) -> Vec<&'c Command> {
    hoist(root, words).0
}

/// The command that the words name, with its parents; and the words with the names of commands
/// first. cobra takes a command's flags before its name as well: `--consistency s get a`. A flag
/// that is not known yet is thought to take the next word.
pub(super) fn hoist<'c>(
    root: &'c Command,
    words: &[OsString],
) -> (Vec<&'c Command>, Vec<OsString>) {
    let mut path = vec![root];
    let mut names = Vec::new();
    let mut rest = words.to_vec();
    while let Some(at) = first_plain(&path, &rest) {
        let name = rest[at].to_str().unwrap_or_default();
        match find(path[path.len() - 1], name) {
            Some(command) => path.push(command),
            None => break,
        }
        names.push(rest.remove(at));
    }
    names.extend(rest);
    (path, names)
}

/// Where the first word stands that is no flag and no flag's value.
fn first_plain(path: &[&Command], words: &[OsString]) -> Option<usize> {
    let mut at = 0;
    while let Some(word) = words.get(at) {
        let word = word.to_string_lossy();
        match &word[..] {
            "--" => return None,
            "-" => return Some(at),
            _ if !word.starts_with('-') => return Some(at),
            _ if takes_next_word(path, &word) => at += 2,
            _ => at += 1,
        }
    }
    None
}

/// The subcommand with this name, or the only one that begins with it.
fn find<'c>(command: &'c Command, word: &str) -> Option<&'c Command> {
    if let Some(exact) = command.get_subcommands().find(|one| one.get_name() == word) {
        return Some(exact);
    }
    let mut like = command
        .get_subcommands()
        .filter(|one| one.get_name().starts_with(word));
    let first = like.next()?;
    like.next().is_none().then_some(first)
}

fn takes_next_word(path: &[&Command], word: &str) -> bool {
    let is_alone = match word.strip_prefix("--") {
        Some(name) => !name.contains('='),
        None => word.chars().count() == 2,
    };
    let mut args = path.iter().flat_map(|command| command.get_arguments());
    let known = args.find(|arg| {
        let long = arg.get_long().map(|long| format!("--{long}"));
        let short = arg.get_short().map(|short| format!("-{short}"));
        long.as_deref() == Some(word) || short.as_deref() == Some(word)
    });
    let is_help = matches!(word, "--help" | "-h");
    is_alone && !is_help && known.is_none_or(|arg| !type_name(arg).is_empty())
}

/// `kvctl member list`.
pub(super) fn names(path: &[&Command]) -> String {
    let names: Vec<&str> = path.iter().map(|command| command.get_name()).collect();
    names.join(" ")
}

/// What `--help` prints.
pub(super) fn of(path: &[&Command]) -> String {
    let command = path[path.len() - 1];
    let about = command.get_long_about().or(command.get_about());
    let about = about.map(ToString::to_string).unwrap_or_default();
    format!("{}\n\n{}{OPTIONS_HINT}", about.trim_end(), usage(path))
}

/// What follows an error.
pub(super) fn usage(path: &[&Command]) -> String {
    let command = path[path.len() - 1];
    let mut text = format!("Usage:\n  {}\n", use_line(path));
    let is_root = path.len() == 1;
    if is_root {
        for (title, names) in GROUPS {
            text.push_str(&format!("\n{title}\n"));
            for name in names {
                text.push_str(&listed(find(command, name), NAMES_WIDTH));
            }
        }
    } else if command.has_subcommands() {
        text.push_str("\nAvailable Commands:\n");
        let mut below: Vec<&Command> = command.get_subcommands().collect();
        below.sort_by_key(|one| one.get_name());
        let longest = below.iter().map(|one| one.get_name().len()).max();
        let width = longest.unwrap_or(0).max(NAMES_WIDTH);
        for one in below {
            text.push_str(&listed(Some(one), width));
        }
    }
    if !is_root {
        let help = format!("help for {}", command.get_name());
        let own = command
            .get_arguments()
            .filter(|arg| arg.get_id() != "help" && !arg.is_hide_set());
        let mut flags: Vec<Flag> = own.map(Flag::of).collect();
        flags.push(Flag {
            short: Some('h'),
            long: "help".into(),
            kind: "",
            usage: help,
        });
        text.push_str(&format!("\nFlags:\n{}", block(flags)));
        let parents = path[..path.len() - 1]
            .iter()
            .flat_map(|parent| parent.get_arguments());
        let inherited: Vec<Flag> = parents
            .filter(|arg| arg.is_global_set() && !arg.is_hide_set())
            .map(Flag::of)
            .collect();
        if !inherited.is_empty() {
            text.push_str(&format!("\nGlobal Flags:\n{}", block(inherited)));
        }
    }
    if command.has_subcommands() {
        let names = names(path);
        text.push_str(&format!(
            "\nUse \"{names} [command] --help\" for more information about a command.\n"
        ));
    }
    text
}

/// What follows an error of a command that judges its own words.
pub(crate) fn usage_of(name: &str) -> String {
    let root = super::command();
    let path = path(&root, &[OsString::from(name)]);
    format!("{}\n", usage(&path))
}

/// Commands that a mistyped one may have meant.
pub(super) fn similar(command: &Command, word: &str) -> String {
    let near = |name: &str| name.starts_with(word) || distance(name, word) <= 2;
    let names: Vec<String> = command
        .get_subcommands()
        .filter(|one| near(one.get_name()))
        .map(|one| format!("\t{}\n", one.get_name()))
        .collect();
    if names.is_empty() {
        return String::new();
    }
    format!("\nDid you mean this?\n{}\n", names.concat())
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

/// What `kvctl options` prints.
pub(crate) fn options() -> String {
    let root = super::command();
    let globals = root
        .get_arguments()
        .filter(|arg| arg.is_global_set())
        .map(Flag::of)
        .collect();
    format!(
        "The following options can be passed to any command:\n\n{}",
        block(globals)
    )
}

fn listed(command: Option<&Command>, width: usize) -> String {
    let Some(command) = command else {
        return String::new();
    };
    let about = command
        .get_about()
        .map(ToString::to_string)
        .unwrap_or_default();
    format!("  {:width$} {about}\n", command.get_name())
}

fn use_line(path: &[&Command]) -> String {
    let command = path[path.len() - 1];
    if command.has_subcommands() {
        return format!("{} [command]", names(path));
    }
    let own = command.clone().render_usage().to_string();
    let own = own.strip_prefix("Usage: ").unwrap_or(&own).to_owned();
    // Without a text of our own, clap writes one; the name alone says as much.
    let own = if own.starts_with(command.get_name()) && has_own_usage(command) {
        own
    } else {
        command.get_name().to_owned()
    };
    let line = format!("{} {own}", names(&path[..path.len() - 1]));
    if command.get_name() == "completion" {
        line
    } else {
        format!("{line} [flags]")
    }
}

fn has_own_usage(command: &Command) -> bool {
    let rendered = command.clone().render_usage().to_string();
    !rendered.contains("[OPTIONS]") && !rendered.contains("[WORDS]")
}

struct Flag {
    short: Option<char>,
    long: String,
    kind: &'static str,
    usage: String,
}

impl Flag {
    fn of(arg: &Arg) -> Flag {
        let mut usage = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let kind = type_name(arg);
        let default = arg
            .get_default_values()
            .first()
            .and_then(|value| value.to_str());
        match (kind, default.unwrap_or_default()) {
            (_, "" | "false") | ("int", "0") => {}
            ("string", text) => usage.push_str(&format!(" (default {})", quote(text.as_bytes()))),
            ("strings", text) => usage.push_str(&format!(" (default [{text}])")),
            (_, text) => usage.push_str(&format!(" (default {text})")),
        }
        let long = arg.get_long().unwrap_or_default().to_owned();
        Flag {
            short: arg.get_short(),
            long,
            kind,
            usage,
        }
    }
}

/// The type of a flag's value as pflag names it; empty for a boolean.
fn type_name(arg: &Arg) -> &'static str {
    let name = arg
        .get_value_names()
        .and_then(|names| names.first())
        .map(|name| name.as_str());
    match name {
        Some("int") => "int",
        Some("uint") => "uint",
        Some("duration") => "duration",
        Some("strings") => "strings",
        Some("string") => "string",
        _ => "",
    }
}

/// Flags in order of name, their texts in one column.
fn block(mut flags: Vec<Flag>) -> String {
    flags.sort_by(|a, b| a.long.cmp(&b.long));
    let heads: Vec<String> = flags
        .iter()
        .map(|flag| {
            let short = flag
                .short
                .map_or("    ".to_owned(), |short| format!("-{short}, "));
            let kind = if flag.kind.is_empty() {
                String::new()
            } else {
                format!(" {}", flag.kind)
            };
            format!("  {short}--{}{kind}", flag.long)
        })
        .collect();
    let width = heads.iter().map(String::len).max().unwrap_or(0);
    let lines = heads
        .iter()
        .zip(&flags)
        .map(|(head, flag)| format!("{head:width$}   {}\n", flag.usage));
    lines.collect()
}
