//! `--help`, in etcd's layout.

use super::table::{Flag, Group, Kind, Status, all};

/// What is printed to standard error when the command line cannot be read.
pub const USAGE: &str = "\
Usage:

  kvd [flags]
    Start a kvd server.

  kvd --version
    Show the version of kvd and of the etcd API that it speaks.

  kvd -h | --help
    Show the help information about kvd.

  kvd --config-file
    Path to the server configuration file. Note that if a configuration file is provided, other \
command line flags and environment variables will be ignored.
";

/// The text of `--help`.
pub fn help() -> String {
    let mut text = String::from(USAGE);
    text.push_str("\nEach flag can also be set by an environment variable, ETCD_ or KVD_ ");
    text.push_str("(which wins) followed by its name\nin capitals: KVD_DATA_DIR. Flags that are ");
    text.push_str("marked (not built yet) are refused.\n");
    for group in Group::SHOWN {
        text.push_str(&format!("\n{}:\n", group.title()));
        for flag in all().filter(|flag| flag.group == group) {
            entry(&mut text, flag);
        }
    }
    text.push_str("\nCAUTIOUS with unsafe flag! It may break the guarantees given by the ");
    text.push_str("consensus protocol!\n");
    text
}

fn entry(text: &mut String, flag: &Flag) {
    let mark = match flag.status {
        Status::NotYet(_) => " (not built yet)",
        Status::Ignored(_) => " (no effect)",
        _ => "",
    };
    let default = if flag.name == "data-dir" {
        "${name}.etcd"
    } else {
        flag.default
    };
    text.push_str(&format!(
        "  --{} '{default}'{mark}\n    {}\n",
        flag.name, flag.help
    ));
    match flag.kind {
        Kind::Gates => {
            for line in crate::gates::known() {
                text.push_str(&format!("      {line}\n"));
            }
        }
        Kind::Choice(words) => {
            text.push_str(&format!("    One of: {}.\n", words.join(", ")));
        }
        _ => {}
    }
}
