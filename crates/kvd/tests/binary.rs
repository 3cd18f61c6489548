//! The binary itself: what it prints where, and its exit codes.

use std::process::{Command, Output};

fn kvd(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvd"));
    command
        .env_clear()
        .args(arguments)
        .output()
        .expect("run kvd")
}

#[test]
fn version_begins_with_etcds_lines() {
    let output = kvd(&["--version"]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).expect("text");
    assert_eq!(text.lines().next(), Some("etcd Version: 3.7.1"));
    assert!(text.contains("\nkvd Version: 0.1.0\n"), "{text}");
}

#[test]
fn help_goes_to_standard_output() {
    let output = kvd(&["-h"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty());
    assert!(
        String::from_utf8(output.stdout)
            .expect("text")
            .contains("--initial-cluster-token")
    );
}

#[test]
fn an_unknown_flag_prints_the_usage_and_exits_2() {
    let output = kvd(&["--nope"]);
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).expect("text");
    assert!(
        text.starts_with("flag provided but not defined: -nope\nUsage:\n"),
        "{text}"
    );
}

#[test]
fn a_refused_setting_is_a_log_line_and_exits_1() {
    let output = kvd(&["--memory-mlock"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).expect("text");
    let last = text.lines().last().expect("a line");
    let line: serde_json::Value = serde_json::from_str(last).expect("json");
    assert_eq!(line["level"], "warn");
    assert_eq!(line["msg"], "failed to verify flags");
    assert!(
        line["error"]
            .as_str()
            .expect("error")
            .starts_with("--memory-mlock: locking"),
        "{line}"
    );
    assert!(
        line["caller"]
            .as_str()
            .expect("caller")
            .starts_with("kvd/main.rs:"),
        "{line}"
    );
    assert_eq!(
        line["ts"].as_str().map(str::len),
        Some("2026-01-02T03:04:05.678901Z".len())
    );
}

#[test]
fn a_taken_port_is_named_with_advice() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let url = format!("http://{}", taken.local_addr().expect("address"));
    let folder = tempfile::tempdir().expect("tempdir");
    let data = folder.path().join("d");
    let output = kvd(&[
        "--data-dir",
        data.to_str().expect("path"),
        "--listen-peer-urls",
        &url,
        "--initial-advertise-peer-urls",
        &url,
    ]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).expect("text");
    let last = text.lines().last().expect("a line");
    let line: serde_json::Value = serde_json::from_str(last).expect("json");
    assert_eq!(line["level"], "fatal", "{line}");
    let error = line["error"].as_str().expect("error");
    assert!(
        error.contains(&url) && error.contains("--listen-peer-urls"),
        "{error}"
    );
    assert!(error.contains("another process listens there"), "{error}");
}

#[test]
fn logs_go_to_a_file() {
    let folder = tempfile::tempdir().expect("tempdir");
    let file = folder.path().join("kvd.log");
    let config = folder.path().join("kvd.yml");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let url = format!("http://{}", taken.local_addr().expect("address"));
    let text = format!(
        "listen-peer-urls: {url}\nlog-outputs: [{}]\nlog-format: console\n",
        file.display()
    );
    std::fs::write(&config, text).expect("write");
    let output = kvd(&["--config-file", config.to_str().expect("path")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        output.stderr.is_empty(),
        "{:?}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = std::fs::read_to_string(&file).expect("log");
    assert!(text.contains("\twarn\t"), "{text}");
    assert!(
        text.lines().last().expect("a line").contains("\tfatal\t"),
        "{text}"
    );
}
