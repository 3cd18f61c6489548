//! What happens to pods, on the base's manifests under a checked workload.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvd_podsim::cluster::{CONVERGENCE, Cluster};
use kvd_podsim::dns::Mood;
use kvd_podsim::host;
use kvd_podsim::node::Options;
use kvd_tests::wait;

use crate::checked::Checked;

#[test]
fn pods_come_back_with_their_data_whatever_is_deleted() -> Result<()> {
    host::isolated(
        "faults::pods_come_back_with_their_data_whatever_is_deleted",
        deleted(),
    )
}

async fn base() -> Result<Cluster> {
    let mut cluster = Cluster::new(Options::default()).await?;
    cluster.apply(&host::render("base")?).await?;
    cluster.wait_ready(CONVERGENCE).await?;
    let put = cluster
        .exec("etcd-1", &["kvctl", "put", "message", "Hello world"])
        .await?;
    ensure!(put.status.success(), "{put:?}");
    Ok(cluster)
}

async fn still_there(cluster: &Cluster) -> Result<()> {
    for pod in cluster.pods() {
        let got = cluster
            .exec(&pod, &["kvctl", "get", "message", "--print-value-only"])
            .await?;
        ensure!(got.stdout == b"Hello world\n", "{pod}: {got:?}");
    }
    Ok(())
}

async fn deleted() -> Result<()> {
    let mut cluster = base().await?;
    // It runs as the manifest says.
    let id = cluster
        .exec("etcd-0", &["sh", "-c", "id -u; touch /x || echo read-only"])
        .await?;
    ensure!(id.stdout == b"65532\nread-only\n", "{id:?}");
    let mut checked = Checked::start(&cluster, 1)?;
    checked.converged(&cluster).await?;

    println!("a follower and the leader are cut off, one after the other");
    let leader = cluster.leader().await?;
    let follower = cluster.pods().into_iter().find(|pod| *pod != leader);
    for pod in [follower.context("three pods")?, leader] {
        cut_off(&cluster, &pod).await?;
        checked.converged(&cluster).await?;
    }

    println!("the leader's pod");
    let leader = cluster.leader().await?;
    let before = cluster.ip(&leader)?;
    cluster.delete_pod(&leader);
    gone(&cluster, &leader, before).await?;
    checked.converged(&cluster).await?;

    println!("a pod whose node dies");
    let leader = cluster.leader().await?;
    let before = cluster.ip(&leader)?;
    cluster.lose_pod(&leader);
    gone(&cluster, &leader, before).await?;
    checked.converged(&cluster).await?;
    checked.check().await?;

    println!("all pods");
    let before = addresses(&cluster)?;
    for pod in cluster.pods() {
        cluster.delete_pod(&pod);
    }
    for (pod, ip) in &before {
        gone(&cluster, pod, *ip).await?;
    }
    checked.converged(&cluster).await?;

    println!("the whole set, and again");
    cluster.delete_set().await?;
    cluster.apply(&host::render("base")?).await?;
    checked.converged(&cluster).await?;
    still_there(&cluster).await?;
    let acknowledged = checked.finish().await?;
    println!("{acknowledged} acknowledged operations");
    Ok(())
}

/// A member that nobody reaches says so to whoever asks it: it lives, and it is not ready.
async fn cut_off(cluster: &Cluster, pod: &str) -> Result<()> {
    cluster.connect(pod, false)?;
    wait::until("no health", CONVERGENCE, || async {
        let health = page(cluster, pod, "/health").await?;
        ensure!(health.starts_with("503 {\"health\":\"false\""), "{health}");
        let ready = page(cluster, pod, "/readyz").await?;
        ensure!(ready.starts_with("503 "), "{ready}");
        ensure!(ready.contains("[-]linearizable_read failed"), "{ready}");
        Ok(())
    })
    .await?;
    let alive = page(cluster, pod, "/livez").await?;
    ensure!(alive == "200 ok\n", "{alive}");
    let own = page(cluster, pod, "/health?serializable=true").await?;
    ensure!(own.starts_with("200 "), "{own}");
    cluster.connect(pod, true)?;
    wait::until("health", CONVERGENCE, || async {
        let health = page(cluster, pod, "/health").await?;
        ensure!(health.starts_with("200 "), "{health}");
        Ok(())
    })
    .await
}

/// Status and body of a page for monitoring, asked for in the pod itself.
async fn page(cluster: &Cluster, pod: &str, path: &str) -> Result<String> {
    let url = format!("http://127.0.0.1:2381{path}");
    let output = cluster
        .exec(pod, &["curl", "-s", "-S", "-w", "%{http_code}", &url])
        .await?;
    ensure!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout)?;
    let (body, status) = text.split_at(text.len().saturating_sub(3));
    Ok(format!("{status} {body}"))
}

fn addresses(cluster: &Cluster) -> Result<Vec<(String, std::net::Ipv4Addr)>> {
    let pods = cluster.pods().into_iter();
    pods.map(|pod| Ok((pod.clone(), cluster.ip(&pod)?)))
        .collect()
}

/// Waits until a pod with another address has taken a pod's place.
async fn gone(cluster: &Cluster, pod: &str, before: std::net::Ipv4Addr) -> Result<()> {
    wait::until("another pod", CONVERGENCE, || async {
        ensure!(cluster.ip(pod)? != before, "{pod} is still the old one");
        Ok(())
    })
    .await
}

#[test]
fn an_update_and_new_addresses_are_taken_pod_by_pod() -> Result<()> {
    host::isolated(
        "faults::an_update_and_new_addresses_are_taken_pod_by_pod",
        updated(),
    )
}

async fn updated() -> Result<()> {
    let cluster = base().await?;
    let mut checked = Checked::start(&cluster, 2)?;
    checked.converged(&cluster).await?;

    println!("another image");
    let before = addresses(&cluster)?;
    cluster.update(|template| {
        for container in &mut template.spec.containers {
            container.image = "ghcr.io/kvd-io/kvd:0.2.0".to_owned();
        }
    })?;
    checked.converged(&cluster).await?;
    for (pod, ip) in before {
        assert_ne!(cluster.ip(&pod)?, ip, "{pod} is new");
        let version = cluster
            .exec(&pod, &["cat", "/usr/local/bin/image-version"])
            .await?;
        assert_eq!(version.stdout, b"0.2.0", "{pod}");
    }
    checked.check().await?;

    println!("new addresses, one pod after the other");
    for (pod, ip) in addresses(&cluster)? {
        cluster.delete_pod(&pod);
        gone(&cluster, &pod, ip).await?;
        cluster.wait_ready(CONVERGENCE).await?;
    }
    checked.converged(&cluster).await?;

    println!("names cannot be resolved, and the leader's pod is deleted meanwhile");
    let leader = cluster.leader().await.context("before names fail")?;
    let before = cluster.ip(&leader)?;
    cluster.set_dns(Mood::Down);
    cluster.delete_pod(&leader);
    gone(&cluster, &leader, before).await?;
    tokio::time::sleep(dns_outage()).await;
    cluster.set_dns(Mood::Well);
    checked.converged(&cluster).await?;
    still_there(&cluster).await?;
    let acknowledged = checked.finish().await?;
    println!("{acknowledged} acknowledged operations");
    Ok(())
}

/// How long names cannot be resolved: `KVD_PODSIM_DNS_SECONDS`, 30 otherwise.
fn dns_outage() -> Duration {
    let set = std::env::var("KVD_PODSIM_DNS_SECONDS").ok();
    Duration::from_secs(set.and_then(|seconds| seconds.parse().ok()).unwrap_or(30))
}
