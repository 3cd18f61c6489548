//! The sockets of a member, and TLS on them.

use std::io;
use std::sync::Arc;

use anyhow::Context;
use kvd_raft::Dialer;
use kvd_server::metrics::Metrics;
use tracing::info;

use crate::auto::find::Finder;
use crate::serve::{Listener, Secure};
use crate::settings::Settings;
use crate::tls::{self, Find, Live, PeerDialer, Port, Watch};
use crate::urls::Url;

/// The sockets of a member.
pub struct Listeners {
    /// `--listen-peer-urls`.
    pub peer: Vec<Listener>,
    /// `--listen-client-urls`.
    pub client: Vec<Listener>,
    /// `--listen-client-http-urls`.
    pub client_http: Vec<Listener>,
    /// `--listen-metrics-urls`.
    pub metrics: Vec<Listener>,
}

impl Listeners {
    /// Binds all of them, so that a taken port stops the start before any data is touched. Two URLs
    /// of one flag that differ only in TLS share a socket.
    ///
    /// Errors: name the URL, its flag and what to do.
    pub fn bind(settings: &Settings) -> anyhow::Result<Listeners> {
        let bind = |urls: &[Url], flag| -> anyhow::Result<Vec<Listener>> {
            let mut listeners: Vec<Listener> = Vec::new();
            for url in urls {
                if listeners.iter_mut().any(|listener| listener.also(url)) {
                    continue;
                }
                let listener = Listener::bind(url, flag, settings.socket_reuse_port);
                listeners.push(listener.context("bind failed")?);
            }
            Ok(listeners)
        };
        Ok(Listeners {
            peer: bind(&settings.listen_peer_urls, "listen-peer-urls")?,
            client: bind(&settings.listen_client_urls, "listen-client-urls")?,
            client_http: bind(&settings.listen_client_http_urls, "listen-client-http-urls")?,
            metrics: bind(&settings.listen_metrics_urls, "listen-metrics-urls")?,
        })
    }
}

impl Listeners {
    /// Other holds on the same sockets, to be served until these are. Unix sockets are left out.
    ///
    /// Errors: there are no more descriptors.
    pub fn try_clone(&self) -> io::Result<Listeners> {
        let clone = |listeners: &[Listener]| -> io::Result<Vec<Listener>> {
            let cloned = listeners.iter().map(Listener::try_clone);
            Ok(cloned
                .collect::<io::Result<Vec<_>>>()?
                .into_iter()
                .flatten()
                .collect())
        };
        Ok(Listeners {
            peer: clone(&self.peer)?,
            client: clone(&self.client)?,
            client_http: clone(&self.client_http)?,
            metrics: clone(&self.metrics)?,
        })
    }
}

/// TLS of both ports, kept up to date for as long as it lives.
pub struct Security {
    client: Arc<Live>,
    peer: Arc<Live>,
    finder: Option<Arc<dyn Find>>,
    _watch: Option<Watch>,
}

impl Security {
    /// Reads the files, or generates certificates, and watches them.
    ///
    /// Errors: say which flag or file cannot be used.
    pub fn open(settings: &Settings, metrics: &Arc<Metrics>) -> anyhow::Result<Security> {
        let client_urls = [
            &settings.listen_client_urls,
            &settings.listen_client_http_urls,
            &settings.advertise_client_urls,
        ];
        let peer_urls = [&settings.listen_peer_urls, &settings.advertise_peer_urls];
        let live = |port: Port, urls: &[&Vec<Url>]| -> anyhow::Result<Arc<Live>> {
            let given = match port {
                Port::Client => &settings.client_tls,
                Port::Peer => &settings.peer_tls,
            };
            let mut options = given.clone();
            if given.auto && given.is_empty() {
                let dir = settings.data_dir.join("fixtures").join(port.name());
                let made = tls::self_signed(&dir, &hosts(urls), settings.self_signed_years);
                options = made
                    .with_context(|| format!("failed to get {} self-signed certs", port.name()))?;
                options.protocol = given.protocol.clone();
            }
            if !options.is_empty() {
                info!(
                    "tls-info" = options.to_string(),
                    "starting with {} TLS",
                    port.name()
                );
            }
            if port == Port::Client && !settings.serves_clients_with_tls() {
                // As in etcd, files that no URL needs are not read.
                options = tls::Options::default();
            }
            Ok(Live::open(port, options, Arc::clone(metrics))?)
        };
        let client = live(Port::Client, &client_urls)?;
        let peer = live(Port::Peer, &peer_urls)?;
        let watched: Vec<Arc<Live>> = [&client, &peer]
            .into_iter()
            .filter(|live| live.has_files())
            .cloned()
            .collect();
        let watch = match watched.is_empty() {
            true => None,
            false => Some(Watch::start(watched, settings.tls_recheck_interval)?),
        };
        let finder = Finder::of(settings, PeerDialer::new(Arc::clone(&peer)));
        Ok(Security {
            client,
            peer,
            finder,
            _watch: watch,
        })
    }

    /// How members are reached.
    pub fn dialer(&self) -> Arc<dyn Dialer> {
        Arc::new(self.peer_dialer())
    }

    /// The same, for who must connect to addresses, too.
    pub fn peer_dialer(&self) -> PeerDialer {
        PeerDialer::new(Arc::clone(&self.peer)).finding(self.finder.clone())
    }

    /// For `--listen-client-urls` and `--listen-client-http-urls`.
    pub fn of_clients(&self) -> Secure {
        Secure {
            live: Arc::clone(&self.client),
            check_client_san: false,
        }
    }

    /// For `--listen-metrics-urls`: as in etcd a client's certificate must fit its address there.
    pub fn of_metrics(&self) -> Secure {
        Secure {
            check_client_san: !self.client.options().skip_client_san_verification,
            ..self.of_clients()
        }
    }

    /// For `--listen-peer-urls`.
    pub fn of_peers(&self) -> Secure {
        Secure {
            live: Arc::clone(&self.peer),
            check_client_san: !self.peer.options().skip_client_san_verification,
        }
    }
}

/// What a generated certificate is for: the hosts of the URLs, each once.
fn hosts(urls: &[&Vec<Url>]) -> Vec<String> {
    let mut hosts: Vec<String> = urls
        .iter()
        .flat_map(|urls| urls.iter())
        .filter_map(|url| url.host_and_port())
        .filter(|(host, _)| !host.is_empty())
        .map(|(host, _)| host.to_owned())
        .collect();
    hosts.sort();
    hosts.dedup();
    hosts
}
