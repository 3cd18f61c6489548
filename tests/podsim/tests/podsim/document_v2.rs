//! The rows of the etcd document's session that are of API 2, by kvctl, by Debian's etcdctl 3.4 and by
//! curl, on the cluster of `document`.

use std::process::Output;

use anyhow::{Context, Result, ensure};
use kvd_podsim::cluster::{CONVERGENCE, Cluster};
use kvd_tests::wait;

use crate::document::{PODS, client, exec, text};

/// What lasts until a loss is seen: an election, and what asks about it.
const SEEN: std::time::Duration = std::time::Duration::from_secs(30);

/// A command of API 2 outside of the pods: by `kvctl`, or by Debian's `etcdctl`.
async fn api_2(cluster: &Cluster, program: &str, arguments: &[&str]) -> Result<Output> {
    let variable = format!("{}_API", program.to_uppercase());
    let output = cluster
        .client_with(program, arguments, &[(&variable, "2")])
        .await?;
    let all = [&output.stdout[..], &output.stderr[..]].concat();
    let all = String::from_utf8_lossy(&all);
    let line = arguments.join(" ");
    println!("$ {variable}=2 {program} {line}\n{}", all.trim_end());
    Ok(output)
}

/// `kubectl exec POD -- env ETCDCTL_API=2 etcdctl …`, whose `etcdctl` is the image's.
async fn in_pod(cluster: &Cluster, pod: &str, words: &[&str]) -> Result<Output> {
    let words = [&["env", "ETCDCTL_API=2", "etcdctl"], words].concat();
    exec(cluster, pod, &words).await
}

/// Everything up to the loss of the leader's pod.
pub async fn session(cluster: &Cluster, endpoint: &str) -> Result<()> {
    versions(cluster).await?;
    members(cluster, endpoint).await?;
    health(cluster, endpoint).await?;
    hello_world(cluster, endpoint).await
}

async fn versions(cluster: &Cluster) -> Result<()> {
    for (program, says) in [
        ("kvctl", "kvctl version: "),
        ("etcdctl", "etcdctl version: "),
    ] {
        let version = text(api_2(cluster, program, &["--version"]).await?)?;
        let lines: Vec<&str> = version.lines().collect();
        ensure!(lines.len() == 2 && lines[0].starts_with(says), "{version}");
        assert_eq!(lines[1], "API version: 2");
    }
    Ok(())
}

/// A pod's line in the member list, of which the ID comes first.
fn line(pod: &str, leads: bool) -> String {
    format!(
        ": name={pod} peerURLs=http://{pod}.etcd:2380 clientURLs=http://{pod}.etcd:2379 \
         isLeader={leads}"
    )
}

/// Whether `list` is the three members with `leader` leading.
fn is_list(list: &str, leader: &str) -> Result<()> {
    let mut lines: Vec<&str> = list.lines().collect();
    lines.sort_by_key(|line| line.split_once(": ").map(|(_, rest)| rest));
    ensure!(lines.len() == 3, "{list}");
    for (pod, found) in PODS.iter().zip(lines) {
        let wanted = line(pod, *pod == leader);
        ensure!(found.len() == 16 + wanted.len(), "{found}");
        ensure!(found.ends_with(&wanted), "{found} is not {wanted}");
    }
    Ok(())
}

async fn members(cluster: &Cluster, endpoint: &str) -> Result<()> {
    let url = format!("http://{endpoint}/v2/members");
    let page = client(cluster, "curl", &["-s", "-S", &url]).await?;
    let page: serde_json::Value = serde_json::from_str(&page)?;
    let list = page["members"].as_array().context("members")?;
    ensure!(list.len() == 3, "{page}");
    for member in list {
        let name = member["name"].as_str().context("a name")?;
        let id = member["id"].as_str().context("an ID")?;
        ensure!(PODS.contains(&name) && id.len() == 16, "{member}");
        assert_eq!(member["peerURLs"][0], format!("http://{name}.etcd:2380"));
        assert_eq!(member["clientURLs"][0], format!("http://{name}.etcd:2379"));
    }
    for program in ["kvctl", "etcdctl"] {
        wait::until("a list with its leader", CONVERGENCE, || async {
            let leader = cluster.leader().await?;
            let list = [
                "--endpoints",
                &format!("http://{endpoint}"),
                "member",
                "list",
            ];
            is_list(&text(api_2(cluster, program, &list).await?)?, &leader)
        })
        .await?;
    }
    let list = text(in_pod(cluster, "etcd-0", &["member", "list"]).await?)?;
    ensure!(list.contains("isLeader=true"), "{list}");
    srv_records(cluster).await
}

/// A Service's named port is an SRV record, which `--discovery-srv` takes.
async fn srv_records(cluster: &Cluster) -> Result<()> {
    let namespace = cluster.namespace();
    let domain = format!("etcd-client.{namespace}.svc.cluster.local");
    let found = ["--discovery-srv", &domain, "--insecure-discovery"];
    for words in [&["--no-sync", "ls"][..], &["cluster-health"]] {
        let words = [&found[..], words].concat();
        let output = in_pod(cluster, "etcd-0", &words).await?;
        ensure!(output.status.success(), "{output:?}");
    }
    let secure = in_pod(
        cluster,
        "etcd-0",
        &[&found[..2], &["--no-sync", "ls"]].concat(),
    )
    .await?;
    let told = String::from_utf8_lossy(&secure.stderr).into_owned();
    ensure!(
        told.contains("ignoring discovered insecure endpoint"),
        "{told}"
    );
    Ok(())
}

async fn health(cluster: &Cluster, endpoint: &str) -> Result<()> {
    let url = format!("http://{endpoint}");
    for program in ["kvctl", "etcdctl"] {
        wait::until("a healthy cluster", CONVERGENCE, || async {
            let health = ["--endpoints", &url, "cluster-health"];
            let said = text(api_2(cluster, program, &health).await?)?;
            for pod in PODS {
                let healthy =
                    format!(" is healthy: got healthy result from http://{pod}.etcd:2379\n");
                ensure!(said.contains(&healthy), "{said}");
            }
            ensure!(said.ends_with("\ncluster is healthy\n"), "{said}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

async fn hello_world(cluster: &Cluster, endpoint: &str) -> Result<()> {
    let url = format!("http://{endpoint}/v2/keys/message");
    let put = ["-s", "-S", &url, "-XPUT", "-d", "value=Hello world"];
    let said = client(cluster, "curl", &put).await?;
    let event: serde_json::Value = serde_json::from_str(&said)?;
    let index = event["node"]["modifiedIndex"]
        .as_u64()
        .context("an index")?;
    assert_eq!(
        said,
        format!(
            "{{\"action\":\"set\",\"node\":{{\"key\":\"/message\",\"value\":\"Hello world\",\
             \"modifiedIndex\":{index},\"createdIndex\":{index}}}}}\n"
        )
    );
    for pod in PODS {
        let url = format!("http://{}:2379", cluster.ip(pod)?);
        // What this member has, and not what the next in the list says.
        let get = [
            "--no-sync",
            "--endpoints",
            &url,
            "get",
            "--quorum",
            "message",
        ];
        for program in ["kvctl", "etcdctl"] {
            let got = text(api_2(cluster, program, &get).await?)?;
            assert_eq!(got, "Hello world\n", "{program} of {pod}");
        }
    }
    everywhere(cluster).await
}

/// `kubectl exec POD -- etcdctl get message`, on every pod.
async fn everywhere(cluster: &Cluster) -> Result<()> {
    for pod in PODS {
        let got = in_pod(cluster, pod, &["get", "message"]).await?;
        assert_eq!(text(got)?, "Hello world\n", "{pod}");
    }
    Ok(())
}

/// The leader's pod is gone, and `other` is asked.
pub async fn one_is_missing(cluster: &Cluster, leader: &str, other: &str) -> Result<()> {
    let gone = format!("http://{leader}.etcd:2379");
    wait::until("the loss to be seen by API 2", SEEN, || async {
        let output = in_pod(cluster, other, &["cluster-health"]).await?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.code() == Some(5), "{output:?}");
        for line in [
            "failed to check the health of member ".to_owned(),
            format!(" on {gone}: Get \"{gone}/health\": "),
            format!(" is unreachable: [{gone}] are all unreachable\n"),
        ] {
            ensure!(said.contains(&line), "{line}: {said}");
        }
        ensure!(
            said.matches(" is healthy: got healthy result").count() == 2,
            "{said}"
        );
        ensure!(said.ends_with("\ncluster is degraded\n"), "{said}");
        Ok(())
    })
    .await?;
    // Debian's etcdctl says the same, of the same pod.
    let url = format!("http://{}:2379", cluster.ip(other)?);
    let output = api_2(cluster, "etcdctl", &["--endpoints", &url, "cluster-health"]).await?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(5), "{said}");
    ensure!(said.ends_with("\ncluster is degraded\n"), "{said}");
    Ok(())
}

/// The pod is back.
pub async fn all_are_back(cluster: &Cluster, other: &str) -> Result<()> {
    wait::until("everybody's health by API 2", CONVERGENCE, || async {
        let output = in_pod(cluster, other, &["cluster-health"]).await?;
        let said = text(output)?;
        ensure!(
            said.matches(" is healthy: got healthy result").count() == 3,
            "{said}"
        );
        ensure!(said.ends_with("\ncluster is healthy\n"), "{said}");
        Ok(())
    })
    .await?;
    wait::until("a list with its leader", CONVERGENCE, || async {
        let leader = cluster.leader().await?;
        let list = text(in_pod(cluster, other, &["member", "list"]).await?)?;
        is_list(&list, &leader)
    })
    .await?;
    everywhere(cluster).await
}
