//! Auto mode with TLS on both ports, and with users.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use kvd_tests::pki::{Authority, Leaf, Secret};
use kvd_tests::{http, wait};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::set::{SOON, Set};

/// `kvctl` with what it needs to be let in.
struct Admin {
    flags: Vec<String>,
}

impl Admin {
    fn new(flags: &[&str]) -> Admin {
        Admin {
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
        }
    }

    fn run(&self, set: &Set, at: usize, words: &[&str]) -> Result<String> {
        let mut all: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        all.extend(words);
        let output = set.members[at].kvctl(&all)?;
        ensure!(output.status.success(), "{words:?}: {output:?}");
        Ok(String::from_utf8(output.stdout)?)
    }

    fn status(&self, set: &Set, at: usize) -> Result<Value> {
        let said = self.run(set, at, &["autopilot", "status", "-w", "json"])?;
        Ok(serde_json::from_str(&said)?)
    }

    /// Waits until exactly these are members with votes and healthy, and returns their IDs.
    async fn settled(&self, set: &Set, at: usize, names: &[&str]) -> Result<Vec<String>> {
        wait::until("the members", SOON, || async {
            let status = self.status(set, at)?;
            let mut found: Vec<(String, String)> = Vec::new();
            for member in status["members"].as_array().context("members")? {
                let text = |field: &str| member[field].as_str().unwrap_or_default().to_owned();
                found.push((text("name"), text("id")));
            }
            found.sort();
            let is_whole = status["healthy"] == true && status["voters"] == names.len();
            ensure!(
                is_whole && found.iter().map(|(name, _)| name).eq(names),
                "{status:#}"
            );
            Ok(found.into_iter().map(|(_, id)| id).collect())
        })
        .await
    }

    async fn put(&self, set: &Set, at: usize, key: &str) -> Result<()> {
        wait::until("a write", SOON, || async {
            self.run(set, at, &["put", key, "v"]).map(drop)
        })
        .await
    }

    async fn has(&self, set: &Set, at: usize, key: &str) -> Result<bool> {
        let got = wait::until("a read", SOON, || async {
            self.run(set, at, &["get", key, "--print-value-only"])
        })
        .await?;
        Ok(got == "v\n")
    }

    /// A member more joins, another loses its disk, and the one more leaves again, leading.
    async fn joins_heals_and_leaves(&self, set: &mut Set) -> Result<()> {
        let three = ["db-0", "db-1", "db-2"];
        let four = ["db-0", "db-1", "db-2", "db-3"];
        let before = self.settled(set, 0, &three).await?;
        self.put(set, 0, "before").await?;
        set.want(4)?;
        set.show(&[0, 1, 2, 3])?;
        set.start(3)?;
        set.members[3].wait_ready(SOON).await?;
        let grown = self.settled(set, 0, &four).await?;
        ensure!(self.has(set, 3, "before").await?, "db-3 has joined");

        set.members[2].kill()?;
        std::fs::remove_dir_all(set.members[2].data_dir())?;
        set.start(2)?;
        set.members[2].wait_ready(SOON).await?;
        let healed = self.settled(set, 1, &four).await?;
        ensure!(
            healed[2] != before[2] && healed[3] == grown[3],
            "{healed:?}"
        );
        ensure!(self.has(set, 2, "before").await?, "db-2 is back");

        wait::until("db-3 leads", SOON, || async {
            let status = self.status(set, 3)?;
            if status["leader"] != healed[3] {
                // Whoever leads now does it; the others refuse.
                for at in 0..3 {
                    drop(self.run(set, at, &["move-leader", &healed[3]]));
                }
            }
            ensure!(status["leader"] == healed[3], "{status:#}");
            Ok(())
        })
        .await?;
        set.want(3)?;
        set.members[3].signal(Signal::TERM)?;
        let ended = set.members[3].wait_exit(SOON).await?;
        ensure!(ended.success(), "{ended}: {}", set.members[3].log());
        self.settled(set, 0, &three).await?;
        self.put(set, 2, "after").await?;
        ensure!(self.has(set, 1, "after").await?);
        Ok(())
    }
}

/// A certificate of `name` by the authority `by`, in files below `folder`, and their paths:
/// certificate, key, authority.
fn secret(folder: &Path, by: &str, name: &str) -> Result<(Secret, [String; 3])> {
    let authority = Authority::new(by)?;
    let leaf = authority.issue(&Leaf::new(name, 1))?;
    let authority = authority.pem();
    let files = [
        ("tls.crt", leaf.cert.as_bytes()),
        ("tls.key", leaf.key.as_bytes()),
        ("ca.crt", authority.as_bytes()),
    ];
    let secret = Secret::new(&folder.join(by), &files)?;
    let paths = ["tls.crt", "tls.key", "ca.crt"].map(|file| secret.path(file));
    Ok((secret, paths))
}

#[tokio::test]
async fn members_with_tls_on_both_ports_join_heal_and_leave() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (_secret, [cert, key, ca]) = secret(folder.path(), "ours", "member")?;
    let arguments = [
        "--cert-file",
        &cert,
        "--key-file",
        &key,
        "--trusted-ca-file",
        &ca,
        "--client-cert-auth",
        "--peer-cert-file",
        &cert,
        "--peer-key-file",
        &key,
        "--peer-trusted-ca-file",
        &ca,
        "--peer-client-cert-auth",
    ];
    let mut set = Set::new(4, &arguments)?;
    set.wanted();
    for member in &mut set.members {
        member.use_tls(true, true);
    }
    set.want(3)?;
    set.start_all(3).await?;
    let admin = Admin::new(&["--cacert", &ca, "--cert", &cert, "--key", &key]);
    admin.joins_heals_and_leaves(&mut set).await?;
    let unknown = Admin::new(&["--cacert", &ca]);
    ensure!(
        unknown.status(&set, 0).is_err(),
        "without a certificate nothing is told"
    );

    // One whose certificate is another authority's is not even heard, and says so.
    let (_secret, [cert, key, ca]) = secret(folder.path(), "others", "stranger")?;
    set.add(
        "db-2",
        "stranger",
        &[
            "--peer-cert-file",
            &cert,
            "--peer-key-file",
            &key,
            "--peer-trusted-ca-file",
            &ca,
            "--peer-client-cert-auth",
        ],
    )?;
    set.members[4].use_tls(false, true);
    set.show(&[0, 1, 2, 4])?;
    set.start(4)?;
    wait::until("it is seen that nobody answers", SOON, || async {
        let status = set.status(4)?;
        let seen = status["seen"].as_array().context("seen")?;
        let is_refused = |seen: &Value| seen["state"].as_str().unwrap_or_default().contains("cert");
        ensure!(
            status["phase"] == "waiting" && seen.len() >= 3 && seen.iter().all(is_refused),
            "{status:#}"
        );
        Ok(())
    })
    .await?;
    admin.settled(&set, 0, &["db-0", "db-1", "db-2"]).await?;
    Ok(())
}

#[tokio::test]
async fn members_of_a_cluster_with_users_join_heal_and_leave() -> Result<()> {
    let mut set = Set::new(4, &[])?;
    set.wanted();
    set.want(3)?;
    set.start_all(3).await?;
    let nobody = Admin::new(&[]);
    nobody.settled(&set, 0, &["db-0", "db-1", "db-2"]).await?;
    for words in [
        &["user", "add", "root:secret"][..],
        &["user", "grant-role", "root", "root"],
        &["auth", "enable"],
    ] {
        nobody.run(&set, 0, words)?;
    }
    let root = Admin::new(&["--user", "root:secret"]);
    root.joins_heals_and_leaves(&mut set).await?;

    // Like /health the status needs no user, and takes none amiss.
    for admin in [&nobody, &root] {
        let status = admin.status(&set, 2)?;
        ensure!(
            status["from_leader"] == true && status["voters"] == 3,
            "{status:#}"
        );
    }
    // The member whose disk was lost knows the users as the others do, and their tokens.
    let address = set.members[2].client_address();
    let plain = http::get(&address, "/v1/autopilot")?;
    ensure!(plain.status == 200, "{plain:?}");
    let denied = nobody.run(&set, 2, &["get", "before"]);
    let denied = format!("{:#}", denied.err().context("it must be refused")?);
    ensure!(denied.contains("user name is empty"), "{denied}");
    let who = json!({ "name": "root", "password": "secret" }).to_string();
    let reply = http::post(
        &set.members[0].client_address(),
        "/v3/auth/authenticate",
        &who,
    )?;
    let token = reply.json()?["token"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    ensure!(!token.is_empty(), "{reply:?}");
    wait::until("the token counts there too", SOON, || async {
        let reply = http::request_with(
            &address,
            "POST",
            "/v3/kv/range",
            &format!("Authorization: {token}\r\n"),
            &json!({ "key": "YmVmb3Jl" }).to_string(),
        )?;
        ensure!(
            reply.status == 200 && reply.body.contains("\"count\":\"1\""),
            "{reply:?}"
        );
        Ok(())
    })
    .await
}
