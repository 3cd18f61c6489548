//! What can be wrong before the server starts, with the exit code of each.

use std::path::PathBuf;

use thiserror::Error;

use crate::tls::ProtocolError;
use crate::urls;

/// Exit code of a command line that cannot be read, as Go's `flag` package has it.
pub const EXIT_USAGE: u8 = 2;
/// Exit code of everything else that stops the start.
pub const EXIT_FAILURE: u8 = 1;

/// The result of everything that resolves settings.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the settings cannot be used. Texts are etcd's where etcd has one.
#[derive(Debug, Error)]
pub enum Error {
    /// An argument that looks like a flag but has no name.
    #[error("bad flag syntax: {argument}")]
    BadSyntax {
        /// The argument.
        argument: String,
    },
    /// A flag that does not exist.
    #[error("flag provided but not defined: -{name}")]
    NotDefined {
        /// The flag.
        name: String,
    },
    /// A flag at the end that wants a value.
    #[error("flag needs an argument: -{name}")]
    NeedsArgument {
        /// The flag.
        name: String,
    },
    /// A value that is not of its kind.
    #[error("invalid value {value:?} for flag -{name}: {complaint}")]
    InvalidValue {
        /// The flag.
        name: &'static str,
        /// The value as given.
        value: String,
        /// What is wrong with it.
        complaint: String,
    },
    /// A boolean's value that is none.
    #[error("invalid boolean value {value:?} for -{name}: {complaint}")]
    InvalidBoolean {
        /// The flag.
        name: &'static str,
        /// The value as given.
        value: String,
        /// What is wrong with it.
        complaint: String,
    },
    /// An argument that is not a flag.
    #[error("{argument:?} is not a valid flag")]
    Positional {
        /// The argument.
        argument: String,
    },
    /// One of etcd's subcommands.
    #[error("kvd has no {name:?} subcommand: it only runs the server")]
    Subcommand {
        /// The subcommand.
        name: String,
    },
    /// A value in the environment that is not of its kind.
    #[error("invalid value {value:?} for {variable}: {complaint}")]
    InvalidVariable {
        /// The variable.
        variable: String,
        /// The value as given.
        value: String,
        /// What is wrong with it.
        complaint: String,
    },
    /// A flag and its environment variable are both set.
    #[error(
        "conflicting environment variable {variable:?} is shadowed by corresponding command-line \
         flag (either unset environment variable or disable flag)"
    )]
    Shadowed {
        /// The variable.
        variable: String,
    },
    /// Flags of etcd's that are not built.
    #[error("{}", refusals(.0))]
    NotBuilt(Vec<(&'static str, &'static str)>),
    /// The config file cannot be read.
    #[error("open {}: {source}; check --config-file", path.display())]
    OpenFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The config file is neither YAML nor JSON.
    #[error("error converting YAML to JSON: {}: {source}", path.display())]
    ParseFile {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_yaml_ng::Error,
    },
    /// A key of the config file has a value of another shape.
    #[error("config file: {key} cannot be {found}: want {wanted}")]
    FileShape {
        /// The key.
        key: String,
        /// What stands there.
        found: String,
        /// What should.
        wanted: &'static str,
    },
    /// A key of the config file has a value that is not of its kind.
    #[error("config file: invalid value {value:?} for {key}: {complaint}")]
    FileValue {
        /// The key.
        key: String,
        /// The value as given.
        value: String,
        /// What is wrong with it.
        complaint: String,
    },
    /// A setting that parsed and yet cannot be used.
    #[error(transparent)]
    Setting(#[from] Setting),
}

impl Error {
    /// The exit code, and so whether the usage is printed (2) or a log line written (1).
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::BadSyntax { .. }
            | Error::NotDefined { .. }
            | Error::NeedsArgument { .. }
            | Error::InvalidValue { .. }
            | Error::InvalidBoolean { .. } => EXIT_USAGE,
            _ => EXIT_FAILURE,
        }
    }
}

fn refusals(flags: &[(&'static str, &'static str)]) -> String {
    let sentences: Vec<String> = flags
        .iter()
        .map(|(name, sentence)| format!("--{name}: {sentence}"))
        .collect();
    sentences.join(" ")
}

/// Why settings that parsed do not fit (`embed.Config.Validate`, `config.VerifyBootstrap`).
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Setting {
    /// `--auth-token` cannot be read.
    #[error("auth: invalid auth options: {what} in --auth-token={value:?}")]
    AuthToken {
        /// The value.
        value: String,
        /// What is wrong with it.
        what: String,
    },
    /// Flags of auto mode that do not fit.
    #[error("{0}")]
    Autopilot(String),
    /// A listen URL with a name for a host.
    #[error("expected IP in URL for binding ({0})")]
    BindName(String),
    /// An advertised peer URL without a host.
    #[error(
        "--initial-advertise-peer-urls {urls:?} must be \"host:port\" (unexpected empty host ({url}))"
    )]
    AdvertisePeer {
        /// All of them.
        urls: String,
        /// The one.
        url: String,
    },
    /// An advertised client URL without a host.
    #[error(
        "--advertise-client-urls {urls:?} must be in the format \"host:port\", \
         \"unix:/path/to/socket\" or \"unixs:/path/to/socket\" (unexpected empty host ({url}))"
    )]
    AdvertiseClient {
        /// All of them.
        urls: String,
        /// The one.
        url: String,
    },
    /// Clients would not know where to go.
    #[error("--advertise-client-urls is required when --listen-client-urls is set explicitly")]
    AdvertiseClientMissing,
    /// A client URL that wants TLS without a certificate.
    #[error(
        "TLS key/cert (--cert-file, --key-file) must be provided for client url {0} with HTTPS \
         scheme"
    )]
    ClientTls(String),
    /// A peer URL that wants TLS without a certificate.
    #[error("cannot listen on TLS for {0}: KeyFile and CertFile are not presented")]
    PeerTls(String),
    /// A metrics URL that wants TLS without a certificate.
    #[error(
        "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url"
    )]
    MetricsTls,
    /// TLS flags that do not fit together.
    #[error("{0}")]
    TlsFiles(String),
    /// TLS versions or cipher suites that cannot be used.
    #[error(transparent)]
    TlsProtocol(#[from] ProtocolError),
    /// HTTP-only and other listeners on one address.
    #[error(
        "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url {0}"
    )]
    SharedListener(String),
    /// A time of zero.
    #[error("--{flag} must be >0 (set to {value})")]
    NotPositive {
        /// The flag.
        flag: &'static str,
        /// The value with its unit.
        value: String,
    },
    /// A time below zero.
    #[error("--{flag} must not be negative (set to {value})")]
    Negative {
        /// The flag.
        flag: &'static str,
        /// The value.
        value: String,
    },
    /// A number that no machine could honour.
    #[error("--{flag} is too large (set to {value}, at most {most})")]
    TooLarge {
        /// The flag.
        flag: &'static str,
        /// The value.
        value: u64,
        /// The bound.
        most: u64,
    },
    /// Elections would run before heartbeats arrive.
    #[error(
        "--election-timeout[{election_ms}ms] should be at least as 5 times as \
         --heartbeat-interval[{heartbeat_ms}ms]"
    )]
    ElectionTooShort {
        /// `--election-timeout`.
        election_ms: u64,
        /// `--heartbeat-interval`.
        heartbeat_ms: u64,
    },
    /// Elections would take minutes.
    #[error("--election-timeout[{0}ms] is too long, and should be set less than 50000ms")]
    ElectionTooLong(u64),
    /// The name cannot be part of `--initial-cluster` or a directory.
    #[error("--name {0:?} cannot be used: it is empty or holds '/', ',' or '='")]
    Name(String),
    /// An empty mode.
    #[error("undefined auto-compaction-mode")]
    CompactionModeMissing,
    /// A mode that does not exist.
    #[error("unknown auto-compaction-mode {0:?}")]
    CompactionMode(String),
    /// A retention that is neither number nor duration.
    #[error("error parsing CompactionRetention: time: invalid duration {0:?}")]
    CompactionRetention(String),
    /// A gate that needs another.
    #[error(
        "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint"
    )]
    GateNeedsLeaseCheckpoint,
    /// Gates that do not parse.
    #[error("{0}")]
    Gates(String),
    /// A logger that is gone or never was.
    #[error("unknown logger option {0:?}")]
    Logger(String),
    /// A log level that does not exist.
    #[error("unrecognized level: {0:?}")]
    LogLevel(String),
    /// A log format that does not exist.
    #[error("unknown log format: {0}, supported values json, console")]
    LogFormat(String),
    /// `default` among several outputs.
    #[error("multi logoutput for \"default\" is not supported yet")]
    LogOutputs,
    /// `--initial-cluster` cannot be read.
    #[error("error setting up initial cluster: {0}")]
    InitialCluster(urls::Error),
    /// The first members are to be found in more than one way.
    #[error(
        "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \
         \"discovery-endpoints\" or \"discovery-srv\""
    )]
    BootstrapConflict,
    /// A registry without the name of a cluster, or the other way round.
    #[error("both --discovery-token and --discovery-endpoints must be set")]
    DiscoveryIncomplete,
    /// A registry without an address.
    #[error("--discovery-endpoints must not contain empty endpoints")]
    DiscoveryEndpointEmpty,
    /// etcd's proxy is gone.
    #[error("v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\"")]
    DiscoveryFallback,
    /// A registry makes new clusters.
    #[error("discovery URL should not be set when joining existing initial cluster")]
    DiscoveryOfExisting,
    /// This member is not among the initial ones.
    #[error("couldn't find local name {0:?} in the initial cluster configuration")]
    LocalName(String),
    /// Two members with one URL.
    #[error("initial cluster {0} has duplicate url")]
    DuplicateUrl(String),
    /// The other members would look for this one at another address.
    #[error(
        "--initial-cluster has {missing} but missing from \
         --initial-advertise-peer-urls={advertised} ({cause})"
    )]
    NotAdvertised {
        /// What `--initial-cluster` says of this member.
        missing: String,
        /// What is advertised.
        advertised: String,
        /// How the comparison failed.
        cause: String,
    },
    /// The other way round.
    #[error(
        "--initial-advertise-peer-urls has {missing} but missing from --initial-cluster={cluster}"
    )]
    NotInCluster {
        /// What is advertised.
        missing: String,
        /// What `--initial-cluster` says of this member.
        cluster: String,
    },
}
