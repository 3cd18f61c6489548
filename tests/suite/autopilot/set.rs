//! A set of members, and the file that stands for the name server.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use kvd_api::pb::etcdserverpb::{Member as Record, MemberListRequest, PutRequest, RangeRequest};
use kvd_tests::member::Member;
use kvd_tests::{http, wait};
use serde_json::Value;
use tempfile::TempDir;

/// Most time for anything to come about.
pub const SOON: Duration = Duration::from_secs(60);

/// Members `db-0`, `db-1`, … of one set.
pub struct Set {
    pub members: Vec<Member>,
    pub folder: TempDir,
}

impl Set {
    /// `count` members, none of which runs; the name server knows nobody. `arguments` for each.
    pub fn new(count: usize, arguments: &[&str]) -> Result<Set> {
        let folder = tempfile::Builder::new().prefix("kvd-test-").tempdir()?;
        let mut set = Set {
            members: Vec::new(),
            folder,
        };
        set.show(&[])?;
        std::fs::write(set.replicas_file(), count.to_string())?;
        for number in 0..count {
            set.add(&format!("db-{number}"), &format!("db-{number}"), arguments)?;
        }
        Ok(set)
    }

    pub fn add(&mut self, name: &str, folder: &str, arguments: &[&str]) -> Result<()> {
        let mut member = Member::new(name, &self.folder.path().join(folder))?;
        let discovery = format!("file:{}", self.names_file().display());
        member.add_arguments(&[
            "--initial-cluster-state=auto",
            "--discovery-dns",
            &discovery,
            "--autopilot-stabilization-time=1s",
            // Without the five seconds that etcd waits for; what autopilot itself refuses stays.
            "--strict-reconfig-check=false",
        ]);
        member.add_arguments(arguments);
        self.members.push(member);
        Ok(())
    }

    /// Lets members leave when fewer are wanted.
    pub fn wanted(&mut self) {
        let flag = format!(
            "--autopilot-desired-replicas-file={}",
            self.replicas_file().display()
        );
        for member in &mut self.members {
            member.add_arguments(&[&flag]);
        }
    }

    pub fn want(&self, count: usize) -> Result<()> {
        Ok(std::fs::write(self.replicas_file(), count.to_string())?)
    }

    pub fn names_file(&self) -> PathBuf {
        self.folder.path().join("names")
    }

    pub fn replicas_file(&self) -> PathBuf {
        self.folder.path().join("replicas")
    }

    /// What the name server says from now on.
    pub fn show(&self, indices: &[usize]) -> Result<()> {
        let addresses = indices
            .iter()
            .map(|index| self.members[*index].peer_address());
        let lines: Vec<String> = addresses.collect();
        let part = self.folder.path().join("names.part");
        std::fs::write(&part, lines.join("\n"))?;
        Ok(std::fs::rename(part, self.names_file())?)
    }

    pub fn start(&mut self, index: usize) -> Result<()> {
        self.members[index].start("")
    }

    /// Starts the first `count`, all of them known to the name server, and waits for them.
    pub async fn start_all(&mut self, count: usize) -> Result<()> {
        self.show(&(0..count).collect::<Vec<_>>())?;
        for index in 0..count {
            self.start(index)?;
        }
        for member in &mut self.members[..count] {
            member.wait_ready(SOON).await?;
        }
        Ok(())
    }

    pub fn status(&self, index: usize) -> Result<Value> {
        http::get(&self.members[index].client_address(), "/v1/autopilot")?.json()
    }

    /// Waits until the status of a member says `text` as its reason.
    pub async fn wait_reason(&self, index: usize, phase: &str, text: &str) -> Result<()> {
        wait::until(text, SOON, || async {
            let status = self.status(index)?;
            let reason = status["reason"].as_str().unwrap_or_default();
            ensure!(
                reason.contains(text) && status["phase"] == phase,
                "{status:#}"
            );
            Ok(())
        })
        .await
    }

    /// Waits until exactly these are members, with votes, and the leader calls all healthy.
    pub async fn wait_members(&self, at: usize, names: &[&str]) -> Result<Vec<Record>> {
        wait::until("the members", SOON, || async {
            let members = list(&self.members[at]).await?;
            let mut found: Vec<&str> = members.iter().map(|m| m.name.as_str()).collect();
            found.sort_unstable();
            ensure!(
                found == names,
                "{found:?}, not {names:?}: {:#}",
                self.status(at)?
            );
            ensure!(
                members.iter().all(|member| !member.is_learner),
                "{members:?}"
            );
            let status = self.status(at)?;
            ensure!(status["healthy"] == true, "{status:#}");
            Ok(members)
        })
        .await
    }
}

pub async fn list(member: &Member) -> Result<Vec<Record>> {
    let request = MemberListRequest { linearizable: true };
    Ok(member
        .cluster()
        .await?
        .member_list(request)
        .await?
        .into_inner()
        .members)
}

pub async fn put(member: &Member, key: &str) -> Result<()> {
    let request = PutRequest {
        key: Bytes::from(key.to_owned()),
        value: Bytes::from_static(b"v"),
        ..PutRequest::default()
    };
    wait::until("a write", SOON, || async {
        member.kv().await?.put(request.clone()).await?;
        Ok(())
    })
    .await
}

/// Reads a key at a member, which may have been a learner a moment ago.
pub async fn has(member: &Member, key: &str) -> Result<bool> {
    let request = RangeRequest {
        key: Bytes::from(key.to_owned()),
        ..RangeRequest::default()
    };
    wait::until("a read", SOON, || async {
        let reply = member.kv().await?.range(request.clone()).await?;
        Ok(reply.into_inner().count == 1)
    })
    .await
}

pub fn id_of(members: &[Record], name: &str) -> Result<u64> {
    let member = members.iter().find(|member| member.name == name);
    Ok(member
        .with_context(|| format!("no {name} in {members:?}"))?
        .id)
}
