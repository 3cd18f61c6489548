//! The command line. Names and defaults are etcdutl's.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

const DEFAULT_URL: &str = "http://localhost:2380";

/// An administrative command line tool for kvd's data and etcd's snapshots.
#[derive(Debug, Parser)]
#[command(
    name = "kvutl",
    infer_subcommands = true,
    disable_version_flag = true,
    // As in etcdutl, the last one of a flag counts.
    args_override_self = true
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Set the output format
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Simple)]
    pub(crate) write_out: Format,
    /// Time to wait for the lock of a data directory, 0 to wait for ever
    #[arg(long, global = true, default_value = "10s", value_parser = humantime::parse_duration)]
    pub(crate) timeout: Duration,
}

/// How an answer is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Fields,
    Json,
    Protobuf,
    Simple,
    Table,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Manages snapshot files
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Prints the KV history hash of a snapshot file or a data directory
    Hashkv {
        /// The file, or the data directory of a stopped member
        filename: PathBuf,
        /// Maximum revision to hash (default: latest revision)
        #[arg(long, default_value_t = 0)]
        rev: i64,
    },
    /// Gives the disk space of a stopped member's store back that is not in use
    Defrag {
        /// The data directory, not in use by kvd
        #[arg(long)]
        data_dir: PathBuf,
    },
    /// Says whether a stopped member's data directory is whole, and what is wrong with it
    Check(Place),
    /// Shows what lies on the disk of a stopped member
    #[command(subcommand)]
    Dump(DumpCommand),
    /// Generates a completion script
    Completion { shell: Shell },
    /// Prints the version of kvutl
    Version,
}

/// The data of a member.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// The data directory
    pub(crate) data_dir: PathBuf,
    /// Path to the WAL directory, if it lies apart
    #[arg(long)]
    pub(crate) wal_dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DumpCommand {
    /// Each record of the write-ahead log, with its file and offset
    Wal(Place),
    /// Each record of the store, by revision, and the small tables
    Store {
        /// The data directory
        data_dir: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// Gets the status of a given snapshot file: hash, revision, total keys, total size, version
    Status { filename: Vec<PathBuf> },
    /// Restores a snapshot of etcd or kvd to a kvd data directory
    Restore(Restore),
    /// Saves a snapshot of a stopped member's data directory; kvctl does it of one that runs
    Save(Save),
}

#[derive(Debug, Args)]
pub(crate) struct Save {
    /// The file to write
    pub(crate) filename: PathBuf,
    /// The data directory, not in use by kvd
    #[arg(long)]
    pub(crate) data_dir: PathBuf,
    /// Path to the WAL directory, if it lies apart
    #[arg(long)]
    pub(crate) wal_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Restore {
    pub(crate) filename: Vec<PathBuf>,
    /// Path to the output data directory
    #[arg(long)]
    pub(crate) data_dir: Option<PathBuf>,
    /// Path to the WAL directory (use --data-dir if none given)
    #[arg(long)]
    pub(crate) wal_dir: Option<PathBuf>,
    /// Initial cluster configuration for restore bootstrap
    #[arg(long, default_value_t = format!("default={DEFAULT_URL}"))]
    pub(crate) initial_cluster: String,
    /// Initial cluster token for the cluster during restore bootstrap
    #[arg(long, default_value = "etcd-cluster")]
    pub(crate) initial_cluster_token: String,
    /// List of this member's peer URLs to advertise to the rest of the cluster
    #[arg(long, default_value = DEFAULT_URL)]
    pub(crate) initial_advertise_peer_urls: String,
    /// Human-readable name for this member
    #[arg(long, default_value = "default")]
    pub(crate) name: String,
    /// Ignore snapshot integrity hash value (required if copied from a data directory of etcd)
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true)]
    #[arg(
        default_value = "false",
        default_missing_value = "true",
        hide_default_value = true
    )]
    #[arg(value_name = "BOOL", value_parser = boolean)]
    pub(crate) skip_hash_check: bool,
    /// Accepted for etcdutl's sake: nothing is mapped into memory
    #[arg(long, default_value_t = 0)]
    pub(crate) initial_memory_map_size: u64,
    /// How much to increase the latest revision after restore
    #[arg(long, default_value_t = 0)]
    pub(crate) bump_revision: u64,
    /// Mark the latest revision after restore as the point of scheduled compaction (required if
    /// --bump-revision > 0, disallowed otherwise)
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true)]
    #[arg(
        default_value = "false",
        default_missing_value = "true",
        hide_default_value = true
    )]
    #[arg(value_name = "BOOL", value_parser = boolean)]
    pub(crate) mark_compacted: bool,
    /// The store's engine: redb or sled. A member keeps the one it was made with
    #[arg(long, default_value = "redb")]
    pub(crate) storage_engine: kvd_mvcc::EngineKind,
}

/// A boolean as Go reads it: flags may be bare or have `=true`, as in scripts for etcdutl.
fn boolean(text: &str) -> Result<bool, String> {
    let complaint = || format!("strconv.ParseBool: parsing {text:?}: invalid syntax");
    kvd_api::go::parse_bool(text.as_bytes()).ok_or_else(complaint)
}
