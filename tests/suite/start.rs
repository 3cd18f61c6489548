//! The ways to start a member: URLs of every kind, names that do not resolve yet, environment,
//! config file, the scripts that are shipped.
#![allow(missing_docs)]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kvd_tests::http;
use kvd_tests::member::READY;
use kvd_tests::ports::Port;
use kvd_tests::process::{Process, kvctl, kvd};
use rustix::process::Signal;

const SOON: Duration = Duration::from_secs(30);
const STOP: Duration = Duration::from_secs(5);

/// The standard output of a `kvctl` that succeeds.
fn ctl(endpoints: &str, arguments: &[&str]) -> Result<String> {
    let mut all = vec!["--endpoints", endpoints];
    all.extend(arguments);
    let output = kvctl(&all, "")?;
    ensure!(output.status.success(), "{arguments:?}: {output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

/// Ends a member with SIGTERM, which must give 0 in five seconds.
async fn stop(mut member: Process) -> Result<()> {
    member.signal(Signal::TERM)?;
    let status = member.wait_exit(STOP).await?;
    assert_eq!(status.code(), Some(0), "{}", member.log());
    Ok(())
}

/// The arguments of a single member `name` on two ports.
fn arguments(name: &str, client: &Port, peer: &Port) -> Vec<String> {
    let client = format!("http://127.0.0.1:{}", client.number());
    let peer = format!("http://127.0.0.1:{}", peer.number());
    vec![
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster={name}={peer}"),
    ]
}

fn words(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_do_not_resolve_are_retried_each_second_until_sigterm() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (client, peer) = (Port::reserve()?, Port::reserve()?);
    let mut arguments = arguments("m0", &client, &peer);
    arguments.push("--name=m0".to_owned());
    arguments.push(format!(
        "--initial-advertise-peer-urls=http://no-such-host.invalid:{}",
        peer.number()
    ));
    let started = Instant::now();
    let mut member = Process::start(kvd(&words(&arguments))?, folder.path(), "log")?;
    let failures = |log: &str| log.matches("failed to resolve URL Host").count();
    let log = kvd_tests::wait::until("three attempts", SOON, || async {
        let log = fs::read_to_string(folder.path().join("log"))?;
        ensure!(failures(&log) >= 3, "{log}");
        Ok(log)
    })
    .await?;
    let seconds = started.elapsed().as_secs_f64();
    ensure!(
        failures(&log) as f64 <= seconds + 1.0,
        "more than one line a second in {seconds} s:\n{log}"
    );
    ensure!(log.contains("no-such-host.invalid"), "{log}");
    member.signal(Signal::TERM)?;
    let status = member.wait_exit(STOP).await?;
    assert_eq!(status.code(), Some(0), "{}", member.log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_whose_name_does_not_resolve_is_retried_until_sigterm() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (client, peer) = (Port::reserve()?, Port::reserve()?);
    let mut arguments = arguments("m0", &client, &peer);
    arguments.push("--name=m0".to_owned());
    arguments.push(format!(
        "--initial-cluster=m0=http://127.0.0.1:{},m1=http://no-such-host.invalid:2380",
        peer.number()
    ));
    let started = Instant::now();
    let mut member = Process::start(kvd(&words(&arguments))?, folder.path(), "log")?;
    member.wait_log("no-such-host.invalid", SOON).await?;
    // Long enough for several attempts: what is looked for is that they do not fill the log.
    member.wait_log("\"level\":\"warn\"", SOON).await?;
    let end = started + Duration::from_secs(4);
    tokio::time::sleep_until(end.into()).await;
    let log = member.log();
    let lines = log.lines().count();
    ensure!(lines < 60, "{lines} lines in 4 s:\n{log}");
    ensure!(
        !log.contains(READY),
        "it cannot lead without the other:\n{log}"
    );
    stop(member).await
}

/// The command line of the etcd document's StatefulSet, with names that this machine knows: the
/// advertised peer URL has another name than the one in `--initial-cluster`.
fn stateful_set(name: &str, ports: &(Port, Port), cluster: &str, data: &Path) -> Vec<String> {
    let (client, peer) = (ports.0.number(), ports.1.number());
    [
        "--name",
        name,
        "--listen-peer-urls",
        &format!("http://0.0.0.0:{peer}"),
        "--listen-client-urls",
        &format!("http://0.0.0.0:{client}"),
        "--advertise-client-urls",
        &format!("http://localhost:{client}"),
        "--initial-advertise-peer-urls",
        &format!("http://localhost:{peer}"),
        "--initial-cluster-token",
        "etcd-cluster-1",
        "--initial-cluster",
        cluster,
        "--initial-cluster-state",
        "new",
        "--data-dir",
        &data.join("default.etcd").display().to_string(),
    ]
    .map(str::to_owned)
    .to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_of_the_stateful_set_brings_a_cluster_up_and_back() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let names = ["etcd-0", "etcd-1", "etcd-2"];
    let mut ports = Vec::new();
    for _ in names {
        ports.push((Port::reserve()?, Port::reserve()?));
    }
    let cluster: Vec<String> = names
        .iter()
        .zip(&ports)
        .map(|(name, (_, peer))| format!("{name}=http://127.0.0.1:{}", peer.number()))
        .collect();
    let cluster = cluster.join(",");
    let mut lines = Vec::new();
    for (name, ports) in names.iter().zip(&ports) {
        let data = folder.path().join(name);
        lines.push(stateful_set(name, ports, &cluster, &data));
    }
    let start = |index: usize, round: usize| {
        let log = format!("{}.{round}", names[index]);
        Process::start(kvd(&words(&lines[index]))?, folder.path(), &log)
    };
    let mut members = Vec::new();
    for index in 0..3 {
        members.push(start(index, 1)?);
    }
    for member in &mut members {
        member.wait_log(READY, SOON).await?;
    }
    let endpoint = |index: usize| format!("localhost:{}", ports[index].0.number());
    assert_eq!(
        ctl(&endpoint(0), &["put", "message", "Hello world"])?,
        "OK\n"
    );
    for index in 0..3 {
        let got = ctl(&endpoint(index), &["get", "message"])?;
        assert_eq!(got, "message\nHello world\n");
    }
    let last = members.pop().context("three members")?;
    stop(last).await?;
    let mut last = start(2, 2)?;
    last.wait_log(READY, SOON).await?;
    assert_eq!(
        ctl(&endpoint(2), &["get", "message", "--print-value-only"])?,
        "Hello world\n"
    );
    Ok(())
}

/// Sends one request over a unix socket and returns the answer's head and body.
fn ask_unix(path: &Path, request: &str) -> Result<String> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn several_urls_a_unix_socket_metrics_and_a_log_elsewhere_survive_a_restart() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (first, second) = (Port::reserve()?, Port::reserve()?);
    let (peer, metrics) = (Port::reserve()?, Port::reserve()?);
    let socket = folder.path().join("kvd.sock");
    let wal = folder.path().join("log/wal");
    let mut arguments = arguments("m0", &first, &peer);
    arguments.push(format!(
        "--listen-client-urls=http://127.0.0.1:{},http://127.0.0.1:{},unix://{}",
        first.number(),
        second.number(),
        socket.display()
    ));
    arguments.push(format!(
        "--listen-metrics-urls=http://127.0.0.1:{}",
        metrics.number()
    ));
    arguments.push(format!("--wal-dir={}", wal.display()));
    // The last of a flag that is given twice counts, as in etcd.
    arguments.extend(["--name=not-this", "--name=m0", "--data-dir=data"].map(str::to_owned));
    for round in 1..=2 {
        let name = format!("log.{round}");
        let mut member = Process::start(kvd(&words(&arguments))?, folder.path(), &name)?;
        member.wait_log(READY, SOON).await?;
        let first = format!("127.0.0.1:{}", first.number());
        let second = format!("127.0.0.1:{}", second.number());
        if round == 1 {
            assert_eq!(ctl(&first, &["put", "a", "b"])?, "OK\n");
        }
        assert_eq!(ctl(&second, &["get", "a"])?, "a\nb\n");
        ensure!(
            ctl(&first, &["member", "list"])?.contains(", m0, "),
            "the last name counts"
        );

        let request = "GET /version HTTP/1.1\r\nHost: kvd\r\nConnection: close\r\n\r\n";
        let answer = ask_unix(&socket, request)?;
        ensure!(answer.contains(r#""etcdserver":"3.7.1""#), "{answer}");

        let metrics = format!("127.0.0.1:{}", metrics.number());
        let text = http::get(&metrics, "/metrics")?.body;
        ensure!(text.contains("etcd_server_has_leader 1"), "{text}");
        assert_eq!(http::get(&metrics, "/health")?.status, 200);
        assert_eq!(http::post(&metrics, "/v3/kv/range", "{}")?.status, 404);

        ensure!(
            fs::read_dir(&wal)?.count() > 0,
            "the log is where it was told"
        );
        ensure!(
            !folder.path().join("data/member/wal").exists(),
            "and not in the data directory"
        );
        stop(member).await?;
        ensure!(!socket.exists(), "the socket is removed at the end");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_file_stands_alone() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (client, peer) = (Port::reserve()?, Port::reserve()?);
    let (client_url, peer_url) = (
        format!("http://127.0.0.1:{}", client.number()),
        format!("http://127.0.0.1:{}", peer.number()),
    );
    let data = folder.path().join("from-file");
    let text = format!(
        "name: filed\ndata-dir: {}\nlisten-client-urls: {client_url}\n\
         advertise-client-urls: {client_url}\nlisten-peer-urls: {peer_url}\n\
         initial-advertise-peer-urls: {peer_url}\ninitial-cluster: filed={peer_url}\n\
         initial-cluster-token: from-file\nquota-backend-bytes: 123456789\n",
        data.display()
    );
    fs::write(folder.path().join("kvd.yaml"), text)?;
    let mut command = kvd(&["--config-file", "kvd.yaml", "--name", "not-this"])?;
    command.env("ETCD_DATA_DIR", "not-this-either");
    let mut member = Process::start(command, folder.path(), "log")?;
    member.wait_log(READY, SOON).await?;
    let endpoint = format!("127.0.0.1:{}", client.number());
    ensure!(
        ctl(&endpoint, &["member", "list"])?.contains(", filed, "),
        "the file's name counts"
    );
    let metrics = http::get(&endpoint, "/metrics")?.body;
    ensure!(
        metrics.contains("etcd_server_quota_backend_bytes 1.23456789e+08")
            || metrics.contains("etcd_server_quota_backend_bytes 123456789"),
        "{metrics}"
    );
    ensure!(data.join("member").is_dir(), "the file's directory counts");
    ensure!(!folder.path().join("not-this-either").exists(), "alone");
    stop(member).await
}

#[tokio::test(flavor = "multi_thread")]
async fn our_variables_win_over_etcds_and_both_over_defaults() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (client, peer) = (Port::reserve()?, Port::reserve()?);
    let arguments = arguments("ours", &client, &peer);
    let mut command = kvd(&words(&arguments))?;
    command
        .env("ETCD_NAME", "etcds")
        .env("KVD_NAME", "ours")
        .env("ETCD_DATA_DIR", "by-etcds-variable");
    let mut member = Process::start(command, folder.path(), "log")?;
    member.wait_log(READY, SOON).await?;
    let endpoint = format!("127.0.0.1:{}", client.number());
    ensure!(
        ctl(&endpoint, &["member", "list"])?.contains(", ours, "),
        "KVD_NAME wins"
    );
    ensure!(
        folder.path().join("by-etcds-variable/member").is_dir(),
        "ETCD_DATA_DIR counts"
    );
    stop(member).await
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_stops_the_local_cluster_cleanly() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut clients = Vec::new();
    let mut peers = Vec::new();
    for _ in 0..3 {
        clients.push(Port::reserve()?);
        peers.push(Port::reserve()?);
    }
    let list = |ports: &[Port]| {
        let numbers: Vec<String> = ports.iter().map(|port| port.number().to_string()).collect();
        numbers.join(" ")
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/local/cluster.sh");
    for round in 1..=2 {
        let mut command = Command::new(script.canonicalize()?);
        command
            .env("KVD_BIN", kvd_tests::member::binary("kvd")?)
            .env("CLUSTER_DIR", folder.path().join("cluster"))
            .env("CLUSTER_CLIENT_PORTS", list(&clients))
            .env("CLUSTER_PEER_PORTS", list(&peers));
        let mut cluster = Process::start(command, folder.path(), &format!("log.{round}"))?;
        let endpoint = format!("127.0.0.1:{}", clients[round].number());
        let log_of =
            |name: &str| fs::read_to_string(folder.path().join(format!("cluster/{name}.log")));
        kvd_tests::wait::until("three members that serve", SOON, || async {
            for name in ["m1", "m2", "m3"] {
                let log = log_of(name)?;
                ensure!(log.matches(READY).count() == round, "{name}: {log}");
            }
            Ok(())
        })
        .await?;
        assert_eq!(ctl(&endpoint, &["put", "k", "v"])?, "OK\n");
        assert_eq!(ctl(&endpoint, &["member", "list"])?.lines().count(), 3);
        cluster.signal(Signal::INT)?;
        let status = cluster.wait_exit(Duration::from_secs(15)).await?;
        let log = cluster.log();
        assert_eq!(status.code(), Some(0), "{log}");
        ensure!(log.contains("all members stopped"), "{log}");
        for name in ["m1", "m2", "m3"] {
            let log = log_of(name)?;
            let ends = log.matches("the member has stopped").count();
            assert_eq!(ends, round, "{name}: {log}");
        }
    }
    Ok(())
}
