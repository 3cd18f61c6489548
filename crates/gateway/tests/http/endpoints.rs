//! Probes, metrics, version, members, CORS and host names as a client sees them.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::fake::{FakeMember, Says, services};
use axum::Router;
use axum::body::Body;
use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use kvd_api::pb::etcdserverpb::AlarmType;
use kvd_gateway::{Options, client_router, metrics_router, peer_router};
use kvd_server::peer_info::PeerInfo;
use tower::ServiceExt;

async fn send(router: Router, request: Request<Body>) -> (u16, HeaderMap, String) {
    let response = router.oneshot(request).await.expect("infallible");
    let (parts, body) = response.into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    let body = String::from_utf8(body.to_vec()).expect("text");
    (parts.status.as_u16(), parts.headers, body)
}

fn request(method: &str, uri: &str) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(uri)
        .body(Body::empty())
        .expect("a request")
}

fn client(member: &Arc<FakeMember>) -> Router {
    client_router(services(), member.clone(), None, Options::default())
}

async fn get(router: Router, uri: &str) -> (u16, String) {
    let (status, _, body) = send(router, request("GET", uri)).await;
    (status, body)
}

#[tokio::test(start_paused = true)]
async fn health_says_why_not() {
    type Case = (&'static str, fn(&mut Says), &'static str);
    let cases: [Case; 11] = [
        ("/health", |_| {}, ""),
        (
            "/health",
            |s| s.alarms = vec![AlarmType::Nospace],
            "ALARM NOSPACE",
        ),
        (
            "/health",
            |s| s.alarms = vec![AlarmType::Corrupt],
            "ALARM CORRUPT",
        ),
        (
            "/health?exclude=NOSPACE",
            |s| s.alarms = vec![AlarmType::Nospace],
            "",
        ),
        (
            "/health?exclude=NOSPACE",
            |s| s.alarms = vec![AlarmType::Nospace, AlarmType::Corrupt],
            "ALARM CORRUPT",
        ),
        (
            "/health?exclude=NOSPACE&exclude=CORRUPT",
            |s| s.alarms = vec![AlarmType::Nospace, AlarmType::Corrupt],
            "",
        ),
        ("/health", |s| s.leader = 0, "RAFT NO LEADER"),
        ("/health?serializable=true", |s| s.leader = 0, ""),
        (
            "/health",
            |s| s.linearizable = Some(Err("etcdserver: request timed out".into())),
            "RANGE ERROR:etcdserver: request timed out",
        ),
        // A read that never answers is a failure within the request timeout.
        (
            "/health",
            |s| s.linearizable = None,
            "RANGE ERROR:context deadline exceeded",
        ),
        (
            "/health?serializable=true",
            |s| s.serializable = None,
            "RANGE ERROR:context deadline exceeded",
        ),
    ];
    for (uri, change, reason) in cases {
        let member = FakeMember::healthy();
        member.change(change);
        let (status, headers, body) = send(client(&member), request("GET", uri)).await;
        let want = match reason {
            "" => (200, r#"{"health":"true","reason":""}"#.to_string()),
            why => (
                503,
                format!("{{\"health\":\"false\",\"reason\":\"{why}\"}}\n"),
            ),
        };
        assert_eq!((status, body), want, "{uri} {reason}");
        assert_eq!(headers["content-type"], "text/plain; charset=utf-8");
        assert_eq!(
            member.take_counted(),
            [format!("health {}", reason.is_empty())]
        );
    }
}

#[tokio::test(start_paused = true)]
async fn probes_list_their_checks() {
    let member = FakeMember::healthy();
    let all = "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n\
               [+]non_learner ok\n";
    let ok = |uri: &'static str, lines: &str| (uri, 200, format!("{lines}ok\n"));
    for (uri, status, want) in [
        ok("/livez", ""),
        ok("/livez?verbose", "[+]serializable_read ok\n"),
        ok("/readyz", ""),
        ok("/readyz?verbose", all),
        ok(
            "/readyz?verbose&exclude=data_corruption&exclude=no_such",
            &all[22..],
        ),
        ok("/livez?verbose&exclude=serializable_read", ""),
        ok("/readyz/non_learner?verbose", "[+]non_learner ok\n"),
        ok(
            "/livez/serializable_read?verbose&exclude=serializable_read",
            "[+]serializable_read ok\n",
        ),
        ("/readyz/no_such", 404, "404 page not found\n".to_string()),
    ] {
        assert_eq!(get(client(&member), uri).await, (status, want), "{uri}");
    }
    member.take_counted();
    member.change(|says| {
        says.alarms = vec![AlarmType::Corrupt];
        says.is_learner = true;
        says.linearizable = None;
        says.serializable = Some(Err("the store is closed".into()));
    });
    let (status, headers, body) = send(client(&member), request("GET", "/readyz")).await;
    assert_eq!(status, 503);
    assert_eq!(headers["x-content-type-options"], "nosniff");
    let want = "[-]data_corruption failed: alarm activated: CORRUPT\n\
                [-]serializable_read failed: the store is closed\n\
                [-]linearizable_read failed: context deadline exceeded\n\
                [-]non_learner failed: not supported for learner\n\n";
    assert_eq!(body, want);
    let want = [
        "readyz data_corruption false",
        "readyz serializable_read false",
        "readyz linearizable_read false",
        "readyz non_learner false",
    ];
    assert_eq!(member.take_counted(), want);
    assert_eq!(
        get(client(&member), "/livez/serializable_read").await.0,
        503
    );
    // Lack of space stops no reads.
    let member = FakeMember::healthy();
    member.change(|says| says.alarms = vec![AlarmType::Nospace]);
    assert_eq!(get(client(&member), "/readyz").await.0, 200);
}

#[tokio::test]
async fn version_and_vars_have_etcds_shape() {
    let member = FakeMember::healthy();
    let undecided = r#"{"etcdserver":"3.7.1","etcdcluster":"not_decided","storage":"unknown"}"#;
    assert_eq!(
        get(client(&member), "/version").await,
        (200, undecided.into())
    );
    member.change(|says| says.cluster_version = Some("3.7.0".into()));
    let decided = r#"{"etcdserver":"3.7.1","etcdcluster":"3.7.0","storage":"unknown"}"#;
    assert_eq!(
        get(peer_router(member.clone()), "/version").await,
        (200, decided.into())
    );
    let (status, vars) = get(client(&member), "/debug/vars").await;
    assert_eq!(status, 200);
    let vars: serde_json::Value = serde_json::from_str(&vars).expect("JSON");
    assert_eq!(vars["file_descriptor_limit"], 1024);
    assert_eq!(vars["memstats"]["Sys"], 2000);
    assert_eq!(vars["memstats"]["Alloc"], 1000);
    assert!(vars["cmdline"][0].is_string());
}

#[tokio::test]
async fn profiles_are_off_and_those_of_go_are_refused_by_name() {
    let member = FakeMember::healthy();
    let paths = ["/debug/pprof/", "/debug/pprof/cmdline", "/debug/pprof/heap"];
    for path in paths {
        assert_eq!(get(client(&member), path).await.0, 404, "{path}");
    }
    let options = Options {
        pprof: true,
        ..Options::default()
    };
    let router = client_router(services(), member.clone(), None, options);
    let (status, page) = get(router.clone(), "/debug/pprof/").await;
    assert_eq!(status, 200);
    assert!(page.contains("resident memory: 2000 bytes"), "{page}");
    let (status, words) = get(router.clone(), "/debug/pprof/cmdline").await;
    let own = std::env::args().next().expect("the program");
    assert_eq!((status, words.split('\0').next()), (200, Some(&*own)));
    for (path, status) in [("heap", 501), ("profile", 501), ("nothing", 404)] {
        let got = get(router.clone(), &format!("/debug/pprof/{path}")).await;
        assert_eq!(got.0, status, "{path}: {}", got.1);
    }
    let post = send(router, request("POST", "/debug/pprof/heap")).await;
    assert_eq!(post.0, 405);
}

#[tokio::test]
async fn other_methods_than_get_are_refused() {
    let member = FakeMember::healthy();
    for uri in [
        "/version",
        "/health",
        "/livez",
        "/readyz/non_learner",
        "/debug/vars",
    ] {
        for method in ["POST", "HEAD", "DELETE"] {
            let (status, headers, _) = send(client(&member), request(method, uri)).await;
            assert_eq!(status, 405, "{method} {uri}");
            assert_eq!(headers["allow"], "GET", "{method} {uri}");
        }
    }
    let (status, headers, body) = send(peer_router(member), request("POST", "/members")).await;
    assert_eq!((status, body.as_str()), (405, "Method Not Allowed\n"));
    assert_eq!(headers["allow"], "GET");
}

#[tokio::test]
async fn a_path_that_is_not_clean_is_told_where_it_leads() {
    let member = FakeMember::healthy();
    for (method, uri, want) in [
        ("GET", "//health", "/health"),
        ("GET", "/x/../version?a=b", "/version?a=b"),
        ("POST", "//v3/kv/range", "/v3/kv/range"),
        ("POST", "/v3//kv/range", "/v3/kv/range"),
    ] {
        let (status, headers, _) = send(client(&member), request(method, uri)).await;
        assert_eq!(status, 307, "{uri}");
        assert_eq!(headers["location"], want, "{uri}");
    }
}

#[tokio::test]
async fn a_port_for_monitoring_has_probes_and_metrics_only() {
    let member = FakeMember::healthy();
    let (status, headers, body) = send(
        metrics_router(services(), member.clone(), true),
        request("GET", "/metrics"),
    )
    .await;
    assert_eq!((status, body.as_str()), (200, "up 1\n"));
    assert_eq!(
        headers["content-type"],
        "text/plain; version=0.0.4; charset=utf-8"
    );
    for (uri, status) in [
        ("/health", 200),
        ("/livez", 200),
        ("/readyz/non_learner", 200),
        ("/version", 404),
        ("/v3/kv/range", 404),
        ("/debug/vars", 404),
    ] {
        assert_eq!(
            get(metrics_router(services(), member.clone(), true), uri)
                .await
                .0,
            status,
            "{uri}"
        );
    }
}

#[tokio::test]
async fn the_peer_port_lists_the_members() {
    let (status, headers, body) = send(
        peer_router(FakeMember::healthy()),
        request("GET", "/members"),
    )
    .await;
    assert_eq!(status, 200);
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(headers["x-etcd-cluster-id"], "8c2ff40632fd55ca");
    let first = r#"{"id":10221683743416816908,"peerURLs":["http://127.0.0.1:2380"],"name":"default","clientURLs":["http://127.0.0.1:2379"]}"#;
    let second = r#"{"id":2,"peerURLs":["http://b:2380"],"isLearner":true}"#;
    assert_eq!(body, format!("[{first},{second}]\n"));
}

#[tokio::test]
async fn the_peer_port_hashes_and_tells_of_downgrades_and_removals() {
    let member = FakeMember::healthy();
    let asked = |id: &str, body: &'static str| {
        let request = Request::builder()
            .uri("/members/hashkv")
            .header("x-etcd-cluster-id", id)
            .body(Body::from(body))
            .expect("a request");
        send(peer_router(member.clone()), request)
    };
    let (status, headers, body) = asked("8c2ff40632fd55ca", r#"{"revision":3}"#).await;
    assert_eq!(headers["x-etcd-cluster-id"], "8c2ff40632fd55ca");
    let hash: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    let wanted = serde_json::json!({"header": {"revision": 5}, "hash": 4_000_000_000_u32,
        "compact_revision": -1, "hash_revision": 3});
    assert_eq!((status, hash), (200, wanted));
    for (id, body, status, text) in [
        ("", "{}", 200, "\"hash_revision\":5"),
        ("abc", "{}", 412, "cluster ID mismatch\n"),
        ("", "[", 400, "error unmarshalling request\n"),
        (
            "",
            r#"{"revision":"a"}"#,
            400,
            "error unmarshalling request\n",
        ),
        (
            "",
            r#"{"revision":9}"#,
            400,
            "mvcc: required revision is a future revision\n",
        ),
    ] {
        let answer = asked(id, body).await;
        assert_eq!(answer.0, status, "{body}");
        assert!(answer.2.contains(text), "{body}: {}", answer.2);
    }
    let downgrade = || get(peer_router(member.clone()), "/downgrade/enabled");
    assert_eq!(downgrade().await, (200, "false".into()));
    member.change(|says| says.linearizable = Some(Err("no leader".into())));
    let failed = "failed linearized read: no leader\n";
    assert_eq!(downgrade().await, (500, failed.into()));
    for (id, status) in [("dead", 410), ("1", 200)] {
        let request = Request::builder()
            .uri("/members")
            .header("x-server-from", id)
            .body(Body::empty())
            .expect("a request");
        let (found, headers, _) = send(peer_router(member.clone()), request).await;
        assert_eq!(found, status);
        assert!(headers.contains_key("x-kvd-version"));
    }
}

#[tokio::test]
async fn pages_are_told_whether_they_may_read() {
    let allow = "access-control-allow-origin";
    let member = FakeMember::healthy();
    let (status, headers, body) = send(client(&member), request("OPTIONS", "/no/such/path")).await;
    assert_eq!((status, body.as_str()), (200, ""));
    assert_eq!(headers[allow], "*");
    assert_eq!(
        headers["access-control-allow-methods"],
        "POST, GET, OPTIONS, PUT, DELETE"
    );
    assert_eq!(
        headers["access-control-allow-headers"],
        "accept, content-type, authorization"
    );
    let options = Options {
        cors: BTreeSet::from(["http://good".to_string()]),
        ..Options::default()
    };
    for (origin, want) in [("http://good", Some("http://good")), ("http://evil", None)] {
        let router = client_router(services(), member.clone(), None, options.clone());
        let mut request = request("GET", "/version");
        request
            .headers_mut()
            .insert("origin", origin.parse().expect("a header value"));
        let (status, headers, _) = send(router, request).await;
        assert_eq!(status, 200);
        assert_eq!(
            headers.get(allow).map(|value| value.as_bytes()),
            want.map(str::as_bytes)
        );
    }
}

#[tokio::test]
async fn unknown_host_names_are_refused_without_tls() {
    let member = FakeMember::healthy();
    let hosts = BTreeSet::from(["good.example".to_string()]);
    let options = Options {
        host_whitelist: hosts,
        ..Options::default()
    };
    for (host, secure, status) in [
        ("good.example:2379", false, 200),
        ("evil.example:2379", false, 421),
        ("evil.example", true, 200),
    ] {
        let router = client_router(services(), member.clone(), None, options.clone());
        let mut request = request("GET", "/version");
        request.extensions_mut().insert(PeerInfo {
            tls: secure,
            ..PeerInfo::default()
        });
        request
            .headers_mut()
            .insert("host", host.parse().expect("a header value"));
        let (got, _, body) = send(router, request).await;
        assert_eq!(got, status, "{host}");
        if status == 421 {
            assert!(body.contains("--host-whitelist \"evil.example\""), "{body}");
        }
    }
}
