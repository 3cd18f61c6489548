//! How the first members are found when `--initial-cluster` does not list them.
//!
//! Source: etcd `server/embed/config.go` (`Validate`, `PeerURLsMapAndToken`),
//! `server/etcdmain/config.go`.

use std::path::PathBuf;
use std::time::Duration;

use super::resolve::{Reader, non_empty};
use super::types::{ClusterState, Settings};
use crate::error::{Result, Setting};
use crate::flags::parse::Assignments;
use crate::flags::value;
use crate::urls::Members;

/// Who knows the first members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Discovery {
    /// `--initial-cluster` lists them.
    #[default]
    Off,
    /// The SRV records of a domain.
    Srv(SrvDomain),
    /// Keys in another cluster, at which the members register.
    Registry(Box<Registry>),
}

/// `--discovery-srv` and `--discovery-srv-name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SrvDomain {
    /// The domain.
    pub domain: String,
    /// Tells clusters of one domain apart; may be empty.
    pub name: String,
}

/// `--discovery-endpoints` and its companions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registry {
    /// `--discovery-token`: names the cluster.
    pub token: String,
    /// `--discovery-endpoints`, each once.
    pub endpoints: Vec<String>,
    /// `--discovery-dial-timeout`.
    pub dial_timeout: Duration,
    /// `--discovery-request-timeout`.
    pub request_timeout: Duration,
    /// `--discovery-keepalive-time`.
    pub keepalive_time: Duration,
    /// `--discovery-keepalive-timeout`.
    pub keepalive_timeout: Duration,
    /// `--discovery-insecure-transport`: no TLS unless files ask for it.
    pub insecure_transport: bool,
    /// `--discovery-insecure-skip-tls-verify`.
    pub insecure_skip_verify: bool,
    /// `--discovery-cert`.
    pub cert: Option<PathBuf>,
    /// `--discovery-key`.
    pub key: Option<PathBuf>,
    /// `--discovery-cacert`.
    pub cacert: Option<PathBuf>,
    /// `--discovery-user`; empty means nobody.
    pub user: String,
    /// `--discovery-password`.
    pub password: String,
}

impl Discovery {
    /// Reads the flags.
    ///
    /// Errors: those of etcd about flags that exclude or need one another.
    pub(super) fn read(given: &Assignments) -> Result<Discovery> {
        let read = Reader { given };
        let (domain, token) = (read.text("discovery-srv"), read.text("discovery-token"));
        let mut endpoints = value::list(given.get("discovery-endpoints"));
        endpoints.sort();
        endpoints.dedup();
        let is_listed = given
            .given("initial-cluster")
            .is_some_and(|text| !text.is_empty());
        let ways = [is_listed, !domain.is_empty(), !endpoints.is_empty()];
        if ways.into_iter().filter(|way| *way).count() > 1 {
            return Err(Setting::BootstrapConflict.into());
        }
        if token.is_empty() != endpoints.is_empty() {
            return Err(Setting::DiscoveryIncomplete.into());
        }
        let text = given.get("discovery-endpoints");
        if !endpoints.is_empty() && text.split(',').any(|endpoint| endpoint.trim().is_empty()) {
            return Err(Setting::DiscoveryEndpointEmpty.into());
        }
        if given.get("discovery-fallback") == "proxy" {
            return Err(Setting::DiscoveryFallback.into());
        }
        if !domain.is_empty() {
            let name = read.text("discovery-srv-name");
            return Ok(Discovery::Srv(SrvDomain { domain, name }));
        }
        if endpoints.is_empty() {
            return Ok(Discovery::Off);
        }
        let file = |name: &str| non_empty(read.text(name)).map(PathBuf::from);
        Ok(Discovery::Registry(Box::new(Registry {
            token,
            endpoints,
            dial_timeout: read.duration("discovery-dial-timeout")?,
            request_timeout: read.duration("discovery-request-timeout")?,
            keepalive_time: read.duration("discovery-keepalive-time")?,
            keepalive_timeout: read.duration("discovery-keepalive-timeout")?,
            insecure_transport: read.bool("discovery-insecure-transport"),
            insecure_skip_verify: read.bool("discovery-insecure-skip-tls-verify"),
            cert: file("discovery-cert"),
            key: file("discovery-key"),
            cacert: file("discovery-cacert"),
            user: read.text("discovery-user"),
            password: read.text("discovery-password"),
        })))
    }

    /// What stands for `--initial-cluster` until the members are found.
    ///
    /// Errors: [`Setting::DiscoveryOfExisting`].
    pub(super) fn prepare(&self, settings: &mut Settings, given: &Assignments) -> Result<()> {
        match self {
            // As in etcd, the name of a service alone is no cluster of one.
            Discovery::Off if given.get("discovery-srv-name").is_empty() => {}
            Discovery::Off if given.given("initial-cluster").is_some() => {}
            Discovery::Off => settings.initial_cluster = Members::new(),
            Discovery::Srv(_) => settings.initial_cluster = Members::new(),
            Discovery::Registry(registry) => {
                if settings.initial_cluster_state == ClusterState::Existing {
                    return Err(Setting::DiscoveryOfExisting.into());
                }
                let own = (settings.name.clone(), settings.advertise_peer_urls.clone());
                settings.initial_cluster = Members::from([own]);
                settings.initial_cluster_token.clone_from(&registry.token);
            }
        }
        Ok(())
    }
}
