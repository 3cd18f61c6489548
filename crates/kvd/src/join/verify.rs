//! Compares `--initial-cluster` with the members of the running cluster.

use std::fmt::Write;
use std::time::Duration;

use futures_util::future::join_all;
use kvd_raft::Dialer;
use kvd_server::config::Join;
use thiserror::Error;
use tokio::time::Instant;
use tracing::warn;

use super::remote::{self, Cluster, Member};
use super::version::{self, Verdict};
use crate::settings::{Resolve, Settings, same_places};
use crate::urls::{self, Members, Url};

/// How long a member may take to answer when somebody joins. etcd: 10 s.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// The same when a member asks whether it has been there before. etcd: 1 s.
const BOOTSTRAPPED_LIMIT: Duration = Duration::from_secs(1);
/// For how long members that do not answer are asked again. In Kubernetes, names appear late.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(500);

/// Why a member cannot begin as it was told to.
#[derive(Debug, Error)]
pub enum Error {
    /// Nobody answers.
    #[error(
        "cannot fetch cluster info from peer urls: could not retrieve cluster information from the \
         given URLs: {0}"
    )]
    NoAnswer(String),
    /// The others are etcd's.
    #[error(
        "the member at {0} is one of etcd: kvd and etcd cannot form a cluster; restore a snapshot \
         of the etcd cluster into a kvd cluster instead"
    )]
    Etcd(String),
    /// The number of members differs.
    #[error(
        "error validating peerURLs: member count is unequal: --initial-cluster names {named} \
         members, the cluster at {url} has {have}; {differences}"
    )]
    Count {
        /// Members in `--initial-cluster`.
        named: usize,
        /// Members of the cluster.
        have: usize,
        /// Who answered.
        url: String,
        /// What to look at.
        differences: String,
    },
    /// A member has other URLs.
    #[error("error validating peerURLs: the cluster at {url} does not match; {differences}")]
    Unmatched {
        /// Who answered.
        url: String,
        /// What to look at.
        differences: String,
    },
    /// The cluster is newer than this member, or about to be older.
    #[error(
        "incompatible with current running cluster: its version is none that this member speaks"
    )]
    Incompatible,
    /// The member runs, or has run, with other data.
    #[error(
        "member {id:x} ({name:?}) has been started before, with data that is not in this \
         --data-dir: give the data directory that it was started with; if that is lost, remove the \
         member with `member remove {id:x}`, add it again with `member add`, and start it then"
    )]
    Started {
        /// Its ID.
        id: u64,
        /// Its name.
        name: String,
    },
    /// A new cluster is to be made of members that have one.
    #[error(
        "member {id:x} has already been bootstrapped: the cluster at {url} knows it, but this \
         --data-dir is empty; give the data directory that it was started with, or remove the \
         member, add it again and start it with --initial-cluster-state=existing"
    )]
    Bootstrapped {
        /// Its ID.
        id: u64,
        /// Who answered.
        url: String,
    },
}

/// Finds out who this member is in the running cluster that `--initial-cluster` names.
///
/// Errors: what does not fit, by entry; to be mended in the flags, or by `member add`.
pub async fn verify(
    settings: &Settings,
    dialer: &dyn Dialer,
    resolver: &impl Resolve,
) -> Result<Join, Error> {
    let cluster = ask(dialer, &others(settings)).await?;
    if !cluster.is_kvd {
        return Err(Error::Etcd(cluster.url));
    }
    let pairs = matched(settings, &cluster, resolver).await?;
    let own = pairs
        .iter()
        .find(|(name, _)| *name == settings.name)
        .map(|(_, member)| *member);
    let Some(own) = own else {
        // `Settings::verify_join` has seen the name in the list, and every entry has a match.
        let differences = format!("{:?} is none of its members", settings.name);
        return Err(Error::Unmatched {
            url: cluster.url,
            differences,
        });
    };
    if !own.client_urls.is_empty() {
        return Err(Error::Started {
            id: own.id,
            name: own.name.clone(),
        });
    }
    check_version(dialer, &cluster, own.id).await?;
    let others = cluster.members.iter().filter(|member| member.id != own.id);
    Ok(Join {
        cluster_id: cluster.id,
        member_id: own.id,
        peers: others.flat_map(|other| other.peer_urls.clone()).collect(),
    })
}

/// Refuses to join a cluster of another version.
///
/// Errors: [`Error::Incompatible`], also when nobody knows the cluster's version for a while.
async fn check_version(dialer: &dyn Dialer, cluster: &Cluster, own_id: u64) -> Result<(), Error> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match version::compare(dialer, cluster, own_id, ANSWER_LIMIT).await {
            Verdict::Compatible => return Ok(()),
            Verdict::Unknown if Instant::now() < deadline => tokio::time::sleep(PAUSE).await,
            Verdict::Unknown | Verdict::Incompatible => return Err(Error::Incompatible),
        }
    }
}

/// Refuses to make a new cluster when the others run already and know this member as started.
///
/// Errors: [`Error::Bootstrapped`].
pub async fn has_been_bootstrapped(settings: &Settings, dialer: &dyn Dialer) -> Result<(), Error> {
    let Some(own) = settings.initial_cluster.get(&settings.name) else {
        return Ok(());
    };
    let texts: Vec<String> = own.iter().map(Url::to_string).collect();
    let id = kvd_server::identity::member_id(&texts, &settings.initial_cluster_token);
    let urls = others(settings);
    let asked = urls
        .iter()
        .map(|url| remote::cluster(dialer, url, BOOTSTRAPPED_LIMIT));
    for cluster in join_all(asked).await.into_iter().flatten() {
        let known = cluster.members.iter().find(|member| member.id == id);
        if known.is_some_and(|member| !member.client_urls.is_empty()) {
            let url = cluster.url;
            return Err(Error::Bootstrapped { id, url });
        }
    }
    Ok(())
}

/// The peer URLs of all but this member, sorted.
fn others(settings: &Settings) -> Vec<String> {
    let others = settings
        .initial_cluster
        .iter()
        .filter(|(name, _)| **name != settings.name);
    let mut urls: Vec<String> = others
        .flat_map(|(_, urls)| urls)
        .map(Url::to_string)
        .collect();
    urls.sort();
    urls
}

/// The answer of the first member that gives one.
async fn ask(dialer: &dyn Dialer, urls: &[String]) -> Result<Cluster, Error> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut failures = Vec::new();
        for url in urls {
            match remote::cluster(dialer, url, ANSWER_LIMIT).await {
                Ok(cluster) => return Ok(cluster),
                Err(why) => failures.push(format!("{url}: {why}")),
            }
        }
        if urls.is_empty() {
            failures.push("--initial-cluster names no other member".to_owned());
        }
        let failures = failures.join("; ");
        if urls.is_empty() || Instant::now() >= deadline {
            return Err(Error::NoAnswer(failures));
        }
        warn!(failures, "failed to get cluster response; asking again");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Each entry of `--initial-cluster` with the member that has its URLs.
async fn matched<'a>(
    settings: &'a Settings,
    cluster: &'a Cluster,
    resolver: &impl Resolve,
) -> Result<Vec<(&'a str, &'a Member)>, Error> {
    let mut entries: Vec<(&str, &[Url])> = settings
        .initial_cluster
        .iter()
        .map(|(name, urls)| (name.as_str(), urls.as_slice()))
        .collect();
    let mut members: Vec<&Member> = cluster.members.iter().collect();
    let mut pairs = Vec::new();
    // By their texts first: most match, and nothing has to be resolved for that.
    entries.retain(|(name, urls)| {
        let same = |member: &&Member| is_same_text(urls, &member.peer_urls);
        let Some(place) = members.iter().position(same) else {
            return true;
        };
        pairs.push((*name, members.swap_remove(place)));
        false
    });
    let counts = (settings.initial_cluster.len(), cluster.members.len());
    if counts.0 != counts.1 {
        return Err(Error::Count {
            named: counts.0,
            have: counts.1,
            url: cluster.url.clone(),
            differences: differences(&entries, &members),
        });
    }
    let mut unmatched = Vec::new();
    for (name, urls) in entries {
        match place_of(urls, &members, resolver).await {
            Some(place) => pairs.push((name, members.swap_remove(place))),
            None => unmatched.push((name, urls)),
        }
    }
    match unmatched.is_empty() {
        true => Ok(pairs),
        false => Err(Error::Unmatched {
            url: cluster.url.clone(),
            differences: differences(&unmatched, &members),
        }),
    }
}

fn is_same_text(urls: &[Url], texts: &[String]) -> bool {
    let mut ours: Vec<&str> = urls.iter().map(Url::as_str).collect();
    let mut theirs: Vec<&str> = texts.iter().map(String::as_str).collect();
    ours.sort_unstable();
    theirs.sort_unstable();
    ours == theirs
}

/// The member whose URLs lead to the same places.
async fn place_of(urls: &[Url], members: &[&Member], resolver: &impl Resolve) -> Option<usize> {
    for (place, member) in members.iter().enumerate() {
        let theirs: Result<Vec<Url>, _> = member.peer_urls.iter().map(|u| Url::parse(u)).collect();
        let Ok(theirs) = theirs else { continue };
        if same_places(urls, &theirs, resolver).await.is_ok() {
            return Some(place);
        }
    }
    None
}

/// Names what is in one list only.
fn differences(entries: &[(&str, &[Url])], members: &[&Member]) -> String {
    let mut text = String::new();
    for (name, urls) in entries {
        let entry = Members::from([((*name).to_owned(), urls.to_vec())]);
        let entry = urls::join_members(&entry);
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "{entry} of --initial-cluster is no member of it (is `member add` missing?); "
        );
    }
    for member in members {
        let (id, urls) = (member.id, member.peer_urls.join(","));
        let name = match member.name.as_str() {
            "" => "not started yet".to_owned(),
            name => format!("{name:?}"),
        };
        let _ = write!(
            text,
            "member {id:x} ({name}) with {urls} is missing from --initial-cluster; "
        );
    }
    text.truncate(text.trim_end_matches("; ").len());
    text
}
