//! Who is where: asks whoever `--discovery-dns` lists who it is.
//!
//! With `--autopilot-find-peers` that is how members reach one another, where a network has no name
//! for each of them, as a swarm has none for one task of a service. The host of a peer URL is then a
//! label that nobody looks up. What an answer tells counts for [`FRESH`]: a member that comes back
//! elsewhere is found there, and whoever is dialled by mistake meanwhile is known for another by the
//! transport. Where it was found last is asked, too: what DNS lists leaves out who is stopping.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use kvd_autopilot::bootstrap::Answer;
use kvd_autopilot::discovery::Source;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::exchange::{self, Ask};
use super::lookup;
use crate::settings::Settings;
use crate::tls::{Find, PeerDialer, Place};

/// For how long an answer counts.
const FRESH: Duration = Duration::from_secs(1);
/// For how long it is not asked again for a member that was not there.
const MISSED: Duration = Duration::from_millis(500);
/// Most time for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// The port and the scheme of a member's own peer URLs, which are those of the others, too.
pub fn own_port_and_scheme(settings: &Settings) -> (u16, &'static str) {
    let first = settings.advertise_peer_urls.first();
    let port = first.and_then(|url| url.host_and_port()?.1.parse().ok());
    let is_tls = first.is_some_and(|url| url.scheme().is_tls());
    // Settings without a port are refused before.
    (
        port.unwrap_or_default(),
        if is_tls { "https" } else { "http" },
    )
}

/// A place at `address`, which was found under the name `host`.
pub fn place(address: SocketAddr, host: &str, scheme: &str) -> Place {
    let port = address.port();
    let url = match host.contains(':') {
        true => format!("{scheme}://[{host}]:{port}"),
        false => format!("{scheme}://{host}:{port}"),
    };
    Place { address, url }
}

/// Asks whoever is at a place who it is.
///
/// Errors: what kept it from answering.
pub async fn who(dialer: &PeerDialer, place: &Place, limit: Duration) -> Result<Answer, String> {
    let host = place.url.split_once("://").map_or("", |(_, host)| host);
    let ask = Ask {
        host,
        path: "/autopilot/identity",
        ..Ask::default()
    };
    exchange::json(dialer.dial_at(place), ask, limit).await
}

/// Finds members by asking.
pub struct Finder {
    dialer: PeerDialer,
    sources: Vec<Source>,
    port: u16,
    scheme: &'static str,
    token: String,
    /// What was found by peer URL, and when; none: it was not there.
    known: Mutex<HashMap<String, (Instant, Option<Place>)>>,
    /// Where a peer URL was found last. It is asked again who it is: a member that was told to stop
    /// is no longer listed, but has a vote until it has left.
    last: Mutex<HashMap<String, Place>>,
    /// One asks at a time; the others find what it has found.
    asking: tokio::sync::Mutex<()>,
}

impl fmt::Debug for Finder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Finder").finish_non_exhaustive()
    }
}

impl Finder {
    /// Finds members of the cluster of `settings`; none when that is not wanted. `dialer`: connects
    /// to addresses.
    pub fn of(settings: &Settings, dialer: PeerDialer) -> Option<Arc<dyn Find>> {
        let auto = settings.autopilot.as_ref().filter(|auto| auto.find_peers)?;
        let (port, scheme) = own_port_and_scheme(settings);
        Some(Arc::new(Finder {
            dialer,
            sources: auto.discovery.clone(),
            port,
            scheme,
            token: settings.initial_cluster_token.clone(),
            known: Mutex::default(),
            last: Mutex::default(),
            asking: tokio::sync::Mutex::new(()),
        }))
    }

    /// What is known of `url`, if that still counts.
    fn fresh(&self, url: &str) -> Option<Option<Place>> {
        let known = self.known.lock();
        let (at, place) = known.get(url)?;
        let counts_for = if place.is_some() { FRESH } else { MISSED };
        (at.elapsed() < counts_for).then(|| place.clone())
    }

    /// Asks everybody until one answers for `url`; whatever the others say meanwhile is noted, too.
    async fn ask(&self, url: &str) -> Option<Place> {
        let found = lookup::lookup(&self.sources, self.port).await;
        let places = found.places.iter();
        let mut places: Vec<Place> = places
            .map(|(address, host)| place(*address, host, self.scheme))
            .collect();
        let last = self.last.lock().get(url).cloned();
        let unlisted = last.filter(|last| places.iter().all(|it| it.address != last.address));
        places.extend(unlisted);
        let mut asking: FuturesUnordered<_> = places
            .into_iter()
            .map(|place| async move { (who(&self.dialer, &place, ANSWER_LIMIT).await, place) })
            .collect();
        while let Some((answer, place)) = asking.next().await {
            let Ok(answer) = answer else { continue };
            if answer.token != self.token {
                continue;
            }
            let is_it = answer.peer_urls.iter().any(|its| its == url);
            let (mut known, mut last) = (self.known.lock(), self.last.lock());
            for its in answer.peer_urls {
                last.insert(its.clone(), place.clone());
                known.insert(its, (Instant::now(), Some(place.clone())));
            }
            if is_it {
                return Some(place);
            }
        }
        let mut known = self.known.lock();
        known.retain(|_, (at, _)| at.elapsed() < FRESH);
        known.insert(url.to_owned(), (Instant::now(), None));
        None
    }
}

impl Find for Finder {
    fn find(&self, url: String) -> BoxFuture<'_, io::Result<Place>> {
        Box::pin(async move {
            let found = match self.fresh(&url) {
                Some(found) => found,
                None => {
                    let _asking = self.asking.lock().await;
                    match self.fresh(&url) {
                        Some(found) => found,
                        None => self.ask(&url).await,
                    }
                }
            };
            found.ok_or_else(|| {
                let sources: Vec<String> = self.sources.iter().map(Source::to_string).collect();
                let why = format!("nobody at {} says that it is there", sources.join(", "));
                io::Error::new(io::ErrorKind::NotFound, why)
            })
        })
    }
}
