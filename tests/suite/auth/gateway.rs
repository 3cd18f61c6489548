//! Users through the JSON gateway.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvd_api::pb::authpb::permission::Type;
use kvd_api::pb::etcdserverpb::{AuthUserChangePasswordRequest, LeaseGrantRequest, PutRequest};
use kvd_tests::cluster::Cluster;
use kvd_tests::http;
use serde_json::json;

use super::session::{CHEAP, Session, one_member};

const PATIENCE: Duration = Duration::from_secs(30);

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

/// The beginning of the answer to a POST: until its first line of content, or its end.
fn first_line(address: &str, path: &str, token: Option<&str>, body: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let token = token.map_or_else(String::new, |token| format!("Authorization: {token}\r\n"));
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: {address}\r\n{token}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let read = stream.read(&mut piece)?;
        answer.extend_from_slice(&piece[..read]);
        let text = String::from_utf8_lossy(&answer);
        let content = text.split_once("\r\n\r\n").map(|(_, content)| content);
        // Errors have no line end; they come whole.
        let is_whole = content.is_some_and(|content| {
            content.contains("}\n") || (content.contains("\"message\"") && content.contains('}'))
        });
        if read == 0 || is_whole {
            return Ok(text.into_owned());
        }
    }
}

/// The streams of the gateway by every kind of caller, as the table of the RPCs has them by gRPC.
#[tokio::test(flavor = "multi_thread")]
async fn streams_of_the_gateway_admit_whom_they_should() -> Result<()> {
    let (cluster, root, plain) = one_member().await?;
    let member = &cluster.members[0];
    root.add_role("exact").await?;
    root.permit("exact", Type::Readwrite, "k", "").await?;
    root.permit("exact", Type::Readwrite, "k/", "k0").await?;
    root.add_user("exact", "exact").await?;
    let exact = Session::of(member, "exact").await?;
    let grant = LeaseGrantRequest { ttl: 600, id: 77 };
    root.lease().lease_grant(root.with(grant)).await?;
    let put = PutRequest {
        key: "k".into(),
        lease: 77,
        ..PutRequest::default()
    };
    root.kv().put(root.with(put)).await?;
    // Who leads the election `k`.
    exact.put("k/1", "leader").await?;

    let (empty, invalid, denied) = (
        "user name is empty",
        "invalid auth token",
        "permission denied",
    );
    let callers = [
        ("no token", None),
        ("a wrong token", Some("abcdefghijklmnop.1".to_owned())),
        ("no permission", plain.token.clone()),
        ("the permission", exact.token.clone()),
        ("root", root.token.clone()),
    ];
    let address = member.client_address();
    for (path, body, answers) in [
        (
            "/v3/watch",
            r#"{"create_request":{"key":"aw=="}}"#,
            [
                empty,
                invalid,
                denied,
                "\"created\":true",
                "\"created\":true",
            ],
        ),
        (
            "/v3/lease/keepalive",
            r#"{"ID":"77"}"#,
            [empty, invalid, denied, "\"TTL\":\"600\"", "\"TTL\":\"600\""],
        ),
        (
            "/v3/election/observe",
            r#"{"name":"aw=="}"#,
            [empty, invalid, denied, "bGVhZGVy", "bGVhZGVy"],
        ),
        (
            "/v3/maintenance/snapshot",
            "{}",
            [empty, invalid, denied, denied, "\"blob\""],
        ),
    ] {
        for ((caller, token), wanted) in callers.iter().zip(answers) {
            let answer = first_line(&address, path, token.as_deref(), body)?;
            ensure!(answer.contains(wanted), "{path} with {caller}: {answer}");
            let refused = [empty, invalid, denied];
            let is_refused = refused.iter().any(|text| answer.contains(text));
            ensure!(
                is_refused == refused.contains(&wanted),
                "{path} with {caller}: {answer}"
            );
        }
    }
    Ok(())
}

/// A GET of `path`, whose answer comes later.
fn ask(address: &str, path: &str, headers: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}\r\n"
    )?;
    // The head comes at once: the watch has begun.
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    Ok(stream)
}

/// All that is left of an answer.
fn rest(mut stream: TcpStream) -> Result<String> {
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// A watch of before the users, and a request that is sent slowly, are no ways around them.
#[tokio::test(flavor = "multi_thread")]
async fn v2_watches_and_writes_end_with_what_was_shown_for_them() -> Result<()> {
    let arguments = [CHEAP[0], CHEAP[1], "--enable-v2=true"];
    let cluster = Cluster::start(1, &arguments).await?;
    let member = &cluster.members[0];
    let address = member.client_address();
    let watch = "/v2/keys/?wait=true&stream=true&recursive=true";
    let of_anybody = ask(&address, watch, "")?;
    let root = Session::enable(member).await?;
    let shown = "Authorization: Basic cm9vdDpwdw==\r\n";
    let of_root = ask(&address, watch, shown)?;
    let mut slow = TcpStream::connect(&address)?;
    slow.set_read_timeout(Some(PATIENCE))?;
    write!(
        slow,
        "PUT /v2/keys/late HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{shown}\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 7\r\n\r\nval"
    )?;
    let put = |password: &str, value: &str| {
        let headers = format!(
            "Authorization: Basic {password}\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        );
        http::request_with(&address, "PUT", "/v2/keys/a", &headers, value)
    };
    assert_eq!(put("cm9vdDpwdw==", "value=first")?.status, 201);
    let text = rest(of_anybody)?;
    ensure!(!text.contains("first"), "{text}");
    let change = AuthUserChangePasswordRequest {
        name: "root".into(),
        password: "new".into(),
        ..AuthUserChangePasswordRequest::default()
    };
    root.auth().user_change_password(root.with(change)).await?;
    assert_eq!(put("cm9vdDpuZXc=", "value=second")?.status, 200);
    let text = rest(of_root)?;
    ensure!(text.contains("first") && !text.contains("second"), "{text}");
    slow.write_all(b"ue=2")?;
    let text = rest(slow)?;
    ensure!(text.starts_with("HTTP/1.1 401 "), "{text}");
    Ok(())
}

/// v2 has no users: while v3's are in force it is for root alone.
#[tokio::test(flavor = "multi_thread")]
async fn v2_is_for_root_alone_while_auth_is_on() -> Result<()> {
    let arguments = [CHEAP[0], CHEAP[1], "--enable-v2=true"];
    let cluster = Cluster::start(1, &arguments).await?;
    let member = &cluster.members[0];
    let address = member.client_address();
    let put = |headers: &str| {
        let headers = format!("{headers}Content-Type: application/x-www-form-urlencoded\r\n");
        http::request_with(&address, "PUT", "/v2/keys/a", &headers, "value=v")
    };
    assert_eq!(put("")?.status, 201, "anybody while it is off");
    let root = Session::enable(member).await?;
    root.add_role("staff").await?;
    root.permit("staff", Type::Readwrite, "\0", "\0").await?;
    root.add_user("alice", "staff").await?;
    let token = root.token.clone().context("root's token")?;
    let (root, wrong, alice) = ("cm9vdDpwdw==", "cm9vdDp3cm9uZw==", "YWxpY2U6cHc=");
    for (caller, headers) in [
        ("nobody", String::new()),
        (
            "a wrong password",
            format!("Authorization: Basic {wrong}\r\n"),
        ),
        ("another user", format!("Authorization: Basic {alice}\r\n")),
        ("a token", format!("Authorization: {token}\r\n")),
        ("nonsense", "Authorization: Basic !\r\n".to_owned()),
    ] {
        let reply = put(&headers)?;
        assert_eq!(reply.status, 401, "{caller}: {reply:?}");
        assert_eq!(
            reply.json()?["errorCode"],
            json!(110),
            "{caller}: {reply:?}"
        );
        for path in ["/v2/keys/a", "/v2/keys/a?wait=true", "/v2/members"] {
            let reply = http::request_with(&address, "GET", path, &headers, "")?;
            assert_eq!(reply.status, 401, "{path} by {caller}: {reply:?}");
        }
    }
    let headers = format!("Authorization: Basic {root}\r\n");
    assert_eq!(put(&headers)?.status, 200);
    let reply = http::request_with(&address, "GET", "/v2/keys/a", &headers, "")?;
    assert_eq!(reply.json()?["node"]["value"], json!("v"));
    let reply = http::request_with(&address, "GET", "/v2/members", &headers, "")?;
    assert_eq!(reply.status, 200, "{reply:?}");
    Ok(())
}
