//! The compose file and the swarm stack of `deploy/docker`, whose members find one another by the
//! services' names.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use kvd_podsim::cluster::{CONVERGENCE, Cluster};
use kvd_podsim::host;
use kvd_podsim::node::Options;
use kvd_tests::{http, wait};

use crate::autopilot::voters;
use crate::checked::Checked;

#[test]
fn members_of_a_compose_file_and_of_a_swarm_find_one_another() -> Result<()> {
    let name = "stack::members_of_a_compose_file_and_of_a_swarm_find_one_another";
    host::side_by_side(name, 2, &[], |number| {
        runs(["compose.yaml", "swarm.yaml"][number])
    })
}

#[test]
fn a_service_of_a_swarm_is_scaled_with_no_command() -> Result<()> {
    let name = "stack::a_service_of_a_swarm_is_scaled_with_no_command";
    host::isolated(name, scaled(&[4, 2, 3]))
}

#[test]
#[ignore = "half a minute; a shorter way runs always"]
fn a_service_of_a_swarm_is_scaled_far() -> Result<()> {
    let name = "stack::a_service_of_a_swarm_is_scaled_far";
    host::isolated(name, scaled(&[5, 3, 1, 3]))
}

async fn deployed(file: &str) -> Result<Cluster> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/docker");
    let text = std::fs::read_to_string(path.join(file))?;
    // Only so that the test does not wait: the default is right for a swarm.
    let text = text.replace(
        "KVD_INITIAL_CLUSTER_STATE: auto",
        "KVD_INITIAL_CLUSTER_STATE: auto\n      KVD_AUTOPILOT_STABILIZATION_TIME: 1s",
    );
    let mut cluster = Cluster::new(Options::default()).await?;
    cluster.deploy(&text, &path).await?;
    Ok(cluster)
}

/// `docker service scale`, and what happens to nodes.
async fn scaled(sizes: &[usize]) -> Result<()> {
    if !host::has("nginx", "nginx-light")? {
        return Ok(());
    }
    let cluster = deployed("swarm-scale.yaml").await?;
    cluster.wait_ready(CONVERGENCE).await?;
    let urls = ["etcd", "tasks.etcd"].map(|host| format!("http://{host}:2379"));
    let mut checked = Checked::start_at(urls.to_vec(), 5)?;
    whole(&cluster, &checked, 3).await?;
    for size in sizes.iter().copied() {
        // The hardest: the lead goes to a member that has not dialled the others, while those that
        // are to go are no longer listed.
        lead_by_the_last(&cluster).await?;
        println!("docker service scale kvd_etcd={size}");
        cluster.scale(size);
        whole(&cluster, &checked, size).await?;
        checked.check().await?;
    }
    println!("all tasks are lost, and begun anew with other addresses");
    for task in cluster.members() {
        cluster.lose_pod(&task);
    }
    whole(&cluster, &checked, 3).await?;
    println!("a node is lost with its disk, and the leader's task is restarted");
    let leader = cluster.leader().await?;
    let other = cluster.members().into_iter().find(|task| *task != leader);
    let other = other.context("another task")?;
    cluster.delete_claim(&format!("data-{other}"))?;
    cluster.lose_pod(&other);
    whole(&cluster, &checked, 3).await?;
    cluster.delete_pod(&leader);
    whole(&cluster, &checked, 3).await?;
    checked.check().await?;
    println!("{} acknowledged operations", checked.finish().await?);

    // Of Docker's API there is that one question and no other.
    let proxy = format!("{}:8080", cluster.ip("docker-api-0")?);
    let service = http::get(&proxy, "/services/kvd_etcd")?;
    ensure!(
        service.status == 200 && service.body.contains("\"Replicas\":3"),
        "{service:?}"
    );
    for (method, path) in [
        ("POST", "/services/kvd_etcd"),
        ("GET", "/services/kvd_docker-api"),
        ("GET", "/services"),
        ("POST", "/containers/create"),
    ] {
        let refused = http::request(&proxy, method, path, "")?;
        ensure!(refused.status == 403, "{method} {path}: {refused:?}");
    }
    Ok(())
}

/// Hands the lead to the member of the highest number.
async fn lead_by_the_last(cluster: &Cluster) -> Result<()> {
    let address = format!("{}:2379", cluster.ip("etcd-0")?);
    let status = http::get(&address, "/v1/autopilot")?.json()?;
    let members = status["members"].as_array().context("members")?;
    let ids = members
        .iter()
        .map(|m| (m["name"].as_str(), m["id"].as_str()));
    let (_, id) = ids.max().context("a member")?;
    let id = id.context("its ID")?;
    wait::until("the lead of the last member", CONVERGENCE, || async {
        let leader = cluster.leader().await?;
        let moved = cluster.exec(&leader, &["kvctl", "move-leader", id]).await?;
        let said = String::from_utf8_lossy(&moved.stderr).into_owned();
        let status = http::get(&address, "/v1/autopilot")?.json()?;
        let mut members = status["members"].as_array().into_iter().flatten();
        let leads = members.any(|m| m["id"] == id && m["role"] == "leader");
        ensure!(leads, "{said}{status:#}");
        Ok(())
    })
    .await
}

/// Waits until the tasks of the first `size` nodes are members, with votes, all healthy, and clients
/// are served.
async fn whole(cluster: &Cluster, checked: &Checked, size: usize) -> Result<()> {
    let begun = Instant::now();
    let wanted: Vec<String> = (1..=size)
        .map(|node| format!("worker-{node}.etcd"))
        .collect();
    voters(cluster, 2379, &wanted).await?;
    checked.converged(cluster).await?;
    println!("  well after {:.1} s", begun.elapsed().as_secs_f64());
    Ok(())
}

async fn runs(file: &str) -> Result<()> {
    let cluster = deployed(file).await?;
    cluster.wait_ready(CONVERGENCE).await?;
    let pods = cluster.pods();
    ensure!(pods.len() == 3, "{file}: {pods:?}");
    let said = |pod: String, words: &'static [&'static str]| {
        let cluster = &cluster;
        async move {
            let output = cluster.exec(&pod, words).await?;
            ensure!(output.status.success(), "{file}: {pod}: {output:?}");
            Ok(String::from_utf8(output.stdout)?)
        }
    };
    let list = said(pods[0].clone(), &["etcdctl", "member", "list"]).await?;
    ensure!(list.matches(", started, ").count() == 3, "{file}: {list}");
    let put = said(pods[0].clone(), &["kvctl", "put", "message", "Hello world"]).await?;
    assert_eq!(put, "OK\n", "{file}");

    println!("{file}: the leader's container is lost, and comes back with another address");
    let leader = cluster.leader().await?;
    let before = cluster.ip(&leader)?;
    cluster.lose_pod(&leader);
    wait::until("another container", CONVERGENCE, || async {
        ensure!(cluster.ip(&leader)? != before, "it is still the old one");
        Ok(())
    })
    .await?;
    cluster.wait_ready(CONVERGENCE).await?;
    cluster.equal_hashes(CONVERGENCE).await?;
    for pod in pods {
        let got = said(pod, &["kvctl", "get", "message", "--print-value-only"]).await?;
        assert_eq!(got, "Hello world\n", "{file}");
    }
    Ok(())
}
