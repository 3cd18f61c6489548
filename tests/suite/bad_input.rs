//! Requests, flags and files that are wrong: a clear error, never a panic or a hang, nothing lost.
#![allow(missing_docs)]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use kvd_api::pb::etcdserverpb::request_op::Request as Op;
use kvd_api::pb::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use kvd_tests::cluster::Cluster;
use kvd_tests::member::binary;
use tonic::Code;

fn bytes(text: &str) -> Bytes {
    Bytes::from(text.to_owned())
}

fn put_op(key: &str) -> RequestOp {
    let put = PutRequest {
        key: bytes(key),
        value: bytes("v"),
        ..PutRequest::default()
    };
    RequestOp {
        request: Some(Op::RequestPut(put)),
    }
}

#[tokio::test]
async fn wrong_requests_get_etcds_codes_and_texts() -> Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let mut kv = cluster.members[0].kv().await?;

    let status = kv
        .put(PutRequest::default())
        .await
        .err()
        .context("an empty key")?;
    assert_eq!(status.message(), "etcdserver: key is not provided");
    let status = kv
        .range(RangeRequest::default())
        .await
        .err()
        .context("an empty key")?;
    assert_eq!(status.message(), "etcdserver: key is not provided");
    let sorted = RangeRequest {
        key: bytes("k"),
        sort_order: 17,
        ..RangeRequest::default()
    };
    let status = kv.range(sorted).await.err().context("an unknown order")?;
    assert_eq!(status.message(), "etcdserver: invalid sort option");

    let inverted = RangeRequest {
        key: bytes("z"),
        range_end: bytes("a"),
        ..RangeRequest::default()
    };
    assert_eq!(kv.range(inverted).await?.into_inner().count, 0);
    let inverted = DeleteRangeRequest {
        key: bytes("z"),
        range_end: bytes("a"),
        ..DeleteRangeRequest::default()
    };
    assert_eq!(kv.delete_range(inverted).await?.into_inner().deleted, 0);

    let big = PutRequest {
        key: bytes("big"),
        value: Bytes::from(vec![7; 1_600_000]),
        ..PutRequest::default()
    };
    let status = kv.put(big).await.err().context("too large for the log")?;
    assert_eq!(
        (status.code(), status.message()),
        (Code::InvalidArgument, "etcdserver: request is too large")
    );
    let huge = PutRequest {
        key: bytes("huge"),
        value: Bytes::from(vec![7; 3_000_000]),
        ..PutRequest::default()
    };
    let status = kv.put(huge).await.err().context("too large for gRPC")?;
    assert_eq!(status.code(), Code::ResourceExhausted);
    ensure!(
        status
            .message()
            .starts_with("grpc: received message larger than max ("),
        "{status}"
    );

    let leased = PutRequest {
        key: bytes("l"),
        lease: 7,
        ..PutRequest::default()
    };
    let status = kv.put(leased).await.err().context("no such lease")?;
    assert_eq!(
        (status.code(), status.message()),
        (Code::NotFound, "etcdserver: requested lease not found")
    );
    let future = RangeRequest {
        key: bytes("k"),
        revision: 1_000_000,
        ..RangeRequest::default()
    };
    let status = kv.range(future).await.err().context("a future revision")?;
    assert_eq!(
        (status.code(), status.message()),
        (
            Code::OutOfRange,
            "etcdserver: mvcc: required revision is a future revision"
        )
    );
    let request = CompactionRequest {
        revision: 1_000_000,
        physical: false,
    };
    let status = kv
        .compact(request)
        .await
        .err()
        .context("a future revision")?;
    assert_eq!(
        status.message(),
        "etcdserver: mvcc: required revision is a future revision"
    );
    Ok(())
}

#[tokio::test]
async fn transactions_that_are_too_large_too_deep_or_ambiguous_are_refused() -> Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let mut kv = cluster.members[0].kv().await?;
    let many: Vec<RequestOp> = (0..129)
        .map(|number| put_op(&format!("k{number}")))
        .collect();
    let txn = TxnRequest {
        success: many,
        ..TxnRequest::default()
    };
    let status = kv.txn(txn).await.err().context("129 operations")?;
    assert_eq!(
        status.message(),
        "etcdserver: too many operations in txn request"
    );
    let twice = TxnRequest {
        success: vec![put_op("a"), put_op("a")],
        ..TxnRequest::default()
    };
    let status = kv.txn(twice).await.err().context("a key twice")?;
    assert_eq!(
        status.message(),
        "etcdserver: duplicate key given in txn request"
    );
    let mut deep = TxnRequest {
        success: vec![put_op("deep")],
        ..TxnRequest::default()
    };
    for _ in 0..60 {
        let nested = RequestOp {
            request: Some(Op::RequestTxn(deep)),
        };
        deep = TxnRequest {
            success: vec![nested],
            ..TxnRequest::default()
        };
    }
    let status = kv.txn(deep).await.err().context("60 levels")?;
    ensure!(
        status.code() != Code::Unavailable,
        "the member must not fall over: {status:?}"
    );
    let empty = TxnRequest {
        success: vec![RequestOp { request: None }],
        ..TxnRequest::default()
    };
    let status = kv.txn(empty).await.err().context("an empty operation")?;
    assert_eq!(status.message(), "etcdserver: key not found");
    assert_eq!(
        kv.range(RangeRequest {
            key: bytes("deep"),
            ..RangeRequest::default()
        })
        .await?
        .into_inner()
        .count,
        0
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_either_port_harms_nobody() -> Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let member = &cluster.members[0];
    let mut kv = member.kv().await?;
    for address in [member.client_address(), member.peer_address()] {
        for garbage in [
            &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
            &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"[..],
            &[0; 4096][..],
            &b"GET / HTTP/1.1\r\nContent-Length: -5\r\n\r\n"[..],
        ] {
            let mut stream = TcpStream::connect(&address)?;
            stream.set_read_timeout(Some(Duration::from_secs(20)))?;
            stream.write_all(garbage)?;
            stream.shutdown(std::net::Shutdown::Write)?;
            // Whatever it answers, it must end the connection.
            let mut answer = Vec::new();
            match stream.read_to_end(&mut answer) {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
                Err(error) => bail!("{address} keeps a connection with garbage open: {error}"),
            }
        }
    }
    let put = PutRequest {
        key: bytes("still"),
        value: bytes("here"),
        ..PutRequest::default()
    };
    kv.put(put).await?;
    Ok(())
}

/// Runs `kvd` with arguments that must make it end by itself.
fn run(arguments: &[&str], environment: &[(&str, &str)], folder: &Path) -> Result<Output> {
    let mut child = Command::new(binary("kvd")?)
        .args(arguments)
        .env_remove("KVD_BIN")
        .envs(environment.iter().copied())
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let end = Instant::now() + Duration::from_secs(20);
    while child.try_wait()?.is_none() {
        if Instant::now() >= end {
            child.kill()?;
            let output = child.wait_with_output()?;
            bail!("kvd {arguments:?} did not end: {output:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(child.wait_with_output()?)
}

fn said(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8_lossy(&output.stdout);
    format!("{stderr}{stdout}")
}

#[test]
fn wrong_flags_are_named_and_end_with_etcds_codes() -> Result<()> {
    let folder = tempfile::tempdir()?;
    /// Arguments, environment, the exit code and what must be said.
    type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], i32, &'a str);
    let cases: [Case<'_>; 8] = [
        (
            &["--no-such-flag"],
            &[],
            2,
            "flag provided but not defined: -no-such-flag",
        ),
        (
            &["--heartbeat-interval", "abc"],
            &[],
            2,
            "heartbeat-interval",
        ),
        (&["surplus"], &[], 1, "surplus"),
        (&["--name", "a"], &[("ETCD_NAME", "b")], 1, "ETCD_NAME"),
        (
            &["--listen-client-urls", "http://127.0.0.1:0"],
            &[],
            1,
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
        ),
        (
            &["--election-timeout", "100", "--heartbeat-interval", "100"],
            &[],
            1,
            "election-timeout",
        ),
        (
            &["--discovery-srv", "example.test"],
            &[],
            1,
            "discovery-srv",
        ),
        (
            &["--initial-cluster", "other=http://127.0.0.1:2380"],
            &[],
            1,
            "initial",
        ),
    ];
    for (arguments, environment, code, text) in cases {
        let output = run(arguments, environment, folder.path())?;
        let said = said(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        ensure!(
            said.contains(text),
            "{arguments:?} should say {text:?}: {said}"
        );
        ensure!(!said.contains("panicked"), "{said}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_in_use_is_refused() -> Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let member = &cluster.members[0];
    let data = member.data_dir();
    let data = data.to_str().context("a UTF-8 path")?;
    let arguments = [
        "--data-dir",
        data,
        "--listen-client-urls=http://127.0.0.1:0",
        "--advertise-client-urls=http://127.0.0.1:1",
        "--listen-peer-urls=http://127.0.0.1:0",
    ];
    let output = run(&arguments, &[], cluster.folder())?;
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    ensure!(said.contains("lock") || said.contains("in use"), "{said}");
    let put = PutRequest {
        key: bytes("a"),
        value: bytes("b"),
        ..PutRequest::default()
    };
    member.kv().await?.put(put).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_of_a_newer_format_is_refused() -> Result<()> {
    let mut cluster = Cluster::start(1, &[]).await?;
    cluster.members[0].kill()?;
    let data = cluster.members[0].data_dir();
    let path = data.to_str().context("a UTF-8 path")?;
    let base = [
        "--data-dir",
        path,
        "--listen-client-urls=http://127.0.0.1:0",
        "--advertise-client-urls=http://127.0.0.1:1",
        "--listen-peer-urls=http://127.0.0.1:0",
    ];
    let format = data.join("member/store/FORMAT");
    let text = fs::read_to_string(&format)?;
    let newer: String = text
        .chars()
        .map(|c| if c.is_ascii_digit() { '9' } else { c })
        .collect();
    fs::write(&format, newer)?;
    let output = run(&base, &[], cluster.folder())?;
    ensure!(said(&output).contains("has format 9"), "{}", said(&output));
    assert_eq!(output.status.code(), Some(1));
    fs::write(&format, text)?;
    cluster.restart(0).await?;
    Ok(())
}

#[test]
fn the_data_of_an_etcd_is_refused_and_left_alone() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let snap = folder.path().join("d/member/snap");
    fs::create_dir_all(&snap)?;
    fs::write(snap.join("db"), "bbolt")?;
    let output = run(&["--data-dir", "d"], &[], folder.path())?;
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    for part in [
        "d/member/snap/db",
        "the data of an etcd",
        "kvutl snapshot restore",
    ] {
        ensure!(said(&output).contains(part), "{}", said(&output));
    }
    let made = fs::read_dir(folder.path().join("d/member"))?.count();
    assert_eq!(made, 1, "nothing was added");
    Ok(())
}

#[test]
fn a_directory_that_cannot_be_written_is_named() -> Result<()> {
    let folder = tempfile::tempdir()?;
    // Not even root can create a directory there.
    let arguments = ["--data-dir", "/proc/kvd-test"];
    let output = run(&arguments, &[], folder.path())?;
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    ensure!(
        said(&output).contains("/proc/kvd-test"),
        "{}",
        said(&output)
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_the_middle_of_the_log_is_refused_by_file_and_offset() -> Result<()> {
    let mut cluster = Cluster::start(1, &[]).await?;
    let mut kv = cluster.members[0].kv().await?;
    for number in 0..200 {
        let key = bytes(&format!("k{number}"));
        kv.put(PutRequest {
            key,
            value: bytes("v"),
            ..PutRequest::default()
        })
        .await?;
    }
    cluster.members[0].kill()?;
    let wal = cluster.members[0].data_dir().join("member/wal");
    let mut segments: Vec<_> = fs::read_dir(&wal)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .collect();
    segments.sort();
    let segment = segments
        .iter()
        .find(|path| fs::read(path).is_ok_and(|bytes| bytes.windows(4).any(|w| w == b"k100")))
        .context("the log holds the keys")?;
    let good = fs::read(segment)?;
    let at = good
        .windows(4)
        .position(|window| window == b"k100")
        .context("the entry of k100")?;
    let mut bad = good.clone();
    bad[at] ^= 1;
    fs::write(segment, &bad)?;
    let initial = cluster.initial_cluster().to_owned();
    cluster.members[0].start(&initial)?;
    let status = cluster.members[0]
        .wait_exit(Duration::from_secs(20))
        .await?;
    let log = cluster.members[0].log();
    ensure!(!status.success(), "it must not start on a damaged log");
    let name = segment
        .file_name()
        .and_then(|name| name.to_str())
        .context("a name")?;
    ensure!(
        log.contains(name) && log.contains("at byte "),
        "file and offset: {log}"
    );
    ensure!(!log.contains("panicked"), "{log}");
    fs::write(segment, &good)?;
    cluster.restart(0).await?;
    let all = RangeRequest {
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
        ..RangeRequest::default()
    };
    assert_eq!(
        cluster.members[0]
            .kv()
            .await?
            .range(all)
            .await?
            .into_inner()
            .count,
        200
    );
    Ok(())
}
