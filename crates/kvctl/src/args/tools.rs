//! Flags of the checks and of make-mirror. Texts are etcdctl's.

use std::ffi::OsString;

use clap::{Args, Subcommand};

use super::tree::decimal;
use crate::go_text::number;

/// The `check` commands.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum CheckCommand {
    /// Check the performance of the cluster
    Perf(PerfArgs),
    /// Check the memory usage of holding data for different workloads on a given server endpoint.
    #[command(
        about = "Check the memory usage of holding data for different workloads on a given \
                 server endpoint.",
        long_about = "If no endpoint is provided, localhost will be used. If multiple endpoints \
                      are provided, first endpoint will be used."
    )]
    Datascale(DatascaleArgs),
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

/// Flags of `make-mirror`.
#[derive(Args, Clone, Debug)]
#[command(override_usage = "make-mirror [options] <destination>")]
pub(crate) struct MirrorArgs {
    #[arg(hide = true)]
    pub(crate) words: Vec<OsString>,
    /// Key-value prefix to mirror
    #[arg(long, value_name = "string", default_value = "")]
    pub(crate) prefix: OsString,
    /// Specify the kv revision to start to mirror
    #[arg(long, value_name = "int", default_value = "0", value_parser = decimal,
          allow_hyphen_values = true)]
    pub(crate) rev: i64,
    /// How many changes go into one transaction.
    #[arg(
        long,
        value_name = "uint",
        default_value = "128",
        value_parser = unsigned,
        help = "Maximum number of operations permitted in a transaction during syncing updates."
    )]
    pub(crate) max_txn_ops: u64,
    /// destination prefix to mirror a prefix to a different prefix in the destination cluster
    #[arg(long, value_name = "string", default_value = "")]
    pub(crate) dest_prefix: OsString,
    /// mirror key-values to the root of the destination cluster
    #[arg(long)]
    pub(crate) no_dest_prefix: bool,
    /// Identify secure client using this TLS certificate file for the destination cluster
    #[arg(long, value_name = "string", default_value = "")]
    pub(crate) dest_cert: String,
    /// Identify secure client using this TLS key file
    #[arg(long, value_name = "string", default_value = "")]
    pub(crate) dest_key: String,
    /// Verify certificates of TLS enabled secure servers using this CA bundle
    #[arg(long, value_name = "string", default_value = "")]
    pub(crate) dest_cacert: String,
    /// Disable transport security for client connections
    #[arg(long, default_value = "true")]
    pub(crate) dest_insecure_transport: bool,
    // Not a comment for rustdoc, which takes the brackets for a link.
    #[arg(
        long,
        value_name = "string",
        default_value = "",
        help = "Destination username[:password] for authentication (prompt if password is not supplied)"
    )]
    pub(crate) dest_user: String,
    /// Destination password for authentication (if this option is used, --user option shouldn't
    /// include password)
    #[arg(long, value_name = "string", default_value = "")]
    pub(crate) dest_password: String,
}

fn unsigned(text: &str) -> Result<u64, String> {
    number::parse_uint(text, 10)
}

/// Flags of `check datascale`.
#[derive(Args, Clone, Debug)]
#[command(override_usage = "datascale [options]")]
pub(crate) struct DatascaleArgs {
    #[arg(hide = true)]
    pub(crate) words: Vec<OsString>,
    /// The datascale check's workload model. Accepted workloads: s(small), m(medium), l(large),
    /// xl(xLarge)
    #[arg(long, value_name = "string", default_value = "s")]
    pub(crate) load: String,
    /// The prefix for writing the datascale check's keys.
    #[arg(
        long,
        value_name = "string",
        default_value = "/etcdctl-check-datascale/",
        help = "The prefix for writing the datascale check's keys."
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
