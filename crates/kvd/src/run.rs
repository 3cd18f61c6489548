//! Running a member from its settings.

use anyhow::Context;

use crate::serve::{Listener, limits};
use crate::settings::Settings;
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
    /// Binds all of them, so that a taken port stops the start before any data is touched.
    ///
    /// Errors: name the URL, its flag and what to do.
    pub fn bind(settings: &Settings) -> anyhow::Result<Listeners> {
        let bind = |urls: &[Url], flag| {
            let reuse_port = settings.socket_reuse_port;
            urls.iter()
                .map(|url| Listener::bind(url, flag, reuse_port).context("bind failed"))
                .collect::<anyhow::Result<Vec<Listener>>>()
        };
        Ok(Listeners {
            peer: bind(&settings.listen_peer_urls, "listen-peer-urls")?,
            client: bind(&settings.listen_client_urls, "listen-client-urls")?,
            client_http: bind(&settings.listen_client_http_urls, "listen-client-http-urls")?,
            metrics: bind(&settings.listen_metrics_urls, "listen-metrics-urls")?,
        })
    }
}

/// Runs a member until a signal stops it.
///
/// Errors: whatever keeps the member from starting or makes it stop by itself.
pub fn run(settings: &Settings) -> anyhow::Result<()> {
    let _connections = limits::connections()?;
    let _listeners = Listeners::bind(settings)?;
    anyhow::bail!("this build has no server in it: only flags and listeners")
}
