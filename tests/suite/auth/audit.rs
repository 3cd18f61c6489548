//! The audit log: who asked for what, and never what was in it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvd_api::pb::authpb::permission::Type;
use kvd_tests::cluster::Cluster;
use kvd_tests::{http, wait};
use serde_json::{Value, json};

use super::session::{CHEAP, Session, refusal};

const DEADLINE: Duration = Duration::from_secs(20);

/// Waits for the line that `found` takes.
async fn line(path: &Path, what: &str, found: impl Fn(&Value) -> bool) -> Result<Value> {
    wait::until(what, DEADLINE, || async {
        let text = fs::read_to_string(path)?;
        let lines: Vec<Value> = text
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()?;
        let line = lines.into_iter().find(|line| found(line));
        line.with_context(|| format!("{what} is not in the audit log"))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_written_down_without_what_is_secret() -> Result<()> {
    let arguments = [CHEAP[0], CHEAP[1], "--audit-log-level", "metadata"];
    let cluster = Cluster::start(1, &arguments).await?;
    let member = &cluster.members[0];
    let path = member.data_dir().join("audit.log");
    let root = Session::enable(member).await?;
    root.add_role("staff").await?;
    root.permit("staff", Type::Readwrite, "k", "").await?;
    root.add_user("alice", "staff").await?;
    let alice = Session::of(member, "alice").await?;
    alice.put("k", "hidden-value").await?;
    refusal(alice.put("not-mine", "hidden-value").await);
    let range = r#"{"key":"aw=="}"#;
    http::post(&member.client_address(), "/v3/kv/range", range)?;

    let put = line(&path, "the put", |line| {
        line["rpc"] == "etcdserverpb.KV/Put" && line["code"] == "Ok"
    });
    let put = put.await?;
    assert_eq!(put["user"], "alice");
    assert_eq!(put["ops"], json!([{"op": "put", "key": "k"}]));
    ensure!(
        put["ts"].as_str().is_some_and(|ts| ts.ends_with('Z')),
        "{put}"
    );
    ensure!(put["ms"].is_number(), "{put}");
    let denied = line(&path, "the refusal", |line| {
        line["code"] == "PermissionDenied"
    })
    .await?;
    assert_eq!(denied["ops"][0]["key"], "not-mine");
    let nobody = line(&path, "the gateway", |line| line["gateway"] == json!(true)).await?;
    ensure!(nobody["user"].is_null(), "{nobody}");
    assert_eq!(nobody["code"], "InvalidArgument");
    let grant = line(&path, "the grant", |line| {
        line["rpc"] == "etcdserverpb.Auth/RoleGrantPermission"
    });
    let grant = grant.await?;
    assert_eq!(
        (&grant["names"], &grant["user"]),
        (&json!(["staff"]), &json!("root"))
    );

    let text = fs::read_to_string(&path)?;
    for secret in [
        "hidden-value",
        "\"pw\"",
        root.token.as_deref().unwrap_or("-"),
        alice.token.as_deref().unwrap_or("-"),
    ] {
        ensure!(!text.contains(secret), "a secret in the audit log");
        ensure!(!member.log().contains(secret), "a secret in the log");
    }

    // Rotated by renaming: the next lines come to a new file.
    fs::rename(&path, path.with_extension("old"))?;
    wait::until("a new file", DEADLINE, || async {
        alice.put("k", "hidden-value").await?;
        ensure!(path.exists(), "no new file yet");
        Ok(())
    })
    .await?;
    line(&path, "a put after the rotation", |line| {
        line["rpc"] == "etcdserverpb.KV/Put"
    })
    .await?;
    Ok(())
}
