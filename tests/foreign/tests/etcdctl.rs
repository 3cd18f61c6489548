//! The etcdctl that Debian's `etcd-client` brings, or the one that `ETCDCTL_BIN` names.

use std::io::Write;
use std::process::{Command, Output, Stdio};

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

    fn output(&self, arguments: &[&str], input: &str) -> Result<Output> {
        let program = std::env::var("ETCDCTL_BIN").unwrap_or_else(|_| "etcdctl".to_owned());
        let mut child = Command::new(program)
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.endpoints])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("etcdctl is missing: apt-get install etcd-client")?;
        child.stdin.take().context("its input")?.write_all(input.as_bytes())?;
        Ok(child.wait_with_output()?)
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
