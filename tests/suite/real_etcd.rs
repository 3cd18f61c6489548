//! Snapshots between kvd and a real etcd, both ways: every key, revision, lease, user and role, and
//! the same HashKV at every revision that is left.
//!
//! `KVD_ETCD_BIN` names a folder with `etcd`, `etcdctl` and `etcdutl` of 3.7; Debian's etcd 3.4 is
//! used where it is installed, for the way from it. Without either, nothing is shown, and that is
//! said.
#![allow(missing_docs)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvd_api::pb::etcdserverpb::auth_client::AuthClient;
use kvd_api::pb::etcdserverpb::maintenance_client::MaintenanceClient;
use kvd_api::pb::etcdserverpb::{AuthenticateRequest, HashKvRequest};
use kvd_client::{Client, DeleteOptions, GetOptions, KeyValue, PermissionType, PutOptions, Span};
use kvd_tests::http;
use kvd_tests::member::binary;
use kvd_tests::ports::Port;
use kvd_tests::process::{Process, kvd};
use kvd_tests::wait;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tonic::Request;
use tonic::metadata::MetadataValue;
use tonic::transport::Endpoint;

const SOON: Duration = Duration::from_secs(60);
const OPERATIONS: u64 = 250;
const LEASES: i64 = 3;

/// The folder with etcd's programs.
fn etcd_folder() -> Option<PathBuf> {
    std::env::var_os("KVD_ETCD_BIN").map(PathBuf::from)
}

/// A server of either kind, alone in its cluster.
struct Server {
    process: Process,
    client: Port,
    _peer: Port,
}

impl Server {
    /// Starts `command` with etcd's flags on `data` and waits until it serves.
    async fn start(mut command: Command, folder: &Path, data: &str) -> Result<Server> {
        let (client, peer) = (Port::reserve()?, Port::reserve()?);
        let url = |port: &Port| format!("http://127.0.0.1:{}", port.number());
        for (flag, value) in [
            ("--name", "one".to_owned()),
            ("--data-dir", data.to_owned()),
            ("--listen-client-urls", url(&client)),
            ("--advertise-client-urls", url(&client)),
            ("--listen-peer-urls", url(&peer)),
            ("--initial-advertise-peer-urls", url(&peer)),
            ("--initial-cluster", format!("one={}", url(&peer))),
        ] {
            command.args([flag, &value]);
        }
        let process = Process::start(command, folder, &format!("{data}.log"))?;
        let server = Server {
            process,
            client,
            _peer: peer,
        };
        let address = format!("127.0.0.1:{}", server.client.number());
        let ready = wait::until("it serves", SOON, || async {
            let version = http::get(&address, "/version")?;
            ensure!(version.status == 200, "{version:?}");
            Ok(())
        });
        ready.await.with_context(|| server.process.log())?;
        Ok(server)
    }

    async fn of_kvd(folder: &Path, data: &str) -> Result<Server> {
        Server::start(kvd(&[])?, folder, data).await
    }

    async fn of_etcd(etcd: &Path, folder: &Path, data: &str) -> Result<Server> {
        Server::start(Command::new(etcd), folder, data).await
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client.number())
    }

    /// A client of `root`.
    fn root(&self) -> Result<Client> {
        let client = Client::builder([self.url()]).user("root", "secret");
        Ok(client.request_timeout(Duration::from_secs(30)).build()?)
    }

    async fn stop(mut self) -> Result<()> {
        self.process.signal(rustix::process::Signal::TERM)?;
        self.process.wait_exit(SOON).await?;
        Ok(())
    }
}

/// What a store holds, as clients see it.
#[derive(Debug, PartialEq)]
struct Content {
    revision: i64,
    /// By revision, from the compacted one to the newest.
    hashes: Vec<(i64, u32)>,
    pairs: Vec<KeyValue>,
    /// Granted time and keys of each lease.
    leases: Vec<(i64, i64, Vec<Vec<u8>>)>,
    users: Vec<(String, Vec<String>)>,
    roles: Vec<(String, String)>,
}

/// Writes a random history with leases, users and a compaction, and turns auth on.
async fn fill(server: &Server, seed: u64) -> Result<()> {
    let client = Client::builder([server.url()]).build()?;
    let mut random = StdRng::seed_from_u64(seed);
    for lease in 1..=LEASES {
        client.lease_grant(1_000 * lease, lease).await?;
    }
    for operation in 0..OPERATIONS {
        let key = format!("key/{:02}", random.random_range(0..60));
        if random.random_ratio(1, 5) {
            let end = Span::Range(format!("{key}~").into());
            let options = match random.random_ratio(1, 4) {
                true => DeleteOptions::new().span(end),
                false => DeleteOptions::new(),
            };
            client.delete(key, options).await?;
        } else {
            let mut value = vec![0; random.random_range(0..200)];
            random.fill(&mut value[..]);
            let options = match random.random_ratio(1, 4) {
                true => PutOptions::new().lease(random.random_range(1..=LEASES)),
                false => PutOptions::new(),
            };
            client.put(key, value, options).await?;
        }
        if operation == OPERATIONS / 2 {
            let revision = client
                .get("key", GetOptions::new())
                .await?
                .header
                .unwrap_or_default()
                .revision;
            client.compact(revision - 20, true).await?;
        }
    }
    for (user, password, role) in [("root", "secret", "root"), ("ann", "b", "some")] {
        client.user_add(user, password).await?;
        client.role_add(role).await?;
        client.user_grant_role(user, role).await?;
    }
    let (key, end) = ("key/".into(), "key0".into());
    client
        .role_grant_permission("some", PermissionType::Readwrite, key, end)
        .await?;
    client.auth_enable().await?;
    Ok(())
}

/// The hash at each revision after the compacted one, up to `revision`.
async fn hashes(server: &Server, revision: i64) -> Result<Vec<(i64, u32)>> {
    let channel = Endpoint::from_shared(server.url())?.connect().await?;
    // One login for all of them: passwords are slow to check, and must be.
    let login = AuthenticateRequest {
        name: "root".to_owned(),
        password: "secret".to_owned(),
    };
    let login = AuthClient::new(channel.clone()).authenticate(login).await?;
    let token: MetadataValue<_> = login.into_inner().token.parse()?;
    let mut maintenance =
        MaintenanceClient::with_interceptor(channel, move |mut request: Request<()>| {
            request.metadata_mut().insert("token", token.clone());
            Ok(request)
        });
    let newest = maintenance
        .hash_kv(HashKvRequest { revision: 0 })
        .await?
        .into_inner();
    let mut hashes = Vec::new();
    // At the compacted revision itself etcd may not answer.
    for at in newest.compact_revision.max(0) + 1..=revision {
        let hash = maintenance
            .hash_kv(HashKvRequest { revision: at })
            .await?
            .into_inner();
        ensure!(hash.compact_revision == newest.compact_revision, "{hash:?}");
        hashes.push((at, hash.hash));
    }
    Ok(hashes)
}

async fn content(server: &Server) -> Result<Content> {
    let client = server.root()?;
    let all = client.get("\0", GetOptions::new().from_key()).await?;
    let revision = all.header.unwrap_or_default().revision;
    let hashes = hashes(server, revision).await?;
    let mut leases = Vec::new();
    for lease in client.leases().await?.leases {
        let found = client.lease_time_to_live(lease.id, true).await?;
        let mut keys: Vec<Vec<u8>> = found.keys.iter().map(|key| key.to_vec()).collect();
        keys.sort();
        leases.push((lease.id, found.granted_ttl, keys));
    }
    leases.sort();
    let mut users = Vec::new();
    for user in client.user_list().await?.users {
        let roles = client.user_get(&user).await?.roles;
        users.push((user, roles));
    }
    let mut roles = Vec::new();
    let known = client.role_list().await?.roles;
    // What `root` may do is not stored, and etcd 3.4 does not tell it.
    for role in known.into_iter().filter(|role| role != "root") {
        let permissions = client.role_get(&role).await?.perm;
        roles.push((role, format!("{permissions:?}")));
    }
    Ok(Content {
        revision,
        hashes,
        pairs: all.kvs,
        leases,
        users,
        roles,
    })
}

/// Errors: the first part that differs.
fn same(found: &Content, expected: &Content) -> Result<()> {
    let (left, right) = (found, expected);
    ensure!(
        left.revision == right.revision,
        "{} {}",
        left.revision,
        right.revision
    );
    ensure!(
        left.hashes == right.hashes,
        "{:?}\n{:?}",
        left.hashes,
        right.hashes
    );
    ensure!(
        left.leases == right.leases,
        "{:?}\n{:?}",
        left.leases,
        right.leases
    );
    ensure!(
        left.users == right.users,
        "{:?}\n{:?}",
        left.users,
        right.users
    );
    ensure!(
        left.roles == right.roles,
        "{:?}\n{:?}",
        left.roles,
        right.roles
    );
    ensure!(
        left.pairs == right.pairs,
        "{:?}\n{:?}",
        left.pairs,
        right.pairs
    );
    Ok(())
}

fn succeed(output: std::io::Result<Output>) -> Result<String> {
    let output = output?;
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

/// Saves a snapshot of `server` with `kvctl`.
fn save(server: &Server, file: &Path) -> Result<()> {
    let mut command = Command::new(binary("kvctl")?);
    command.args(["--endpoints", &server.url(), "--user", "root:secret"]);
    succeed(command.args(["snapshot", "save"]).arg(file).output()).map(drop)
}

/// Restores `file` with `command`, which is `etcdutl` or `kvutl`, into `data`.
fn restore(mut command: Command, file: &Path, data: &Path) -> Result<()> {
    command.args(["snapshot", "restore"]).arg(file);
    command.arg("--data-dir").arg(data);
    let one = [
        "--name",
        "one",
        "--initial-cluster",
        "one=http://127.0.0.1:2",
    ];
    command
        .args(one)
        .args(["--initial-advertise-peer-urls", "http://127.0.0.1:2"]);
    succeed(command.output()).map(drop)
}

fn seed() -> Result<u64> {
    let seed = match std::env::var("KVD_SEED") {
        Ok(seed) => seed.parse()?,
        Err(_) => rand::random(),
    };
    println!("KVD_SEED={seed}");
    Ok(seed)
}

async fn from_etcd(etcd: &Path) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let theirs = Server::of_etcd(etcd, folder.path(), "theirs").await?;
    fill(&theirs, seed()?).await?;
    let expected = content(&theirs).await?;
    ensure!(expected.hashes.len() > 100, "{}", expected.hashes.len());
    let file = folder.path().join("theirs.db");
    save(&theirs, &file)?;
    theirs.stop().await?;
    let data = folder.path().join("ours");
    restore(Command::new(binary("kvutl")?), &file, &data)?;
    let ours = Server::of_kvd(folder.path(), "ours").await?;
    same(&content(&ours).await?, &expected)?;
    ours.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_etcd_becomes_a_cluster_of_kvd() -> Result<()> {
    let Some(etcd) = etcd_folder() else {
        println!("skipped: KVD_ETCD_BIN names no folder with etcd's programs");
        return Ok(());
    };
    from_etcd(&etcd.join("etcd")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_etcd_34_becomes_a_cluster_of_kvd() -> Result<()> {
    let etcd = Path::new("/usr/bin/etcd");
    let version = Command::new(etcd).arg("--version").output();
    if !version.is_ok_and(|version| version.stdout.starts_with(b"etcd Version: 3.4")) {
        println!("skipped: Debian's etcd-server 3.4 is not installed");
        return Ok(());
    }
    from_etcd(etcd).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_kvd_becomes_a_cluster_of_etcd() -> Result<()> {
    let Some(etcd) = etcd_folder() else {
        println!("skipped: KVD_ETCD_BIN names no folder with etcd's programs");
        return Ok(());
    };
    let folder = tempfile::tempdir()?;
    let ours = Server::of_kvd(folder.path(), "ours").await?;
    fill(&ours, seed()?).await?;
    let expected = content(&ours).await?;
    ensure!(expected.hashes.len() > 100, "{}", expected.hashes.len());
    // Their tool saves it from our server, and ours too: the files say the same.
    let (theirs, own) = (folder.path().join("a.db"), folder.path().join("b.db"));
    let mut command = Command::new(etcd.join("etcdctl"));
    command.args(["--endpoints", &ours.url(), "--user", "root:secret"]);
    succeed(command.args(["snapshot", "save"]).arg(&theirs).output())?;
    save(&ours, &own)?;
    ours.stop().await?;
    let status = |file: &Path| -> Result<serde_json::Value> {
        let mut command = Command::new(etcd.join("etcdutl"));
        let arguments = ["snapshot", "status", "-w", "json"];
        let text = succeed(command.args(arguments).arg(file).output())?;
        let mut status: serde_json::Value = serde_json::from_str(&text)?;
        // It is also over the log's position, which went on meanwhile.
        status["hash"].take();
        Ok(status)
    };
    let (first, second) = (status(&theirs)?, status(&own)?);
    ensure!(first == second, "{first} {second}");
    let data = folder.path().join("theirs");
    restore(Command::new(etcd.join("etcdutl")), &own, &data)?;
    let restored = Server::of_etcd(&etcd.join("etcd"), folder.path(), "theirs").await?;
    same(&content(&restored).await?, &expected)?;
    restored.stop().await
}

/// A database as etcd 3.6 and 3.5 leave it: etcd's own tool takes out what is newer. Such a file
/// has no hash at its end, since it was no server that wrote it.
#[tokio::test(flavor = "multi_thread")]
async fn databases_of_older_storage_versions_become_clusters_of_kvd() -> Result<()> {
    let Some(etcd) = etcd_folder() else {
        println!("skipped: KVD_ETCD_BIN names no folder with etcd's programs");
        return Ok(());
    };
    let folder = tempfile::tempdir()?;
    let theirs = Server::of_etcd(&etcd.join("etcd"), folder.path(), "theirs").await?;
    fill(&theirs, seed()?).await?;
    let expected = content(&theirs).await?;
    theirs.stop().await?;
    let data = folder.path().join("theirs");
    let mut migrated = 0;
    for version in ["3.6", "3.5"] {
        let mut command = Command::new(etcd.join("etcdutl"));
        command.args(["migrate", "--target-version", version, "--data-dir"]);
        let output = command.arg(&data).output()?;
        if !output.status.success() {
            println!("etcdutl does not migrate to {version}: {output:?}");
            continue;
        }
        migrated += 1;
        let ours = format!("ours-{version}");
        let mut command = Command::new(binary("kvutl")?);
        command.args(["snapshot", "restore", "--skip-hash-check"]);
        command.arg(data.join("member/snap/db"));
        command.arg("--data-dir").arg(folder.path().join(&ours));
        let one = [
            "--name",
            "one",
            "--initial-cluster",
            "one=http://127.0.0.1:2",
        ];
        command
            .args(one)
            .args(["--initial-advertise-peer-urls", "http://127.0.0.1:2"]);
        succeed(command.output())?;
        let server = Server::of_kvd(folder.path(), &ours).await?;
        println!("of storage version {version}");
        same(&content(&server).await?, &expected)?;
        server.stop().await?;
    }
    ensure!(migrated > 0, "etcdutl migrated to no version");
    Ok(())
}
