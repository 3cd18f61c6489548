//! The open connections whose other end has shown a certificate.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvd_tls::Certificate;
use parking_lot::Mutex;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio_util::sync::CancellationToken;

/// How a connection is told to end.
#[derive(Clone, Debug, Default)]
pub struct Closing {
    /// Finish what is under way, take nothing more.
    pub drain: CancellationToken,
    /// End now.
    pub cut: CancellationToken,
}

/// Who is at the other end.
#[derive(Clone, Debug)]
pub(super) enum End {
    /// Who has connected to this member.
    Client,
    /// A member to which this one has connected, under this name.
    Member(ServerName<'static>),
}

/// One open connection.
#[derive(Debug)]
pub(super) struct Open {
    /// The certificates, the other end's own first.
    pub(super) shown: Vec<CertificateDer<'static>>,
    pub(super) end: End,
    /// The address or URL of the other end, for log lines.
    pub(super) remote: String,
    /// When one of the certificates runs out, in seconds since 1970.
    not_after: i64,
    closing: Closing,
}

impl Open {
    pub(super) fn new(
        shown: &[CertificateDer<'_>],
        end: End,
        remote: String,
        closing: Closing,
    ) -> Open {
        let shown: Vec<CertificateDer<'static>> = shown
            .iter()
            .map(|certificate| certificate.clone().into_owned())
            .collect();
        Open {
            not_after: next_expiry(&shown, i64::MIN),
            shown,
            end,
            remote,
            closing,
        }
    }

    /// The subject's common name, for log lines.
    pub(super) fn common_name(&self) -> String {
        let leaf = self.shown.first().map(|der| Certificate::read(der));
        leaf.and_then(Result::ok)
            .and_then(|certificate| certificate.common_name)
            .unwrap_or_default()
    }
}

/// When the first of the certificates that are valid at `after` runs out.
fn next_expiry(shown: &[CertificateDer<'_>], after: i64) -> i64 {
    let read = shown.iter().filter_map(|der| Certificate::read(der).ok());
    let ends = read.map(|certificate| certificate.not_after);
    ends.filter(|end| *end >= after).min().unwrap_or(i64::MAX)
}

/// All open connections of one port that are checked again.
#[derive(Debug, Default)]
pub(super) struct Registry {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    open: HashMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    open: Arc<Open>,
    /// When it is verified again though nothing else has changed.
    due: i64,
    /// When it is cut; set once it was found invalid.
    cut_at: Option<Instant>,
}

/// Keeps a connection in the registry for as long as it is open.
#[derive(Debug)]
pub(super) struct Registration {
    id: u64,
    state: Arc<Mutex<State>>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.state.lock().open.remove(&self.id);
    }
}

impl Registry {
    pub(super) fn add(&self, open: Open) -> Registration {
        let mut state = self.state.lock();
        state.next += 1;
        let id = state.next;
        let entry = Entry {
            due: open.not_after,
            open: Arc::new(open),
            cut_at: None,
        };
        state.open.insert(id, entry);
        Registration {
            id,
            state: Arc::clone(&self.state),
        }
    }

    /// Verifies the connections again: all of them, or those of which a certificate ran out before
    /// `now`, in seconds since 1970. Those that `verify` refuses are told to drain, and cut after
    /// `grace(connection)`.
    ///
    /// Returns the connections found invalid this time. The lock is not held while verifying.
    pub(super) fn sweep(
        &self,
        all: bool,
        now: i64,
        verify: impl Fn(&Open) -> Result<(), rustls::Error>,
        grace: impl Fn(&Open) -> Duration,
    ) -> Vec<(Arc<Open>, rustls::Error)> {
        let due: Vec<(u64, Arc<Open>)> = {
            let state = self.state.lock();
            let fresh = state.open.iter().filter(|(_, e)| e.cut_at.is_none());
            fresh
                .filter(|(_, entry)| all || entry.due < now)
                .map(|(id, entry)| (*id, Arc::clone(&entry.open)))
                .collect()
        };
        let mut invalid = Vec::new();
        for (id, open) in due {
            let verified = verify(&open);
            let mut state = self.state.lock();
            let Some(entry) = state.open.get_mut(&id) else {
                continue;
            };
            match verified {
                Ok(()) => entry.due = next_expiry(&open.shown, now),
                Err(error) => {
                    entry.cut_at = Some(Instant::now() + grace(&open));
                    open.closing.drain.cancel();
                    invalid.push((open, error));
                }
            }
        }
        self.cut_due();
        invalid
    }

    /// Cuts the connections whose grace is over.
    fn cut_due(&self) {
        let now = Instant::now();
        let state = self.state.lock();
        for entry in state.open.values() {
            if entry.cut_at.is_some_and(|at| at <= now) {
                entry.open.closing.cut.cancel();
            }
        }
    }
}
