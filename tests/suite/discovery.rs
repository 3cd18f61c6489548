//! A cluster whose members find one another at a registry: etcd's keys in another cluster.
#![allow(missing_docs)]

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use kvd_tests::cluster::{Cluster, READY_DEADLINE};
use kvd_tests::member::Member;
use kvd_tests::wait;

const SOON: Duration = Duration::from_secs(60);
const TOKEN: &str = "the-token";

fn kvctl(registry: &Member, arguments: &[&str]) -> Result<String> {
    let output = registry.kvctl(arguments)?;
    ensure!(output.status.success(), "{arguments:?}: {output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

/// Members that know of one another by `registry` alone, with their data in `folder`.
fn members(registry: &Cluster, folder: &Path, count: usize) -> Result<Vec<Member>> {
    let endpoint = registry.members[0].client_url();
    let mut members = Vec::new();
    for number in 0..count {
        let name = format!("d{number}");
        let mut member = Member::new(&name, &folder.join(&name))?;
        member.add_arguments(&[
            "--discovery-token",
            TOKEN,
            "--discovery-endpoints",
            &endpoint,
        ]);
        members.push(member);
    }
    Ok(members)
}

#[tokio::test(flavor = "multi_thread")]
async fn members_register_and_wait_for_one_another() -> Result<()> {
    let registry = Cluster::start(1, &[]).await?;
    let at = &registry.members[0];
    let folder = tempfile::tempdir()?;
    let mut members = members(&registry, folder.path(), 4)?;
    let refused = |member: &Member, text: &str| -> Result<()> {
        let log = member.log();
        ensure!(log.contains(text), "no {text:?} in {log}");
        Ok(())
    };

    members[0].start("")?;
    ensure!(!members[0].wait_exit(SOON).await?.success());
    refused(&members[0], "discovery: size key not found")?;
    kvctl(
        at,
        &["put", "/_etcd/registry/the-token/_config/size", "three"],
    )?;
    members[0].start("")?;
    ensure!(!members[0].wait_exit(SOON).await?.success());
    refused(&members[0], "discovery: size key is bad")?;
    kvctl(at, &["put", "/_etcd/registry/the-token/_config/size", "3"])?;

    members[0].start("")?;
    wait::until("it waits for the others", SOON, || async {
        refused(&members[0], "waiting for peers from discovery service")
    })
    .await?;
    // One that dies while it waits finds its own registration again.
    members[0].kill()?;
    for member in &mut members[..3] {
        member.start("")?;
    }
    for member in &mut members[..3] {
        member.wait_ready(READY_DEADLINE).await?;
    }
    let list = kvctl(&members[1], &["member", "list"])?;
    for member in &members[..3] {
        let line = format!("started, {}, {}", member.name(), member.peer_url());
        ensure!(list.contains(&line), "{line}: {list}");
    }
    members[3].start("")?;
    ensure!(!members[3].wait_exit(SOON).await?.success());
    refused(&members[3], "discovery: cluster is full")?;

    // From now on the registry is not needed any more.
    kvctl(&members[0], &["put", "key", "value"])?;
    drop(registry);
    members[2].kill()?;
    members[2].start("")?;
    members[2].wait_ready(READY_DEADLINE).await?;
    ensure!(kvctl(&members[2], &["get", "key"])? == "key\nvalue\n");
    Ok(())
}
