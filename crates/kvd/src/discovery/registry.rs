//! `--discovery-endpoints` and `--discovery-token`: the members register in another cluster, by
//! etcd's keys, and each waits until there are as many as the cluster is to have.
//!
//! ```text
//! /_etcd/registry/TOKEN/_config/size     "3", written by whoever sets the cluster up
//! /_etcd/registry/TOKEN/members/ID       "name=http://host:2380", written by the member ID
//! ```
//!
//! Who comes first is in: where more register than there is room for, revisions decide, and the
//! others are refused. A member that starts once more under its ID finds its own key.
//!
//! Source: etcd `server/etcdserver/api/v3discovery/discovery.go`.

use std::time::Duration;

use bytes::Bytes;
use kvd_api::pb::mvccpb::KeyValue;
use kvd_client::{Client, GetOptions, PutOptions, TlsOptions, WatchOptions};
use tracing::{info, warn};

use super::Error;
use crate::settings::{Registry, Settings};
use crate::urls::{self, Members, Url};

/// Between two tries, at first and at most. etcd goes up to four minutes.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// What no other try would change. Texts are etcd's where etcd has one.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Nobody has set the cluster up.
    #[error("discovery: size key not found")]
    SizeNotFound,
    /// Its size is no number above zero.
    #[error("discovery: size key is bad")]
    BadSize,
    /// Others were faster, or the token was used before.
    #[error(
        "discovery: cluster is full: --discovery-token was already used; do not reuse it, \
         generate a new one to bootstrap a cluster"
    )]
    Full,
    /// A member registered with something else than URLs.
    #[error("discovery: invalid peer URL")]
    InvalidUrl,
    /// The flags of the connection make no sense.
    #[error("{0}")]
    Options(String),
}

/// Registers this member and waits for the others.
///
/// Waits as long as it takes, also for a registry that cannot be reached.
/// Errors: [`Error::Registry`], [`Error::DuplicateUrl`].
pub async fn join(settings: &Settings, registry: &Registry) -> Result<Members, Error> {
    let own = settings.advertise_peer_urls.iter();
    let own: Vec<String> = own.map(Url::to_string).collect();
    let id = kvd_server::identity::member_id(&own, &registry.token);
    let folder = format!("/_etcd/registry/{}", registry.token);
    let registration = Registration {
        client: client(registry)?,
        size_key: format!("{folder}/_config/size"),
        members_key: format!("{folder}/members"),
        own_key: format!("{folder}/members/{id:x}"),
        own_urls: urls::join_members(&settings.initial_cluster),
    };
    let found = registration.run().await?;
    info!(cluster = found, "discovery joined cluster successfully");
    let members = urls::parse_members(&found).map_err(|_| Refusal::InvalidUrl)?;
    let mut seen = std::collections::BTreeSet::new();
    match members.values().flatten().all(|url| seen.insert(url)) {
        true => Ok(members),
        false => Err(Error::DuplicateUrl(found)),
    }
}

fn client(registry: &Registry) -> Result<Client, Refusal> {
    let mut builder = Client::builder(registry.endpoints.iter().cloned())
        .dial_timeout(registry.dial_timeout)
        .request_timeout(registry.request_timeout + registry.dial_timeout)
        .keep_alive(registry.keepalive_time, registry.keepalive_timeout);
    let mut tls = TlsOptions::new();
    match (&registry.cert, &registry.key) {
        (Some(cert), Some(key)) => tls = tls.identity(cert, key),
        (None, None) => {}
        _ => {
            let what = "--discovery-cert and --discovery-key must be given together";
            return Err(Refusal::Options(what.to_owned()));
        }
    }
    if let Some(file) = &registry.cacert {
        tls = tls.ca(file);
    }
    let has_files = registry.cert.is_some() || registry.cacert.is_some();
    if has_files || !registry.insecure_transport {
        if registry.insecure_skip_verify {
            tls = tls.skip_verification();
        }
        builder = builder.tls(tls);
    }
    if !registry.user.is_empty() {
        let (name, password) = match registry.user.split_once(':') {
            Some((name, password)) if registry.password.is_empty() => (name, password),
            _ => (registry.user.as_str(), registry.password.as_str()),
        };
        builder = builder.user(name, password);
    }
    builder
        .build()
        .map_err(|error| Refusal::Options(error.to_string()))
}

/// A member and its place in the registry.
struct Registration {
    client: Client,
    size_key: String,
    members_key: String,
    own_key: String,
    /// `name=URL` pairs.
    own_urls: String,
}

/// Who has registered at a revision, in the order of registration.
struct Seen {
    size: usize,
    members: Vec<Registered>,
    revision: i64,
}

struct Registered {
    key: String,
    urls: String,
    create_revision: i64,
}

/// Why a look failed: for good, or for now.
enum Trouble {
    Refused(Refusal),
    Passing(kvd_client::Error),
}

impl From<kvd_client::Error> for Trouble {
    fn from(error: kvd_client::Error) -> Trouble {
        Trouble::Passing(error)
    }
}

impl Registration {
    async fn run(&self) -> Result<String, Refusal> {
        let mut pause = PAUSE.0;
        loop {
            match self.attempt().await {
                Ok(cluster) => return Ok(cluster),
                Err(Trouble::Refused(refusal)) => return Err(refusal),
                Err(Trouble::Passing(error)) => {
                    warn!(
                        %error,
                        backoff = ?pause,
                        endpoints = ?self.client.endpoints().collect::<Vec<_>>(),
                        "retry connecting to discovery service"
                    );
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    async fn attempt(&self) -> Result<String, Trouble> {
        self.look().await?;
        let (key, value) = (self.own_key.clone(), self.own_urls.clone());
        self.client.put(key, value, PutOptions::new()).await?;
        info!(
            memberKey = self.own_key,
            memberInfo = self.own_urls,
            "register member itself successfully"
        );
        let mut seen = self.look().await?;
        if seen.members.len() < seen.size {
            self.wait(&mut seen).await?;
        }
        seen.members.truncate(seen.size);
        let urls: Vec<&str> = seen
            .members
            .iter()
            .map(|member| member.urls.as_str())
            .collect();
        Ok(urls.join(","))
    }

    /// Reads what there is.
    async fn look(&self) -> Result<Seen, Trouble> {
        let found = self
            .client
            .get(self.size_key.clone(), GetOptions::new())
            .await?;
        let Some(size) = found.kvs.first() else {
            return Err(Trouble::Refused(Refusal::SizeNotFound));
        };
        let size = std::str::from_utf8(&size.value)
            .ok()
            .and_then(|text| text.parse().ok());
        let Some(size) = size.filter(|size| *size > 0) else {
            return Err(Trouble::Refused(Refusal::BadSize));
        };
        let options = GetOptions::new().prefix();
        let found = self.client.get(self.members_key.clone(), options).await?;
        let mut seen = Seen {
            size,
            members: Vec::new(),
            revision: found.header.unwrap_or_default().revision,
        };
        for pair in &found.kvs {
            seen.add(pair);
        }
        match seen.has_room_for(&self.own_key) {
            true => Ok(seen),
            false => Err(Trouble::Refused(Refusal::Full)),
        }
    }

    /// Waits until there are enough.
    async fn wait(&self, seen: &mut Seen) -> Result<(), Trouble> {
        let (wanted, found) = (seen.size, seen.members.len());
        info!(
            clusterSize = wanted,
            found, "waiting for peers from discovery service"
        );
        let options = WatchOptions::new().prefix().revision(seen.revision + 1);
        let mut watch = self.client.watch(self.members_key.clone(), options).await?;
        while seen.members.len() < seen.size {
            for event in watch.next().await?.events {
                if let Some(pair) = &event.kv {
                    seen.add(pair);
                }
            }
        }
        info!(
            clusterSize = wanted,
            "found all needed peers from discovery service"
        );
        Ok(())
    }
}

impl Seen {
    /// Takes a pair in, unless it is known or says nothing.
    fn add(&mut self, pair: &KeyValue) {
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).trim().to_owned();
        let (key, urls) = (text(&pair.key), text(&pair.value));
        let is_known = self.members.iter().any(|member| member.key == key);
        if is_known || !urls.contains('=') {
            warn!(
                memberKey = key,
                memberInfo = urls,
                is_known,
                "a registration is passed over"
            );
            return;
        }
        info!(
            memberKey = key,
            memberInfo = urls,
            "found peer from discovery service"
        );
        self.members.push(Registered {
            key,
            urls,
            create_revision: pair.create_revision,
        });
        self.members.sort_by_key(|member| member.create_revision);
    }

    /// Whether the member with this key is among the first, or may still be.
    fn has_room_for(&self, own_key: &str) -> bool {
        let first = self.members.iter().take(self.size);
        self.members.len() < self.size || first.into_iter().any(|member| member.key == own_key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(key: &str, value: &str, create_revision: i64) -> KeyValue {
        KeyValue {
            key: Bytes::from(key.to_owned()),
            value: Bytes::from(value.to_owned()),
            create_revision,
            ..KeyValue::default()
        }
    }

    #[test]
    fn the_first_to_register_are_in() {
        let mut seen = Seen {
            size: 2,
            members: Vec::new(),
            revision: 9,
        };
        assert!(seen.has_room_for("c"));
        seen.add(&pair("a", "a=http://a:1", 7));
        seen.add(&pair("b", "b=http://b:1", 5));
        seen.add(&pair("b", "b=http://b:1", 5));
        seen.add(&pair("z", "nonsense", 1));
        assert!(!seen.has_room_for("c"));
        assert!(seen.has_room_for("a"));
        seen.add(&pair("c", "c=http://c:1", 6));
        let order: Vec<&str> = seen
            .members
            .iter()
            .map(|member| member.key.as_str())
            .collect();
        assert_eq!(order, ["b", "c", "a"]);
        assert!(seen.has_room_for("c"));
        assert!(!seen.has_room_for("a"), "it came too late");
    }
}
