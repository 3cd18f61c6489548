//! curl on the gateway.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use kvd_tests::cluster::Cluster;

fn curl(arguments: &[&str]) -> Result<String> {
    let output = Command::new("curl").args(["--silent", "--show-error"]).args(arguments).output()?;
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn puts_and_gets_by_json_over_http_1_and_2() -> Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let url = cluster.members[0].client_url();
    let put = format!("{url}/v3/kv/put");
    let answer = curl(&["-X", "POST", "-d", r#"{"key":"Zm9v","value":"YmFy"}"#, &put])?;
    ensure!(answer.contains(r#""revision":"2""#), "{answer}");
    let range = format!("{url}/v3/kv/range");
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let answer = curl(&[version, "-d", r#"{"key":"Zm9v"}"#, &range])?;
        ensure!(answer.contains(r#""value":"YmFy""#), "{version}: {answer}");
    }
    let version = curl(&[&format!("{url}/version")])?;
    ensure!(version.contains(r#""etcdserver":"3.7.1""#), "{version}");
    Ok(())
}

/// A request whose answer goes on until it is dropped.
struct Stream {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Stream {
    fn open(url: &str, body: &str) -> Result<Stream> {
        let mut child = Command::new("curl")
            .args(["--silent", "--no-buffer", "-d", body, url])
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().context("its output")?;
        Ok(Stream { child, lines: BufReader::new(output).lines() })
    }

    fn next(&mut self) -> Result<serde_json::Value> {
        let line = self.lines.next().context("the stream ended")??;
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_a_line_a_message() -> Result<()> {
    let cluster = Cluster::start(3, &[]).await?;
    let url = cluster.members[0].client_url();
    let other = cluster.members[1].client_url();
    let create = r#"{"create_request":{"key":"Zm9v","prev_kv":true}}"#;
    let mut watch = Stream::open(&format!("{url}/v3/watch"), create)?;
    let created = watch.next()?;
    assert_eq!(created["result"]["created"], true, "{created}");
    curl(&["-d", r#"{"key":"Zm9v","value":"YmFy"}"#, &format!("{other}/v3/kv/put")])?;
    let event = watch.next()?;
    assert_eq!(event["result"]["events"][0]["kv"]["value"], "YmFy", "{event}");
    curl(&["-d", r#"{"key":"Zm9v"}"#, &format!("{other}/v3/kv/deleterange")])?;
    let event = watch.next()?;
    assert_eq!(event["result"]["events"][0]["type"], "DELETE", "{event}");
    assert_eq!(event["result"]["events"][0]["prev_kv"]["value"], "YmFy", "{event}");

    let granted = curl(&["-d", r#"{"TTL":60,"ID":77}"#, &format!("{url}/v3/lease/grant")])?;
    ensure!(granted.contains(r#""ID":"77""#), "{granted}");
    let mut kept = Stream::open(&format!("{other}/v3/lease/keepalive"), r#"{"ID":77}{"ID":78}"#)?;
    let known = kept.next()?;
    assert_eq!((&known["result"]["ID"], &known["result"]["TTL"]), (&"77".into(), &"60".into()));
    let unknown = kept.next()?;
    assert_eq!(unknown["result"]["ID"], "78", "{unknown}");
    assert!(unknown["result"]["TTL"].is_null(), "{unknown}");
    for alias in ["lease", "kv/lease"] {
        let told = curl(&["-d", r#"{"ID":77}"#, &format!("{url}/v3/{alias}/timetolive")])?;
        ensure!(told.contains(r#""grantedTTL":"60""#), "{told}");
        let listed = curl(&["-d", "{}", &format!("{url}/v3/{alias}/leases")])?;
        ensure!(listed.contains(r#"{"ID":"77"}"#), "{listed}");
    }
    curl(&["-d", r#"{"ID":77}"#, &format!("{url}/v3/kv/lease/revoke")])?;

    let mut observed = Stream::open(&format!("{other}/v3/election/observe"), r#"{"name":"ZQ=="}"#)?;
    let campaign = r#"{"name":"ZQ==","value":"bWU="}"#;
    let won = curl(&["-d", campaign, &format!("{url}/v3/election/campaign")])?;
    ensure!(won.contains(r#""leader":{"name":"ZQ==""#), "{won}");
    let told = observed.next()?;
    assert_eq!(told["result"]["kv"]["value"], "bWU=", "{told}");
    let locked = curl(&["-d", r#"{"name":"bA=="}"#, &format!("{url}/v3/lock/lock")])?;
    let locked: serde_json::Value = serde_json::from_str(&locked)?;
    let unlock = serde_json::json!({ "key": locked["key"] }).to_string();
    let unlocked = curl(&["-d", &unlock, &format!("{url}/v3/lock/unlock")])?;
    ensure!(unlocked.starts_with(r#"{"header":"#), "{unlocked}");
    Ok(())
}
