//! The commands and their flags. Texts are etcdctl's.

use std::ffi::OsString;

use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand};

use super::Globals;
use super::auth::{AuthCommand, RoleCommand, UserCommand};
use super::cluster::{
    AlarmCommand, AutopilotCommand, DefragArgs, DowngradeCommand, EndpointArgs, MemberCommand,
    SnapshotCommand,
};
use super::kv::{
    CompactionArgs, DelArgs, ElectArgs, GetArgs, LeaseCommand, Line, LockArgs, PutArgs, TxnArgs,
    WatchArgs, WatchLine,
};
use super::tools::{CheckCommand, MirrorArgs};
use crate::go_text::number;

/// The whole command line.
#[derive(Parser, Debug)]
#[command(
    name = "kvctl",
    about = "A simple command line client for kvd and etcd3.",
    disable_help_subcommand = true,
    disable_version_flag = true,
    infer_subcommands = true
)]
pub(crate) struct CommandLine {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// What to do. Every command of etcdctl is here by name.
#[derive(Subcommand, Clone, Debug)]
#[command(disable_help_subcommand = true)]
pub(crate) enum Command {
    /// Gets the key or a range of keys
    Get(GetArgs),
    /// Puts the given key into the store
    #[command(long_about = PUT_LONG)]
    Put(PutArgs),
    /// Removes the specified key or range of keys [key, range_end)
    Del(DelArgs),
    /// Txn processes all the requests in one transaction
    #[command(long_about = TXN_LONG)]
    Txn(TxnArgs),
    /// Compacts the event history in kvd
    Compaction(CompactionArgs),
    /// Alarm related commands. Use `kvctl alarm --help` to see subcommands
    #[command(subcommand, long_about = "Alarm related commands")]
    Alarm(AlarmCommand),
    /// Endpoint related commands. Use `kvctl endpoint --help` to see subcommands
    #[command(long_about = "Endpoint related commands")]
    Endpoint(EndpointArgs),
    /// Membership related commands. Use `kvctl member --help` to see subcommands
    #[command(subcommand, long_about = "Membership related commands")]
    Member(MemberCommand),
    /// commands for checking properties of the cluster. Use `kvctl check --help` to see subcommands
    #[command(
        subcommand,
        long_about = "commands for checking properties of the cluster"
    )]
    Check(CheckCommand),
    /// Prints the version of kvctl
    Version(Ignored),
    /// Generate completion script
    #[command(long_about = COMPLETION_LONG,
              override_usage = "completion [bash|zsh|fish|powershell]")]
    Completion(Ignored),
    /// Show the global command-line flags
    Options(Ignored),
    /// Help about any command
    #[command(override_usage = "help [command]")]
    Help(Ignored),
    /// Defragments the storage of the etcd members with given endpoints
    Defrag(DefragArgs),
    /// Transfers leadership to another etcd cluster member.
    #[command(
        about = "Transfers leadership to another etcd cluster member.",
        override_usage = "move-leader <transferee-member-id>"
    )]
    MoveLeader(Ignored),
    /// Watches events stream on keys or prefixes
    Watch(WatchArgs),
    /// Lease related commands. Use `kvctl lease --help` to see subcommands
    #[command(subcommand, long_about = "Lease related commands")]
    Lease(LeaseCommand),
    /// Manages etcd node snapshots
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Makes a mirror at the destination etcd cluster
    MakeMirror(Box<MirrorArgs>),
    /// Acquires a named lock
    Lock(LockArgs),
    /// Observes and participates in leader election
    Elect(ElectArgs),
    /// Enable or disable authentication. Use `kvctl auth --help` to see subcommands
    #[command(subcommand, long_about = "Enable or disable authentication")]
    Auth(AuthCommand),
    /// User related commands. Use `kvctl user --help` to see subcommands
    #[command(subcommand, long_about = "User related commands")]
    User(UserCommand),
    /// Role related commands. Use `kvctl role --help` to see subcommands
    #[command(subcommand, long_about = "Role related commands")]
    Role(RoleCommand),
    /// Downgrade related commands. Use `kvctl downgrade --help` to see subcommands
    #[command(subcommand, long_about = "Downgrade related commands")]
    Downgrade(DowngradeCommand),
    /// Autopilot related commands. Use `kvctl autopilot --help` to see subcommands
    #[command(subcommand, long_about = "Autopilot related commands")]
    Autopilot(AutopilotCommand),
}

const PUT_LONG: &str = "\nPuts the given key into the store.\n\n\
    When <value> begins with '-', <value> is interpreted as a flag.\n\
    Insert '--' for workaround:\n\n\
    $ put <key> -- <value>\n$ put -- <key> <value>\n\n\
    If <value> isn't given as a command line argument and '--ignore-value' is not specified,\n\
    this command tries to read the value from standard input.\n\n\
    For example,\n$ cat file | put <key>\nwill store the content of the file to <key>.\n";

const TXN_LONG: &str = "Txn reads multiple requests from standard input and applies them as a \
    single atomic transaction.\n\n\
    A transaction consists of three components, each ended by an empty line:\n\
    1) a list of conditions,\n\
    2) a list of requests to apply if all the conditions are true,\n\
    3) a list of requests to apply if any condition is false.\n\n\
    Example interactive stdin usage:\n\n---\nkvctl txn -i\n# compares:\nmod(\"key1\") > \"0\"\n\n\
    # success requests (get, put, del):\nput key1 \"overwrote-key1\"\n\n\
    # failure requests (get, put, del):\nput key1 \"created-key1\"\n\
    put key2 \"some extra key\"\n---\n\n\
    Conditions: ver, create, mod, val or lease (\"key\"), then =, !=, > or <, then a quoted value.";

const COMPLETION_LONG: &str = "To load completions:\n\n\
    Bash:\n\n  $ source <(kvctl completion bash)\n\n\
    Zsh:\n\n  $ kvctl completion zsh > \"${fpath[1]}/_kvctl\"\n\n\
    fish:\n\n  $ kvctl completion fish | source\n\n\
    PowerShell:\n\n  PS> kvctl completion powershell | Out-String | Invoke-Expression\n";

pub(super) fn decimal(text: &str) -> Result<i64, String> {
    number::parse_int(text, 10)
}

/// A command without flags; words after it are ignored or judged by it.
#[derive(Args, Clone, Debug)]
pub(crate) struct Ignored {
    #[arg(hide = true)]
    pub(crate) words: Vec<OsString>,
}

/// The command line as clap needs it to behave like pflag and cobra.
pub(crate) fn command() -> clap::Command {
    like_cobra(CommandLine::command())
}

/// As [`command`], for a line of a transaction.
pub(super) fn line_command() -> clap::Command {
    like_cobra(Line::command())
}

/// As [`command`], for a line of an interactive watch.
pub(super) fn watch_line_command() -> clap::Command {
    like_cobra(WatchLine::command())
}

/// A flag given twice counts once, the last time; a boolean is bare or has `=value`; a command may
/// be named by any prefix that only it has.
fn like_cobra(command: clap::Command) -> clap::Command {
    command
        .args_override_self(true)
        .infer_subcommands(true)
        .disable_help_subcommand(true)
        .mut_args(|arg| {
            if !matches!(arg.get_action(), ArgAction::SetTrue) {
                return arg;
            }
            let has_default = !arg.get_default_values().is_empty();
            let arg = arg
                .action(ArgAction::Set)
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .value_name("")
                .value_parser(number::parse_bool);
            if has_default {
                arg
            } else {
                arg.default_value("false")
            }
        })
        .mut_subcommands(like_cobra)
}
