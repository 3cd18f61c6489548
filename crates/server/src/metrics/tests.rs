use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body as HttpBody, Frame};
use kvd_raft::Events;
use tonic::body::Body;
use tower::{Layer, Service};

use super::*;

/// Names that etcd's own alerts and dashboards ask for, with those of Prometheus that they use.
const MIXIN: [&str; 25] = [
    "etcd_server_has_leader",
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
    "etcd_network_peer_sent_bytes_total",
    "etcd_network_peer_received_bytes_total",
    "etcd_network_peer_sent_failures_total",
    "etcd_network_peer_round_trip_time_seconds_bucket",
    "grpc_server_started_total",
    "grpc_server_handled_total",
    "grpc_server_handling_seconds_bucket",
    "process_resident_memory_bytes",
    "process_cpu_seconds_total",
    "process_open_fds",
    "process_max_fds",
    "process_start_time_seconds",
];

/// The value of a series; the whole text is shown when it is missing.
fn value(text: &str, series: &str) -> f64 {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{series} ")));
    let line = line.unwrap_or_else(|| panic!("no {series} in\n{text}"));
    line.parse().expect("a number")
}

#[test]
fn everything_that_the_mixin_reads_is_there() {
    let metrics = Metrics::new(Level::Extensive, "3.7.1");
    metrics.peer_sent(0xab, 10);
    metrics.peer_received(0xab, 20);
    metrics.peer_round_trip(0xab, Duration::from_millis(1));
    metrics.peer_failed(0xab);
    let text = metrics.render();
    for name in MIXIN {
        let found = text.lines().any(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(['{', ' ']))
        });
        assert!(found, "{name} is missing");
    }
    assert_eq!(
        value(&text, "etcd_network_peer_sent_bytes_total{To=\"ab\"}"),
        10.0
    );
    assert_eq!(
        value(&text, "etcd_network_peer_received_bytes_total{From=\"ab\"}"),
        20.0
    );
    assert_eq!(
        value(&text, "etcd_server_version{server_version=\"3.7.1\"}"),
        1.0
    );
    assert_eq!(value(&text, "etcd_debugging_mvcc_compact_revision"), -1.0);
    assert!(value(&text, "process_resident_memory_bytes") > 1e6);
    assert!(value(&text, "process_open_fds") >= 3.0);
    assert!(value(&text, "process_start_time_seconds") > 1.6e9);
}

#[test]
fn types_are_etcds_where_the_name_suggests_another() {
    let text = Metrics::new(Level::Basic, "3.7.1").render();
    for (name, kind) in [
        ("etcd_server_proposals_committed_total", "gauge"),
        ("etcd_server_proposals_applied_total", "gauge"),
        ("etcd_disk_wal_write_bytes_total", "gauge"),
        ("etcd_debugging_mvcc_keys_total", "gauge"),
        ("etcd_server_leader_changes_seen_total", "counter"),
        ("process_cpu_seconds_total", "counter"),
    ] {
        assert!(
            text.contains(&format!("# TYPE {name} {kind}\n")),
            "{name} is no {kind}"
        );
    }
    assert!(
        !text.contains("grpc_server_handling_seconds"),
        "only when metrics are extensive"
    );
    // The first and the last bucket of etcd's fsync histogram.
    value(
        &text,
        "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.001\"}",
    );
    value(
        &text,
        "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"8.192\"}",
    );
}

#[test]
fn counts_proposals_status_and_requests() {
    let metrics = Metrics::new(Level::Basic, "3.7.1");
    let pending = metrics.proposal_started();
    assert_eq!(
        value(&metrics.render(), "etcd_server_proposals_pending"),
        1.0
    );
    drop(pending);
    metrics.proposal_failed();
    metrics.leader_changed(Some(5));
    metrics.leader_changed(None);
    let status = kvd_raft::Status {
        leader: Some(5),
        commit_index: 9,
        applied_index: 8,
        voters: vec![5],
        ..kvd_raft::Status::default()
    };
    metrics.raft_status(&status, 5);
    metrics.client_request("/etcdserverpb.KV/Range", "3.7");
    metrics.client_request("/etcdserverpb.Watch/Watch", "unknown");
    for number in 0..2 * API_VERSIONS_MAX {
        metrics.client_request("/etcdserverpb.KV/Range", &format!("made-up-{number}"));
    }
    metrics.client_request("/etcdserverpb.KV/Range", "3.7");
    metrics
        .range_outcomes()
        .observe(false, Duration::from_millis(3));
    metrics.health(true);
    metrics.health_check("readyz", "non_learner", false);
    let text = metrics.render();
    assert_eq!(value(&text, "etcd_server_proposals_pending"), 0.0);
    assert_eq!(value(&text, "etcd_server_proposals_failed_total"), 1.0);
    assert_eq!(value(&text, "etcd_server_leader_changes_seen_total"), 1.0);
    assert_eq!(value(&text, "etcd_server_is_leader"), 1.0);
    assert_eq!(value(&text, "etcd_server_proposals_committed_total"), 9.0);
    assert_eq!(value(&text, "etcd_server_id{server_id=\"5\"}"), 1.0);
    assert_eq!(
        value(&text, "etcd_network_known_peers{Local=\"5\",Remote=\"5\"}"),
        1.0
    );
    let requests = "etcd_server_client_requests_total";
    let labels = "{client_api_version=\"3.7\",type=\"unary\"}";
    assert_eq!(value(&text, &format!("{requests}{labels}")), 2.0);
    let versions = text
        .lines()
        .filter(|line| line.starts_with(requests))
        .count();
    assert!(
        versions <= 2 * (API_VERSIONS_MAX + 1),
        "{versions} series by API version"
    );
    assert_eq!(
        value(
            &text,
            "etcd_server_range_duration_seconds_count{success=\"false\"}"
        ),
        1.0
    );
    assert_eq!(value(&text, "etcd_server_health_success"), 1.0);
    let check =
        "etcd_server_healthchecks_total{name=\"non_learner\",status=\"error\",type=\"readyz\"}";
    assert_eq!(value(&text, check), 1.0);
}

/// Answers every call with the frames it holds.
#[derive(Clone)]
struct Canned(Vec<Bytes>, Option<&'static str>);

impl<B> Service<Request<B>> for Canned {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(
        &mut self,
        _context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _request: Request<B>) -> Self::Future {
        let mut frames: Vec<Result<Frame<Bytes>, Infallible>> = self
            .0
            .iter()
            .cloned()
            .map(|data| Ok(Frame::data(data)))
            .collect();
        if let Some(code) = self.1 {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static(code));
            frames.push(Ok(Frame::trailers(trailers)));
        }
        std::future::ready(Ok(Response::new(Body::new(Frames(frames.into())))))
    }
}

struct Frames(std::collections::VecDeque<Result<Frame<Bytes>, Infallible>>);

impl HttpBody for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        std::task::Poll::Ready(self.0.pop_front())
    }
}

async fn drain(mut body: Body) {
    while let Some(frame) =
        std::future::poll_fn(|context| std::pin::Pin::new(&mut body).poll_frame(context)).await
    {
        frame.expect("the body ends well");
    }
}

#[tokio::test]
async fn counts_rpcs_by_method_and_code() {
    let metrics = Metrics::new(Level::Basic, "3.7.1");
    let message = Bytes::from_static(&[0, 0, 0, 0, 2, 8, 1]);
    let call = |path: &'static str, service: Canned| {
        let mut service = metrics.grpc_layer().layer(service);
        let request = Request::builder()
            .uri(path)
            .body(Body::empty())
            .expect("a request");
        async move { service.call(request).await.expect("infallible").into_body() }
    };
    let range = "/etcdserverpb.KV/Range";
    drain(call(range, Canned(vec![message.clone()], Some("0"))).await).await;
    drain(call(range, Canned(vec![], Some("11"))).await).await;
    drain(call("/etcdserverpb.KV/NoSuch", Canned(vec![], Some("12"))).await).await;
    // A watcher that goes away before the stream ends.
    let watch = call(
        "/etcdserverpb.Watch/Watch",
        Canned(vec![message.clone(), message], None),
    );
    drop(watch.await);
    let text = metrics.render();
    let labels = "grpc_method=\"Range\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"}";
    let handled = |code: &str| {
        value(
            &text,
            &format!("grpc_server_handled_total{{grpc_code=\"{code}\",{labels}"),
        )
    };
    assert_eq!(handled("OK"), 1.0);
    assert_eq!(handled("OutOfRange"), 1.0);
    assert_eq!(handled("Canceled"), 0.0);
    assert_eq!(
        value(&text, &format!("grpc_server_started_total{{{labels}")),
        2.0
    );
    assert_eq!(
        value(&text, &format!("grpc_server_msg_sent_total{{{labels}")),
        1.0
    );
    assert_eq!(
        value(&text, "etcd_network_client_grpc_sent_bytes_total"),
        2.0
    );
    let watch =
        "grpc_method=\"Watch\",grpc_service=\"etcdserverpb.Watch\",grpc_type=\"bidi_stream\"}";
    let canceled = format!("grpc_server_handled_total{{grpc_code=\"Canceled\",{watch}");
    assert_eq!(value(&text, &canceled), 1.0);
}
