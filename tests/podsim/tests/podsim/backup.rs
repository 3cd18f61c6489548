//! The variant `backup`: a snapshot, the drill that restores it, and what both say when they fail.

use anyhow::{Result, ensure};
use kvd_podsim::cluster::{CONVERGENCE, Cluster};
use kvd_podsim::host;
use kvd_podsim::node::Options;

#[test]
fn a_backup_is_taken_and_the_drill_restores_it() -> Result<()> {
    host::isolated(
        "backup::a_backup_is_taken_and_the_drill_restores_it",
        backup(),
    )
}

async fn backup() -> Result<()> {
    let mut cluster = Cluster::new(Options::default()).await?;
    cluster.apply(&host::render("variants/backup")?).await?;
    cluster.wait_ready(CONVERGENCE).await?;
    let (done, said) = cluster.run_job("etcd-restore-drill").await?;
    ensure!(!done && said.contains("there is no backup"), "{said}");

    for number in 0..7 {
        let key = format!("key/{number}");
        let put = cluster
            .exec("etcd-0", &["kvctl", "put", &key, "value"])
            .await?;
        ensure!(put.status.success(), "{put:?}");
    }
    let (done, said) = cluster.run_job("etcd-backup").await?;
    ensure!(done && said.contains("1 kept"), "{said}");
    println!("{said}");

    let (done, said) = cluster.run_job("etcd-restore-drill").await?;
    ensure!(done && said.contains(": 7 keys"), "{said}");
    println!("{said}");

    // A snapshot that is cut short must fail the drill.
    let folder = cluster.claim("etcd-backup");
    for entry in std::fs::read_dir(&folder)? {
        let file = std::fs::File::options().write(true).open(entry?.path())?;
        file.set_len(file.metadata()?.len() / 2)?;
    }
    let (done, said) = cluster.run_job("etcd-restore-drill").await?;
    ensure!(!done, "{said}");
    println!("{said}");
    Ok(())
}
