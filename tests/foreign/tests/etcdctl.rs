//! The etcdctl that Debian's `etcd-client` brings, or the one that `ETCDCTL_BIN` names.

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use kvd_tests::cluster::Cluster;

struct Etcdctl {
    endpoints: String,
}

impl Etcdctl {
    fn new(cluster: &Cluster) -> Etcdctl {
        let urls: Vec<String> = cluster.members.iter().map(|m| m.client_url()).collect();
        Etcdctl { endpoints: urls.join(",") }
    }

    fn start(&self, arguments: &[&str]) -> Result<Child> {
        self.start_of_api("3", arguments)
    }

    fn start_of_api(&self, api: &str, arguments: &[&str]) -> Result<Child> {
        let program = std::env::var("ETCDCTL_BIN").unwrap_or_else(|_| "etcdctl".to_owned());
        Command::new(program)
            .env("ETCDCTL_API", api)
            .args(["--endpoints", &self.endpoints])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("etcdctl is missing: apt-get install etcd-client")
    }

    fn output(&self, arguments: &[&str], input: &str) -> Result<Output> {
        let mut child = self.start(arguments)?;
        child.stdin.take().context("its input")?.write_all(input.as_bytes())?;
        Ok(child.wait_with_output()?)
    }

    fn of_api(&self, api: &str, arguments: &[&str]) -> Result<Output> {
        Ok(self.start_of_api(api, arguments)?.wait_with_output()?)
    }

    fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = self.output(arguments, "")?;
        ensure!(output.status.success(), "{arguments:?}: {output:?}");
        Ok(String::from_utf8(output.stdout)?)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_transactions_and_compaction() -> Result<()> {
    let cluster = Cluster::start(3, &[]).await?;
    let etcdctl = Etcdctl::new(&cluster);
    assert_eq!(etcdctl.run(&["put", "foo", "bar"])?, "OK\n");
    assert_eq!(etcdctl.run(&["get", "foo"])?, "foo\nbar\n");
    assert_eq!(etcdctl.run(&["put", "--prev-kv", "foo", "baz"])?, "OK\nfoo\nbar\n");
    assert_eq!(etcdctl.run(&["get", "--rev=2", "foo"])?, "foo\nbar\n");
    assert_eq!(etcdctl.run(&["put", "fox", "x"])?, "OK\n");
    assert_eq!(etcdctl.run(&["get", "--prefix", "fo", "--keys-only"])?, "foo\n\nfox\n\n");
    let script = "value(\"foo\") = \"baz\"\n\nput foo swapped\nget foo\n\nget foo\n\n";
    let output = etcdctl.output(&["txn"], script)?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(text.starts_with("SUCCESS\n") && text.contains("swapped"), "{text}");
    assert_eq!(etcdctl.run(&["del", "--prefix", "fo"])?, "2\n");
    assert_eq!(etcdctl.run(&["compaction", "4"])?, "compacted revision 4\n");
    let output = etcdctl.output(&["get", "--rev=2", "foo"], "")?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(text.contains("required revision has been compacted"), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn members_endpoints_and_alarms() -> Result<()> {
    let cluster = Cluster::start(3, &[]).await?;
    let etcdctl = Etcdctl::new(&cluster);
    let members = etcdctl.run(&["member", "list"])?;
    assert_eq!(members.lines().filter(|line| line.contains("started, m")).count(), 3);
    let status = etcdctl.run(&["endpoint", "status", "-w", "json"])?;
    let status: serde_json::Value = serde_json::from_str(&status)?;
    assert_eq!(status.as_array().context("a list")?.len(), 3);
    assert_eq!(status[0]["Status"]["version"], "3.7.1");
    // Here etcdctl 3.4 sends each member's URL, scheme and all, as the authority.
    let status = etcdctl.run(&["endpoint", "status", "--cluster"])?;
    assert_eq!(status.lines().filter(|line| line.contains("3.7.1")).count(), 3, "{status}");
    let health = etcdctl.output(&["endpoint", "health"], "")?;
    ensure!(health.status.success(), "{health:?}");
    let hashes = etcdctl.run(&["endpoint", "hashkv", "-w", "json"])?;
    let hashes: serde_json::Value = serde_json::from_str(&hashes)?;
    assert_eq!(hashes[0]["HashKV"]["hash"], hashes[2]["HashKV"]["hash"]);
    assert_eq!(etcdctl.run(&["alarm", "list"])?, "");
    Ok(())
}

/// A command that goes on until it is dropped.
struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(etcdctl: &Etcdctl, arguments: &[&str]) -> Result<Running> {
        let mut child = etcdctl.start(arguments)?;
        let output = child.stdout.take().context("its output")?;
        Ok(Running { child, lines: BufReader::new(output).lines() })
    }

    fn next_lines(&mut self, count: usize) -> Result<Vec<String>> {
        let lines: Result<Vec<_>, _> = self.lines.by_ref().take(count).collect();
        Ok(lines?)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_print_events_as_they_come() -> Result<()> {
    let cluster = Cluster::start(3, &[]).await?;
    let etcdctl = Etcdctl::new(&cluster);
    etcdctl.run(&["put", "w/a", "1"])?;
    let watch = ["watch", "--prefix", "--rev=2", "--prev-kv", "w/"];
    let mut watching = Running::start(&etcdctl, &watch)?;
    assert_eq!(watching.next_lines(3)?, ["PUT", "w/a", "1"]);
    etcdctl.run(&["put", "w/a", "2"])?;
    assert_eq!(watching.next_lines(5)?, ["PUT", "w/a", "1", "w/a", "2"]);
    etcdctl.run(&["del", "w/a"])?;
    assert_eq!(watching.next_lines(5)?, ["DELETE", "w/a", "2", "w/a", ""]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_locks_and_elections() -> Result<()> {
    let cluster = Cluster::start(3, &[]).await?;
    let etcdctl = Etcdctl::new(&cluster);
    let granted = etcdctl.run(&["lease", "grant", "60"])?;
    let id = granted.split(' ').nth(1).context("an ID")?.to_owned();
    assert_eq!(granted, format!("lease {id} granted with TTL(60s)\n"));
    etcdctl.run(&["put", "leased", "v", "--lease", &id])?;
    let once = etcdctl.run(&["lease", "keep-alive", "--once", &id])?;
    assert_eq!(once, format!("lease {id} keepalived with TTL(60)\n"));
    let told = etcdctl.run(&["lease", "timetolive", "--keys", &id])?;
    ensure!(told.contains("granted with TTL(60s)") && told.contains("[leased]"), "{told}");
    let listed = etcdctl.run(&["lease", "list"])?;
    ensure!(listed.contains(&id), "{listed}");
    assert_eq!(etcdctl.run(&["lease", "revoke", &id])?, format!("lease {id} revoked\n"));
    assert_eq!(etcdctl.run(&["get", "leased"])?, "");

    // With a command the lock is held as long as it runs, and released after.
    let locked = etcdctl.run(&["lock", "l", "env"])?;
    ensure!(locked.contains("ETCD_LOCK_KEY=l/"), "{locked}");
    let mut holder = Running::start(&etcdctl, &["lock", "l"])?;
    let key = holder.next_lines(1)?;
    ensure!(key[0].starts_with("l/"), "{key:?}");
    let mut leading = Running::start(&etcdctl, &["elect", "e", "me"])?;
    let won = leading.next_lines(2)?;
    ensure!(won[0].starts_with("e/") && won[1] == "me", "{won:?}");
    let mut listening = Running::start(&etcdctl, &["elect", "--listen", "e"])?;
    assert_eq!(listening.next_lines(2)?, won);
    Ok(())
}

/// Only etcdctl up to 3.5 has API 2; a newer one takes it for API 3.
#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_api_2() -> Result<()> {
    let mut cluster = Cluster::start(3, &[]).await?;
    let etcdctl = Etcdctl::new(&cluster);
    let version = String::from_utf8(etcdctl.of_api("2", &["--version"])?.stdout)?;
    if !version.contains("API version: 2") {
        eprintln!("skipped: this etcdctl has no API 2");
        return Ok(());
    }
    let run = |arguments: &[&str], code: i32, stdout: &str| -> Result<()> {
        let output = etcdctl.of_api("2", arguments)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(text == stdout, "{arguments:?}: {output:?}");
        ensure!(output.status.code() == Some(code), "{arguments:?}: {output:?}");
        Ok(())
    };
    run(&["set", "/message", "Hello world"], 0, "Hello world\n")?;
    run(&["get", "--quorum", "message"], 0, "Hello world\n")?;
    run(&["mkdir", "dir"], 0, "")?;
    run(&["mk", "dir/a", "1"], 0, "1\n")?;
    run(&["mk", "dir/a", "2"], 4, "")?;
    run(&["mk", "--in-order", "queue", "x"], 0, "x\n")?;
    run(&["update", "dir/a", "3"], 0, "3\n")?;
    run(&["set", "--swap-with-value", "3", "dir/a", "4"], 0, "4\n")?;
    run(&["set", "--swap-with-value", "3", "dir/a", "5"], 4, "")?;
    run(&["updatedir", "dir", "--ttl", "1000"], 0, "")?;
    run(&["ls", "--quorum", "--sort", "-p"], 0, "/dir/\n/message\n/queue/\n")?;
    run(&["ls", "--quorum", "-r", "dir"], 0, "/dir/a\n")?;
    run(&["rmdir", "dir"], 4, "")?;
    run(&["watch", "--after-index", "1", "message"], 0, "Hello world\n")?;
    run(&["rm", "dir/a"], 0, "PrevNode.Value: 4\n")?;
    run(&["rm", "--recursive", "dir"], 0, "")?;
    let members = String::from_utf8(etcdctl.of_api("2", &["member", "list"])?.stdout)?;
    assert_eq!(members.lines().filter(|line| line.contains("name=m")).count(), 3);
    assert_eq!(members.matches("isLeader=true").count(), 1, "{members}");
    let health = etcdctl.of_api("2", &["cluster-health"])?;
    ensure!(health.status.code() == Some(0), "{health:?}");
    cluster.members[2].kill()?;
    cluster.leader().await?;
    let health = etcdctl.of_api("2", &["cluster-health"])?;
    let text = String::from_utf8_lossy(&health.stdout);
    ensure!(text.ends_with("cluster is degraded\n"), "{text}");
    ensure!(health.status.code() == Some(5), "{health:?}");
    Ok(())
}
