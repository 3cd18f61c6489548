//! The compose file and the swarm stack of `deploy/docker`, whose members find one another by the
//! services' names.

use std::path::Path;

use anyhow::{Result, ensure};
use kvd_podsim::cluster::{CONVERGENCE, Cluster};
use kvd_podsim::host;
use kvd_podsim::node::Options;
use kvd_tests::wait;

#[test]
fn members_of_a_compose_file_and_of_a_swarm_find_one_another() -> Result<()> {
    let name = "stack::members_of_a_compose_file_and_of_a_swarm_find_one_another";
    host::side_by_side(name, 2, &[], |number| {
        runs(["compose.yaml", "swarm.yaml"][number])
    })
}

async fn runs(file: &str) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/docker");
    let text = std::fs::read_to_string(path.join(file))?;
    let mut cluster = Cluster::new(Options::default()).await?;
    cluster.deploy(&text).await?;
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
