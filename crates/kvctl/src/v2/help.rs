//! Help of API 2, laid out as etcdctl's.

use kvd_api::ETCD_VERSION;

use super::table::{COMMANDS, Command, Flag, GLOBALS, Kind, MEMBER_COMMANDS, MEMBER_HELP};

/// Help for all of it.
pub(super) fn root() -> String {
    let mut rows: Vec<(String, &str)> = COMMANDS
        .iter()
        .map(|command| (command.name.to_owned(), command.help))
        .collect();
    rows.push(("member".to_owned(), MEMBER_HELP));
    rows.push((
        "help, h".to_owned(),
        "Shows a list of commands or help for one command",
    ));
    let mut options = flags(GLOBALS);
    options.push(("--help, -h".to_owned(), "show help".to_owned()));
    options.push(("--version, -v".to_owned(), "print the version".to_owned()));
    format!(
        "NAME:\n   kvctl - A simple command line client for kvd and etcd.\n\nUSAGE:\n   kvctl \
         [global options] command [command options] [arguments...]\n\nVERSION:\n   \
         {ETCD_VERSION}\n\nCOMMANDS:\n{}\nGLOBAL OPTIONS:\n{}",
        table(rows),
        table(options)
    )
}

/// Help for `member`.
pub(super) fn member() -> String {
    let rows = MEMBER_COMMANDS
        .iter()
        .map(|command| (command.name.replace("member ", ""), command.help));
    format!(
        "NAME:\n   kvctl member - {MEMBER_HELP}\n\nUSAGE:\n   kvctl member command [command \
         options] [arguments...]\n\nCOMMANDS:\n{}\nOPTIONS:\n   --help, -h  show help\n   \n",
        table(rows)
    )
}

/// Help for one command.
pub(super) fn command(command: &Command) -> String {
    let (name, help, args) = (command.name, command.help, command.args);
    let options = match command.flags {
        [] => "",
        _ => "[command options] ",
    };
    let mut text =
        format!("NAME:\n   kvctl {name} - {help}\n\nUSAGE:\n   kvctl {name} {options}{args}\n");
    if !command.description.is_empty() {
        text.push_str(&format!("\nDESCRIPTION:\n   {}\n", command.description));
    }
    if !command.flags.is_empty() {
        text.push_str(&format!("\nOPTIONS:\n{}   \n", table(flags(command.flags))));
    }
    text
}

fn flags(flags: &[Flag]) -> Vec<(String, String)> {
    let row = |flag: &Flag| {
        let dashes = if flag.name.len() == 1 { "-" } else { "--" };
        let mut name = format!("{dashes}{}", flag.name);
        // A word in backquotes names what the flag takes.
        let mut parts = flag.help.splitn(3, '`');
        let taken = match (parts.next(), parts.next()) {
            (Some(_), Some(quoted)) => quoted,
            _ => "value",
        };
        let takes = match flag.kind {
            Kind::Bool => String::new(),
            _ => format!(" {taken}"),
        };
        name.push_str(&takes);
        if !flag.short.is_empty() {
            name.push_str(&format!(", -{}{takes}", flag.short));
        }
        let default = match flag.default {
            "" => String::new(),
            default => format!(" (default: {default})"),
        };
        let help = flag.help.replace('`', "");
        (name, format!("{help}{default}"))
    };
    flags.iter().map(row).collect()
}

fn table<T: AsRef<str>>(rows: impl IntoIterator<Item = (String, T)>) -> String {
    let rows: Vec<_> = rows.into_iter().collect();
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.iter()
        .map(|(name, help)| format!("   {name:width$}  {}\n", help.as_ref()))
        .collect()
}
