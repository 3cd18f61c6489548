//! Commands of kvctl's API 2 that go on, that need certificates, or that need a user.
#![allow(missing_docs)]

use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvd_tests::cluster::Cluster;
use kvd_tests::member::{Member, binary};
use kvd_tests::pki::{Authority, Leaf};
use kvd_tests::process::Process;
use kvd_tests::{process, wait};
use rustix::process::Signal;

const LONG: Duration = Duration::from_secs(30);

/// `kvctl` with API 2 against one member, with `input` on its standard input.
fn run(member: &Member, arguments: &[&str], input: &str) -> Result<Output> {
    let url = member.client_url();
    let line = [&["--endpoints", &url], arguments].concat();
    process::run_with(command()?.args(line), input)
}

fn command() -> Result<Command> {
    let mut command = Command::new(binary("kvctl")?);
    command.env("KVCTL_API", "2").env_remove("KVCTL_BIN");
    Ok(command)
}

fn said(output: Output) -> Result<String> {
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

#[tokio::test]
async fn a_command_runs_for_each_change_until_it_is_interrupted() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let cluster = Cluster::start(1, &[]).await?;
    let member = &cluster.members[0];
    let first = said(run(member, &["-o", "extended", "set", "d/k", "zero"], "")?)?;
    let index = first
        .lines()
        .find_map(|line| line.strip_prefix("Modified-Index: "));
    let index = index.context("an index")?;
    let script = "echo $ETCD_WATCH_ACTION $ETCD_WATCH_KEY=$ETCD_WATCH_VALUE \
                  $ETCD_WATCH_MODIFIED_INDEX >>events";
    let url = member.client_url();
    let mut watch = command()?;
    watch.args(["--endpoints", &url, "exec-watch", "--recursive"]);
    watch.args(["--after-index", index, "/d", "--", "sh", "-c", script]);
    let mut watch = Process::start(watch, folder.path(), "watch")?;
    said(run(member, &["set", "d/k", "one"], "")?)?;
    said(run(member, &["mkdir", "d/below"], "")?)?;
    said(run(member, &["rm", "d/k"], "")?)?;
    // Each command is a process of its own, and they may end in any order.
    let index: u64 = index.parse()?;
    let expected = [
        format!("delete /d/k= {}", index + 3),
        format!("set /d/k=one {}", index + 1),
    ];
    wait::until("both commands", LONG, || async {
        let text = std::fs::read_to_string(folder.path().join("events"))?;
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        ensure!(lines == expected, "{lines:?}: {}", watch.log());
        Ok(())
    })
    .await?;
    watch.wait_log("Ignored dir /d/below change", LONG).await?;
    watch.signal(Signal::INT)?;
    let status = watch.wait_exit(LONG).await?;
    ensure!(status.success(), "{status}: {}", watch.log());
    Ok(())
}

#[tokio::test]
async fn certificates_and_a_password_that_is_asked_for() -> Result<()> {
    let authority = Authority::new("authority")?;
    let folder = tempfile::tempdir()?;
    let leaf = authority.issue(&Leaf::new("member", 1))?;
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (ca, cert, key) = (path("ca"), path("cert"), path("key"));
    std::fs::write(&ca, authority.pem())?;
    std::fs::write(&cert, &leaf.cert)?;
    std::fs::write(&key, &leaf.key)?;
    let files = ["--cert-file", &cert, "--key-file", &key];
    let server = [
        &files[..],
        &["--trusted-ca-file", &ca, "--client-cert-auth"],
    ]
    .concat();
    let server = [&server[..], &["--bcrypt-cost", "4"]].concat();
    let mut cluster = Cluster::prepare_with_tls(1, &server, (true, false))?;
    cluster.start_all().await?;
    let member = &cluster.members[0];
    let secure = [&files[..], &["--ca-file", &ca]].concat();
    let of = |words: &[&str], input: &str| run(member, &[&secure[..], words].concat(), input);

    assert_eq!(said(of(&["set", "k", "v"], "")?)?, "v\n");
    assert_eq!(said(of(&["get", "k"], "")?)?, "v\n");
    let health = said(of(&["cluster-health"], "")?)?;
    ensure!(health.ends_with("cluster is healthy\n"), "{health}");
    ensure!(health.contains("healthy result from https://"), "{health}");
    for (arguments, code, text) in [
        // No certificate of its own; nobody whom it could trust; half of a pair.
        (&["--ca-file", &ca, "get", "k"][..], 2, "ertificate"),
        (&[&files[..], &["get", "k"]].concat()[..], 2, "ertificate"),
        (
            &["--cert-file", &cert, "get", "k"][..],
            1,
            "KeyFile and CertFile must both be present",
        ),
    ] {
        let output = run(member, arguments, "")?;
        let text_of = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        ensure!(text_of.contains(text), "{arguments:?}: {text_of}");
    }

    // v2's keys belong to root alone once v3's users are in force.
    let v3 = |words: &[&str]| {
        let tls = ["--cacert", &ca, "--cert", &cert, "--key", &key];
        let output = member.kvctl(&[&tls[..], words].concat())?;
        ensure!(output.status.success(), "{words:?}: {output:?}");
        Ok(())
    };
    v3(&["user", "add", "root:secret"])?;
    v3(&["auth", "enable"])?;
    let nobody = of(&["get", "k"], "")?;
    assert_eq!(nobody.status.code(), Some(4), "{nobody:?}");
    let asked = of(&["--username", "root", "get", "k"], "secret\n")?;
    assert_eq!(said(asked)?, "Password: \nv\n");
    assert_eq!(said(of(&["-u", "root:secret", "get", "k"], "")?)?, "v\n");
    let wrong = of(&["--username", "root", "get", "k"], "wrong\n")?;
    assert_eq!(wrong.status.code(), Some(4), "{wrong:?}");
    Ok(())
}
