//! The flags of auto mode.

use std::path::PathBuf;
use std::time::Duration;

use kvd_autopilot::discovery::{self, Source};
use kvd_autopilot::plan::Cleanup;

use super::resolve::{Reader, non_empty};
use crate::error::{Result, Setting};
use crate::urls::Url;

/// Most members that may begin a cluster: each write waits for more than half of them.
const EXPECT_MAX: u64 = 31;

/// What a member that acts by itself is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Autopilot {
    /// `--discovery-dns`.
    pub discovery: Vec<Source>,
    /// `--autopilot-find-peers`.
    pub find_peers: bool,
    /// `--autopilot-bootstrap-expect`.
    pub expect: u32,
    /// `--autopilot-first-ordinal`.
    pub first_ordinal: u32,
    /// `--autopilot-stabilization-time`.
    pub stabilization: Duration,
    /// `--autopilot-cleanup-dead-members` and what belongs to it.
    pub cleanup: Option<Cleanup>,
    /// Who says how many members are wanted.
    pub desired: Option<DesiredFrom>,
}

/// Who says how many members are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DesiredFrom {
    /// A StatefulSet of the Kubernetes cluster that this process runs in.
    StatefulSet {
        /// Its namespace; without one that of the pod.
        namespace: Option<String>,
        /// Its name.
        name: String,
    },
    /// A file.
    File(PathBuf),
    /// Whatever answers at a URL.
    Url {
        /// `HOST:PORT`.
        authority: String,
        /// With what it begins: `/`.
        path: String,
    },
}

/// Reads them when the mode is auto.
///
/// Errors: [`Setting::Autopilot`].
pub(super) fn read(read: &Reader<'_>, advertise_peer: &[Url]) -> Result<Option<Autopilot>> {
    if read.text("initial-cluster-state") != "auto" {
        return Ok(None);
    }
    let refuse = |why: String| Setting::Autopilot(why);
    let port = advertise_peer.iter().find_map(|url| {
        let (_, port) = url.host_and_port()?;
        port.parse::<u16>().ok()
    });
    let Some(port) = port else {
        let why = "--initial-cluster-state auto needs a peer URL with a host and a port in \
                   --initial-advertise-peer-urls";
        return Err(refuse(why.to_owned()).into());
    };
    let text = read.text("discovery-dns");
    let discovery = discovery::parse(&text, port).map_err(|entry| {
        refuse(format!(
            "--discovery-dns: {entry:?} is neither HOST, HOST:PORT nor file:PATH"
        ))
    })?;
    if discovery.is_empty() {
        let why = "--initial-cluster-state auto needs --discovery-dns: the name that all members \
                   are found under";
        return Err(refuse(why.to_owned()).into());
    }
    let expect = read.uint("autopilot-bootstrap-expect");
    if !(1..=EXPECT_MAX).contains(&expect) {
        let why = format!("--autopilot-bootstrap-expect must be from 1 to {EXPECT_MAX}");
        return Err(refuse(why).into());
    }
    let small = |flag: &str| {
        u32::try_from(read.uint(flag)).map_err(|_| refuse(format!("--{flag} is too large")))
    };
    let cleanup = match read.bool("autopilot-cleanup-dead-members") {
        false => None,
        true => Some(Cleanup {
            threshold: read.duration("autopilot-dead-member-threshold")?,
            min_quorum: small("autopilot-min-quorum")?,
        }),
    };
    Ok(Some(Autopilot {
        discovery,
        find_peers: read.bool("autopilot-find-peers"),
        expect: small("autopilot-bootstrap-expect")?,
        first_ordinal: small("autopilot-first-ordinal")?,
        stabilization: read.duration("autopilot-stabilization-time")?,
        cleanup,
        desired: desired(read)?,
    }))
}

fn desired(read: &Reader<'_>) -> Result<Option<DesiredFrom>> {
    let set = non_empty(read.text("autopilot-statefulset"));
    let file = non_empty(read.text("autopilot-desired-replicas-file"));
    let url = non_empty(read.text("autopilot-desired-replicas-url"));
    let set = match (set, file, url) {
        (None, None, None) => return Ok(None),
        (None, Some(path), None) => return Ok(Some(DesiredFrom::File(path.into()))),
        (None, None, Some(url)) => return at(&url).map(Some),
        (Some(set), None, None) => set,
        _ => {
            let why = "--autopilot-statefulset, --autopilot-desired-replicas-file and \
                       --autopilot-desired-replicas-url all say how many members are wanted: give \
                       one";
            return Err(Setting::Autopilot(why.to_owned()).into());
        }
    };
    let (namespace, name) = match set.split_once('/') {
        Some((namespace, name)) => (Some(namespace), name),
        None => (None, set.as_str()),
    };
    let is_name = |text: &str| {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
        !text.is_empty() && text.chars().all(fits)
    };
    if !is_name(name) || namespace.is_some_and(|namespace| !is_name(namespace)) {
        let why = format!("--autopilot-statefulset: {set:?} is neither NAME nor NAMESPACE/NAME");
        return Err(Setting::Autopilot(why).into());
    }
    Ok(Some(DesiredFrom::StatefulSet {
        namespace: namespace.map(str::to_owned),
        name: name.to_owned(),
    }))
}

/// Reads `http://HOST:PORT/PATH`.
fn at(url: &str) -> Result<DesiredFrom> {
    let parts = url.strip_prefix("http://").map(|rest| {
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let has_port = authority.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0)
        });
        (authority, path, has_port)
    });
    let is_plain = |c: char| c.is_ascii_graphic() && c != '#';
    match parts {
        Some((authority, path, true)) if url.chars().all(is_plain) => Ok(DesiredFrom::Url {
            authority: authority.to_owned(),
            path: if path.is_empty() { "/" } else { path }.to_owned(),
        }),
        _ => {
            let why = format!(
                "--autopilot-desired-replicas-url: {url:?} is not of the form http://HOST:PORT/PATH"
            );
            Err(Setting::Autopilot(why).into())
        }
    }
}
