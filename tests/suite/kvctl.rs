//! Commands of `kvctl` that go on until something happens: watch, lock, elect.
#![allow(missing_docs)]

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvd_tests::cluster::Cluster;
use kvd_tests::member::{Member, binary};
use kvd_tests::process::Process;
use kvd_tests::wait;
use rustix::process::Signal;

const LONG: Duration = Duration::from_secs(30);

/// `kvctl` against one member, going on in the background.
fn start(member: &Member, folder: &std::path::Path, name: &str, args: &[&str]) -> Result<Process> {
    let mut command = Command::new(binary("kvctl")?);
    command
        .args(["--endpoints", &member.client_url()])
        .args(args);
    Process::start(command, folder, name)
}

fn output(member: &Member, args: &[&str]) -> Result<String> {
    let output = member.kvctl(args)?;
    ensure!(output.status.success(), "{args:?}: {output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

/// Puts until the watch has begun, of which it says nothing itself.
async fn until_watched(member: &Member, watch: &Process) -> Result<()> {
    wait::until("a watch that has begun", LONG, || async {
        output(member, &["put", "k0", "begun"])?;
        ensure!(watch.log().contains("begun"), "not yet");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_watch_prints_runs_its_command_and_survives_its_member() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut cluster = Cluster::start(1, &[]).await?;
    let member = &cluster.members[0];
    let mut plain = start(
        member,
        folder.path(),
        "plain",
        &["watch", "k", "--prefix", "--prev-kv"],
    )?;
    until_watched(member, &plain).await?;
    let script = "echo got $ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_KEY $ETCD_WATCH_VALUE";
    let args = ["watch", "k0", "k9", "--", "sh", "-c", script];
    let mut command = start(member, folder.path(), "command", &args)?;
    until_watched(member, &command).await?;
    output(member, &["put", "k1", "a b"])?;
    output(member, &["del", "k1"])?;
    plain
        .wait_log("PUT\nk1\na b\nDELETE\nk1\na b\nk1\n\n", LONG)
        .await?;
    command
        .wait_log("got \"PUT\" \"k1\" \"a b\"\n", LONG)
        .await?;
    command
        .wait_log("got \"DELETE\" \"k1\" \"\"\n", LONG)
        .await?;

    cluster.members[0].kill()?;
    cluster.restart(0).await?;
    output(&cluster.members[0], &["put", "k2", "after"])?;
    plain.wait_log("PUT\nk2\nafter\n", LONG).await?;
    Ok(())
}

#[tokio::test]
async fn a_watch_from_compacted_history_exits_5() -> Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let member = &cluster.members[0];
    for value in ["1", "2", "3"] {
        output(member, &["put", "k", value])?;
    }
    output(member, &["compaction", "3"])?;
    let ended = member.kvctl(&["watch", "k", "--rev", "2"])?;
    assert_eq!(ended.status.code(), Some(5));
    assert_eq!(
        String::from_utf8(ended.stderr)?,
        "watch was canceled (etcdserver: mvcc: required revision has been compacted)\n\
         Error: watch is canceled by the server\n"
    );
    Ok(())
}

#[tokio::test]
async fn a_lock_is_held_by_one_and_released_on_a_signal() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let cluster = Cluster::start(1, &[]).await?;
    let member = &cluster.members[0];
    let mut first = start(member, folder.path(), "first", &["lock", "name"])?;
    first.wait_log("name/", LONG).await?;
    let script = "echo held $ETCD_LOCK_KEY; exit 7";
    let args = ["lock", "name", "--", "sh", "-c", script];
    let mut second = start(member, folder.path(), "second", &args)?;
    wait::until("a second one in the queue", LONG, || async {
        let keys = output(member, &["get", "name/", "--prefix", "--keys-only"])?;
        ensure!(keys.matches("name/").count() == 2, "{keys}");
        Ok(())
    })
    .await?;
    ensure!(!second.log().contains("held"), "both hold the lock");
    first.signal(Signal::TERM)?;
    ensure!(first.wait_exit(LONG).await?.success());
    let status = second.wait_exit(LONG).await?;
    assert_eq!(status.code(), Some(7), "{}", second.log());
    ensure!(second.log().starts_with("held name/"), "{}", second.log());
    ensure!(
        second.log().ends_with("Error: exit status 7\n"),
        "{}",
        second.log()
    );
    assert_eq!(output(member, &["get", "name/", "--prefix"])?, "");
    assert_eq!(output(member, &["lease", "list"])?, "found 0 leases\n");
    Ok(())
}

#[tokio::test]
async fn an_election_has_one_leader_at_a_time_and_is_observed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let cluster = Cluster::start(1, &[]).await?;
    let member = &cluster.members[0];
    let mut observer = start(member, folder.path(), "observer", &["elect", "-l", "name"])?;
    let mut one = start(member, folder.path(), "one", &["elect", "name", "p1"])?;
    one.wait_log("\np1\n", LONG).await?;
    let mut two = start(member, folder.path(), "two", &["elect", "name", "p2"])?;
    observer.wait_log("\np1\n", LONG).await?;
    one.signal(Signal::INT)?;
    ensure!(one.wait_exit(LONG).await?.success());
    two.wait_log("\np2\n", LONG).await?;
    observer.wait_log("\np2\n", LONG).await?;
    two.signal(Signal::TERM)?;
    ensure!(two.wait_exit(LONG).await?.success());
    observer.signal(Signal::TERM)?;
    let status = observer.wait_exit(LONG).await?;
    ensure!(status.success(), "{status}");
    let leaders = observer.log();
    let values: Vec<&str> = leaders.lines().skip(1).step_by(2).collect();
    assert_eq!(values, ["p1", "p2"], "{leaders}");
    output(member, &["get", "name/", "--prefix"]).context("nobody is left")?;
    Ok(())
}
