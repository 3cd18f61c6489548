//! What is in force on a port, exchanged as a whole when the files change.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use kvd_server::metrics::Metrics;
use parking_lot::Mutex;
use tracing::{error, info, warn};

use super::error::Error;
use super::files::{Contents, Marks};
use super::material::Material;
use super::options::Options;
use super::registry::{End, Open, Registry};
use super::verify::explain;

/// Files whose marks did not change are read all the same after this time: not every file system
/// counts time finely enough.
const READ_ANYWAY: Duration = Duration::from_secs(10);

/// Which port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// Clients, and metrics.
    Client,
    /// Other members.
    Peer,
}

impl Port {
    /// Its name in log lines and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Port::Client => "client",
            Port::Peer => "peer",
        }
    }
}

/// The TLS of one port: how connections are accepted and made now, and which are open.
pub struct Live {
    port: Port,
    options: Options,
    material: ArcSwap<Material>,
    /// Grows with whatever makes a connection between members worth replacing.
    generation: AtomicU64,
    pub(super) registry: Registry,
    pub(super) metrics: Arc<Metrics>,
    reading: Mutex<Reading>,
}

/// What was read last. Of the thread that watches.
struct Reading {
    marks: Marks,
    at: Instant,
    /// What is in force.
    contents: Contents,
    trouble: Option<Trouble>,
}

/// Files that cannot be used.
struct Trouble {
    contents: Option<Contents>,
    why: String,
    /// Files that belong together are often written one after the other: what does not fit is said
    /// only when it is still so at the next look.
    is_said: bool,
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live")
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

impl Live {
    /// Reads the files that `options` names and puts them in force.
    ///
    /// Errors: says which flag or file cannot be used.
    pub fn open(port: Port, options: Options, metrics: Arc<Metrics>) -> Result<Arc<Live>, Error> {
        if !options.is_empty() {
            options.check()?;
        }
        let marks = Marks::look(&options);
        let contents = Contents::read(&options)?;
        let material = Material::build(&options, &contents)?;
        let live = Live {
            port,
            material: ArcSwap::from_pointee(material),
            generation: AtomicU64::new(0),
            registry: Registry::default(),
            metrics,
            reading: Mutex::new(Reading {
                marks,
                at: Instant::now(),
                contents,
                trouble: None,
            }),
            options,
        };
        live.show();
        Ok(Arc::new(live))
    }

    /// Which port it is for.
    pub fn port(&self) -> Port {
        self.port
    }

    /// What the flags say.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Whether there are files that may change.
    pub fn has_files(&self) -> bool {
        !self.options.is_empty() || self.options.trusted_ca_file.is_some()
    }

    /// Counts a connection that was not let in.
    pub fn count_rejected(&self, reason: &str) {
        let labels = [self.port.name(), reason];
        let counter = &self.metrics.rejected_connections;
        counter.with_label_values(&labels).inc();
    }

    /// What is in force now.
    pub(super) fn material(&self) -> Arc<Material> {
        self.material.load_full()
    }

    /// See [`kvd_raft::Dialer::generation`].
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Tells the metrics when the certificates in force run out.
    fn show(&self) {
        for (flag, not_after) in &self.material.load().expiries {
            let labels = [self.port.name(), flag];
            let gauge = &self.metrics.tls_certificate_expiry;
            gauge.with_label_values(&labels).set(*not_after);
        }
        self.metrics
            .tls_reload_failing
            .with_label_values(&[self.port.name()])
            .set(0);
    }

    /// Looks at the files, exchanges what is in force when they changed, and closes connections
    /// that would not be let in any more. `grace`: how long a connection to another member may
    /// finish what is under way; one from a client may not.
    pub(super) fn look(&self, grace: Duration) {
        let changed = self.reload();
        self.sweep(changed, grace);
    }

    /// Returns whether something new is in force.
    fn reload(&self) -> bool {
        let mut reading = self.reading.lock();
        let marks = Marks::look(&self.options);
        let is_quiet = marks == reading.marks && reading.trouble.is_none();
        if is_quiet && reading.at.elapsed() < READ_ANYWAY {
            return false;
        }
        reading.marks = marks;
        reading.at = Instant::now();
        let contents = match Contents::read(&self.options) {
            Ok(contents) => contents,
            Err(error) => {
                self.failed(&mut reading, None, error.to_string());
                return false;
            }
        };
        if contents == reading.contents {
            if reading
                .trouble
                .take()
                .is_some_and(|trouble| trouble.is_said)
            {
                info!(
                    port = self.port.name(),
                    "the TLS files are again those that are in use"
                );
            }
            self.show();
            return false;
        }
        let known = reading.trouble.as_ref().map(|trouble| &trouble.contents);
        if known == Some(&Some(contents.clone())) {
            let why = reading.trouble.as_ref().map(|t| t.why.clone());
            self.failed(&mut reading, Some(contents), why.unwrap_or_default());
            return false;
        }
        match Material::build(&self.options, &contents) {
            Ok(material) => {
                self.material.store(Arc::new(material));
                self.generation.fetch_add(1, Ordering::AcqRel);
                reading.contents = contents;
                reading.trouble = None;
                drop(reading);
                self.changed();
                true
            }
            Err(error) => {
                self.failed(&mut reading, Some(contents), error.to_string());
                false
            }
        }
    }

    fn changed(&self) {
        self.show();
        self.metrics
            .tls_reloads
            .with_label_values(&[self.port.name(), "success"])
            .inc();
        info!(
            port = self.port.name(),
            "the TLS files have changed; new connections use them"
        );
    }

    /// Notes files that cannot be used, and says so when that lasts.
    fn failed(&self, reading: &mut Reading, contents: Option<Contents>, why: String) {
        let lasts = reading
            .trouble
            .as_ref()
            .is_some_and(|trouble| trouble.contents == contents && trouble.why == why);
        let was_said = lasts && reading.trouble.as_ref().is_some_and(|t| t.is_said);
        if lasts && !was_said {
            let labels = [self.port.name(), "failure"];
            self.metrics.tls_reloads.with_label_values(&labels).inc();
            self.metrics
                .tls_reload_failing
                .with_label_values(&[self.port.name()])
                .set(1);
            error!(
                port = self.port.name(),
                error = why,
                "the TLS files have changed and cannot be used; what was read before stays in use"
            );
        }
        reading.trouble = Some(Trouble {
            contents,
            why,
            is_said: lasts,
        });
    }

    fn sweep(&self, all: bool, grace: Duration) {
        let material = self.material.load_full();
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = i64::try_from(since.unwrap_or_default().as_secs()).unwrap_or(i64::MAX);
        let verify = |open: &Open| match &open.end {
            End::Client => match &material.client_verifier {
                Some(verifier) => verifier.verify_again(&open.shown),
                None => Ok(()),
            },
            End::Member(name) => match material.dialling() {
                Ok(dialling) => dialling.verifier.verify_again(&open.shown, name),
                Err(why) => Err(rustls::Error::General(why)),
            },
        };
        let grace = |open: &Open| match open.end {
            End::Client => Duration::ZERO,
            End::Member(_) => grace,
        };
        let invalid = self.registry.sweep(all, now, verify, grace);
        for (open, error) in &invalid {
            if matches!(open.end, End::Member(_)) {
                // Requests go to a new connection; those under way may end on the old one.
                self.generation.fetch_add(1, Ordering::AcqRel);
            }
            self.metrics
                .tls_closed
                .with_label_values(&[self.port.name()])
                .inc();
            warn!(
                port = self.port.name(),
                "remote-addr" = open.remote,
                "common-name" = open.common_name(),
                error = explain(error),
                "closing a connection: the certificate shown when it was made is not accepted any \
                 more"
            );
        }
    }
}
