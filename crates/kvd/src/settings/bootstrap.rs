//! The checks of a member that has no data yet: does what it was told about the cluster fit?
//!
//! Names are resolved late. In a StatefulSet a pod starts before DNS knows it, and the etcd
//! document's command line advertises `http://etcd-0:2380` where `--initial-cluster` says
//! `http://etcd-0.etcd:2380`: the two are one member because they resolve to one address, perhaps
//! only after some seconds. So failures to resolve are retried each second for 30 s.
//!
//! Source: etcd `server/config/config.go` (`VerifyBootstrap`, `VerifyJoinExisting`) and
//! `pkg/netutil/netutil.go`.

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::types::Settings;
use crate::error::{Result, Setting};
use crate::urls::{self, Members, Url};

const DEADLINE: Duration = Duration::from_secs(30);
const INTERVAL: Duration = Duration::from_secs(1);

/// Finds the addresses of a host name.
pub trait Resolve: Sync {
    /// All addresses of `host`.
    fn resolve(&self, host: &str) -> impl Future<Output = io::Result<BTreeSet<IpAddr>>> + Send;
}

/// The system's resolver, asked anew each time.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    async fn resolve(&self, host: &str) -> io::Result<BTreeSet<IpAddr>> {
        let found = tokio::net::lookup_host((host, 0)).await?;
        Ok(found.map(|address| address.ip()).collect())
    }
}

impl Settings {
    /// Checks a first start with `--initial-cluster-state new`: this member is in
    /// `--initial-cluster`, there under the URLs that it advertises, and no URL stands there twice.
    ///
    /// May take 30 s while names do not resolve. Not to be called on a restart: there the data
    /// directory knows better, and names may have changed since.
    pub async fn verify_bootstrap(&self, resolver: &impl Resolve) -> Result<()> {
        let own = self.own_initial_urls()?;
        self.advertised_is(own, resolver).await?;
        no_duplicates(&self.initial_cluster)
    }

    /// Checks a first start with `--initial-cluster-state existing`. The cluster knows this
    /// member's URLs already, so they are not compared here.
    pub fn verify_join(&self) -> Result<()> {
        self.own_initial_urls()?;
        no_duplicates(&self.initial_cluster)
    }

    fn own_initial_urls(&self) -> Result<&[Url]> {
        match self.initial_cluster.get(&self.name) {
            Some(urls) => Ok(urls),
            None => Err(Setting::LocalName(self.name.clone()).into()),
        }
    }

    async fn advertised_is(&self, own: &[Url], resolver: &impl Resolve) -> Result<()> {
        let cause = match same_places(&self.advertise_peer_urls, own, resolver).await {
            Ok(()) => return Ok(()),
            Err(cause) => cause,
        };
        let advertised = &self.advertise_peer_urls;
        let missing: Vec<String> = own
            .iter()
            .filter(|url| !advertised.contains(url))
            .map(|url| format!("{}={url}", self.name))
            .collect();
        if !missing.is_empty() {
            let (missing, advertised) = (missing.join(","), urls::join(advertised));
            return Err(Setting::NotAdvertised {
                missing,
                advertised,
                cause,
            }
            .into());
        }
        let missing: Vec<&str> = advertised
            .iter()
            .filter(|url| !own.contains(url))
            .map(Url::as_str)
            .collect();
        let cluster = urls::join_members(&Members::from([(self.name.clone(), own.to_vec())]));
        Err(Setting::NotInCluster {
            missing: missing.join(","),
            cluster,
        }
        .into())
    }
}

fn no_duplicates(members: &Members) -> Result<()> {
    let mut seen = BTreeSet::new();
    if members.values().flatten().all(|url| seen.insert(url)) {
        return Ok(());
    }
    Err(Setting::DuplicateUrl(urls::join_members(members)).into())
}

/// Whether both lists name the same places; the error says where they part.
///
/// Differs from etcd: where a name has several addresses, one in common is enough; etcd compares
/// the first of each.
pub(crate) async fn same_places(
    left: &[Url],
    right: &[Url],
    resolver: &impl Resolve,
) -> std::result::Result<(), String> {
    let texts = |urls: &[Url]| urls.iter().map(Url::to_string).collect::<Vec<_>>();
    if left.len() != right.len() {
        return Err(format!("len({:?}) != len({:?})", texts(left), texts(right)));
    }
    let sorted = |urls: &[Url]| urls.iter().cloned().collect::<BTreeSet<_>>();
    if sorted(left) == sorted(right) {
        return Ok(());
    }
    let deadline = Instant::now() + DEADLINE;
    let mut open = Vec::new();
    for url in right {
        open.push((url, addresses(url, deadline, resolver).await?));
    }
    for url in left {
        let mine = addresses(url, deadline, resolver).await?;
        let port = url.host_and_port().map(|(_, port)| port);
        let twin = open.iter().position(|(other, theirs)| {
            let same_port = other.host_and_port().map(|(_, port)| port) == port;
            let meet = !mine.is_disjoint(theirs) || *other == url;
            other.scheme() == url.scheme() && same_port && meet
        });
        match twin {
            Some(at) => drop(open.swap_remove(at)),
            None => {
                let others: Vec<String> = open.iter().map(|(url, _)| url.to_string()).collect();
                return Err(format!("resolved urls: {:?} != {others:?}", url.as_str()));
            }
        }
    }
    Ok(())
}

async fn addresses(
    url: &Url,
    deadline: Instant,
    resolver: &impl Resolve,
) -> std::result::Result<BTreeSet<IpAddr>, String> {
    let Some((host, _)) = url.host_and_port() else {
        return Ok(BTreeSet::new());
    };
    loop {
        let error = match resolver.resolve(host).await {
            Ok(found) if !found.is_empty() => {
                info!(url = %url, host, "resolved-addr" = ?found, "resolved URL Host");
                return Ok(found);
            }
            Ok(_) => "no addresses".to_owned(),
            Err(error) => error.to_string(),
        };
        let over = Instant::now() + INTERVAL > deadline;
        warn!(
            url = %url,
            host,
            "retry-interval" = ?INTERVAL,
            error,
            "failed to resolve URL Host{}",
            if over { "; returning" } else { "" }
        );
        if over {
            return Err(format!("failed to resolve {:?} ({error})", url.as_str()));
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

#[cfg(test)]
#[path = "bootstrap_tests.rs"]
mod tests;
