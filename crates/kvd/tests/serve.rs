//! Listeners and connections, with a toy HTTP service and gRPC's health service.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use kvd::serve::{Cores, Listener, Options, Protocols, Secure, Services, Serving, limits, start};
use kvd::tls::{self, Live, Port};
use kvd::urls::Url;
use kvd_server::metrics::{Level, Metrics};
use tokio::sync::{Notify, Semaphore};
use tonic::service::Routes;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

/// Longer than anything here takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the toy service waits for before it answers `/slow`.
#[derive(Clone, Default)]
struct Gate {
    entered: Arc<Notify>,
    open: Arc<Notify>,
}

fn services(gate: &Gate) -> Services<Routes, Router> {
    let (_, health) = tonic_health::server::health_reporter();
    let thread = || async {
        std::thread::current()
            .name()
            .unwrap_or("unnamed")
            .to_owned()
    };
    let gate = gate.clone();
    let slow = move || async move {
        gate.entered.notify_one();
        gate.open.notified().await;
        "finished"
    };
    let http = Router::new()
        .route("/hello", get(|| async { "hello" }))
        .route("/thread", get(thread))
        .route("/slow", get(slow));
    Services {
        grpc: Routes::new(health),
        http,
    }
}

fn listen(url: &str) -> Listener {
    let url = Url::parse(url).expect("url");
    Listener::bind(&url, "listen-client-urls", false).expect("bind")
}

fn serve(url: &str, options: Options, gate: &Gate, permits: usize) -> (Serving, Arc<Cores>) {
    let cores = Arc::new(Cores::start(Some(2)).expect("cores"));
    let limit = Arc::new(Semaphore::new(permits));
    let serving =
        start(vec![listen(url)], &services(gate), options, &cores, &limit).expect("start");
    (serving, cores)
}

fn serve_here(options: Options) -> (Serving, Arc<Cores>, SocketAddr) {
    let (serving, cores) = serve("http://127.0.0.1:0", options, &Gate::default(), 1000);
    let address = serving.addresses()[0];
    (serving, cores, address)
}

/// Sends `request` and reads until the server closes.
fn talk(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    stream.write_all(request).expect("write");
    let mut answer = Vec::new();
    // A reset is an end too.
    let _reset = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn get_once(address: SocketAddr, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    talk(address, request.as_bytes())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("join")
}

async fn check_health(address: SocketAddr) -> Result<i32, String> {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"));
    let channel = endpoint
        .expect("endpoint")
        .connect()
        .await
        .map_err(|e| e.to_string())?;
    let reply = HealthClient::new(channel)
        .check(HealthCheckRequest::default())
        .await
        .map_err(|status| status.to_string())?;
    Ok(reply.into_inner().status)
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http1_grpc_and_plain_http2_share_a_port() {
    let (serving, _cores, address) = serve_here(Options::default());
    let answer = blocking(move || get_once(address, "/hello")).await;
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("hello"),
        "{answer}"
    );
    assert_eq!(check_health(address).await, Ok(1));

    let stream = tokio::net::TcpStream::connect(address)
        .await
        .expect("connect");
    let io = hyper_util::rt::TokioIo::new(stream);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io)
        .await
        .expect("handshake");
    let driver = tokio::spawn(connection);
    let request = http::Request::get(format!("http://{address}/hello"))
        .body(String::new())
        .expect("request");
    let answer = sender.send_request(request).await.expect("answer");
    assert_eq!(answer.status(), 200);
    drop(sender);
    driver.await.expect("join").expect("connection");
    assert_eq!(serving.stop(PATIENCE).await, 0);
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short");
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// As a client does whose requests have timed out while the server was paused.
#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_given_up_at_once_do_not_cost_the_connection() {
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    const GOAWAY: u8 = 7;
    const GET: &[u8] = b"\x82\x86\x84\x41\x01x";
    let (serving, _cores, address) = serve_here(Options::default());
    let mut said = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    said.extend(frame(SETTINGS, 0, 0, &[]));
    for number in 0..500 {
        let stream = 2 * number + 1;
        said.extend(frame(HEADERS, 0x4, stream, GET));
        said.extend(frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
    }
    said.extend(frame(HEADERS, 0x5, 1001, GET));
    blocking(move || {
        let mut stream = TcpStream::connect(address).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        stream.write_all(&said).expect("write");
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).expect("a frame");
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            stream.read_exact(&mut payload).expect("all of it");
            assert_ne!(head[3], GOAWAY, "{}", String::from_utf8_lossy(&payload));
            if head[3] == HEADERS && head[5..] == 1001_u32.to_be_bytes() {
                return;
            }
        }
    })
    .await;
    assert_eq!(serving.stop(PATIENCE).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_may_speak_one_protocol_only() {
    let grpc = Options {
        protocols: Protocols::GrpcOnly,
        ..Options::default()
    };
    let (serving, _cores, address) = serve_here(grpc);
    assert_eq!(check_health(address).await, Ok(1));
    assert_eq!(blocking(move || get_once(address, "/hello")).await, "");
    serving.stop(PATIENCE).await;

    let http = Options {
        protocols: Protocols::HttpOnly,
        ..Options::default()
    };
    let (serving, _cores, address) = serve_here(http);
    assert!(
        blocking(move || get_once(address, "/hello"))
            .await
            .ends_with("hello")
    );
    assert!(check_health(address).await.is_err());
    serving.stop(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_closes_the_connection_and_nothing_else() {
    let (serving, _cores, address) = serve_here(Options::default());
    for garbage in [
        &[0x16, 0x03, 0x01, 0x02, 0x00][..],
        &[0; 4096],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnot a frame at all, really not",
        b"lower case\r\n\r\n",
        b"PRI * HTTP/1.0\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
    ] {
        let answer = blocking(move || talk(address, garbage)).await;
        assert!(!answer.contains("200 OK"), "{answer}");
    }
    assert!(
        blocking(move || get_once(address, "/hello"))
            .await
            .ends_with("hello")
    );
    until("the end of bad connections", || {
        serving.open_connections() == 0
    })
    .await;
    serving.stop(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_say_nothing_or_stop_in_the_head_are_closed() {
    let short = Duration::from_millis(100);
    let options = Options {
        first_bytes_timeout: short,
        head_timeout: short,
        ..Options::default()
    };
    let (serving, _cores, address) = serve_here(options);
    for part in [&b""[..], b"PRI * HT", b"GET / HTTP/1.1\r\nhost: "] {
        let before = Instant::now();
        blocking(move || talk(address, part)).await;
        assert!(before.elapsed() < PATIENCE, "{part:?}");
    }
    serving.stop(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_are_bounded() {
    let (serving, _cores, address) = serve_here(Options::default());
    let request = format!("GET /hello HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(200_000));
    let answer = blocking(move || talk(address, request.as_bytes())).await;
    assert!(!answer.contains("200 OK"), "{answer}");
    serving.stop(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unix_sockets_serve_replace_stale_files_and_go_away() {
    let folder = tempfile::tempdir().expect("tempdir");
    let path = folder.path().join("kvd.sock");
    // A file that a killed process left behind.
    drop(std::os::unix::net::UnixListener::bind(&path).expect("bind"));
    let url = format!("unix://{}", path.display());
    let (serving, _cores) = serve(&url, Options::default(), &Gate::default(), 10);
    let again = Listener::bind(&Url::parse(&url).expect("url"), "listen-client-urls", false);
    let error = again.expect_err("in use").to_string();
    assert!(error.contains("another process listens there"), "{error}");
    let socket = path.clone();
    let answer = blocking(move || {
        let mut stream = std::os::unix::net::UnixStream::connect(socket).expect("connect");
        let request = b"GET /hello HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        stream.write_all(request).expect("write");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("read");
        answer
    })
    .await;
    assert!(answer.ends_with("hello"), "{answer}");
    serving.stop(PATIENCE).await;
    assert!(!path.exists(), "the socket's file is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_spread_over_the_cores() {
    let (serving, cores, address) = serve_here(Options::default());
    assert_eq!(cores.count(), 2);
    let mut counts = std::collections::BTreeMap::new();
    for _ in 0..40 {
        let answer = blocking(move || get_once(address, "/thread")).await;
        let name = answer.rsplit("\r\n").next().unwrap_or_default().to_owned();
        *counts.entry(name).or_insert(0) += 1;
    }
    let expected = [("kvd-core-0".to_owned(), 20), ("kvd-core-1".to_owned(), 20)];
    assert_eq!(counts.into_iter().collect::<Vec<_>>(), expected);
    serving.stop(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_connections_at_once_are_served() {
    let (serving, _cores, address) = serve_here(Options::default());
    let tasks: Vec<_> = (0..200)
        .map(|_| tokio::task::spawn_blocking(move || get_once(address, "/hello")))
        .collect();
    for task in tasks {
        assert!(task.await.expect("join").ends_with("hello"));
    }
    serving.stop(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_limit_clients_wait_for_a_place() {
    let gate = Gate::default();
    let (serving, _cores) = serve("http://127.0.0.1:0", Options::default(), &gate, 1);
    let address = serving.addresses()[0];
    let first = tokio::task::spawn_blocking(move || get_once(address, "/slow"));
    gate.entered.notified().await;
    let second = tokio::task::spawn_blocking(move || get_once(address, "/hello"));
    assert!(!second.is_finished());
    gate.open.notify_one();
    assert!(first.await.expect("join").ends_with("finished"));
    assert!(second.await.expect("join").ends_with("hello"));
    serving.stop(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_finishes_what_is_in_flight_and_takes_no_more() {
    let gate = Gate::default();
    let (serving, _cores) = serve("http://127.0.0.1:0", Options::default(), &gate, 100);
    let address = serving.addresses()[0];
    let request = tokio::task::spawn_blocking(move || get_once(address, "/slow"));
    gate.entered.notified().await;
    let stopping = tokio::spawn(serving.stop(PATIENCE));
    until("the end of listening", || {
        TcpStream::connect(address).is_err()
    })
    .await;
    assert!(!stopping.is_finished());
    gate.open.notify_one();
    assert!(request.await.expect("join").ends_with("finished"));
    assert_eq!(stopping.await.expect("join"), 0, "nothing had to be cut");
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_cuts_what_does_not_finish_in_time() {
    let gate = Gate::default();
    let (serving, _cores) = serve("http://127.0.0.1:0", Options::default(), &gate, 100);
    let address = serving.addresses()[0];
    let request = tokio::task::spawn_blocking(move || get_once(address, "/slow"));
    gate.entered.notified().await;
    let before = Instant::now();
    assert_eq!(serving.stop(Duration::from_millis(100)).await, 1);
    assert!(
        before.elapsed() < Duration::from_secs(5),
        "{:?}",
        before.elapsed()
    );
    assert_eq!(request.await.expect("join"), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_grpc_clients_do_not_hold_up_a_stop() {
    let (serving, _cores, address) = serve_here(Options::default());
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"));
    let channel = endpoint
        .expect("endpoint")
        .connect()
        .await
        .expect("connect");
    let mut client = HealthClient::new(channel);
    client
        .check(HealthCheckRequest::default())
        .await
        .expect("check");
    let before = Instant::now();
    assert_eq!(serving.stop(PATIENCE).await, 0);
    assert!(
        before.elapsed() < Duration::from_secs(5),
        "{:?}",
        before.elapsed()
    );
}

/// TLS with a generated certificate, and the folder that holds it.
fn secure() -> (Secure, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("tempdir");
    let hosts = ["127.0.0.1".to_owned(), "localhost".to_owned()];
    let options = tls::self_signed(&folder.path().join("fixtures"), &hosts, 1).expect("made");
    let metrics = Arc::new(Metrics::new(Level::Basic, "0"));
    let secure = Secure {
        live: Live::open(Port::Client, options, metrics).expect("opened"),
        check_client_san: false,
    };
    (secure, folder)
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_and_half_open_connections_do_not_keep_others_out() {
    let (secure, _folder) = secure();
    let options = Options {
        tls: Some(secure),
        pending_max: 3,
        ..Options::default()
    };
    let gate = Gate::default();
    let (serving, _cores) = serve("https://127.0.0.1:0", options.clone(), &gate, 1000);
    let address = serving.addresses()[0];
    // The first bytes of a handshake that never goes on, and silence.
    let mut held = Vec::new();
    for count in 0..6 {
        let mut stream = TcpStream::connect(address).expect("connect");
        if count % 2 == 0 {
            stream
                .write_all(b"\x16\x03\x01\x02\x00\x01")
                .expect("write");
        }
        stream.set_nonblocking(true).expect("not blocking");
        held.push(stream);
    }
    // All have been taken once three are closed.
    until("the oldest are closed", || {
        let is_closed = |mut stream: &TcpStream| match stream.read(&mut [0; 16]) {
            Ok(read) => read == 0,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        };
        held.iter().filter(|stream| is_closed(stream)).count() == 3
    })
    .await;
    // Who asks in plain HTTP is answered at once.
    let answer = blocking(move || get_once(address, "/hello")).await;
    assert!(
        answer.contains("Client sent an HTTP request to an HTTPS server."),
        "{answer}"
    );

    let quick = Options {
        handshake_timeout: Duration::from_millis(100),
        pending_max: 100,
        ..options
    };
    let (serving, _cores) = serve("https://127.0.0.1:0", quick, &gate, 1000);
    let mut slow = TcpStream::connect(serving.addresses()[0]).expect("connect");
    slow.write_all(b"\x16\x03\x01\x02\x00\x01").expect("write");
    slow.set_read_timeout(Some(PATIENCE)).expect("timeout");
    let read = blocking(move || slow.read(&mut [0; 16]).unwrap_or(0)).await;
    assert_eq!(read, 0, "a slow handshake is given up");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_peers_that_ask_nothing_do_not_keep_others_out() {
    let options = Options {
        pending_max: 2,
        pending_until_request: true,
        ..Options::default()
    };
    let (serving, _cores) = serve("http://127.0.0.1:0", options, &Gate::default(), 4);
    let address = serving.addresses()[0];
    let ask = |stream: &mut TcpStream| {
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        stream
            .write_all(b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n")
            .expect("write");
        let (mut answer, mut read) = ([0; 1024], 0);
        while !answer[..read].ends_with(b"hello") {
            let more = stream.read(&mut answer[read..]).expect("an answer");
            assert_ne!(more, 0, "the connection is open");
            read += more;
        }
    };
    let mut member = TcpStream::connect(address).expect("connect");
    ask(&mut member);
    let mut idle = Vec::new();
    for _ in 0..6 {
        let mut stream = TcpStream::connect(address).expect("connect");
        stream
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .and_then(|()| stream.write_all(&frame(4, 0, 0, &[])))
            .expect("write");
        idle.push(stream);
    }
    let answer = blocking(move || get_once(address, "/hello")).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    until("the oldest are closed", || serving.open_connections() <= 3).await;
    ask(&mut member);
}

#[tokio::test(flavor = "multi_thread")]
async fn random_bytes_on_a_tls_port_harm_nobody() {
    let (secure, _folder) = secure();
    let options = Options {
        tls: Some(secure),
        ..Options::default()
    };
    let gate = Gate::default();
    let (serving, _cores) = serve("https://127.0.0.1:0", options, &gate, 1000);
    let address = serving.addresses()[0];
    let mut seed = 11_u32;
    for round in 0..40_u8 {
        let mut bytes = vec![0x16, 3, 1, 0, 60, 1, 0, 0, 56, 3, 3];
        for _ in 0..80 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            bytes.push((seed >> 24) as u8);
        }
        bytes.truncate(usize::from(round) * 2 + 2);
        let mut stream = TcpStream::connect(address).expect("connect");
        // It may be reset while it writes.
        let _reset = stream.write_all(&bytes);
    }
    let answer = blocking(move || get_once(address, "/hello")).await;
    assert!(answer.starts_with("HTTP/1.0 400"), "{answer}");
    until("all are closed", || serving.open_connections() == 0).await;
}

#[test]
fn listeners_name_the_url_and_say_what_to_do() {
    let bind = |url: &str| {
        let url = Url::parse(url).expect("url");
        Listener::bind(&url, "listen-peer-urls", false)
            .expect_err("refused")
            .to_string()
    };
    let holder = listen("http://127.0.0.1:0");
    let port = holder.local_address().expect("address").port();
    let taken = bind(&format!("http://localhost:{port}"));
    assert!(
        taken.starts_with(&format!("cannot listen on http://localhost:{port}")),
        "{taken}"
    );
    assert!(
        taken.contains("(--listen-peer-urls)") && taken.contains("stop it"),
        "{taken}"
    );
    assert!(
        bind("http://192.0.2.1:0").contains("no interface"),
        "foreign address"
    );
    assert!(bind("http://127.0.0.1:99999").contains("65535"));
    assert!(bind("unix:///does/not/exist/kvd.sock").contains("create it"));
}

#[test]
fn two_listeners_may_share_a_port_when_told_to() {
    let url = Url::parse("http://127.0.0.1:0").expect("url");
    let first = Listener::bind(&url, "listen-client-urls", true).expect("bind");
    let port = first.local_address().expect("address").port();
    let url = Url::parse(&format!("http://127.0.0.1:{port}")).expect("url");
    Listener::bind(&url, "listen-client-urls", true).expect("SO_REUSEPORT");
}

#[test]
fn the_descriptor_limit_bounds_connections() {
    assert!(
        limits::connections()
            .expect("enough for a test")
            .available_permits()
            > 0
    );
}
