//! The JSON gateway as a client sees it, over services that are real but for what they do.

use crate::fake::{FakeMember, services};
use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use kvd_gateway::{Options, client_router};
use kvd_server::peer_info::PeerInfo;
use tower::ServiceExt;

fn router() -> Router {
    client_router(services(), FakeMember::healthy(), None, Options::default())
}

/// Sends a request, and returns the status, the headers and the body.
async fn send(router: Router, request: Request<Body>) -> (StatusCode, HeaderMap, String) {
    let response = router.oneshot(request).await.expect("infallible");
    let (parts, body) = response.into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    (
        parts.status,
        parts.headers,
        String::from_utf8(body.to_vec()).expect("text"),
    )
}

/// Posts `body` to `path`, and returns the status and the body.
async fn post(path: &str, body: impl Into<Body>) -> (u16, String) {
    let request = Request::post(path).body(body.into()).expect("a request");
    let (status, _, body) = send(router(), request).await;
    (status.as_u16(), body)
}

#[tokio::test]
async fn a_unary_call_has_etcds_body_and_headers() {
    for path in ["/v3/kv/range", "/v3beta/kv/range"] {
        let request = Request::post(path)
            .body(r#"{"key":"Zm9v"}"#.into())
            .expect("a request");
        let (status, headers, body) = send(router(), request).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(headers["content-type"], "application/json");
        assert_eq!(headers["grpc-metadata-content-type"], "application/grpc");
        assert_eq!(headers["access-control-allow-origin"], "*");
        assert_eq!(
            body,
            r#"{"header":{"cluster_id":"1","member_id":"18446744073709551615","revision":"2","raft_term":"3"},"kvs":[{"key":"Zm9v","mod_revision":"9223372036854775807"}],"count":"1"}"#
        );
    }
}

#[tokio::test]
async fn errors_have_etcds_status_and_body() {
    let (range, nothing) = ("/v3/kv/range", Body::empty);
    let not_found = r#"{"code":5,"message":"Not Found"}"#;
    for (path, body, status, want) in [
        (
            range,
            nothing(),
            400,
            r#"{"code":3,"message":"etcdserver: key is not provided"}"#,
        ),
        (
            range,
            "{}".into(),
            400,
            r#"{"code":3,"message":"etcdserver: key is not provided"}"#,
        ),
        (
            range,
            "{".into(),
            400,
            r#"{"code":3,"message":"unexpected EOF"}"#,
        ),
        (
            "/v3/kv/txn",
            nothing(),
            500,
            "{\"code\":2,\"message\":\"100% na\u{ef}ve\\n\\\"quoted\\\"\"}",
        ),
        ("/v3/nope", nothing(), 404, not_found),
        ("/v3/", nothing(), 404, not_found),
        ("/v3/kv/range/", nothing(), 404, not_found),
        ("/v3alpha/kv/range", nothing(), 404, "404 page not found\n"),
        ("/v2/keys/a", nothing(), 404, "404 page not found\n"),
    ] {
        assert_eq!(post(path, body).await, (status, want.to_string()), "{path}");
    }
    // A service that is not there at all.
    let (status, body) = post("/v3/lease/grant", "{}").await;
    assert_eq!(status, 501);
    assert!(body.starts_with(r#"{"code":12,"message":"#), "{body}");
}

#[tokio::test]
async fn bad_credentials_are_a_challenge() {
    let request = Request::post("/v3/kv/deleterange")
        .body(Body::empty())
        .expect("a request");
    let (status, headers, body) = send(router(), request).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert_eq!(
        headers["www-authenticate"],
        "etcdserver: invalid auth token"
    );
    assert_eq!(
        body,
        r#"{"code":16,"message":"etcdserver: invalid auth token"}"#
    );
    assert!(!headers.contains_key("grpc-metadata-content-type"));
}

#[tokio::test]
async fn rpcs_are_called_with_post_only() {
    for method in ["GET", "PUT", "HEAD", "DELETE"] {
        let request = Request::builder().method(method).uri("/v3/kv/range");
        let (status, _, body) =
            send(router(), request.body(Body::empty()).expect("a request")).await;
        assert_eq!(status, StatusCode::NOT_IMPLEMENTED, "{method}");
        if method != "HEAD" {
            assert_eq!(body, r#"{"code":12,"message":"Method Not Allowed"}"#);
        }
    }
}

#[tokio::test]
async fn credentials_and_metadata_reach_the_service() {
    let request = Request::post("/v3/kv/range")
        .header("authorization", "secret")
        .header("grpc-metadata-hasleader", "true")
        .header("cookie", "crumbs")
        .body(r#"{"key":"Zm9v"}"#.into())
        .expect("a request");
    let (_, _, body) = send(router(), request).await;
    // Base64 of the names and values: authorization=secret, hasleader=true, and no cookie.
    assert!(body.contains(r#""key":"YXV0aG9yaXphdGlvbg==","version":"1","value":"c2VjcmV0""#));
    assert!(body.contains(r#""key":"aGFzbGVhZGVy","version":"1","value":"dHJ1ZQ==""#));
    assert!(body.contains(r#""count":"3""#), "{body}");
}

#[tokio::test(start_paused = true)]
async fn a_call_ends_with_its_timeout() {
    for (timeout, status, text) in [
        (
            "1S",
            StatusCode::GATEWAY_TIMEOUT,
            r#"{"code":4,"message":"context deadline exceeded"}"#,
        ),
        (
            "soon",
            StatusCode::BAD_REQUEST,
            r#"{"code":3,"message":"invalid grpc-timeout: soon"}"#,
        ),
    ] {
        let request = Request::post("/v3/kv/compaction")
            .header("grpc-timeout", timeout)
            .body(Body::empty())
            .expect("a request");
        let (got, _, body) = send(router(), request).await;
        assert_eq!((got, body.as_str()), (status, text));
    }
}

#[tokio::test]
async fn bodies_are_bounded() {
    let put = |value_bytes: usize| {
        // Base64: every four characters are three bytes of value.
        let value = "AAAA".repeat(value_bytes / 3);
        post(
            "/v3/kv/put",
            format!("{{\"key\":\"YQ==\",\"value\":\"{value}\"}}"),
        )
    };
    // etcd's default takes a message of 2 MiB.
    let (status, body) = put(2_097_135).await;
    assert_eq!(
        (status, body.as_str()),
        (200, r#"{"header":{"revision":"2097135"}}"#)
    );
    let (status, body) = put(2_097_150).await;
    let want =
        r#"{"code":8,"message":"grpc: received message larger than max (2097157 vs. 2097152)"}"#;
    assert_eq!((status, body.as_str()), (429, want));
    // What cannot be within bounds in any case is not even read to its end.
    let chunks =
        std::iter::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[b' '; 4096])));
    let endless = Body::from_stream(tokio_stream::iter(chunks));
    let (status, body) = post("/v3/kv/put", endless).await;
    let want = r#"{"code":8,"message":"request body is larger than max (4194304 bytes)"}"#;
    assert_eq!((status, body.as_str()), (429, want));
    let chunks =
        std::iter::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[b' '; 4096])));
    let (status, body) = post("/v3/watch", Body::from_stream(tokio_stream::iter(chunks))).await;
    assert_eq!((status, body.as_str()), (429, want));
}

#[tokio::test]
async fn replies_of_a_stream_are_lines() {
    let request = Request::post("/v3/election/observe")
        .body("{}".into())
        .expect("a request");
    let (status, headers, body) = send(router(), request).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(headers["grpc-metadata-content-type"], "application/grpc");
    let want =
        "{\"result\":{\"kv\":{\"key\":\"YQ==\"}}}\n{\"result\":{\"kv\":{\"key\":\"Yg==\"}}}\n";
    assert_eq!(body, want);
    // An error before the first reply sets the status; "YmFk" is "bad".
    let (status, body) = post("/v3/election/observe", r#"{"name":"YmFk"}"#).await;
    let want = "{\"error\":{\"code\":3,\"message\":\"etcdserver: user name is empty\"}}\n";
    assert_eq!((status, body.as_str()), (400, want));
    let (status, body) = post("/v3/maintenance/snapshot", "").await;
    assert_eq!(status, 501);
    assert!(body.starts_with(r#"{"error":{"code":12,"#), "{body}");
}

#[tokio::test]
async fn requests_of_a_stream_are_objects_in_a_row() {
    let line = |id| format!("{{\"result\":{{\"watch_id\":\"{id}\",\"created\":true}}}}\n");
    let create = |id| format!("{{\"create_request\":{{\"watch_id\":{id}}}}}");
    let (status, body) = post("/v3/watch", create(1) + " \n" + &create(2)).await;
    assert_eq!((status, body), (200, line(1) + &line(2)));
    // The stream's own error comes after what went before it.
    let (status, body) = post("/v3/watch", create(1) + &create(13) + &create(2)).await;
    let error = "{\"error\":{\"code\":14,\"message\":\"etcdserver: no leader\"}}\n";
    assert_eq!((status, body), (200, line(1) + error));
    // A request that cannot be read: the first is refused, a later one ends the requests.
    let (status, body) = post("/v3/watch", r#"{"create_request":{"watch_id":"x"}}"#).await;
    assert_eq!(status, 400);
    assert!(
        body.contains("invalid value for int64 field watch_id"),
        "{body}"
    );
    let (status, body) = post("/v3/watch", create(1) + "{\"bad\":").await;
    assert_eq!((status, body), (200, line(1)));
    // No request at all: the service sees the end of the stream.
    assert_eq!(post("/v3/watch", "").await, (200, String::new()));
}

#[tokio::test]
async fn a_stream_answers_while_its_requests_still_come() {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, std::io::Error>>(1);
    let body = Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(receiver));
    let request = Request::post("/v3/watch").body(body).expect("a request");
    let answer = tokio::spawn(router().oneshot(request));
    let send = |text: &'static str| sender.send(Ok(Bytes::from_static(text.as_bytes())));
    send("{\"create_request\":{\"watch")
        .await
        .expect("the gateway reads");
    send("_id\":5}}").await.expect("the gateway reads");
    let mut body = answer
        .await
        .expect("no panic")
        .expect("infallible")
        .into_body();
    let mut next = async || {
        let frame = body.frame().await.expect("a line").expect("no error");
        String::from_utf8(frame.into_data().expect("data").to_vec()).expect("text")
    };
    assert_eq!(
        next().await,
        "{\"result\":{\"watch_id\":\"5\",\"created\":true}}\n"
    );
    send("{\"create_request\":{\"watch_id\":6}}")
        .await
        .expect("the gateway reads");
    assert_eq!(
        next().await,
        "{\"result\":{\"watch_id\":\"6\",\"created\":true}}\n"
    );
    // When the client goes away, so does the call: nobody reads requests any more.
    drop(body);
    sender.closed().await;
}

#[tokio::test]
async fn a_body_that_breaks_off_ends_the_call() {
    let parts = [
        Ok(Bytes::from_static(b"{\"create_request\":{\"watch_id\":5}}")),
        Err(std::io::Error::other("gone")),
    ];
    let (status, body) = post("/v3/watch", Body::from_stream(tokio_stream::iter(parts))).await;
    let want = "{\"result\":{\"watch_id\":\"5\",\"created\":true}}\n\
                {\"error\":{\"code\":2,\"message\":\"gone\"}}\n";
    assert_eq!((status, body.as_str()), (200, want));
}

#[tokio::test]
async fn the_gateway_can_be_switched_off() {
    let options = Options {
        gateway_enabled: false,
        ..Options::default()
    };
    let router = client_router(services(), FakeMember::healthy(), None, options);
    let request = Request::post("/v3/kv/range")
        .body(Body::empty())
        .expect("a request");
    let (status, _, body) = send(router, request).await;
    assert_eq!(
        (status.as_u16(), body.as_str()),
        (404, "404 page not found\n")
    );
}

#[tokio::test]
async fn a_certificate_with_a_name_is_refused_while_auth_is_on() {
    let member = FakeMember::healthy();
    let options = Options {
        client_cert_auth: true,
        ..Options::default()
    };
    for (auth_enabled, name, status) in
        [(false, "alice", 200), (true, "", 200), (true, "alice", 400)]
    {
        member.change(|says| says.auth_enabled = auth_enabled);
        let router = client_router(services(), member.clone(), None, options.clone());
        let request = Request::post("/v3/kv/range")
            .extension(PeerInfo {
                common_name: Some(name.into()),
                tls: true,
                ..PeerInfo::default()
            })
            .body(r#"{"key":"Zm9v"}"#.into())
            .expect("a request");
        let (got, _, body) = send(router, request).await;
        assert_eq!(got.as_u16(), status, "{body}");
    }
}
