//! The etcd document's session on its own manifests, line by line.

use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvd_podsim::cluster::{CONVERGENCE, Cluster};
use kvd_podsim::dns::Mood;
use kvd_podsim::host;
use kvd_podsim::node::Options;
use kvd_tests::wait;

use crate::document_v2;

pub const PODS: [&str; 3] = ["etcd-0", "etcd-1", "etcd-2"];

/// The output of a command that succeeds.
pub fn text(output: Output) -> Result<String> {
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

/// A client outside of the pods. What it says and is told is the transcript in
/// `docs/kubernetes.md`.
pub async fn client(cluster: &Cluster, program: &str, arguments: &[&str]) -> Result<String> {
    let said = text(cluster.client(program, arguments).await?)?;
    println!("$ {program} {}\n{}", arguments.join(" "), said.trim_end());
    Ok(said)
}

/// `kubectl exec POD -- …`
pub async fn exec(cluster: &Cluster, pod: &str, words: &[&str]) -> Result<Output> {
    let output = cluster.exec(pod, words).await?;
    let all = [&output.stdout[..], &output.stderr[..]].concat();
    let all = String::from_utf8_lossy(&all);
    println!(
        "$ kubectl exec {pod} -- {}\n{}",
        words.join(" "),
        all.trim_end()
    );
    Ok(output)
}

#[test]
fn the_documents_session() -> Result<()> {
    host::isolated("document::the_documents_session", session())
}

async fn session() -> Result<()> {
    let mut cluster = Cluster::new(Options::default()).await?;
    cluster.apply(&host::render("variants/document")?).await?;
    cluster.wait_ready(CONVERGENCE).await?;
    // Without probes a pod is ready as soon as it runs.
    cluster.equal_hashes(CONVERGENCE).await?;
    let endpoint = format!("{}:2379", cluster.service("etcd-client")?);
    versions(&cluster, &endpoint).await?;
    members(&cluster, &endpoint).await?;
    hello_world(&cluster, &endpoint).await?;
    document_v2::session(&cluster, &endpoint).await?;
    the_leaders_pod_is_deleted(&cluster).await?;
    for pod in PODS {
        let claim = cluster.claim(&format!("data-{pod}"));
        ensure!(
            claim.join("default.etcd/member").is_dir(),
            "{pod} keeps its data there"
        );
        assert_eq!(cluster.restarts(pod), 0, "{pod}");
    }
    Ok(())
}

async fn versions(cluster: &Cluster, endpoint: &str) -> Result<()> {
    let url = format!("http://{endpoint}/version");
    wait::until("the versions", CONVERGENCE, || async {
        let version = client(cluster, "curl", &["-s", "-S", &url]).await?;
        ensure!(version.starts_with(r#"{"etcdserver":"3."#), "{version}");
        ensure!(version.contains(r#""etcdcluster":"3."#), "{version}");
        Ok(())
    })
    .await?;

    let version = client(cluster, "kvctl", &["version"]).await?;
    let lines: Vec<&str> = version.lines().collect();
    ensure!(
        lines.len() == 2 && lines[0].starts_with("kvctl version: "),
        "{version}"
    );
    ensure!(lines[1].starts_with("API version: 3."), "{version}");
    Ok(())
}

async fn members(cluster: &Cluster, endpoint: &str) -> Result<()> {
    let list = [
        "--endpoints",
        endpoint,
        "member",
        "list",
        "--write-out=table",
    ];
    // The words under the columns, without the ID, which the addresses decide.
    let cells = |table: &str| -> Vec<Vec<String>> {
        let table = table.replace('│', "|");
        let rows = table.lines().filter(|line| line.starts_with('|'));
        let mut rows: Vec<Vec<String>> = rows
            .map(|row| {
                row.trim_matches('|')
                    .split('|')
                    .skip(1)
                    .map(|cell| cell.trim().to_owned())
                    .collect()
            })
            .collect();
        rows[1..].sort();
        rows
    };
    let mut expected = vec![
        ["STATUS", "NAME", "PEER ADDRS", "CLIENT ADDRS", "IS LEARNER"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for pod in PODS {
        expected.push(vec![
            "started".to_owned(),
            pod.to_owned(),
            format!("http://{pod}.etcd:2380"),
            format!("http://{pod}.etcd:2379"),
            "false".to_owned(),
        ]);
    }
    for program in ["kvctl", "etcdctl"] {
        let table = client(cluster, program, &list).await?;
        assert_eq!(cells(&table), expected, "{program}:\n{table}");
    }
    Ok(())
}

async fn hello_world(cluster: &Cluster, endpoint: &str) -> Result<()> {
    let put = ["--endpoints", endpoint, "put", "message", "Hello world"];
    assert_eq!(client(cluster, "etcdctl", &put).await?, "OK\n");
    for pod in PODS {
        let address = format!("{}:2379", cluster.ip(pod)?);
        let get = ["--endpoints", &address, "get", "message"];
        for program in ["kvctl", "etcdctl"] {
            let got = client(cluster, program, &get).await?;
            assert_eq!(got, "message\nHello world\n", "{program} of {pod}");
        }
    }
    // In the pods, by the name that the document uses.
    everywhere(cluster).await
}

/// `kubectl exec POD -- etcdctl get message`, on every pod.
async fn everywhere(cluster: &Cluster) -> Result<()> {
    for pod in PODS {
        let got = exec(cluster, pod, &["etcdctl", "get", "message"]).await?;
        assert_eq!(text(got)?, "message\nHello world\n", "{pod}");
    }
    Ok(())
}

async fn the_leaders_pod_is_deleted(cluster: &Cluster) -> Result<()> {
    let leader = cluster.leader().await?;
    let other = PODS
        .into_iter()
        .find(|pod| *pod != leader)
        .context("three")?;
    let before = cluster.ip(&leader)?;
    cluster.cordon(true);
    cluster.delete_pod(&leader);

    let health = ["etcdctl", "endpoint", "health", "--cluster"];
    wait::until("the loss to be seen", Duration::from_secs(20), || async {
        let output = exec(cluster, other, &health).await?;
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        ensure!(output.status.code() == Some(1), "{said}");
        ensure!(
            said.contains(&format!("http://{leader}.etcd:2379 is unhealthy")),
            "{said}"
        );
        assert_eq!(said.matches(" is healthy").count(), 2, "{said}");
        Ok(())
    })
    .await?;
    document_v2::one_is_missing(cluster, &leader, other).await?;
    let next = cluster.leader().await?;
    assert_ne!(next, leader);
    let got = exec(cluster, other, &["etcdctl", "get", "message"]).await?;
    assert_eq!(text(got)?, "message\nHello world\n");

    cluster.cordon(false);
    cluster.wait_ready(CONVERGENCE).await?;
    assert_ne!(cluster.ip(&leader)?, before, "a new pod has a new address");
    wait::until("everybody's health", CONVERGENCE, || async {
        let output = exec(cluster, other, &health).await?;
        let said = format!("{output:?}");
        ensure!(output.status.success(), "{said}");
        assert_eq!(said.matches(" is healthy").count(), 3, "{said}");
        Ok(())
    })
    .await?;
    document_v2::all_are_back(cluster, other).await?;
    everywhere(cluster).await
}

#[test]
fn the_documents_pods_wait_for_names_that_come_late() -> Result<()> {
    host::isolated(
        "document::the_documents_pods_wait_for_names_that_come_late",
        late_names("variants/document"),
    )
}

#[test]
fn the_bases_pods_wait_for_names_that_come_late() -> Result<()> {
    host::isolated(
        "document::the_bases_pods_wait_for_names_that_come_late",
        late_names("base"),
    )
}

/// The name server knows nobody for the first 20 seconds.
async fn late_names(manifests: &str) -> Result<()> {
    let mut cluster = Cluster::new(Options::default()).await?;
    cluster.set_dns(Mood::KnowsNobody);
    cluster.apply(&host::render(manifests)?).await?;
    tokio::time::sleep(Duration::from_secs(20)).await;
    cluster.set_dns(Mood::Well);
    cluster.wait_ready(CONVERGENCE).await?;
    cluster.equal_hashes(CONVERGENCE).await?;
    let output = cluster
        .exec("etcd-0", &["kvctl", "put", "message", "Hello world"])
        .await?;
    assert_eq!(text(output)?, "OK\n");
    everywhere(&cluster).await
}
