//! Flags of the commands about members, endpoints and their storage. Texts are etcdctl's.

use std::ffi::OsString;

use clap::{ArgAction, Args, Subcommand};

use super::tree::{Ignored, decimal};

/// The `alarm` commands.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum AlarmCommand {
    /// Lists all alarms
    List(Ignored),
    /// Disarms all alarms
    Disarm(Ignored),
}

/// The `autopilot` commands, which are kvd's own.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum AutopilotCommand {
    /// Prints how the members are, what autopilot does next, and why
    Status(Ignored),
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
    /// Adds a member into the cluster
    Add(MemberAddArgs),
    /// Lists all members in the cluster
    #[command(
        long_about = "When --write-out is set to simple, this command prints out \
        comma-separated member lists for each endpoint.\n\
        The items in the lists are ID, Status, Name, Peer Addrs, Client Addrs, Is Learner.\n"
    )]
    List(MemberListArgs),
    /// Promotes a non-voting member in the cluster
    #[command(
        override_usage = "promote <memberID>",
        long_about = "Promotes a non-voting learner member to a voting one in the cluster.\n"
    )]
    Promote(Ignored),
    /// Removes a member from the cluster
    #[command(override_usage = "remove <memberID>")]
    Remove(Ignored),
    /// Updates a member in the cluster
    Update(MemberUpdateArgs),
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

/// Flags of `member add`.
#[derive(Args, Clone, Debug)]
#[command(override_usage = "add <memberName> [options]")]
pub(crate) struct MemberAddArgs {
    #[arg(hide = true)]
    pub(crate) words: Vec<OsString>,
    /// Where the new member will be.
    #[arg(
        long,
        value_name = "string",
        default_value = "",
        help = "comma separated peer URLs for the new member."
    )]
    pub(crate) peer_urls: String,
    /// indicates if the new member is raft learner
    #[arg(long)]
    pub(crate) learner: bool,
}

/// Flags of `member update`.
#[derive(Args, Clone, Debug)]
#[command(override_usage = "update <memberID> [options]")]
pub(crate) struct MemberUpdateArgs {
    #[arg(hide = true)]
    pub(crate) words: Vec<OsString>,
    /// Where the member is from now on.
    #[arg(
        long,
        value_name = "string",
        default_value = "",
        help = "comma separated peer URLs for the updated member."
    )]
    pub(crate) peer_urls: String,
}

/// Flags of `defrag`.
#[derive(Args, Clone, Debug)]
pub(crate) struct DefragArgs {
    #[arg(hide = true)]
    pub(crate) words: Vec<OsString>,
    /// use all endpoints from the cluster member list
    #[arg(long)]
    pub(crate) cluster: bool,
}

/// The `snapshot` commands.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum SnapshotCommand {
    /// Stores an etcd node backend snapshot to a given file
    #[command(override_usage = "save <filename>")]
    Save(Ignored),
    /// Gets backend snapshot status of a given file
    #[command(override_usage = "status <filename>")]
    Status(Ignored),
}

/// The `downgrade` commands.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum DowngradeCommand {
    /// Validate downgrade capability before starting downgrade
    #[command(override_usage = "validate <TARGET_VERSION>")]
    Validate(Ignored),
    /// Start a downgrade action to cluster
    #[command(override_usage = "enable <TARGET_VERSION>")]
    Enable(Ignored),
    /// Cancel the ongoing downgrade action to cluster
    Cancel(Ignored),
}
