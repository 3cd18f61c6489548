//! The one table of flags. Parsing, environment names, `--help` and `docs/flags.md` all read it, so
//! a flag is added by adding a row.
//!
//! Names, defaults and meanings are etcd 3.7's (`server/embed/config.go`, `server/etcdmain`); the
//! names of 3.4 and 3.5 that 3.7 dropped stand at the end, so that old command lines either work
//! or say clearly why not.

/// What a flag's value looks like, and so how its text is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false` in Go's spellings; bare means true.
    Bool,
    /// Bare or with any value, which is not looked at.
    Bare,
    /// Any text.
    Text,
    /// A signed 64-bit number in Go's syntax.
    Int,
    /// An unsigned 64-bit number in Go's syntax.
    Uint,
    /// An unsigned 32-bit number in Go's syntax.
    Uint32,
    /// A length of time in Go's syntax, such as `1h30m`.
    Duration,
    /// URLs split by commas.
    Urls,
    /// Texts split by commas.
    List,
    /// `*`, or URLs split by commas.
    Origins,
    /// One of a few words.
    Choice(&'static [&'static str]),
    /// `Name=true,Name=false`.
    Gates,
}

/// What the server does with a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It has effect.
    Works,
    /// It is known but not built: any value but the default is refused with this sentence.
    NotYet(&'static str),
    /// It is accepted without effect, and a warning says this.
    Ignored(&'static str),
    /// An old name of another flag.
    Alias(&'static str),
    /// An old boolean that is a feature gate of this name today.
    Gate(&'static str),
}

/// The heading a flag stands under in the help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// This member itself.
    Member,
    /// How members find one another.
    Clustering,
    /// TLS and origins.
    Security,
    /// Users and tokens.
    Auth,
    /// Metrics and profiles.
    Monitoring,
    /// Logs.
    Logging,
    /// Distributed tracing.
    Tracing,
    /// Checks, compaction and other tuning.
    Features,
    /// What can lose data.
    Unsafe,
    /// kvd's own, unknown to etcd.
    Own,
    /// Names of etcd 3.4 and 3.5; not in the help.
    Legacy,
}

impl Group {
    /// The headings of the help in order.
    pub const SHOWN: [Group; 10] = [
        Group::Member,
        Group::Clustering,
        Group::Security,
        Group::Auth,
        Group::Monitoring,
        Group::Logging,
        Group::Tracing,
        Group::Features,
        Group::Unsafe,
        Group::Own,
    ];

    /// The heading's text.
    pub fn title(self) -> &'static str {
        match self {
            Group::Member => "Member",
            Group::Clustering => "Clustering",
            Group::Security => "Security",
            Group::Auth => "Auth",
            Group::Monitoring => "Profiling and Monitoring",
            Group::Logging => "Logging",
            Group::Tracing => "Distributed tracing",
            Group::Features => "Features",
            Group::Unsafe => "Unsafe feature",
            Group::Own => "kvd's own",
            Group::Legacy => "Names of etcd 3.4 and 3.5",
        }
    }
}

/// One flag.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// The name without dashes.
    pub name: &'static str,
    /// How the value is written.
    pub kind: Kind,
    /// The value when nothing is given, as text.
    pub default: &'static str,
    /// What the server does with it.
    pub status: Status,
    /// Where the help shows it.
    pub group: Group,
    /// One sentence for the help.
    pub help: &'static str,
}

impl Flag {
    /// The environment variable behind `prefix`, such as `ETCD_DATA_DIR`.
    pub fn variable(&self, prefix: &str) -> String {
        format!(
            "{prefix}_{}",
            self.name.to_uppercase().replace(['-', '.'], "_")
        )
    }
}

/// Finds a flag by its name.
pub fn find(name: &str) -> Option<&'static Flag> {
    all().find(|flag| flag.name == name)
}

/// Every flag, those of today first.
pub fn all() -> impl Iterator<Item = &'static Flag> {
    super::rows::FLAGS.iter().chain(super::legacy::FLAGS)
}
