//! curl on the gateway.

use std::process::Command;

use anyhow::{Result, ensure};
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
