//! Who this member is: computed once as etcd computes it, then stored and never again derived.
//!
//! The IDs are hashes of URLs, name and token, so that the first members of a cluster agree on
//! them without talking. The file `member/identity` keeps them from then on: later changes of
//! flags or URLs do not make another member of it.
//!
//! ```text
//! kvd-identity 1
//! cluster_id=cdf818194e3a8c32
//! member_id=8e9e05c52164694d
//! token=etcd-cluster
//! peer=http://10.0.0.7:2380
//! ```
//!
//! `peer`: of a member that has joined, each of the others' peer URLs at that time. Until the first
//! entry of the log has come, nothing else tells it whom to ask whether it is still a member.
//!
//! Source: etcd `server/etcdserver/api/membership/{member,cluster}.go`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use kvd_api::pb::etcdserverpb::Member as MemberRecord;
use kvd_autopilot::bootstrap::Founder;
use kvd_raft::Member;
use sha1::{Digest, Sha1};

use crate::config::Config;
use crate::error::{Error, Result};

const HEADER: &str = "kvd-identity 1";

/// Content of the file that says that the member was removed.
const REMOVED: &str = "This member has been permanently removed from its cluster.\n";

/// The IDs of a member and its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's ID.
    pub cluster_id: u64,
    /// The member's ID.
    pub member_id: u64,
    /// The token that the cluster was started with.
    pub token: String,
    /// Of a member that has joined, the others' peer URLs at that time.
    pub peers: Vec<String>,
}

impl Identity {
    /// Whether the member's cluster was started with `token`. What a cluster that began by itself
    /// adds to it, after `#`, tells its disks from those of others with the same names.
    pub fn has_token(&self, token: &str) -> bool {
        let rest = self.token.strip_prefix(token);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('#'))
    }
}

/// The identity, and the first members when this start makes the cluster.
#[derive(Debug)]
pub struct Resolved {
    /// Who the member is.
    pub identity: Identity,
    /// The members of the new cluster; `None` when this member has had a part in one.
    pub bootstrap: Option<Vec<Member>>,
}

/// The ID of a first member: SHA-1 over its sorted peer URLs and the token, first 8 bytes.
pub fn member_id(peer_urls: &[String], token: &str) -> u64 {
    let mut urls: Vec<&str> = peer_urls.iter().map(String::as_str).collect();
    urls.sort_unstable();
    let mut hash = Sha1::new();
    for url in urls {
        hash.update(url);
    }
    hash.update(token);
    first_8_bytes(&hash.finalize())
}

/// Sixteen bytes that nobody else has.
///
/// Errors: the system gives none.
pub fn random() -> std::io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    let random = aws_lc_rs::rand::SystemRandom::new();
    aws_lc_rs::rand::SecureRandom::fill(&random, &mut bytes)
        .map_err(|_| std::io::Error::other("the system has no random numbers"))?;
    Ok(bytes)
}

/// The token of a cluster that began by itself: `token`, and what tells its founders' disks from
/// all others. Two clusters with the same names and URLs have different IDs by it.
pub fn founders_token(token: &str, founders: &[Founder]) -> String {
    let mut hash = Sha1::new();
    for founder in founders {
        // Each text after its length, so that no two lists look the same.
        let urls = founder.peer_urls.iter();
        for text in [&founder.name, &founder.nonce].into_iter().chain(urls) {
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text);
        }
    }
    format!("{token}#{:016x}", first_8_bytes(&hash.finalize()))
}

/// The ID of a cluster: SHA-1 over the sorted IDs of its first members, first 8 bytes.
pub fn cluster_id(members: &[Member]) -> u64 {
    let mut ids: Vec<u64> = members.iter().map(|member| member.id).collect();
    ids.sort_unstable();
    let mut hash = Sha1::new();
    for id in ids {
        hash.update(id.to_be_bytes());
    }
    first_8_bytes(&hash.finalize())
}

fn first_8_bytes(digest: &[u8]) -> u64 {
    digest
        .iter()
        .take(8)
        .fold(0, |id, byte| id << 8 | u64::from(*byte))
}

/// The file that holds a member's identity.
pub(crate) fn path(config: &Config) -> PathBuf {
    config.member_dir().join("identity")
}

/// Reads the identity of the member in `data_dir`; none when there is no member.
///
/// Errors: [`Error::Identity`] when the file is damaged, [`Error::Io`].
pub fn load(data_dir: &Path) -> Result<Option<Identity>> {
    read(&data_dir.join("member").join("identity"))
}

/// Reads the stored identity, or computes and stores it when the data directory is new.
///
/// `is_blank`: the store has never applied anything. The first start may then have ended between
/// storing the identity and beginning the log, and its members are given again; the log ignores
/// them if it has begun.
///
/// Errors: [`Error::Identity`] when the file is damaged, or the member was removed;
/// [`Error::Config`] when the first members make no sense.
pub fn resolve(config: &Config, is_blank: bool) -> Result<Resolved> {
    let path = path(config);
    refuse_removed(config)?;
    if let Some(identity) = read(&path)? {
        if config.token_is_explicit && !identity.has_token(&config.initial_cluster_token) {
            // As in etcd, where only a first start looks at it.
            tracing::warn!(
                started_with = identity.token,
                given = config.initial_cluster_token,
                cluster_id = format!("{:x}", identity.cluster_id),
                "--initial-cluster-token is ignored: the member has data, which belongs to a \
                 cluster with another token; if that is the wrong cluster, look at --data-dir"
            );
        }
        let bootstrap = if is_blank {
            interrupted(config, &identity)
        } else {
            None
        };
        return Ok(Resolved {
            identity,
            bootstrap,
        });
    }
    if let Some(join) = &config.join {
        let identity = Identity {
            cluster_id: join.cluster_id,
            member_id: join.member_id,
            token: config.initial_cluster_token.clone(),
            peers: join.peers.clone(),
        };
        write(&path, &identity)?;
        return Ok(Resolved {
            identity,
            bootstrap: None,
        });
    }
    let members = first_members(&config.initial_cluster, &config.initial_cluster_token)?;
    let identity = of_name(&members, &config.name, &config.initial_cluster_token)?;
    write(&path, &identity)?;
    Ok(Resolved {
        identity,
        bootstrap: Some(members),
    })
}

/// Whether the member in `data_dir` was removed from its cluster, as it knows.
pub fn is_removed(data_dir: &Path) -> bool {
    data_dir.join("member").join("removed").exists()
}

/// The file that says that the member was removed from its cluster.
fn removed_path(config: &Config) -> PathBuf {
    config.member_dir().join("removed")
}

/// Notes that the member was removed from its cluster: from now on its data directory is refused.
///
/// Errors: [`Error::Io`] when that cannot be made durable.
pub(crate) fn mark_removed(config: &Config) -> Result<()> {
    write_durably(&removed_path(config), REMOVED)
}

fn refuse_removed(config: &Config) -> Result<()> {
    let path = removed_path(config);
    if config.force_new_cluster && path.exists() {
        // It is about to be a member of a cluster of its own.
        return fs::remove_file(&path).map_err(|source| Error::Io { path, source });
    }
    match path.exists() {
        false => Ok(()),
        true => Err(Error::Identity {
            path,
            what: "the member has been permanently removed from the cluster, and an ID never \
                   comes back: remove the data directory, add the member again with `member add`, \
                   and start it with --initial-cluster-state=existing"
                .to_owned(),
        }),
    }
}

/// Refuses the data of one member under the name and address of another.
///
/// Errors: [`Error::Identity`].
pub(crate) fn check_place(config: &Config, own_id: u64, members: &[MemberRecord]) -> Result<()> {
    let sorted = |urls: &[String]| {
        let mut urls = urls.to_vec();
        urls.sort();
        urls
    };
    let own = members.iter().find(|member| member.id == own_id);
    let is_here = |member: &&MemberRecord| {
        member.name == config.name && sorted(&member.peer_ur_ls) == sorted(&config.peer_urls)
    };
    let Some(other) = members.iter().find(is_here) else {
        return Ok(());
    };
    match own {
        Some(own) if own.id != other.id && own.name != config.name => Err(Error::Identity {
            path: path(config),
            what: format!(
                "this is the data of member {:x} ({:?}), but --name and \
                 --initial-advertise-peer-urls are those of member {:x}: give the --data-dir of \
                 {:?}",
                own.id, own.name, other.id, other.name
            ),
        }),
        _ => Ok(()),
    }
}

/// Who the member `name` of a new cluster is.
///
/// Errors: [`Error::Config`] when the cluster has no such member.
pub(crate) fn of_name(members: &[Member], name: &str, token: &str) -> Result<Identity> {
    let Some(own) = members.iter().find(|member| member.name == name) else {
        return Err(Error::Config(format!(
            "couldn't find local name {name:?} in the initial cluster configuration"
        )));
    };
    Ok(Identity {
        cluster_id: cluster_id(members),
        member_id: own.id,
        token: token.to_owned(),
        peers: Vec::new(),
    })
}

/// The first members once more, if they are still those that gave `identity`.
///
/// A member that joined a running cluster has its ID from there: no first member has it.
fn interrupted(config: &Config, identity: &Identity) -> Option<Vec<Member>> {
    let members = first_members(&config.initial_cluster, &identity.token).ok()?;
    let is_same = cluster_id(&members) == identity.cluster_id
        && members.iter().any(|member| member.id == identity.member_id);
    is_same.then_some(members)
}

/// The members that `--initial-cluster` names, with their IDs.
///
/// Errors: [`Error::Config`] when two have the same ID.
pub(crate) fn first_members(
    cluster: &BTreeMap<String, Vec<String>>,
    token: &str,
) -> Result<Vec<Member>> {
    let mut members: Vec<Member> = Vec::with_capacity(cluster.len());
    for (name, urls) in cluster {
        let id = member_id(urls, token);
        if let Some(other) = members.iter().find(|member| member.id == id) {
            return Err(Error::Config(format!(
                "members {:?} and {name:?} of --initial-cluster have the same peer URLs",
                other.name
            )));
        }
        members.push(Member {
            id,
            name: name.clone(),
            peer_urls: urls.clone(),
            voter: true,
        });
    }
    Ok(members)
}

fn read(path: &Path) -> Result<Option<Identity>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(Error::Io {
                path: path.to_owned(),
                source,
            });
        }
    };
    parse(&text).map(Some).ok_or_else(|| Error::Identity {
        path: path.to_owned(),
        what: "this is not an identity that this version of kvd can read: restore the file from a \
               backup, or start the member with an empty --data-dir"
            .to_owned(),
    })
}

fn parse(text: &str) -> Option<Identity> {
    let mut lines = text.lines();
    if lines.next()? != HEADER {
        return None;
    }
    let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix('=');
    let cluster_id = u64::from_str_radix(field("cluster_id")?, 16).ok()?;
    let member_id = u64::from_str_radix(field("member_id")?, 16).ok()?;
    let token = field("token")?.to_owned();
    let peers = lines.map(|line| line.strip_prefix("peer=").map(str::to_owned));
    Some(Identity {
        cluster_id,
        member_id,
        token,
        peers: peers.collect::<Option<_>>()?,
    })
}

/// Stores an identity, durably.
pub(crate) fn write(path: &Path, identity: &Identity) -> Result<()> {
    let mut text = format!(
        "{HEADER}\ncluster_id={:016x}\nmember_id={:016x}\ntoken={}\n",
        identity.cluster_id, identity.member_id, identity.token
    );
    for peer in &identity.peers {
        text.push_str(&format!("peer={peer}\n"));
    }
    write_durably(path, &text)
}

fn write_durably(path: &Path, text: &str) -> Result<()> {
    let at = |path: &Path| {
        let path: PathBuf = path.to_owned();
        move |source| Error::Io { path, source }
    };
    let part = path.with_extension("part");
    let mut file = File::create(&part).map_err(at(&part))?;
    file.write_all(text.as_bytes()).map_err(at(&part))?;
    file.sync_all().map_err(at(&part))?;
    fs::rename(&part, path).map_err(at(path))?;
    if let Some(parent) = path.parent() {
        File::open(parent)
            .and_then(|dir| dir.sync_all())
            .map_err(at(parent))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::AutoCompaction;
    use crate::limits;

    // The three numbers below were printed by etcd 3.7.1 for the same flags.
    #[test]
    fn a_default_member_has_the_ids_that_etcd_computes() {
        let urls = ["http://localhost:2380".to_owned()];
        let id = member_id(&urls, "etcd-cluster");
        assert_eq!(format!("{id:x}"), "8e9e05c52164694d");
        let member = Member {
            id,
            name: "default".into(),
            peer_urls: urls.to_vec(),
            voter: true,
        };
        assert_eq!(format!("{:x}", cluster_id(&[member])), "cdf818194e3a8c32");
    }

    #[test]
    fn an_identity_is_read_back_as_written() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("identity");
        let identity = Identity {
            cluster_id: 7,
            member_id: 9,
            token: "a=b".into(),
            peers: vec!["http://a:1".into(), "http://b:1".into()],
        };
        write(&path, &identity).expect("written");
        assert_eq!(read(&path).expect("read"), Some(identity));
    }

    fn config(data_dir: &Path) -> Config {
        let urls = vec!["http://localhost:2380".to_owned()];
        Config {
            name: "a".into(),
            data_dir: data_dir.to_owned(),
            wal_dir: None,
            peer_urls: urls.clone(),
            client_urls: Vec::new(),
            initial_cluster: BTreeMap::from([("a".into(), urls)]),
            initial_cluster_token: "token".into(),
            token_is_explicit: true,
            strict_reconfig_check: true,
            learners_max: limits::LEARNERS_MAX,
            join: None,
            autopilot: crate::autopilot::Settings::default(),
            force_new_cluster: false,
            heartbeat_interval: Duration::from_millis(100),
            election_timeout: Duration::from_secs(1),
            pre_vote: true,
            snapshot_count: 10_000,
            catchup_entries: 5_000,
            quota_backend_bytes: 0,
            request_bytes_max: 1 << 20,
            txn_ops_max: 128,
            auto_compaction: AutoCompaction::Off,
            auth: crate::auth::Settings::default(),
            audit: crate::audit::Settings::Off,
            v2_keys_visible: false,
            watch_progress_interval: limits::WATCH_PROGRESS_INTERVAL,
            watchers_per_stream_max: limits::WATCHERS_PER_STREAM_MAX,
            initial_corrupt_check: false,
            corrupt_check_interval: None,
            compact_hash_check_interval: None,
            bootstrap_defrag_bytes: 0,
            wal_stall: kvd_raft::wal::StallLimits::default(),
            unsafe_no_fsync: false,
            wal_stall_switch: None,
            dialer: std::sync::Arc::new(kvd_raft::PlainDialer),
            store: kvd_mvcc::Options::default(),
            version: "0",
        }
    }

    #[test]
    fn a_start_that_was_cut_short_gives_the_first_members_again() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut config = config(dir.path());
        fs::create_dir(config.member_dir()).expect("the directory");
        let first = resolve(&config, true).expect("the first start");
        let again = resolve(&config, true).expect("the second start");
        assert_eq!(again.identity, first.identity);
        assert_eq!(again.bootstrap, first.bootstrap);
        assert!(again.bootstrap.is_some());
        let later = resolve(&config, false).expect("a restart");
        assert_eq!(later.bootstrap, None);
        let other = vec!["http://localhost:2381".to_owned()];
        config.initial_cluster.insert("b".into(), other);
        let changed = resolve(&config, true).expect("other members");
        assert_eq!(changed.bootstrap, None);
    }

    #[test]
    fn the_data_of_a_removed_member_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let config = config(dir.path());
        fs::create_dir(config.member_dir()).expect("the directory");
        resolve(&config, true).expect("the first start");
        mark_removed(&config).expect("written");
        let refused = resolve(&config, false).expect_err("refused").to_string();
        assert!(refused.contains("permanently removed"), "{refused}");
    }

    #[test]
    fn who_joins_is_who_the_cluster_says() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut config = config(dir.path());
        fs::create_dir(config.member_dir()).expect("the directory");
        config.join = Some(crate::config::Join {
            cluster_id: 7,
            member_id: 9,
            peers: vec!["http://other:2380".into()],
        });
        let joined = resolve(&config, true).expect("joined");
        assert_eq!(
            (joined.identity.cluster_id, joined.identity.member_id),
            (7, 9)
        );
        assert_eq!(joined.bootstrap, None);
        config.join = None;
        let again = resolve(&config, true).expect("a restart before anything came");
        assert_eq!(again.identity, joined.identity);
        assert_eq!(again.bootstrap, None);
    }

    #[test]
    fn the_data_of_another_member_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut config = config(dir.path());
        let record = |id, name: &str, url: &str| MemberRecord {
            id,
            name: name.into(),
            peer_ur_ls: vec![url.into()],
            ..MemberRecord::default()
        };
        let members = [
            record(1, "a", "http://localhost:2380"),
            record(2, "b", "http://other:2380"),
        ];
        assert!(check_place(&config, 1, &members).is_ok());
        let refused = check_place(&config, 2, &members).expect_err("refused");
        assert!(
            refused.to_string().contains("member 2 (\"b\")"),
            "{refused}"
        );
        // A member may get another name.
        config.name = "c".into();
        assert!(check_place(&config, 2, &members).is_ok());
    }

    #[test]
    fn a_damaged_identity_is_refused_by_name() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("identity");
        fs::write(&path, "kvd-identity 1\ncluster_id=zz\n").expect("written");
        let error = read(&path).expect_err("refused").to_string();
        assert!(error.contains("identity"), "{error}");
    }
}
