//! Passwords that are asked for on a terminal.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvd_api::pb::authpb::permission::Type;
use kvd_tests::member::binary;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::time::timeout;

use super::session::one_member;

const PATIENCE: Duration = Duration::from_secs(30);

/// Runs kvctl on a terminal of its own, by util-linux's `script`, and answers what it asks for at
/// once; what the terminal showed. `None` where there is no `script`.
async fn on_terminal(line: &str, answers: &[(&str, &str)]) -> Result<Option<String>> {
    let kvctl = binary("kvctl")?;
    let started = Command::new("script")
        .args(["-qefc", &format!("{} {line}", kvctl.display()), "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut running = match started {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("script is not installed: skipped");
            return Ok(None);
        }
        started => started?,
    };
    let mut input = running.stdin.take().context("its input")?;
    let mut output = running.stdout.take().context("its output")?;
    let (mut shown, mut piece) = (Vec::new(), [0; 1024]);
    let mut answers = answers.iter();
    let mut next = answers.next();
    loop {
        let read = timeout(PATIENCE, output.read(&mut piece)).await;
        let read = read.with_context(|| format!("{line}: {}", shown.escape_ascii()))??;
        if read == 0 {
            break;
        }
        shown.extend_from_slice(&piece[..read]);
        if let Some((prompt, answer)) = next
            && shown.ends_with(prompt.as_bytes())
        {
            input.write_all(format!("{answer}\n").as_bytes()).await?;
            next = answers.next();
        }
    }
    timeout(PATIENCE, running.wait()).await??;
    ensure!(next.is_none(), "not asked: {}", shown.escape_ascii());
    Ok(Some(String::from_utf8(shown)?))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_asked_for_and_not_shown_however_fast_the_answer() -> Result<()> {
    let (cluster, root, _alice) = one_member().await?;
    root.permit("staff", Type::Readwrite, "k", "").await?;
    let url = cluster.members[0].client_url();
    let line = format!("--endpoints {url} --user root:pw user add bob");
    let first = "Password of bob: ";
    let second = "Type password of bob again for confirmation: ";
    let Some(shown) = on_terminal(&line, &[(first, "s3cret"), (second, "s3cret")]).await? else {
        return Ok(());
    };
    ensure!(shown.contains("User bob created"), "{shown}");
    ensure!(!shown.contains("s3cret"), "{shown}");
    // Many times, since it is about who is faster.
    let line = format!("--endpoints {url} --user alice put k v");
    for _ in 0..10 {
        let shown = on_terminal(&line, &[("Password: ", "pw")]).await?;
        let shown = shown.context("there was a terminal")?;
        ensure!(shown.contains("OK"), "{shown}");
        ensure!(!shown.contains("pw"), "{shown}");
    }
    Ok(())
}

/// etcdctl finds out before it asks anything, so that it is one failure with one exit code.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_one_failure_of_every_command() -> Result<()> {
    let (cluster, _root, _alice) = one_member().await?;
    let member = &cluster.members[0];
    for command in [
        &["get", "k"][..],
        &["watch", "k"],
        &["defrag"],
        &["endpoint", "status"],
        &["endpoint", "hashkv"],
        &["lease", "grant", "60"],
    ] {
        let output = member.kvctl(&[&["--user", "root:wrong"][..], command].concat())?;
        let text = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(2), "{command:?}: {output:?}");
        ensure!(
            text == "Error: etcdserver: authentication failed, invalid user ID or password\n",
            "{command:?}: {text}"
        );
    }
    Ok(())
}
