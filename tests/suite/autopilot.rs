//! Members in auto mode that begin, join, heal and leave by themselves.
//!
//! They find one another by a file of addresses, which stands for the name server: what is in it is
//! written while they look. `KVD_BOOTSTRAP_RUNS` sets how often the beginning is raced.
#![allow(missing_docs)]

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use kvd_api::pb::etcdserverpb::{
    Member as Record, MemberListRequest, MemberRemoveRequest, PutRequest, RangeRequest,
};
use kvd_tests::member::{Member, binary};
use kvd_tests::{http, wait};
use rand::Rng;
use rand::seq::SliceRandom;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(60);

/// Members `db-0`, `db-1`, … of one set.
struct Set {
    members: Vec<Member>,
    folder: TempDir,
}

impl Set {
    /// `count` members, none of which runs; the name server knows nobody. `arguments` for each.
    fn new(count: usize, arguments: &[&str]) -> Result<Set> {
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

    fn add(&mut self, name: &str, folder: &str, arguments: &[&str]) -> Result<()> {
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
    fn wanted(&mut self) {
        let flag = format!(
            "--autopilot-desired-replicas-file={}",
            self.replicas_file().display()
        );
        for member in &mut self.members {
            member.add_arguments(&[&flag]);
        }
    }

    fn want(&self, count: usize) -> Result<()> {
        Ok(std::fs::write(self.replicas_file(), count.to_string())?)
    }

    fn names_file(&self) -> PathBuf {
        self.folder.path().join("names")
    }

    fn replicas_file(&self) -> PathBuf {
        self.folder.path().join("replicas")
    }

    /// What the name server says from now on.
    fn show(&self, indices: &[usize]) -> Result<()> {
        let addresses = indices
            .iter()
            .map(|index| self.members[*index].peer_address());
        let lines: Vec<String> = addresses.collect();
        let part = self.folder.path().join("names.part");
        std::fs::write(&part, lines.join("\n"))?;
        Ok(std::fs::rename(part, self.names_file())?)
    }

    fn start(&mut self, index: usize) -> Result<()> {
        self.members[index].start("")
    }

    /// Starts the first `count`, all of them known to the name server, and waits for them.
    async fn start_all(&mut self, count: usize) -> Result<()> {
        self.show(&(0..count).collect::<Vec<_>>())?;
        for index in 0..count {
            self.start(index)?;
        }
        for member in &mut self.members[..count] {
            member.wait_ready(SOON).await?;
        }
        Ok(())
    }

    fn status(&self, index: usize) -> Result<Value> {
        http::get(&self.members[index].client_address(), "/v1/autopilot")?.json()
    }

    /// Waits until the status of a member says `text` as its reason.
    async fn wait_reason(&self, index: usize, phase: &str, text: &str) -> Result<()> {
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
    async fn wait_members(&self, at: usize, names: &[&str]) -> Result<Vec<Record>> {
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

async fn list(member: &Member) -> Result<Vec<Record>> {
    let request = MemberListRequest { linearizable: true };
    Ok(member
        .cluster()
        .await?
        .member_list(request)
        .await?
        .into_inner()
        .members)
}

async fn put(member: &Member, key: &str) -> Result<()> {
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
async fn has(member: &Member, key: &str) -> Result<bool> {
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

fn id_of(members: &[Record], name: &str) -> Result<u64> {
    let member = members.iter().find(|member| member.name == name);
    Ok(member
        .with_context(|| format!("no {name} in {members:?}"))?
        .id)
}

fn copy(from: &std::path::Path, to: &std::path::Path) -> Result<()> {
    let status = std::process::Command::new("cp")
        .arg("-a")
        .arg(from)
        .arg(to)
        .status()?;
    ensure!(status.success(), "cp: {status}");
    Ok(())
}

/// Records appear one by one, in random order, while the members look, and are killed now and then.
#[tokio::test]
async fn a_raced_bootstrap_always_makes_one_cluster() -> Result<()> {
    let runs = std::env::var("KVD_BOOTSTRAP_RUNS").ok();
    let runs: u32 = runs.and_then(|runs| runs.parse().ok()).unwrap_or(5);
    // Another cluster answers under the same name.
    let mut stranger = Set::new(1, &["--autopilot-bootstrap-expect=1"])?;
    stranger.members[0].add_arguments(&["--initial-cluster-token=another"]);
    stranger.start_all(1).await?;
    let strange = stranger.members[0].peer_address();
    for run in 0..runs {
        let mut set = Set::new(3, &[])?;
        let mut order = [0, 1, 2];
        order.shuffle(&mut rand::rng());
        for index in order {
            set.start(index)?;
        }
        order.shuffle(&mut rand::rng());
        for known in 0..=3 {
            let shown: Vec<String> = order[..known]
                .iter()
                .map(|index| set.members[*index].peer_address())
                .chain([strange.clone()])
                .collect();
            std::fs::write(set.names_file(), shown.join("\n"))?;
            // The length of a delay of the name server, and not a wait for anything.
            let millis = rand::rng().random_range(0..400);
            tokio::time::sleep(Duration::from_millis(millis)).await;
            if rand::rng().random_bool(0.25) {
                let index = rand::rng().random_range(0..3);
                set.members[index].kill()?;
                set.start(index)?;
            }
        }
        for member in &mut set.members {
            member.wait_ready(SOON).await?;
        }
        let mut clusters = Vec::new();
        for member in &set.members {
            let header = member.status().await?.header.context("a header")?;
            clusters.push(header.cluster_id);
        }
        clusters.dedup();
        ensure!(clusters.len() == 1, "run {run}: {clusters:x?}");
        set.wait_members(0, &["db-0", "db-1", "db-2"]).await?;
        put(&set.members[1], "a").await?;
        ensure!(has(&set.members[2], "a").await?);
    }
    ensure!(
        list(&stranger.members[0]).await?.len() == 1,
        "it is left alone"
    );
    Ok(())
}

#[tokio::test]
async fn a_member_that_lost_its_disk_comes_back_as_another() -> Result<()> {
    let mut set = Set::new(3, &[])?;
    set.start_all(3).await?;
    put(&set.members[0], "before").await?;
    let before = set.wait_members(0, &["db-0", "db-1", "db-2"]).await?;
    let lost = id_of(&before, "db-2")?;
    set.members[2].kill()?;
    let (data, kept) = (set.members[2].data_dir(), set.folder.path().join("kept"));
    std::fs::rename(&data, &kept)?;
    set.start(2)?;
    set.members[2].wait_ready(SOON).await?;
    let after = set.wait_members(0, &["db-0", "db-1", "db-2"]).await?;
    ensure!(id_of(&after, "db-2")? != lost, "{after:?}");
    ensure!(has(&set.members[2], "before").await?);

    // The old disk is restored: its member was removed meanwhile. It notices, is set aside, and the
    // pod joins anew.
    set.members[2].kill()?;
    std::fs::remove_dir_all(&data)?;
    std::fs::rename(&kept, &data)?;
    set.start(2)?;
    let ended = set.members[2].wait_exit(SOON).await?;
    ensure!(ended.success(), "{ended}: {}", set.members[2].log());
    set.start(2)?;
    set.members[2].wait_ready(SOON).await?;
    ensure!(
        set.members[2].log().contains("set aside"),
        "{}",
        set.members[2].log()
    );
    ensure!(data.join("member.removed").is_dir());
    let last = set.wait_members(0, &["db-0", "db-1", "db-2"]).await?;
    ensure!(id_of(&last, "db-2")? != lost && id_of(&last, "db-2")? != id_of(&after, "db-2")?);
    ensure!(has(&set.members[2], "before").await?);
    Ok(())
}

#[tokio::test]
async fn a_member_that_comes_while_the_quorum_is_lost_waits_and_says_so() -> Result<()> {
    let mut set = Set::new(3, &[])?;
    set.start_all(3).await?;
    set.wait_members(0, &["db-0", "db-1", "db-2"]).await?;
    set.members[1].kill()?;
    set.members[2].kill()?;
    std::fs::remove_dir_all(set.members[2].data_dir())?;
    set.start(2)?;
    set.wait_reason(2, "waiting", "has no leader").await?;
    let shown = set.members[2].kvctl(&["autopilot", "status"])?;
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    ensure!(
        text.contains("has no leader") && text.contains("seen: "),
        "{text}"
    );
    let health = http::get(&set.members[2].client_address(), "/readyz")?;
    ensure!(
        health.status == 503 && health.body.contains("no member yet"),
        "{health:?}"
    );
    ensure!(http::get(&set.members[2].client_address(), "/livez")?.status == 200);
    set.start(1)?;
    set.members[2].wait_ready(SOON).await?;
    set.wait_members(0, &["db-0", "db-1", "db-2"]).await?;

    // The three formats of a member, and what a follower says is what its leader says.
    for index in 0..3 {
        let json = set.members[index].kvctl(&["autopilot", "status", "-w", "json"])?;
        let status: Value = serde_json::from_slice(&json.stdout)?;
        ensure!(
            status["from_leader"] == true && status["voters"] == 3,
            "{status:#}"
        );
        ensure!(status["failure_tolerance"] == 1, "{status:#}");
        ensure!(status["name"] == format!("db-{index}"), "{status:#}");
    }
    let table = set.members[0].kvctl(&["autopilot", "status", "-w", "table"])?;
    let table = String::from_utf8(table.stdout)?;
    ensure!(
        table.contains("LAST CONTACT") && table.contains("replace"),
        "{table}"
    );
    let metrics = http::get(&set.members[0].client_address(), "/metrics")?.body;
    ensure!(metrics.contains("kvd_autopilot_healthy"), "{metrics}");
    Ok(())
}

#[tokio::test]
async fn two_members_with_one_name_and_foreign_disks_are_refused() -> Result<()> {
    let mut set = Set::new(3, &[])?;
    set.start_all(3).await?;
    let before = set.wait_members(0, &["db-0", "db-1", "db-2"]).await?;

    // A second db-2, with an empty disk.
    set.add("db-2", "twin", &[])?;
    set.show(&[0, 1, 2, 3])?;
    set.start(3)?;
    set.wait_reason(3, "refused", "two members with one name")
        .await?;
    set.members[3].kill()?;

    // A disk of another cluster with the same token, and one with another token.
    let mut other = Set::new(3, &["--autopilot-bootstrap-expect=3"])?;
    other.start_all(3).await?;
    other.members[2].kill()?;
    set.members[2].kill()?;
    let data = set.members[2].data_dir();
    let own = set.folder.path().join("own");
    std::fs::rename(&data, &own)?;
    copy(&other.members[2].data_dir(), &data)?;
    set.start(2)?;
    set.wait_reason(2, "refused", "belong to another cluster")
        .await?;
    set.members[2].kill()?;
    set.members[2].add_arguments(&["--initial-cluster-token=third"]);
    set.start(2)?;
    set.wait_reason(2, "refused", "with the token").await?;
    set.members[2].terminate(SOON).await?;

    std::fs::remove_dir_all(&data)?;
    std::fs::rename(&own, &data)?;
    set.members[2].add_arguments(&["--initial-cluster-token=test"]);
    set.start(2)?;
    set.members[2].wait_ready(SOON).await?;
    let after = set.wait_members(0, &["db-0", "db-1", "db-2"]).await?;
    ensure!(before == after, "{before:?}, not {after:?}");
    Ok(())
}

#[tokio::test]
async fn who_stops_for_good_leaves_and_who_restarts_does_not() -> Result<()> {
    let mut set = Set::new(3, &[])?;
    set.wanted();
    set.start_all(3).await?;
    put(&set.members[0], "before").await?;
    let three = set.wait_members(0, &["db-0", "db-1", "db-2"]).await?;
    set.members[2].terminate(SOON).await?;
    set.start(2)?;
    set.members[2].wait_ready(SOON).await?;
    ensure!(
        set.wait_members(0, &["db-0", "db-1", "db-2"]).await? == three,
        "a restart"
    );

    // What is wanted cannot be read: nobody leaves.
    std::fs::write(set.replicas_file(), "three")?;
    set.members[2].terminate(SOON).await?;
    set.start(2)?;
    set.members[2].wait_ready(SOON).await?;
    ensure!(
        set.wait_members(0, &["db-0", "db-1", "db-2"]).await? == three,
        "unreadable"
    );
    wait::until("the reason", SOON, || async {
        let status = set.status(0)?;
        let error = status["desired_error"].as_str().unwrap_or_default();
        ensure!(error.contains("no number of members"), "{status:#}");
        Ok(())
    })
    .await?;

    // Two at once, and one of them leads.
    set.want(1)?;
    set.members[1].signal(Signal::TERM)?;
    set.members[2].signal(Signal::TERM)?;
    for index in [1, 2] {
        let ended = set.members[index].wait_exit(SOON).await?;
        ensure!(ended.success(), "{ended}: {}", set.members[index].log());
    }
    set.wait_members(0, &["db-0"]).await?;
    put(&set.members[0], "alone").await?;

    // With the disks that they left they come back as others.
    set.want(3)?;
    set.start(1)?;
    set.start(2)?;
    let back = set.wait_members(0, &["db-0", "db-1", "db-2"]).await?;
    ensure!(id_of(&back, "db-2")? != id_of(&three, "db-2")?);
    ensure!(has(&set.members[2], "alone").await? && has(&set.members[1], "before").await?);

    // One that dies without having left is removed by the leader.
    set.want(2)?;
    set.members[2].kill()?;
    set.wait_members(0, &["db-0", "db-1"]).await?;
    Ok(())
}

#[tokio::test]
async fn the_dead_are_removed_by_the_policy_and_never_below_the_quorum() -> Result<()> {
    let policy = [
        "--autopilot-cleanup-dead-members",
        "--autopilot-dead-member-threshold=2s",
        "--autopilot-min-quorum=2",
    ];
    let mut set = Set::new(3, &policy)?;
    set.start_all(3).await?;
    set.wait_members(0, &["db-0", "db-1", "db-2"]).await?;
    set.members[2].kill()?;
    set.wait_members(0, &["db-0", "db-1"]).await?;
    // Two stay, whatever happens: of one alone nothing would be left to lose.
    set.members[1].kill()?;
    set.start(1)?;
    set.members[1].wait_ready(SOON).await?;
    set.wait_members(0, &["db-0", "db-1"]).await?;
    // It comes back with its disk, learns that it was removed, and joins anew when it is started.
    set.start(2)?;
    ensure!(set.members[2].wait_exit(SOON).await?.success());
    set.start(2)?;
    set.members[2].wait_ready(SOON).await?;
    set.wait_members(0, &["db-0", "db-1", "db-2"]).await?;
    Ok(())
}

/// Killed after ever longer times, from before it has asked until it has its vote.
#[tokio::test]
async fn a_member_killed_at_each_step_of_joining_gets_there() -> Result<()> {
    let mut set = Set::new(4, &[])?;
    set.start_all(3).await?;
    set.wait_members(0, &["db-0", "db-1", "db-2"]).await?;
    set.show(&[0, 1, 2, 3])?;
    for millis in [60, 150, 300, 450, 700, 1_000, 1_600, 2_400] {
        set.start(3)?;
        // The schedule of the kills, and not a wait for anything.
        tokio::time::sleep(Duration::from_millis(millis)).await;
        set.members[3].kill()?;
    }
    // A disk that is lost half-way is another one.
    std::fs::remove_dir_all(set.members[3].data_dir())?;
    set.start(3)?;
    set.members[3].wait_ready(SOON).await?;
    set.wait_members(0, &["db-0", "db-1", "db-2", "db-3"])
        .await?;
    Ok(())
}

/// An operator's removal in auto mode: the member ends, and comes back as another when started.
#[tokio::test]
async fn a_removed_member_joins_anew_when_it_is_started() -> Result<()> {
    let mut set = Set::new(3, &[])?;
    set.start_all(3).await?;
    let before = set.wait_members(0, &["db-0", "db-1", "db-2"]).await?;
    let id = id_of(&before, "db-1")?;
    wait::until("the removal", SOON, || async {
        let mut client = set.members[0].cluster().await?;
        match client.member_remove(MemberRemoveRequest { id }).await {
            Err(error) if error.code() != tonic::Code::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    })
    .await?;
    ensure!(set.members[1].wait_exit(SOON).await?.success());
    set.start(1)?;
    set.members[1].wait_ready(SOON).await?;
    let after = set.wait_members(0, &["db-0", "db-1", "db-2"]).await?;
    ensure!(id_of(&after, "db-1")? != id);
    Ok(())
}

/// Flags that do not fit are refused before anything is done.
#[tokio::test]
async fn flags_of_auto_mode_that_do_not_fit_are_refused() -> Result<()> {
    for (arguments, expected) in [
        (&[][..], "needs --discovery-dns"),
        (&["--discovery-dns=http://a"], "neither HOST, HOST:PORT"),
        (
            &["--discovery-dns=a", "--autopilot-bootstrap-expect=0"],
            "from 1 to 31",
        ),
        (
            &["--discovery-dns=a", "--autopilot-statefulset=A B"],
            "neither NAME",
        ),
        (
            &[
                "--discovery-dns=a",
                "--autopilot-statefulset=a",
                "--autopilot-desired-replicas-file=b",
            ],
            "give one",
        ),
    ] {
        let output = std::process::Command::new(binary("kvd")?)
            .arg("--initial-cluster-state=auto")
            .args(arguments)
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            !output.status.success() && said.contains(expected),
            "{arguments:?}: {said}"
        );
    }
    Ok(())
}
