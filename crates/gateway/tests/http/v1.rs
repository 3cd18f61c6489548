//! `/v1/members`, and the page on either port.

use std::convert::Infallible;

use axum::Router;
use axum::body::Body;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use kvd_api::error::WireError;
use kvd_gateway::{Options, client_router, metrics_router};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::fake::FakeMember;

/// Services that let in whoever has the token `good`, to `Maintenance.Status` alone.
async fn guarded(
    request: Request<tonic::body::Body>,
) -> Result<Response<tonic::body::Body>, Infallible> {
    assert_eq!(request.uri().path(), "/etcdserverpb.Maintenance/Status");
    let token = request.headers().get("authorization");
    let refusal: tonic::Status = match token.map(|token| token.as_bytes()) {
        Some(b"good") => {
            let mut response = Response::new(tonic::body::Body::empty());
            let ok = http::HeaderValue::from_static("0");
            response.headers_mut().insert("grpc-status", ok);
            return Ok(response);
        }
        Some(_) => WireError::InvalidAuthToken.into(),
        None => WireError::UserNameIsEmpty.into(),
    };
    Ok(refusal.into_http())
}

fn client(options: Options) -> Router {
    let service = tower::service_fn(guarded);
    client_router(service, FakeMember::healthy(), None, options)
}

fn monitoring(ui: bool) -> Router {
    metrics_router(tower::service_fn(guarded), FakeMember::healthy(), ui)
}

async fn send(
    router: Router,
    method: &str,
    path: &str,
    token: Option<&str>,
) -> (u16, HeaderMap, String) {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(token) = token {
        request = request.header("authorization", token);
    }
    let request = request.body(Body::empty()).expect("a request");
    let response = router.oneshot(request).await.expect("infallible");
    let (parts, body) = response.into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    let body = String::from_utf8(body.to_vec()).expect("text");
    (parts.status.as_u16(), parts.headers, body)
}

#[tokio::test]
async fn members_are_told_to_who_may_ask_for_the_status() {
    for router in [client(Options::default()), monitoring(true)] {
        let ask = |token| send(router.clone(), "GET", "/v1/members", token);
        let (status, _, body) = ask(None).await;
        assert_eq!(status, 400, "{body}");
        assert!(body.contains("user name is empty"), "{body}");
        let (status, _, body) = ask(Some("bad")).await;
        assert_eq!(status, 401, "{body}");
        let (status, headers, body) = ask(Some("good")).await;
        assert_eq!(status, 200, "{body}");
        assert_eq!(headers["content-type"], "application/json");
        assert_eq!(headers["cache-control"], "no-store");
        let (status, _, _) = send(router.clone(), "POST", "/v1/members", Some("good")).await;
        assert_eq!(status, 405);
    }
}

#[tokio::test]
async fn members_are_told_with_lag_alarms_and_problems() {
    let (_, _, body) = send(
        client(Options::default()),
        "GET",
        "/v1/members",
        Some("good"),
    )
    .await;
    let body: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(body["cluster_id"], "8c2ff40632fd55ca");
    assert_eq!(body["member_id"], "7");
    assert_eq!(body["leader_id"], "7");
    assert_eq!(
        body["alarms"],
        json!([{ "member_id": "8", "alarm": "NOSPACE" }])
    );
    let members = body["members"].as_array().expect("a list");
    let field = |name: &str| members.iter().map(|m| m[name].clone()).collect::<Vec<_>>();
    assert_eq!(field("role"), ["leader", "follower", "learner"]);
    assert_eq!(field("healthy"), [true, false, false]);
    assert_eq!(field("lag"), [json!(0), json!(3), Value::Null]);
    // An alarm is a problem of the member that raised it.
    let problems = [
        json!([]),
        json!(["alarm NOSPACE"]),
        json!(["cannot connect"]),
    ];
    assert_eq!(field("problems"), problems);
    assert_eq!(members[0]["version"], "3.7.1");
    assert_eq!(members[0]["kvd_version"], "0.1.0");
    assert_eq!(members[0]["revision"], 4);
}

#[tokio::test]
async fn the_page_is_there_unless_it_is_switched_off() {
    let off = Options {
        ui_enabled: false,
        ..Options::default()
    };
    for path in ["/ui", "/ui/", "/ui/app.js", "/ui/port.json"] {
        assert_eq!(
            send(client(off.clone()), "GET", path, None).await.0,
            404,
            "{path}"
        );
        assert_eq!(
            send(monitoring(false), "GET", path, None).await.0,
            404,
            "{path}"
        );
        for router in [client(Options::default()), monitoring(true)] {
            let (status, headers, _) = send(router, "GET", path, None).await;
            assert!(matches!(status, 200 | 308), "{path}: {status}");
            let policy = headers["content-security-policy"].to_str().expect("text");
            assert!(policy.starts_with("default-src 'none'"), "{policy}");
        }
    }
    assert_eq!(
        send(monitoring(false), "GET", "/v1/members", Some("good"))
            .await
            .0,
        404
    );
    let described = |router| async {
        let (_, _, body) = send(router, "GET", "/ui/port.json", None).await;
        serde_json::from_str::<Value>(&body).expect("JSON")["gateway"].clone()
    };
    assert_eq!(described(client(Options::default())).await, true);
    assert_eq!(described(monitoring(true)).await, false);
    let no_gateway = Options {
        gateway_enabled: false,
        ..Options::default()
    };
    assert_eq!(described(client(no_gateway)).await, false);
}
