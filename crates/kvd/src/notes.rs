//! Things noticed before logging is set up, said afterwards.

use std::path::PathBuf;

use tracing::{info, warn};

const PPROF: &str = "pprof is enabled under /debug/pprof: it shows the command line and the \
                     memory in use to whoever reaches the client port; Go's runtime profiles are \
                     not served";

/// One thing to say. Texts are etcd's where etcd has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A flag stood twice on the command line.
    Twice {
        /// The flag.
        name: &'static str,
    },
    /// A flag without effect.
    Ignored {
        /// The flag.
        name: &'static str,
        /// Why it has none.
        reason: &'static str,
    },
    /// A flag has another name today.
    OldName {
        /// The name given.
        old: &'static str,
        /// The name of today.
        new: &'static str,
    },
    /// A variable was used.
    Variable {
        /// The variable.
        variable: String,
        /// Its value.
        value: String,
    },
    /// A variable with our prefix and no flag.
    UnknownVariable {
        /// The variable.
        variable: String,
    },
    /// `ETCD_VERSION`, which base images set.
    VersionVariable {
        /// The variable.
        variable: String,
    },
    /// The config file replaced everything else.
    FileLoaded {
        /// The file.
        path: PathBuf,
    },
    /// A key of the config file that means nothing.
    UnknownKey {
        /// The key.
        key: String,
    },
    /// Gates were set that have no effect yet.
    Gates {
        /// Their names.
        names: Vec<&'static str>,
    },
    /// Profiles were asked for.
    Pprof,
    /// The member has etcd's default name.
    DefaultName,
    /// The data directory was chosen by the name.
    DefaultDataDir {
        /// The directory.
        path: PathBuf,
    },
    /// An address of this host replaced `localhost` in what is advertised.
    DefaultHost {
        /// The address.
        host: String,
    },
    /// Cipher suites that Go has and kvd has not.
    SuitesLeftOut {
        /// Their names.
        names: Vec<String>,
    },
    /// A certificate that a URL without TLS does not use.
    TlsUnused {
        /// The port.
        port: &'static str,
        /// The URL.
        url: String,
    },
    /// Client certificates that a URL without TLS cannot ask for.
    CertAuthUnused {
        /// The flag.
        flag: &'static str,
        /// The URL.
        url: String,
    },
    /// Generated certificates beside given ones.
    AutoTlsUnused {
        /// The port.
        port: &'static str,
    },
    /// A log output that is written to standard error instead.
    JournalToStderr,
}

impl Note {
    /// Writes it to the log.
    pub fn emit(&self) {
        match self {
            Note::Twice { name } => {
                warn!(
                    "flag-name" = name,
                    "flag given more than once; the last value counts"
                );
            }
            Note::Ignored { name, reason } => {
                warn!(
                    "flag-name" = name,
                    reason, "flag has no effect and is ignored"
                );
            }
            Note::OldName { old, new } => warn!(
                "flag-name" = old,
                "use-instead" = new,
                "flag is no longer supported by etcd under this name; please use the new one"
            ),
            Note::Variable { variable, value } => info!(
                "variable-name" = variable,
                "variable-value" = value,
                "recognized and used environment variable"
            ),
            Note::UnknownVariable { variable } => {
                warn!(
                    "environment-variable" = variable,
                    "unrecognized environment variable"
                );
            }
            Note::VersionVariable { variable } => {
                warn!(key = variable, "cannot set special environment variable");
            }
            Note::FileLoaded { path } => info!(
                path = %path.display(),
                "loaded server configuration, other configuration command line flags and \
                 environment variables will be ignored if provided"
            ),
            Note::UnknownKey { key } => {
                warn!(
                    key,
                    "config file has a key that is not known; it is ignored"
                );
            }
            Note::Gates { names } => {
                warn!(gates = ?names, "feature gates are set that have no effect in kvd yet");
            }
            Note::Pprof => warn!("{PPROF}"),
            Note::DefaultName => warn!(
                name = "default",
                "it isn't recommended to use default name, please set a value for --name. \
                 Note that kvd might run into issue when multiple members have the same default \
                 name"
            ),
            Note::DefaultDataDir { path } => {
                warn!("data-dir" = %path.display(), "'data-dir' was empty; using default");
            }
            Note::DefaultHost { host } => info!(host, "detected default host for advertise"),
            Note::SuitesLeftOut { .. }
            | Note::TlsUnused { .. }
            | Note::CertAuthUnused { .. }
            | Note::AutoTlsUnused { .. } => self.emit_tls(),
            Note::JournalToStderr => warn!(
                "log-outputs systemd/journal is written to standard error, which systemd passes \
                 to the journal"
            ),
        }
    }

    /// What is about TLS.
    fn emit_tls(&self) {
        match self {
            Note::SuitesLeftOut { names } => warn!(
                names = ?names,
                "cipher suites are left out that kvd does not have: they are weak, or without \
                 forward secrecy"
            ),
            Note::TlsUnused { port, url } => warn!(
                port,
                url,
                "scheme is http or unix while key and cert files are present; ignoring key and \
                 cert files"
            ),
            Note::CertAuthUnused { flag, url } => warn!(
                flag,
                url,
                "scheme is http or unix while client cert auth is enabled; ignoring client cert \
                 auth for this URL"
            ),
            Note::AutoTlsUnused { port } => {
                warn!("ignoring {port} auto TLS since certs given");
            }
            _ => {}
        }
    }
}
