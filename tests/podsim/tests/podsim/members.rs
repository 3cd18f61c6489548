//! The set grows and shrinks, and a member loses its disk, as `docs/kubernetes.md` says, under a
//! checked workload.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvd_podsim::cluster::{CONVERGENCE, Cluster};
use kvd_podsim::host;
use kvd_podsim::node::Options;
use kvd_tests::wait;

use crate::checked::Checked;

#[test]
fn the_set_grows_and_shrinks() -> Result<()> {
    host::isolated("members::the_set_grows_and_shrinks", scaled())
}

#[test]
fn a_member_that_lost_its_disk_is_replaced() -> Result<()> {
    host::isolated(
        "members::a_member_that_lost_its_disk_is_replaced",
        lost_disk(),
    )
}

/// Debian's etcdctl, asking the Service.
async fn member(cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    let endpoint = format!("{}:2379", cluster.service("etcd-client")?);
    let mut all = vec!["--endpoints", &endpoint, "member"];
    all.extend(arguments);
    let output = cluster.client("etcdctl", &all).await?;
    ensure!(output.status.success(), "{arguments:?}: {output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

async fn add(cluster: &Cluster, pod: &str) -> Result<()> {
    let url = format!("--peer-urls=http://{pod}.etcd:2380");
    // A change is refused while the one before is under way, or a member was not seen lately.
    wait::until("the announcement", CONVERGENCE, || async {
        member(cluster, &["add", pod, &url]).await
    })
    .await?;
    Ok(())
}

async fn remove(cluster: &Cluster, pod: &str) -> Result<()> {
    wait::until("the removal", CONVERGENCE, || async {
        let list = member(cluster, &["list"]).await?;
        let line = list
            .lines()
            .find(|line| line.contains(&format!("//{pod}.etcd:2380")));
        let Some(line) = line else {
            return Ok(());
        };
        let id = line.split(',').next().context("an ID")?;
        member(cluster, &["remove", id]).await?;
        Ok(())
    })
    .await
}

async fn base() -> Result<Cluster> {
    let mut cluster = Cluster::new(Options::default()).await?;
    cluster.apply(&host::render("base")?).await?;
    cluster.wait_ready(CONVERGENCE).await?;
    Ok(cluster)
}

async fn scaled() -> Result<()> {
    let cluster = base().await?;
    let mut checked = Checked::start(&cluster, 3)?;
    checked.converged(&cluster).await?;

    println!("a pod that nobody announced waits and says so");
    cluster.scale(4);
    wait::until("the hint", CONVERGENCE, || async {
        let logs = cluster.logs();
        let hint = "kvctl member add etcd-3 --peer-urls=http://etcd-3.etcd:2380";
        ensure!(logs.contains(hint), "{logs}");
        Ok(())
    })
    .await?;
    add(&cluster, "etcd-3").await?;
    checked.converged(&cluster).await?;
    println!("from four to five");
    add(&cluster, "etcd-4").await?;
    cluster.scale(5);
    checked.converged(&cluster).await?;
    checked.check().await?;
    let list = member(&cluster, &["list"]).await?;
    ensure!(list.matches(", started, ").count() == 5, "{list}");

    for (left, pod) in [(4, "etcd-4"), (3, "etcd-3")] {
        println!("down to {left}");
        remove(&cluster, pod).await?;
        cluster.scale(left);
        checked.converged(&cluster).await?;
        cluster.delete_claim(&format!("data-{pod}"))?;
    }
    let list = member(&cluster, &["list"]).await?;
    ensure!(list.matches(", started, ").count() == 3, "{list}");
    println!("{} acknowledged operations", checked.finish().await?);
    Ok(())
}

async fn lost_disk() -> Result<()> {
    let cluster = base().await?;
    let checked = Checked::start(&cluster, 4)?;
    checked.converged(&cluster).await?;
    let before = member(&cluster, &["list"]).await?;
    remove(&cluster, "etcd-2").await?;
    cluster.delete_claim("data-etcd-2")?;
    cluster.delete_pod("etcd-2");
    wait::until("the end of the disk", Duration::from_secs(90), || async {
        let member = cluster.claim("data-etcd-2").join("default.etcd/member");
        ensure!(!member.exists(), "it is still there");
        Ok(())
    })
    .await?;
    add(&cluster, "etcd-2").await?;
    checked.converged(&cluster).await?;
    let after = member(&cluster, &["list"]).await?;
    ensure!(after != before, "it is another member: {after}");
    ensure!(after.matches(", started, ").count() == 3, "{after}");
    println!("{} acknowledged operations", checked.finish().await?);
    Ok(())
}
