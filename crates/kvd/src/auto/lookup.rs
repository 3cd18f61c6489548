//! Where other members may be, looked up anew each time.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use futures_util::future::join_all;
use kvd_autopilot::discovery::{self, Source};

/// Most addresses that are asked; more is a mistake.
const PLACES_MAX: usize = 256;

/// Addresses, each with the host that it was found under, and what could not be looked up.
#[derive(Debug, Default)]
pub struct Found {
    /// Where to ask, and under which name.
    pub places: BTreeMap<SocketAddr, String>,
    /// What failed, and why.
    pub failures: Vec<(String, String)>,
}

/// Looks everything up. `port`: for the lines of a file without one.
pub async fn lookup(sources: &[Source], port: u16) -> Found {
    let mut found = Found::default();
    let mut hosts = Vec::new();
    for source in sources {
        match source {
            Source::Host { host, port } => hosts.push((host.clone(), *port)),
            Source::File(path) => match read(path, port).await {
                Ok(lines) => hosts.extend(lines),
                Err(why) => found.failures.push((source.to_string(), why)),
            },
        }
    }
    let resolving = hosts.into_iter().map(|(host, port)| async move {
        let resolved = tokio::net::lookup_host((host.as_str(), port)).await;
        let resolved = resolved.map(|all| all.collect::<Vec<SocketAddr>>());
        (host, resolved)
    });
    for (host, resolved) in join_all(resolving).await {
        match resolved {
            Ok(addresses) if addresses.is_empty() => {
                found
                    .failures
                    .push((host, "the name has no address".to_owned()));
            }
            Ok(addresses) => {
                for address in addresses.into_iter().take(PLACES_MAX) {
                    found.places.entry(address).or_insert_with(|| host.clone());
                }
            }
            Err(error) => found.failures.push((host, error.to_string())),
        }
    }
    found
}

async fn read(path: &str, port: u16) -> Result<Vec<(String, u16)>, String> {
    let text = tokio::fs::read_to_string(path).await;
    let text = text.map_err(|error| error.to_string())?;
    let lines = discovery::parse_lines(&text, port);
    let lines = lines.map_err(|line| format!("{line:?} is neither HOST nor HOST:PORT"))?;
    Ok(lines
        .into_iter()
        .filter_map(|line| match line {
            Source::Host { host, port } => Some((host, port)),
            Source::File(_) => None,
        })
        .collect())
}
