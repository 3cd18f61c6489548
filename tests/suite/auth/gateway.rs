//! Users through the JSON gateway.

use anyhow::{Context, Result};
use kvd_tests::http;
use serde_json::json;

use super::session::one_member;

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_takes_tokens() -> Result<()> {
    let (cluster, root, _alice) = one_member().await?;
    root.put("k", "v").await?;
    let address = cluster.members[0].client_address();
    let range = r#"{"key":"aw=="}"#;
    let reply = http::post(&address, "/v3/kv/range", range)?;
    assert_eq!(reply.status, 400, "{reply:?}");
    assert_eq!(
        reply.json()?["message"],
        json!("etcdserver: user name is empty")
    );

    let credentials = r#"{"name":"root","password":"pw"}"#;
    let reply = http::post(&address, "/v3/auth/authenticate", credentials)?.json()?;
    let token = reply["token"].as_str().context("a token")?;
    for header in [token.to_owned(), format!("Bearer {token}")] {
        let headers = format!("Authorization: {header}\r\n");
        let reply = http::request_with(&address, "POST", "/v3/kv/range", &headers, range)?;
        assert_eq!(reply.json()?["count"], json!("1"));
    }
    let headers = "Authorization: nonsense\r\n";
    let reply = http::request_with(&address, "POST", "/v3/kv/range", headers, range)?;
    assert_eq!(reply.status, 401, "{reply:?}");
    assert_eq!(
        reply.json()?["message"],
        json!("etcdserver: invalid auth token")
    );

    let credentials = r#"{"name":"root","password":"wrong"}"#;
    let reply = http::post(&address, "/v3/auth/authenticate", credentials)?;
    assert_eq!(reply.status, 400, "{reply:?}");
    // Probes need no user.
    for path in ["/health", "/livez", "/readyz", "/version"] {
        assert_eq!(http::get(&address, path)?.status, 200, "{path}");
    }
    Ok(())
}
