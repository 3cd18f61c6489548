//! Go's clientv3, by `go test` in `go/`, against three members.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use kvd_tests::cluster::Cluster;

#[tokio::test(flavor = "multi_thread")]
async fn clientv3_works_against_three_members() -> Result<()> {
    let cluster = Cluster::start(3, &[]).await?;
    let endpoints: Vec<String> = cluster.members.iter().map(|m| m.client_address()).collect();
    let output = Command::new("go")
        .args(["test", "-count=1", "./..."])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("go"))
        .env("KVD_ENDPOINTS", endpoints.join(","))
        .output()
        .context("Go is missing: apt-get install golang")?;
    ensure!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
