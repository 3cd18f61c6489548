//! Commands of `kvctl` that go on until something happens (watch, lock, elect), that change the
//! members, and that save a snapshot.
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

/// Every `progress` behind a `watch` is answered: the server has the watch when it is asked.
#[tokio::test]
async fn progress_asked_for_right_behind_a_watch_is_told() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let cluster = Cluster::start(1, &[]).await?;
    let script =
        r#"(printf 'watch k\nprogress\n'; exec sleep 1000) | "$0" --endpoints "$1" watch -i"#;
    for turn in 0..5 {
        let mut command = Command::new("sh");
        command.args(["-c", script]).arg(binary("kvctl")?);
        command.arg(cluster.members[0].client_url());
        let mut watch = Process::start(command, folder.path(), &format!("progress{turn}"))?;
        watch.wait_log("progress notify: ", LONG).await?;
    }
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

#[tokio::test]
async fn member_changes_print_what_a_new_member_needs() -> Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let member = &cluster.members[0];
    // Nobody is there: a learner does not count for the quorum.
    let args = [
        "member",
        "add",
        "new",
        "--learner",
        "--peer-urls=http://127.0.0.1:1",
    ];
    let added = output(member, &args)?;
    let mut lines = added.lines();
    let first = lines.next().context("a first line")?;
    // Padded to 16 digits with spaces, as by etcdctl.
    let id = first.split_whitespace().nth(1).context("an ID")?;
    ensure!(
        first.starts_with(&format!("Member {id:>16} added as learner to cluster ")),
        "{added}"
    );
    let rest: Vec<&str> = lines.collect();
    assert_eq!(rest.first(), Some(&""));
    // In the order of their IDs, which differ from run to run.
    let (old, new) = (
        format!("m0={}", member.peer_url()),
        "new=http://127.0.0.1:1",
    );
    let orders = [format!("{old},{new}"), format!("{new},{old}")];
    ensure!(
        orders.iter().any(|order| {
            let line = format!("ETCD_INITIAL_CLUSTER=\"{order}\"");
            rest.contains(&&line[..])
        }),
        "{added}"
    );
    for line in [
        "ETCD_NAME=\"new\"",
        "ETCD_INITIAL_ADVERTISE_PEER_URLS=\"http://127.0.0.1:1\"",
        "ETCD_INITIAL_CLUSTER_STATE=\"existing\"",
    ] {
        ensure!(rest.contains(&line), "{line} is not in {added}");
    }
    let updated = output(
        member,
        &["member", "update", id, "--peer-urls=http://127.0.0.1:2"],
    )?;
    ensure!(
        updated.starts_with(&format!("Member {id:>16} updated in cluster ")),
        "{updated}"
    );
    let removed = output(member, &["member", "remove", id])?;
    ensure!(
        removed.starts_with(&format!("Member {id:>16} removed from cluster ")),
        "{removed}"
    );
    let again = member.kvctl(&["member", "remove", id])?;
    assert_eq!(again.status.code(), Some(1));
    assert_eq!(
        String::from_utf8(again.stderr)?,
        "Error: etcdserver: member not found\n"
    );
    Ok(())
}

#[tokio::test]
async fn a_snapshot_is_saved_whole_and_a_damaged_one_is_refused() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let cluster = Cluster::start(1, &[]).await?;
    let member = &cluster.members[0];
    for key in ["a", "b", "c"] {
        output(member, &["put", key, "1"])?;
    }
    output(member, &["del", "a"])?;
    let path = folder.path().join("saved");
    let path = path.to_str().context("a path in UTF-8")?;
    let saved = output(member, &["snapshot", "save", path])?;
    ensure!(
        saved.starts_with(&format!("Snapshot saved at {path}\n")),
        "{saved}"
    );
    ensure!(!folder.path().join("saved.part").exists());
    let status = output(member, &["snapshot", "status", path])?;
    let columns: Vec<&str> = status.trim_end().split(", ").collect();
    assert_eq!(columns[1..3], ["5", "2"], "{status}");

    let mut bytes = std::fs::read(path)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes)?;
    let refused = member.kvctl(&["snapshot", "status", path])?;
    assert_eq!(refused.status.code(), Some(1));
    let told = String::from_utf8(refused.stderr)?;
    ensure!(told.starts_with("Error: expected sha256 ["), "{told}");
    Ok(())
}
