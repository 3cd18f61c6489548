//! What stands in front of the members: nginx for the REST API, and a load balancer for each pod.

use anyhow::{Result, ensure};
use kvd_podsim::cluster::{CONVERGENCE, Cluster};
use kvd_podsim::host;
use kvd_podsim::node::Options;

#[test]
fn nginx_and_the_pods_own_load_balancers_lead_to_the_members() -> Result<()> {
    if !host::has("nginx", "nginx-light")? {
        return Ok(());
    }
    host::isolated(
        "front::nginx_and_the_pods_own_load_balancers_lead_to_the_members",
        front(),
    )
}

async fn front() -> Result<()> {
    let mut cluster = Cluster::new(Options::default()).await?;
    let manifests = host::created(&["3", "nginx", "pod-loadbalancers"])?;
    cluster.apply(&manifests).await?;
    cluster.wait_ready(CONVERGENCE).await?;

    let url = format!("http://{}", cluster.service("kvd-front")?);
    let curl = |path: &str, arguments: &'static [&'static str]| {
        let (url, cluster) = (format!("{url}{path}"), &cluster);
        async move {
            let arguments = [&["-s", "-S", "-f"], arguments, &[&url]].concat();
            let output = cluster.client("curl", &arguments).await?;
            ensure!(output.status.success(), "{url}: {output:?}");
            Ok(String::from_utf8(output.stdout)?)
        }
    };
    let version = curl("/version", &[]).await?;
    ensure!(version.contains("\"etcdcluster\":\"3."), "{version}");
    let put = curl("/v2/keys/message", &["-XPUT", "-d", "value=Hello world"]).await?;
    ensure!(put.contains("\"value\":\"Hello world\""), "{put}");
    let put = curl("/v3/kv/put", &["-d", r#"{"key":"Zm9v","value":"YmFy"}"#]).await?;
    ensure!(put.contains("\"revision\""), "{put}");

    for pod in ["etcd-0", "etcd-1", "etcd-2"] {
        let endpoint = format!("{}:2379", cluster.service(pod)?);
        let get = ["--endpoints", &endpoint, "get", "foo"];
        let got = cluster.client("kvctl", &get).await?;
        ensure!(got.stdout == b"foo\nbar\n", "{pod}: {got:?}");
        let own = cluster
            .status(pod)
            .await?
            .header
            .map(|header| header.member_id);
        let status = ["--endpoints", &endpoint, "endpoint", "status", "-w", "json"];
        let told = cluster.client("kvctl", &status).await?;
        let told = String::from_utf8(told.stdout)?;
        let id = format!("\"member_id\":{}", own.unwrap_or_default());
        ensure!(told.contains(&id), "{pod} is {id}: {told}");
    }
    Ok(())
}
