//! Which port serves what, with and without the page.

use anyhow::{Context, Result, ensure};
use kvd_tests::cluster::Cluster;
use kvd_tests::http;
use kvd_tests::ports::Port;
use serde_json::json;

use super::{look, no_complaints, turn};

#[tokio::test(flavor = "multi_thread")]
async fn a_port_for_monitoring_shows_members_and_metrics_and_no_keys() -> Result<()> {
    let Some(turn) = turn().await? else {
        return Ok(());
    };
    let browser = &turn.browser;
    let port = Port::reserve()?;
    let url = format!("http://127.0.0.1:{}", port.number());
    let cluster = Cluster::start(1, &["--listen-metrics-urls", &url]).await?;
    browser.open(&format!("{url}/ui/"))?;
    browser
        .until("document.querySelectorAll('tbody .state.good').length === 1")
        .await?;
    let views =
        browser.eval("[...document.querySelectorAll('nav a')].map((a) => a.textContent)")?;
    ensure!(views == json!(["Cluster", "Metrics"]), "{views}");
    look(browser, "monitoring-cluster")?;
    browser.click("nav a", "Metrics")?;
    browser
        .until("document.querySelectorAll('.spark').length >= 10")
        .await?;
    no_complaints(browser)?;
    let address = format!("127.0.0.1:{}", port.number());
    let reply = http::post(&address, "/v3/kv/range", "{\"key\":\"Zm9v\"}")?;
    ensure!(
        reply.status == 404,
        "no keys on a port for monitoring: {reply:?}"
    );
    drop(cluster);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_can_be_switched_off_and_members_are_told_to_those_who_may_know() -> Result<()> {
    let port = Port::reserve()?;
    let monitoring = format!("127.0.0.1:{}", port.number());
    let url = format!("http://{monitoring}");
    let line = [
        "--enable-ui=false",
        "--bcrypt-cost",
        "4",
        "--listen-metrics-urls",
        &url,
    ];
    let cluster = Cluster::start(1, &line).await?;
    let member = &cluster.members[0];
    let client = member.client_address();
    for (address, path) in [
        (&client, "/ui"),
        (&client, "/ui/"),
        (&client, "/ui/app.js"),
        (&monitoring, "/ui/"),
        (&monitoring, "/v1/members"),
    ] {
        let reply = http::get(address, path)?;
        ensure!(reply.status == 404, "{address}{path}: {reply:?}");
    }
    let reply = http::get(&client, "/v1/members")?.json()?;
    let own = &reply["members"][0];
    assert_eq!(own["role"], json!("leader"), "{reply}");
    assert_eq!(own["healthy"], json!(true), "{reply}");
    assert_eq!(own["id"], reply["member_id"], "{reply}");
    assert_eq!(own["lag"], json!(0), "{reply}");

    for line in [
        "user add root:pw",
        "user grant-role root root",
        "auth enable",
    ] {
        let arguments: Vec<&str> = line.split(' ').collect();
        let output = member.kvctl(&arguments)?;
        ensure!(output.status.success(), "{line}: {output:?}");
    }
    let reply = http::get(&client, "/v1/members")?;
    assert_eq!(reply.status, 400, "{reply:?}");
    assert_eq!(
        reply.json()?["message"],
        json!("etcdserver: user name is empty")
    );
    let token = http::post(
        &client,
        "/v3/auth/authenticate",
        r#"{"name":"root","password":"pw"}"#,
    )?;
    let token = token.json()?;
    let token = token["token"].as_str().context("a token")?;
    let headers = format!("Authorization: {token}\r\n");
    let reply = http::request_with(&client, "GET", "/v1/members", &headers, "")?;
    assert_eq!(reply.status, 200, "{reply:?}");
    let reply = http::request_with(&client, "GET", "/v1/members", "Authorization: no\r\n", "")?;
    assert_eq!(reply.status, 401, "{reply:?}");
    Ok(())
}
