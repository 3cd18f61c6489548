//! snapshot restore: a kvd data directory out of a snapshot of kvd or etcd.
//!
//! Source: etcd `etcdutl/etcdutl/snapshot_command.go`, `pkg/types/urlsmap.go`,
//! `server/config/config.go`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kvd_server::{backup, urls};

use crate::args::Restore;
use crate::failure::{BAD_ARGS, Failure, Outcome};

type Cluster = BTreeMap<String, Vec<String>>;

pub(crate) fn run(file: &Path, args: &Restore) -> Outcome {
    if (args.bump_revision > 0) != args.mark_compacted {
        let message = "--mark-compacted required if --revision-bump > 0";
        return Err(Failure::with_code(BAD_ARGS, message));
    }
    let own = peer_urls(&args.initial_advertise_peer_urls)?;
    let initial_cluster = cluster(&args.initial_cluster)?;
    verify(&args.name, &own, &initial_cluster)?;
    let data_dir = match &args.data_dir {
        Some(dir) => dir.clone(),
        None => PathBuf::from(format!("{}.etcd", args.name)),
    };
    let restore = backup::Restore {
        snapshot: file.to_owned(),
        skip_hash_check: args.skip_hash_check,
        data_dir: data_dir.clone(),
        wal_dir: args.wal_dir.clone(),
        name: args.name.clone(),
        initial_cluster,
        token: args.initial_cluster_token.clone(),
        bump_revision: args.bump_revision,
        engine: args.storage_engine,
    };
    let wal_dir = args.wal_dir.clone();
    let wal_dir = wal_dir.unwrap_or_else(|| data_dir.join("member").join("wal"));
    tracing::info!(
        path = %file.display(),
        wal_dir = %wal_dir.display(),
        data_dir = %data_dir.display(),
        "restoring snapshot"
    );
    restore.run()?;
    tracing::info!(data_dir = %data_dir.display(), "restored snapshot");
    Ok(())
}

/// Splits a list of URLs and checks each; the order is that of their text, as in etcd.
fn peer_urls(text: &str) -> Outcome<Vec<String>> {
    let texts: Vec<String> = text.split(',').map(str::to_owned).collect();
    Ok(urls::canonical(&texts)?)
}

/// Reads `name=url,name=url`; a name may come again with another URL.
fn cluster(text: &str) -> Outcome<Cluster> {
    let mut cluster = Cluster::new();
    for entry in text.split(',').filter(|entry| !entry.is_empty()) {
        let Some((name, url)) = entry.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            return Err(Failure::new(format!(
                "empty URL given for {entry:?}: members are written as name=URL"
            )));
        };
        cluster
            .entry(name.trim().to_owned())
            .or_default()
            .extend(peer_urls(url)?);
    }
    cluster.values_mut().for_each(|urls| urls.sort());
    Ok(cluster)
}

/// Whether this member is in the cluster, there under the URLs that it advertises, and no URL
/// stands there twice. Names are not resolved: two names of one address are two members.
fn verify(name: &str, urls: &[String], cluster: &Cluster) -> Outcome {
    let Some(own) = cluster.get(name) else {
        return Err(Failure::new(format!(
            "couldn't find local name {name:?} in the initial cluster configuration"
        )));
    };
    let named = |urls: Vec<&String>| {
        let named: Vec<String> = urls.iter().map(|url| format!("{name}={url}")).collect();
        named.join(",")
    };
    let missing: Vec<&String> = own.iter().filter(|url| !urls.contains(url)).collect();
    if !missing.is_empty() {
        return Err(Failure::new(format!(
            "--initial-cluster has {} but missing from --initial-advertise-peer-urls={}",
            named(missing),
            urls.join(",")
        )));
    }
    let missing: Vec<&str> = urls
        .iter()
        .filter(|url| !own.contains(url))
        .map(String::as_str)
        .collect();
    if !missing.is_empty() {
        return Err(Failure::new(format!(
            "--initial-advertise-peer-urls has {} but missing from --initial-cluster={}",
            missing.join(","),
            named(urls.iter().collect())
        )));
    }
    let mut all: Vec<&String> = cluster.values().flatten().collect();
    all.sort();
    if all.windows(2).any(|pair| pair[0] == pair[1]) {
        let entries = cluster.iter().flat_map(|(name, urls)| {
            let entry = move |url| format!("{name}={url}");
            urls.iter().map(entry)
        });
        let entries: Vec<String> = entries.collect();
        return Err(Failure::new(format!(
            "initial cluster {} has duplicate url",
            entries.join(",")
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_must_be_in_the_cluster_under_its_own_urls() {
        let cluster = cluster("a=http://h1:2380,b=http://h2:2380,a=http://h0:2380").unwrap();
        let urls = |text| peer_urls(text).unwrap();
        assert!(verify("a", &urls("http://h1:2380,http://h0:2380"), &cluster).is_ok());
        let refused = |name, text| verify(name, &urls(text), &cluster).unwrap_err().to_string();
        assert_eq!(
            refused("c", "http://h1:2380"),
            "couldn't find local name \"c\" in the initial cluster configuration"
        );
        assert_eq!(
            refused("a", "http://h1:2380"),
            "--initial-cluster has a=http://h0:2380 but missing from \
             --initial-advertise-peer-urls=http://h1:2380"
        );
        assert_eq!(
            refused("b", "http://h2:2380,http://h3:2380"),
            "--initial-advertise-peer-urls has http://h3:2380 but missing from \
             --initial-cluster=b=http://h2:2380,b=http://h3:2380"
        );
        let twice = super::cluster("a=http://h1:2380,b=http://h1:2380").unwrap();
        assert!(verify("a", &urls("http://h1:2380"), &twice).is_err());
        assert!(super::cluster("http://h1:2380").is_err());
        assert!(super::cluster("a=ftp://h1:2380").is_err());
        assert_eq!(
            peer_urls("http://h1").unwrap_err().to_string(),
            "URL address does not have the form \"host:port\": http://h1"
        );
    }
}
