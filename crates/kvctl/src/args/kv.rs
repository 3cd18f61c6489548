//! Flags of the commands about keys, watches and leases. Texts are etcdctl's.

use std::ffi::OsString;

use clap::{Args, Parser, Subcommand};

use super::tree::{Ignored, decimal};

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

/// Flags of `watch`.
#[derive(Args, Clone, Debug)]
#[command(
    override_usage = "watch [options] [key or prefix] [range_end] [--] [exec-command arg1 \
                            arg2 ...]"
)]
pub(crate) struct WatchArgs {
    #[arg(hide = true)]
    pub(crate) keys: Vec<OsString>,
    #[arg(hide = true, last = true)]
    pub(crate) command: Vec<OsString>,
    /// Interactive mode
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Watch on a prefix if prefix is set
    #[arg(long)]
    pub(crate) prefix: bool,
    /// Revision to start watching
    #[arg(long, value_name = "int", default_value = "0", value_parser = decimal,
          allow_hyphen_values = true)]
    pub(crate) rev: i64,
    /// get the previous key-value pair before the event happens
    #[arg(long = "prev-kv")]
    pub(crate) prev_kv: bool,
    /// get periodic watch progress notification from server
    #[arg(long)]
    pub(crate) progress_notify: bool,
    /// Whether there was a `--`.
    #[arg(skip)]
    pub(crate) is_separated: bool,
    /// `ETCDCTL_WATCH_KEY`, in place of the key.
    #[arg(skip)]
    pub(crate) env_key: Option<OsString>,
    /// `ETCDCTL_WATCH_RANGE_END`.
    #[arg(skip)]
    pub(crate) env_range_end: Option<OsString>,
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

/// One line of an interactive watch.
#[derive(Parser, Debug)]
#[command(no_binary_name = true)]
pub(crate) struct WatchLine {
    #[command(flatten)]
    pub(crate) watch: WatchArgs,
}

/// The `lease` commands.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum LeaseCommand {
    /// Creates leases
    #[command(override_usage = "grant <ttl>")]
    Grant(Ignored),
    /// Keeps leases alive (renew)
    #[command(override_usage = "keep-alive [options] <leaseID>")]
    KeepAlive(LeaseKeepAliveArgs),
    /// List all active leases
    #[command(override_usage = "list")]
    List(Ignored),
    /// Revokes leases
    #[command(override_usage = "revoke <leaseID>")]
    Revoke(Ignored),
    /// Get lease information
    #[command(override_usage = "timetolive <leaseID> [options]")]
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

/// Flags of `lock`.
#[derive(Args, Clone, Debug)]
#[command(override_usage = "lock <lockname> [exec-command arg1 arg2 ...]")]
pub(crate) struct LockArgs {
    #[arg(hide = true)]
    pub(crate) words: Vec<OsString>,
    /// timeout for session
    #[arg(long, value_name = "int", default_value = "10", value_parser = decimal,
          allow_hyphen_values = true)]
    pub(crate) ttl: i64,
}

/// Flags of `elect`.
#[derive(Args, Clone, Debug)]
#[command(override_usage = "elect <election-name> [proposal]")]
pub(crate) struct ElectArgs {
    #[arg(hide = true)]
    pub(crate) words: Vec<OsString>,
    /// observation mode
    #[arg(short, long)]
    pub(crate) listen: bool,
}
