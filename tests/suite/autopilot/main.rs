//! Members in auto mode that begin, join, heal and leave by themselves.
//!
//! They find one another by a file of addresses, which stands for the name server: what is in it is
//! written while they look. `KVD_BOOTSTRAP_RUNS` sets how often the beginning is raced.
#![allow(missing_docs)]

mod clocks;
mod counted;
mod killed;
mod secure;
mod set;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvd_api::pb::etcdserverpb::MemberRemoveRequest;
use kvd_tests::member::binary;
use kvd_tests::{http, wait};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rustix::process::Signal;
use serde_json::Value;

use set::{SOON, Set, has, id_of, list, put};

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
    let number = |variable: &str| -> Option<u64> { std::env::var(variable).ok()?.parse().ok() };
    let runs: u64 = number("KVD_BOOTSTRAP_RUNS").unwrap_or(5);
    let seed: u64 = number("KVD_SEED").unwrap_or_else(|| rand::rng().random());
    println!("seed {seed}: replay with KVD_SEED={seed} KVD_BOOTSTRAP_RUNS={runs}");
    let mut random = StdRng::seed_from_u64(seed);
    // Another cluster answers under the same name.
    let mut stranger = Set::new(1, &["--autopilot-bootstrap-expect=1"])?;
    stranger.members[0].add_arguments(&["--initial-cluster-token=another"]);
    stranger.start_all(1).await?;
    let strange = stranger.members[0].peer_address();
    for run in 0..runs {
        let mut set = Set::new(3, &[])?;
        let mut order = [0, 1, 2];
        order.shuffle(&mut random);
        for index in order {
            set.start(index)?;
        }
        order.shuffle(&mut random);
        for known in 0..=3 {
            let shown: Vec<String> = order[..known]
                .iter()
                .map(|index| set.members[*index].peer_address())
                .chain([strange.clone()])
                .collect();
            std::fs::write(set.names_file(), shown.join("\n"))?;
            // The length of a delay of the name server, and not a wait for anything.
            let millis = random.random_range(0..400);
            tokio::time::sleep(Duration::from_millis(millis)).await;
            if random.random_bool(0.25) {
                let index = random.random_range(0..3);
                set.members[index].kill()?;
                set.start(index)?;
            }
        }
        for member in &mut set.members {
            let ready = member.wait_ready(SOON).await;
            ready.with_context(|| format!("run {run}, seed {seed}"))?;
        }
        let mut clusters = Vec::new();
        for member in &set.members {
            let header = member.status().await?.header.context("a header")?;
            clusters.push(header.cluster_id);
        }
        clusters.dedup();
        ensure!(clusters.len() == 1, "run {run}, seed {seed}: {clusters:x?}");
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
        (
            &[
                "--discovery-dns=a",
                "--autopilot-desired-replicas-url=https://a:1/b",
            ],
            "http://HOST:PORT/PATH",
        ),
        (
            &[
                "--discovery-dns=a",
                "--autopilot-desired-replicas-url=http://a",
            ],
            "http://HOST:PORT/PATH",
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
