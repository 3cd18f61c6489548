//! `--discovery-srv`: the members are the SRV records `_etcd-server-ssl._tcp` (https) and
//! `_etcd-server._tcp` (http) of a domain.
//!
//! A record is this member's own when it leads to an address and port of
//! `--initial-advertise-peer-urls`; it gets `--name`. The others are numbered: their names are not
//! known yet, and IDs depend on URLs alone.
//!
//! Source: etcd `client/pkg/srv/srv.go` (`GetCluster`), `server/embed/config.go`
//! (`GetDNSClusterNames`).

use std::collections::BTreeSet;
use std::future::Future;
use std::net::IpAddr;

use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::RData;
use hickory_resolver::proto::rr::rdata::SRV;
use tracing::{info, warn};

use super::Error;
use crate::settings::{Resolve, Settings, SrvDomain};
use crate::urls::{self, Members, Url};

/// Where a record leads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// The host, without the final dot.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// Finds SRV records.
pub trait Records: Sync {
    /// The records `name` in their order; the error says why there are none.
    fn srv(&self, name: &str) -> impl Future<Output = Result<Vec<Target>, String>> + Send;
}

/// The servers of `resolv.conf`.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemRecords;

impl Records for SystemRecords {
    async fn srv(&self, name: &str) -> Result<Vec<Target>, String> {
        let resolver = TokioResolver::builder_tokio().and_then(|builder| builder.build());
        let resolver = resolver.map_err(|error| format!("the system's resolver: {error}"))?;
        let found =
            resolver
                .srv_lookup(name)
                .await
                .map_err(|error| match error.is_no_records_found() {
                    true => format!("lookup {name}: no such host"),
                    false => format!("lookup {name}: {error}"),
                })?;
        let records = found.answers().iter();
        let mut records: Vec<&SRV> = records
            .filter_map(|record| match &record.data {
                RData::SRV(record) => Some(record),
                // Another name on the way there.
                _ => None,
            })
            .collect();
        // By weight a client would draw lots; here every member is wanted.
        records.sort_by_key(|record| (record.priority, record.target.to_utf8(), record.port));
        let target = |record: &&SRV| Target {
            host: record.target.to_utf8().trim_end_matches('.').to_owned(),
            port: record.port,
        };
        Ok(records.iter().map(target).collect())
    }
}

/// The members that the records of `domain` name, this one among them.
///
/// Errors: [`Error::Lookup`], [`Error::NotInRecords`], [`Error::Cluster`].
pub async fn members(
    settings: &Settings,
    domain: &SrvDomain,
    records: &impl Records,
    resolver: &impl Resolve,
) -> Result<Members, Error> {
    let own = own_places(&settings.advertise_peer_urls, resolver).await;
    let own = own.map_err(Error::Lookup)?;
    let suffix = match domain.name.as_str() {
        "" => String::new(),
        name => format!("-{name}"),
    };
    let (mut entries, mut failures) = (Vec::new(), Vec::new());
    for (scheme, service) in [("https", "etcd-server-ssl"), ("http", "etcd-server")] {
        let service = format!("{service}{suffix}");
        let name = format!("_{service}._tcp.{}", domain.domain);
        let search = Search {
            scheme,
            own_name: &settings.name,
            own: &own,
        };
        match search.entries(&name, records, resolver).await {
            Ok(found) => {
                info!(service, found = ?found, "got bootstrap from DNS for etcd-server");
                entries.extend(found);
            }
            Err(error) => {
                let error = format!("error querying DNS SRV records for _{service} {error}");
                warn!(service, error, "no records of the first members");
                failures.push(error);
            }
        }
    }
    if entries.is_empty() {
        return Err(Error::Lookup(failures.join("\n")));
    }
    let found = entries.join(",");
    let members = urls::parse_members(&found).map_err(Error::Cluster)?;
    if !members.contains_key(&settings.name) {
        return Err(Error::NotInRecords {
            name: settings.name.clone(),
            advertised: urls::join(&settings.advertise_peer_urls),
            found,
        });
    }
    Ok(members)
}

/// A URL of this member and where it leads.
struct Place<'a> {
    url: &'a Url,
    addresses: BTreeSet<IpAddr>,
    port: &'a str,
}

async fn own_places<'a>(
    urls: &'a [Url],
    resolver: &impl Resolve,
) -> Result<Vec<Place<'a>>, String> {
    let mut places = Vec::new();
    for url in urls {
        let Some((host, port)) = url.host_and_port() else {
            continue;
        };
        let addresses = resolver.resolve(host).await;
        let addresses = addresses.map_err(|error| format!("lookup {host}: {error}"))?;
        places.push(Place {
            url,
            addresses,
            port,
        });
    }
    Ok(places)
}

/// The search for one of the two services.
struct Search<'a> {
    scheme: &'static str,
    own_name: &'a str,
    own: &'a [Place<'a>],
}

impl Search<'_> {
    /// `name=scheme://host:port` for each record; the error says why there is none.
    async fn entries(
        &self,
        name: &str,
        records: &impl Records,
        resolver: &impl Resolve,
    ) -> Result<Vec<String>, String> {
        let (mut entries, mut others) = (Vec::new(), 0);
        let mut last = format!("lookup {name}: no records");
        for Target { host, port } in records.srv(name).await? {
            let addresses = match resolver.resolve(&host).await {
                Ok(addresses) => addresses,
                Err(error) => {
                    last = format!("lookup {host}: {error}");
                    warn!(record = name, host, %error, "a record leads nowhere");
                    continue;
                }
            };
            let port = port.to_string();
            let is_here =
                |place: &&Place<'_>| place.port == port && !place.addresses.is_disjoint(&addresses);
            let own = self.own.iter().find(is_here);
            let url = match host.contains(':') {
                true => format!("{}://[{host}]:{port}", self.scheme),
                false => format!("{}://{host}:{port}", self.scheme),
            };
            // A number is used up by a record that is left out, too, as in etcd.
            let entry = match own {
                Some(_) => self.own_name.to_owned(),
                None => {
                    others += 1;
                    (others - 1).to_string()
                }
            };
            match own {
                Some(place) if place.url.scheme().is_tls() != (self.scheme == "https") => {
                    last = format!(
                        "bootstrap at {url} from DNS for {name} has scheme mismatch with expected \
                         peer {}",
                        place.url
                    );
                    warn!(record = name, error = last, "a record was left out");
                }
                _ => entries.push(format!("{entry}={url}")),
            }
        }
        match entries.is_empty() {
            true => Err(last),
            false => Ok(entries),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io;

    use super::*;

    /// A name server: SRV records by name, addresses by host.
    #[derive(Default)]
    struct Zone {
        srv: BTreeMap<&'static str, Vec<(&'static str, u16)>>,
        hosts: BTreeMap<&'static str, &'static str>,
    }

    impl Records for Zone {
        async fn srv(&self, name: &str) -> Result<Vec<Target>, String> {
            let found = self.srv.get(name);
            let found = found.ok_or_else(|| format!("lookup {name}: no such host"))?;
            let target = |(host, port): &(&str, u16)| Target {
                host: (*host).to_owned(),
                port: *port,
            };
            Ok(found.iter().map(target).collect())
        }
    }

    impl Resolve for Zone {
        async fn resolve(&self, host: &str) -> io::Result<BTreeSet<IpAddr>> {
            let text = self.hosts.get(host).copied().unwrap_or(host);
            let address = text.parse().map_err(io::Error::other)?;
            Ok(BTreeSet::from([address]))
        }
    }

    fn settings(name: &str, advertised: &str) -> Settings {
        let arguments = [
            "--name",
            name,
            "--initial-advertise-peer-urls",
            advertised,
            "--discovery-srv",
            "example.com",
        ]
        .map(str::to_owned);
        let crate::flags::parse::Asked::Run(mut given) =
            crate::flags::parse::command_line(&arguments).expect("flags")
        else {
            panic!("no help was asked for")
        };
        crate::settings::resolve(&mut given, false).expect("settings")
    }

    async fn find(zone: &Zone, name: &str, of: &Settings) -> Result<String, String> {
        let domain = SrvDomain {
            domain: "example.com".into(),
            name: name.into(),
        };
        let found = members(of, &domain, zone, zone).await;
        found
            .map(|found| urls::join_members(&found))
            .map_err(|error| error.to_string())
    }

    fn zone() -> Zone {
        Zone {
            srv: BTreeMap::from([(
                "_etcd-server._tcp.example.com",
                vec![
                    ("a.example.com", 2380),
                    ("b.example.com", 2380),
                    ("c.example.com", 2380),
                ],
            )]),
            hosts: BTreeMap::from([
                ("a.example.com", "10.0.0.1"),
                ("b.example.com", "10.0.0.2"),
                ("c.example.com", "10.0.0.3"),
                ("b", "10.0.0.2"),
            ]),
        }
    }

    #[tokio::test]
    async fn the_record_that_leads_here_gets_the_own_name() {
        // Another name of the same host.
        let found = find(&zone(), "", &settings("bee", "http://b:2380")).await;
        assert_eq!(
            found.expect("a cluster"),
            "0=http://a.example.com:2380,1=http://c.example.com:2380,bee=http://b.example.com:2380"
        );
    }

    #[tokio::test]
    async fn both_services_and_the_suffix_are_asked_for() {
        let mut zone = zone();
        let plain = zone
            .srv
            .remove("_etcd-server._tcp.example.com")
            .expect("there");
        zone.srv
            .insert("_etcd-server-ssl-x._tcp.example.com", plain);
        let of = settings("bee", "http://b:2380");
        let missing = find(&zone, "", &of).await.expect_err("no records");
        assert_eq!(
            missing,
            "error setting up initial cluster: error querying DNS SRV records for \
             _etcd-server-ssl lookup _etcd-server-ssl._tcp.example.com: no such host\nerror \
             querying DNS SRV records for _etcd-server lookup _etcd-server._tcp.example.com: no \
             such host"
        );
        // The records say https, the member http.
        let mismatch = find(&zone, "x", &of).await.expect_err("not in the records");
        assert!(
            mismatch.contains("cannot find local etcd member \"bee\" in SRV"),
            "{mismatch}"
        );
        zone.hosts.insert("z.example.com", "10.0.0.9");
        zone.srv.insert(
            "_etcd-server-x._tcp.example.com",
            vec![("z.example.com", 1)],
        );
        let of = settings("bee", "https://b:2380");
        assert_eq!(
            find(&zone, "x", &of).await.expect("a cluster"),
            "0=http://z.example.com:1,0=https://a.example.com:2380,1=https://c.example.com:2380,\
             bee=https://b.example.com:2380"
        );
    }

    #[tokio::test]
    async fn another_port_or_an_unknown_host_is_not_this_member() {
        let other_port = find(&zone(), "", &settings("bee", "http://b:2381")).await;
        assert!(
            other_port
                .expect_err("refused")
                .contains("0=http://a.example.com:2380")
        );
        let mut zone = zone();
        zone.hosts.remove("a.example.com");
        let found = find(&zone, "", &settings("bee", "http://b:2380")).await;
        assert_eq!(
            found.expect("a cluster"),
            "0=http://c.example.com:2380,bee=http://b.example.com:2380"
        );
    }
}
