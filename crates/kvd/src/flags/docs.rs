//! `docs/flags.md`, made from the table.

use super::table::{Flag, Group, Kind, Status, all};

/// The whole page.
pub fn markdown() -> String {
    let mut text = String::from(
        "# Flags\n\n\
         Made from the flag table in `crates/kvd/src/flags`; a test keeps it current. After a \
         change of the table, run\n`KVD_BLESS=1 cargo test -p kvd --test golden`.\n\n\
         Flags are written as Go programs have them: `-name value`, `--name=value`; booleans bare \
         or `--name=false`. Each flag can\nbe set by an environment variable as well: `ETCD_` or \
         `KVD_` and the name in capitals with underscores, such as\n`KVD_DATA_DIR`. `KVD_` wins \
         over `ETCD_`. A flag given together with its variable is an error. A config file\n\
         (`--config-file`, etcd's keys) replaces flags and variables.\n\n\
         A flag that is *not built yet* is refused with a sentence that says so, unless it is set \
         to its default. One with\n*no effect* is accepted with a warning.\n",
    );
    for group in Group::SHOWN.into_iter().chain([Group::Legacy]) {
        text.push_str(&format!(
            "\n## {}\n\n| Flag | Value | Default | What it does |\n|---|---|---|---|\n",
            group.title()
        ));
        for flag in all().filter(|flag| flag.group == group) {
            text.push_str(&row(flag));
        }
    }
    text
}

fn row(flag: &Flag) -> String {
    let status = match flag.status {
        Status::Works => String::new(),
        Status::NotYet(_) => " *Not built yet.*".into(),
        Status::Ignored(reason) => format!(" *No effect:* {reason}."),
        Status::Alias(name) => format!(" Means `{name}`."),
        Status::Gate(name) => format!(" Means `feature-gates` with `{name}`."),
    };
    let default = match flag.default {
        "" => "none".to_owned(),
        text => format!("`{text}`"),
    };
    format!(
        "| `{}` | {} | {default} | {}{status} |\n",
        flag.name,
        value(flag.kind),
        flag.help
    )
}

fn value(kind: Kind) -> String {
    match kind {
        Kind::Bool | Kind::Bare => "boolean".into(),
        Kind::Text => "text".into(),
        Kind::Int => "number".into(),
        Kind::Uint | Kind::Uint32 => "number ≥ 0".into(),
        Kind::Duration => "duration".into(),
        Kind::Urls => "URLs by commas".into(),
        Kind::List => "texts by commas".into(),
        Kind::Origins => "`*` or URLs by commas".into(),
        Kind::Choice(words) => words.join(", "),
        Kind::Gates => "`Name=true,…`".into(),
    }
}
