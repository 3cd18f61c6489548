//! HTTP on the client and peer ports, byte by byte where scripts look at them.
#![allow(missing_docs)]

use anyhow::{Result, ensure};
use kvd_tests::cluster::Cluster;
use kvd_tests::http;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_puts_gets_deletes_and_runs_transactions() -> Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let address = cluster.members[0].client_address();
    let reply = http::post(&address, "/v3/kv/put", r#"{"key":"Zm9v","value":"YmFy"}"#)?;
    assert_eq!(reply.status, 200, "{reply:?}");
    let header = reply.json()?["header"].clone();
    assert_eq!(header["revision"], json!("2"));
    ensure!(
        header["cluster_id"].is_string(),
        "64-bit numbers are strings: {header}"
    );

    let reply = http::post(&address, "/v3/kv/range", r#"{"key":"Zm9v"}"#)?;
    let body = reply.json()?;
    assert_eq!(body["count"], json!("1"));
    assert_eq!(
        body["kvs"],
        json!([{
            "key": "Zm9v", "create_revision": "2", "mod_revision": "2",
            "version": "1", "value": "YmFy"
        }])
    );

    let txn = r#"{"compare":[{"target":"VALUE","key":"Zm9v","value":"YmFy"}],
        "success":[{"requestPut":{"key":"Zm9v","value":"YmF6"}}]}"#;
    let body = http::post(&address, "/v3/kv/txn", txn)?.json()?;
    assert_eq!(body["succeeded"], json!(true));
    assert_eq!(
        body["responses"][0]["response_put"]["header"]["revision"],
        json!("3")
    );

    let body = http::post(&address, "/v3/kv/deleterange", r#"{"key":"Zm9v"}"#)?.json()?;
    assert_eq!(body["deleted"], json!("1"));
    let body = http::post(&address, "/v3/kv/compaction", r#"{"revision":"3"}"#)?.json()?;
    assert_eq!(body["header"]["revision"], json!("4"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_json_and_bad_routes_get_the_gateways_errors() -> Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let address = cluster.members[0].client_address();
    for body in ["{", r#"{"key":"%%%"}"#, r#"{"key":5}"#, "[]"] {
        let reply = http::post(&address, "/v3/kv/range", body)?;
        assert_eq!(reply.status, 400, "{body}: {reply:?}");
        assert_eq!(reply.json()?["code"], json!(3), "{body}");
    }
    let reply = http::post(&address, "/v3/kv/range", "{}")?;
    assert_eq!(reply.status, 400);
    assert_eq!(
        reply.json()?["message"],
        json!("etcdserver: key is not provided")
    );
    let reply = http::post(&address, "/v3/nothing", "{}")?;
    assert_eq!((reply.status, &reply.json()?["code"]), (404, &json!(5)));
    let reply = http::get(&address, "/v3/kv/range")?;
    assert_eq!((reply.status, &reply.json()?["code"]), (501, &json!(12)));
    let reply = http::post(&address, "/v3/auth/user/list", "{}")?;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert!(reply.json()?["users"].is_null(), "no user yet: {reply:?}");
    leases_by_json(&address)
}

fn leases_by_json(address: &str) -> Result<()> {
    let reply = http::post(address, "/v3/lease/grant", r#"{"TTL":"60","ID":"7"}"#)?;
    assert_eq!(reply.json()?["TTL"], json!("60"), "{reply:?}");
    let reply = http::post(address, "/v3/lease/grant", r#"{"TTL":"60","ID":"7"}"#)?;
    assert_eq!((reply.status, &reply.json()?["code"]), (400, &json!(9)));
    let alive = r#"{"ID":"7"}{"ID":"8"}"#;
    let reply = http::post(address, "/v3/lease/keepalive", alive)?;
    let lines: Vec<&str> = reply.body.lines().collect();
    assert_eq!(lines.len(), 2, "{reply:?}");
    ensure!(lines[0].ends_with(r#""ID":"7","TTL":"60"}}"#), "{reply:?}");
    ensure!(lines[1].ends_with(r#""ID":"8"}}"#), "{reply:?}");
    for path in ["/v3/lease/timetolive", "/v3/kv/lease/timetolive"] {
        let reply = http::post(address, path, r#"{"ID":"7","keys":true}"#)?;
        assert_eq!(reply.json()?["grantedTTL"], json!("60"), "{reply:?}");
    }
    for path in ["/v3/lease/leases", "/v3/kv/lease/leases"] {
        let reply = http::post(address, path, "{}")?;
        assert_eq!(reply.json()?["leases"], json!([{"ID": "7"}]), "{reply:?}");
    }
    let reply = http::post(address, "/v3/kv/lease/revoke", r#"{"ID":"7"}"#)?;
    assert_eq!(reply.status, 200, "{reply:?}");
    let reply = http::post(address, "/v3/lease/revoke", r#"{"ID":"7"}"#)?;
    assert_eq!((reply.status, &reply.json()?["code"]), (404, &json!(5)));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn maintenance_and_members_are_reached_by_json() -> Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let member = &cluster.members[0];
    let address = member.client_address();
    let body = http::post(&address, "/v3/maintenance/status", "{}")?.json()?;
    assert_eq!(body["version"], json!("3.7.1"));
    assert_eq!(body["leader"], body["header"]["member_id"]);
    let body = http::post(&address, "/v3/cluster/member/list", "{}")?.json()?;
    assert_eq!(body["members"][0]["name"], json!("m0"));
    assert_eq!(
        body["members"][0]["clientURLs"],
        json!([member.client_url()])
    );
    for path in ["/v3/maintenance/hash", "/v3/maintenance/hashkv"] {
        let body = http::post(&address, path, "{}")?.json()?;
        ensure!(body["hash"].is_u64(), "{path}: {body}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn version_health_and_probes_answer_as_etcds() -> Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let address = cluster.members[0].client_address();
    let body = http::get(&address, "/version")?.json()?;
    assert_eq!(body["etcdserver"], json!("3.7.1"));
    assert_eq!(body["etcdcluster"], json!("3.7.0"));
    let reply = http::get(&address, "/health")?;
    assert_eq!(
        (reply.status, reply.body.trim()),
        (200, r#"{"health":"true","reason":""}"#)
    );
    for path in ["/livez", "/readyz", "/readyz/linearizable_read"] {
        let reply = http::get(&address, path)?;
        assert_eq!((reply.status, reply.body.as_str()), (200, "ok\n"), "{path}");
    }
    let reply = http::get(&address, "/readyz?verbose")?;
    for check in [
        "data_corruption",
        "serializable_read",
        "linearizable_read",
        "non_learner",
    ] {
        ensure!(
            reply.body.contains(&format!("[+]{check} ok")),
            "{}",
            reply.body
        );
    }
    let reply = http::get(&address, "/nothing")?;
    assert_eq!(
        (reply.status, reply.body.trim()),
        (404, "404 page not found")
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_have_what_etcds_alerts_and_dashboard_read() -> Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let address = cluster.members[0].client_address();
    http::post(&address, "/v3/kv/put", r#"{"key":"Zm9v","value":"YmFy"}"#)?;
    let text = http::get(&address, "/metrics")?.body;
    for name in [
        "etcd_server_has_leader 1",
        "etcd_server_leader_changes_seen_total",
        "etcd_server_proposals_committed_total",
        "etcd_server_proposals_applied_total",
        "etcd_server_proposals_pending",
        "etcd_server_proposals_failed_total",
        "etcd_server_quota_backend_bytes",
        "etcd_disk_wal_fsync_duration_seconds_bucket",
        "etcd_disk_backend_commit_duration_seconds_bucket",
        "etcd_mvcc_db_total_size_in_bytes",
        "etcd_mvcc_db_total_size_in_use_in_bytes",
        "etcd_network_client_grpc_received_bytes_total",
        "etcd_network_client_grpc_sent_bytes_total",
        "grpc_server_started_total",
        "grpc_server_handled_total",
        "process_resident_memory_bytes",
    ] {
        ensure!(text.contains(name), "{name} is missing");
    }
    for put in [
        "etcd_mvcc_put_total 1",
        r#"etcd_server_request_duration_seconds_count{success="true",type="Put"} 1"#,
    ] {
        ensure!(text.contains(put), "one put was counted: {put} in {text}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_peer_port_lists_members_and_versions() -> Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let member = &cluster.members[0];
    let reply = http::get(&member.peer_address(), "/members")?;
    let body = reply.json()?;
    assert_eq!(body[0]["name"], json!("m0"));
    assert_eq!(body[0]["peerURLs"], json!([member.peer_url()]));
    ensure!(body[0]["id"].is_u64(), "here an ID is a number: {body}");
    ensure!(
        reply.headers.to_lowercase().contains("x-etcd-cluster-id"),
        "{}",
        reply.headers
    );
    let body = http::get(&member.peer_address(), "/version")?.json()?;
    assert_eq!(body["etcdserver"], json!("3.7.1"));
    Ok(())
}
