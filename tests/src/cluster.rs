//! Several members as one cluster, and what they must agree on.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvd_api::pb::etcdserverpb::HashKvResponse;
use tempfile::TempDir;

use crate::member::Member;
use crate::wait;

/// Longest time that a cluster may take to serve.
pub const READY_DEADLINE: Duration = Duration::from_secs(30);

/// A cluster of `kvd` processes in one temporary folder.
#[derive(Debug)]
pub struct Cluster {
    /// The members, in order of their names.
    pub members: Vec<Member>,
    initial_cluster: String,
    folder: TempDir,
}

impl Cluster {
    /// Prepares `size` members `m0`, `m1`, … with the same extra arguments, not started.
    ///
    /// Errors: when no ports or no temporary folder can be had.
    pub fn prepare(size: usize, arguments: &[&str]) -> Result<Cluster> {
        Cluster::prepare_with_tls(size, arguments, (false, false))
    }

    /// The same with `https` URLs: `(clients, peers)`. What TLS needs is among the arguments.
    ///
    /// Errors: as [`Cluster::prepare`].
    pub fn prepare_with_tls(size: usize, arguments: &[&str], tls: (bool, bool)) -> Result<Cluster> {
        let folder = tempfile::Builder::new().prefix("kvd-test-").tempdir()?;
        let mut members = Vec::with_capacity(size);
        for number in 0..size {
            let name = format!("m{number}");
            let mut member = Member::new(&name, &folder.path().join(&name))?;
            member.use_tls(tls.0, tls.1);
            member.add_arguments(arguments);
            members.push(member);
        }
        let entries: Vec<String> = members
            .iter()
            .map(|m| format!("{}={}", m.name(), m.peer_url()))
            .collect();
        Ok(Cluster {
            members,
            initial_cluster: entries.join(","),
            folder,
        })
    }

    /// Prepares, starts and waits until every member serves.
    ///
    /// Errors: when one does not.
    pub async fn start(size: usize, arguments: &[&str]) -> Result<Cluster> {
        let mut cluster = Cluster::prepare(size, arguments)?;
        cluster.start_all().await?;
        Ok(cluster)
    }

    /// The value of `--initial-cluster`.
    pub fn initial_cluster(&self) -> &str {
        &self.initial_cluster
    }

    /// The folder of everything.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Starts every member that does not run and waits until they serve.
    ///
    /// Errors: when one does not.
    pub async fn start_all(&mut self) -> Result<()> {
        for index in 0..self.members.len() {
            if self.members[index].pid().is_none() {
                self.members[index].start(&self.initial_cluster)?;
            }
        }
        for member in &mut self.members {
            member.wait_ready(READY_DEADLINE).await?;
        }
        Ok(())
    }

    /// Starts one member again and waits until it serves.
    ///
    /// Errors: when it does not.
    pub async fn restart(&mut self, index: usize) -> Result<()> {
        self.members[index].start(&self.initial_cluster)?;
        self.members[index].wait_ready(READY_DEADLINE).await
    }

    /// The index of the member that leads, as a majority of those that run see it.
    ///
    /// Errors: when there is none within ten seconds.
    pub async fn leader(&self) -> Result<usize> {
        wait::until("one leader", Duration::from_secs(10), || async {
            let mut leads = None;
            let mut running = 0;
            let mut agree = 0;
            for (index, member) in self.members.iter().enumerate() {
                if member.pid().is_none() {
                    continue;
                }
                running += 1;
                let Ok(status) = member.status().await else {
                    continue;
                };
                let own = status.header.context("a status has a header")?.member_id;
                if status.leader == own {
                    leads = Some((index, own));
                }
            }
            let (index, id) = leads.context("nobody leads")?;
            for member in &self.members {
                if member.pid().is_some() && member.status().await.is_ok_and(|s| s.leader == id) {
                    agree += 1;
                }
            }
            ensure!(agree * 2 > running, "only {agree} of {running} follow it");
            Ok(index)
        })
        .await
    }

    /// Waits until all running members have applied the same revision and returns the hash that
    /// they all have there.
    ///
    /// Errors: when they do not agree within `deadline`.
    pub async fn equal_hashes(&self, deadline: Duration) -> Result<HashKvResponse> {
        wait::until("equal hashes", deadline, || async {
            let mut revision = 0;
            for member in self.members.iter().filter(|member| member.pid().is_some()) {
                let header = member.status().await?.header.context("a header")?;
                revision = revision.max(header.revision);
            }
            let mut first: Option<HashKvResponse> = None;
            for member in self.members.iter().filter(|member| member.pid().is_some()) {
                let hash = member.hash_kv(revision).await?;
                let expected = first.get_or_insert(hash);
                ensure!(
                    hash.hash == expected.hash
                        && hash.hash_revision == expected.hash_revision
                        && hash.compact_revision == expected.compact_revision,
                    "{} has {hash:?}, another {expected:?}",
                    member.name()
                );
            }
            first.context("no member runs")
        })
        .await
    }
}
