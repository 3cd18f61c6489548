//! The commands and their flags. Texts are etcdctl's.

use std::ffi::OsString;

use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand};

use super::Globals;
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
    /// Defragments the storage of the members with given endpoints (not in this version)
    Defrag(Later),
    /// Transfers leadership to another cluster member (not in this version)
    MoveLeader(Later),
    /// Watches events stream on keys or prefixes (not in this version)
    Watch(Later),
    /// Lease related commands. Use `kvctl lease --help` to see subcommands
    #[command(subcommand, long_about = "Lease related commands")]
    Lease(LeaseCommand),
    /// Manages node snapshots (not in this version)
    Snapshot(Later),
    /// Makes a mirror at the destination cluster (not in this version)
    MakeMirror(Later),
    /// Acquires a named lock (not in this version)
    Lock(Later),
    /// Observes and participates in leader election (not in this version)
    Elect(Later),
    /// Enable or disable authentication (not in this version)
    Auth(Later),
    /// User related commands (not in this version)
    User(Later),
    /// Role related commands (not in this version)
    Role(Later),
    /// Downgrade related commands (not in this version)
    Downgrade(Later),
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

fn decimal(text: &str) -> Result<i64, String> {
    number::parse_int(text, 10)
}

/// A command without flags; words after it are ignored or judged by it.
#[derive(Args, Clone, Debug)]
pub(crate) struct Ignored {
    #[arg(hide = true)]
    pub(crate) words: Vec<OsString>,
}

/// A command of etcdctl that this version does not have: it takes any words.
#[derive(Args, Clone, Debug)]
pub(crate) struct Later {
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) words: Vec<OsString>,
}

/// Flags of `get`.
#[derive(Args, Clone, Debug)]
#[command(override_usage = "get [options] <key> [range_end]")]
pub(crate) struct GetArgs {
    #[arg(hide = true)]
    pub(crate) keys: Vec<OsString>,
    /// Linearizable(l) or Serializable(s)
    #[arg(long, value_name = "string", default_value = "l")]
    pub(crate) consistency: String,
    /// Order of results; ASCEND or DESCEND (ASCEND by default)
    #[arg(
        long,
        value_name = "string",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) order: String,
    /// Sort target; CREATE, KEY, MODIFY, VALUE, or VERSION
    #[arg(
        long,
        value_name = "string",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) sort_by: String,
    /// Maximum number of results
    #[arg(long, value_name = "int", default_value = "0", value_parser = decimal,
          allow_hyphen_values = true)]
    pub(crate) limit: i64,
    /// Get keys with matching prefix
    #[arg(long)]
    pub(crate) prefix: bool,
    /// Get keys that are greater than or equal to the given key using byte compare
    #[arg(long)]
    pub(crate) from_key: bool,
    /// Specify the kv revision
    #[arg(long, value_name = "int", default_value = "0", value_parser = decimal,
          allow_hyphen_values = true)]
    pub(crate) rev: i64,
    /// Get only the keys
    #[arg(long)]
    pub(crate) keys_only: bool,
    /// Get only the count
    #[arg(long)]
    pub(crate) count_only: bool,
    /// Only write values when using the "simple" output format
    #[arg(long)]
    pub(crate) print_value_only: bool,
    /// Minimum create revision
    #[arg(long, value_name = "int", default_value = "0", value_parser = decimal,
          allow_hyphen_values = true)]
    pub(crate) min_create_rev: i64,
    /// Maximum create revision
    #[arg(long, value_name = "int", default_value = "0", value_parser = decimal,
          allow_hyphen_values = true)]
    pub(crate) max_create_rev: i64,
    /// Minimum modification revision
    #[arg(long, value_name = "int", default_value = "0", value_parser = decimal,
          allow_hyphen_values = true)]
    pub(crate) min_mod_rev: i64,
    /// Maximum modification revision
    #[arg(long, value_name = "int", default_value = "0", value_parser = decimal,
          allow_hyphen_values = true)]
    pub(crate) max_mod_rev: i64,
    /// Use the RangeStream RPC
    #[arg(long)]
    pub(crate) stream: bool,
}

/// Flags of `put`.
#[derive(Args, Clone, Debug)]
#[command(override_usage = "put [options] <key> <value> (<value> can also be given from stdin)")]
pub(crate) struct PutArgs {
    #[arg(hide = true)]
    pub(crate) words: Vec<OsString>,
    /// lease ID (in hexadecimal) to attach to the key
    #[arg(
        long,
        value_name = "string",
        default_value = "0",
        allow_hyphen_values = true
    )]
    pub(crate) lease: String,
    /// return the previous key-value pair before modification
    #[arg(long = "prev-kv")]
    pub(crate) prev_kv: bool,
    /// updates the key using its current value
    #[arg(long)]
    pub(crate) ignore_value: bool,
    /// updates the key using its current lease
    #[arg(long)]
    pub(crate) ignore_lease: bool,
}

/// Flags of `del`.
#[derive(Args, Clone, Debug)]
#[command(override_usage = "del [options] <key> [range_end]")]
pub(crate) struct DelArgs {
    #[arg(hide = true)]
    pub(crate) keys: Vec<OsString>,
    /// delete keys with matching prefix
    #[arg(long)]
    pub(crate) prefix: bool,
    /// return deleted key-value pairs
    #[arg(long = "prev-kv")]
    pub(crate) prev_kv: bool,
    /// delete keys that are greater than or equal to the given key using byte compare
    #[arg(long)]
    pub(crate) from_key: bool,
    /// delete range of keys
    #[arg(long)]
    pub(crate) range: bool,
}

/// Flags of `txn`.
#[derive(Args, Clone, Debug)]
#[command(override_usage = "txn [options]")]
pub(crate) struct TxnArgs {
    #[arg(hide = true)]
    pub(crate) words: Vec<OsString>,
    /// Input transaction in interactive mode
    #[arg(short, long)]
    pub(crate) interactive: bool,
}

/// Flags of `compaction`.
#[derive(Args, Clone, Debug)]
#[command(override_usage = "compaction [options] <revision>")]
pub(crate) struct CompactionArgs {
    #[arg(hide = true)]
    pub(crate) words: Vec<OsString>,
    /// 'true' to wait for compaction to physically remove all old revisions
    #[arg(long)]
    pub(crate) physical: bool,
}

/// The `alarm` commands.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum AlarmCommand {
    /// Lists all alarms
    List(Ignored),
    /// Disarms all alarms
    Disarm(Ignored),
}

/// The `lease` commands.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum LeaseCommand {
    /// Creates leases
    #[command(override_usage = "lease grant <ttl>")]
    Grant(Ignored),
    /// Keeps leases alive (renew)
    #[command(override_usage = "lease keep-alive [options] <leaseID>")]
    KeepAlive(LeaseKeepAliveArgs),
    /// List all active leases
    #[command(override_usage = "lease list")]
    List(Ignored),
    /// Revokes leases
    #[command(override_usage = "lease revoke <leaseID>")]
    Revoke(Ignored),
    /// Get lease information
    #[command(override_usage = "lease timetolive <leaseID> [options]")]
    Timetolive(LeaseTimeToLiveArgs),
}

/// Flags of `lease keep-alive`.
#[derive(Args, Clone, Debug)]
pub(crate) struct LeaseKeepAliveArgs {
    #[arg(hide = true)]
    pub(crate) words: Vec<OsString>,
    /// Resets the keep-alive time to its original value and exits immediately
    #[arg(long)]
    pub(crate) once: bool,
}

/// Flags of `lease timetolive`.
#[derive(Args, Clone, Debug)]
pub(crate) struct LeaseTimeToLiveArgs {
    #[arg(hide = true)]
    pub(crate) words: Vec<OsString>,
    /// Get keys attached to this lease
    #[arg(long)]
    pub(crate) keys: bool,
}

/// The `endpoint` commands and the flag they share.
#[derive(Args, Clone, Debug)]
pub(crate) struct EndpointArgs {
    /// use all endpoints from the cluster member list
    #[arg(long, global = true, action = ArgAction::SetTrue)]
    pub(crate) cluster: bool,
    #[command(subcommand)]
    pub(crate) command: Option<EndpointCommand>,
}

/// The `endpoint` commands.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum EndpointCommand {
    /// Checks the healthiness of endpoints specified in `--endpoints` flag
    Health(Ignored),
    /// Prints out the status of endpoints specified in `--endpoints` flag
    #[command(
        long_about = "When --write-out is set to simple, this command prints out \
        comma-separated status lists for each endpoint.\n\
        The items in the lists are endpoint, ID, version, storage version, db size, in use, \
        percentage not in use, quota, is leader, is learner, raft term, raft index, raft applied \
        index, errors, downgrade target version, downgrade enabled.\n"
    )]
    Status(Ignored),
    /// Prints the KV history hash for each endpoint in --endpoints
    Hashkv(HashKvArgs),
}

/// Flags of `endpoint hashkv`.
#[derive(Args, Clone, Debug)]
pub(crate) struct HashKvArgs {
    #[arg(hide = true)]
    pub(crate) words: Vec<OsString>,
    /// maximum revision to hash (default: latest revision)
    #[arg(long, value_name = "int", default_value = "0", value_parser = decimal,
          allow_hyphen_values = true)]
    pub(crate) rev: i64,
}

/// The `member` commands.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum MemberCommand {
    /// Adds a member into the cluster (not in this version)
    Add(Later),
    /// Lists all members in the cluster
    #[command(
        long_about = "When --write-out is set to simple, this command prints out \
        comma-separated member lists for each endpoint.\n\
        The items in the lists are ID, Status, Name, Peer Addrs, Client Addrs, Is Learner.\n"
    )]
    List(MemberListArgs),
    /// Promotes a non-voting member in the cluster (not in this version)
    Promote(Later),
    /// Removes a member from the cluster (not in this version)
    Remove(Later),
    /// Updates a member in the cluster (not in this version)
    Update(Later),
}

/// Flags of `member list`.
#[derive(Args, Clone, Debug)]
pub(crate) struct MemberListArgs {
    #[arg(hide = true)]
    pub(crate) words: Vec<OsString>,
    /// Linearizable(l) or Serializable(s)
    #[arg(long, value_name = "string", default_value = "l")]
    pub(crate) consistency: String,
}

/// The `check` commands.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum CheckCommand {
    /// Check the performance of the cluster
    Perf(PerfArgs),
    /// Check the memory usage of holding data for different workloads (not in this version)
    Datascale(Later),
}

/// Flags of `check perf`.
#[derive(Args, Clone, Debug)]
#[command(override_usage = "perf [options]")]
pub(crate) struct PerfArgs {
    #[arg(hide = true)]
    pub(crate) words: Vec<OsString>,
    /// How much is asked of the cluster.
    #[arg(
        long,
        value_name = "string",
        default_value = "s",
        help = "The performance check's workload model. Accepted workloads: s(small), m(medium), \
                l(large), xl(xLarge). Different workload models use different configurations in \
                terms of number of clients and expected throughput."
    )]
    pub(crate) load: String,
    /// The prefix for writing the performance check's keys.
    #[arg(
        long,
        value_name = "string",
        default_value = "/etcdctl-check-perf/",
        help = "The prefix for writing the performance check's keys."
    )]
    pub(crate) prefix: String,
    /// Compact storage with last revision after test is finished.
    #[arg(
        long,
        help = "Compact storage with last revision after test is finished."
    )]
    pub(crate) auto_compact: bool,
    /// Defragment storage after test is finished.
    #[arg(long, help = "Defragment storage after test is finished.")]
    pub(crate) auto_defrag: bool,
}

/// One line of a transaction's request lists: a put, get or del with its own flags.
#[derive(Parser, Debug)]
#[command(
    no_binary_name = true,
    disable_help_subcommand = true,
    infer_subcommands = true
)]
pub(crate) struct Line {
    #[command(subcommand)]
    pub(crate) op: LineOp,
}

/// What a line of a transaction asks for.
#[derive(Subcommand, Debug)]
pub(crate) enum LineOp {
    /// A put.
    Put(PutArgs),
    /// A get.
    Get(GetArgs),
    /// A delete.
    Del(DelArgs),
}

/// The command line as clap needs it to behave like pflag and cobra.
pub(crate) fn command() -> clap::Command {
    like_cobra(CommandLine::command())
}

/// As [`command`], for a line of a transaction.
pub(super) fn line_command() -> clap::Command {
    like_cobra(Line::command())
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
