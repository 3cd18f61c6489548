//! The table of the module, row by row, against servers that misbehave.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kvd_api::error::WireError;
use kvd_api::pb::etcdserverpb as pb;
use kvd_api::pb::etcdserverpb::kv_server::{Kv, KvServer};
use kvd_api::wire::RangeResponse;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response};

use super::*;
use crate::{Client, DeleteOptions, GetOptions, Op, PutOptions, Txn};

/// How the fake server treats the first requests; afterwards it answers.
#[derive(Clone, Copy, Debug)]
enum Mood {
    Answers,
    /// Refuses so many requests with Unavailable.
    Unavailable(usize),
    /// Refuses every request with an error that no repetition helps.
    Compacted,
    /// Never answers.
    Silent,
    /// Ends with its connections at the first request.
    Dies,
}

#[derive(Clone)]
struct Fake {
    mood: Mood,
    requests: Arc<AtomicUsize>,
    stop: Arc<Notify>,
}

impl Fake {
    async fn treat<T: Default>(&self) -> std::result::Result<Response<T>, Status> {
        let nth = self.requests.fetch_add(1, Ordering::SeqCst);
        match self.mood {
            Mood::Unavailable(first) if nth < first => Err(WireError::Timeout.into()),
            Mood::Answers | Mood::Unavailable(_) => Ok(Response::new(T::default())),
            Mood::Compacted => Err(WireError::Compacted.into()),
            Mood::Silent => std::future::pending().await,
            Mood::Dies => {
                self.stop.notify_one();
                std::future::pending().await
            }
        }
    }
}

#[tonic::async_trait]
impl Kv for Fake {
    type RangeStreamStream = tokio_stream::Iter<
        std::vec::IntoIter<std::result::Result<pb::RangeStreamResponse, Status>>,
    >;

    async fn range(
        &self,
        _: Request<pb::RangeRequest>,
    ) -> std::result::Result<Response<RangeResponse>, Status> {
        self.treat().await
    }

    async fn range_stream(
        &self,
        _: Request<pb::RangeRequest>,
    ) -> std::result::Result<Response<Self::RangeStreamStream>, Status> {
        self.treat::<()>().await?;
        let piece = |key: &'static [u8], last: bool| {
            let mut response = RangeResponse::default();
            response.kvs.push(bytes::Bytes::from_static(key));
            if last {
                response.header = Some(pb::ResponseHeader {
                    revision: 9,
                    ..Default::default()
                });
                response.count = 2;
            }
            Ok(pb::RangeStreamResponse {
                range_response: Some(response),
            })
        };
        let pieces = vec![piece(b"\x0a\x01a", false), piece(b"\x0a\x01b", true)];
        Ok(Response::new(tokio_stream::iter(pieces)))
    }

    async fn put(
        &self,
        _: Request<pb::PutRequest>,
    ) -> std::result::Result<Response<pb::PutResponse>, Status> {
        self.treat().await
    }

    async fn delete_range(
        &self,
        _: Request<pb::DeleteRangeRequest>,
    ) -> std::result::Result<Response<pb::DeleteRangeResponse>, Status> {
        self.treat().await
    }

    async fn txn(
        &self,
        _: Request<pb::TxnRequest>,
    ) -> std::result::Result<Response<pb::TxnResponse>, Status> {
        self.treat().await
    }

    async fn compact(
        &self,
        _: Request<pb::CompactionRequest>,
    ) -> std::result::Result<Response<pb::CompactionResponse>, Status> {
        self.treat().await
    }
}

struct Server {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
    stop: Arc<Notify>,
}

impl Server {
    async fn start(mood: Mood) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        Self::start_on(listener, mood)
    }

    /// Serves on a runtime of its own, so that stopping it closes its connections too.
    fn start_on(listener: TcpListener, mood: Mood) -> Server {
        let address = listener.local_addr().expect("address");
        let listener = listener.into_std().expect("listener");
        let requests = Arc::new(AtomicUsize::new(0));
        let stop = Arc::new(Notify::new());
        let fake = Fake {
            mood,
            requests: Arc::clone(&requests),
            stop: Arc::clone(&stop),
        };
        let stopped = Arc::clone(&stop);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("runtime");
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).expect("listener");
                let serve = tonic::transport::Server::builder()
                    .add_service(KvServer::new(fake))
                    .serve_with_incoming(TcpListenerStream::new(listener));
                tokio::select! {
                    served = serve => served.expect("serve"),
                    () = stopped.notified() => {}
                }
            });
        });
        Server {
            address,
            requests,
            stop,
        }
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

/// Accepts, reads a little or nothing, and drops the connection.
async fn dropper(read: usize) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let accepted = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&accepted);
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.expect("accept");
            counter.fetch_add(1, Ordering::SeqCst);
            let mut buffer = vec![0; read];
            if read > 0 {
                match socket.read_exact(&mut buffer).await {
                    Ok(_) => {}
                    Err(err) if err.kind() == ErrorKind::UnexpectedEof => {}
                    Err(err) => panic!("read: {err}"),
                }
            }
        }
    });
    (address, accepted)
}

/// A port on which nothing listens.
async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    listener.local_addr().expect("address")
}

fn client(addresses: &[SocketAddr], timeout: Duration) -> Client {
    Client::builder(addresses.iter().map(SocketAddr::to_string))
        .request_timeout(timeout)
        .build()
        .expect("client")
}

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(300);

#[test]
fn the_table() {
    use Fate::{Answered, Lost, NotSent, Unavailable};
    for (fate, read, write) in [
        (NotSent, true, true),
        (Lost, true, false),
        (Unavailable, true, false),
        (Answered, false, false),
    ] {
        assert_eq!(may_retry(Rule::Repeatable, fate), read, "{fate:?}");
        assert_eq!(may_retry(Rule::AtMostOnce, fate), write, "{fate:?}");
    }
}

#[tokio::test]
async fn a_read_is_repeated_while_the_server_is_unavailable() {
    let server = Server::start(Mood::Unavailable(3)).await;
    client(&[server.address], LONG)
        .get("a", GetOptions::new())
        .await
        .expect("fourth attempt");
    assert_eq!(server.requests(), 4);
}

#[tokio::test]
async fn a_read_gives_up_after_a_hundred_attempts() {
    let server = Server::start(Mood::Unavailable(usize::MAX)).await;
    let client = client(&[server.address], LONG);
    let err = client
        .get("a", GetOptions::new())
        .await
        .expect_err("unavailable");
    assert_eq!(err.wire(), Some(WireError::Timeout));
    assert_eq!(server.requests(), ATTEMPTS_MAX);
}

#[tokio::test]
async fn a_read_is_repeated_only_inside_its_deadline() {
    let server = Server::start(Mood::Unavailable(usize::MAX)).await;
    let client = client(&[server.address], SHORT);
    let started = Instant::now();
    client
        .get("a", GetOptions::new())
        .await
        .expect_err("unavailable");
    assert!(started.elapsed() < Duration::from_secs(5));
    assert!(server.requests() < ATTEMPTS_MAX);
}

#[tokio::test]
async fn no_write_is_repeated_when_the_server_is_unavailable() {
    let server = Server::start(Mood::Unavailable(usize::MAX)).await;
    let client = client(&[server.address], LONG);
    let put = Op::put("a", "1", PutOptions::new());
    let failures = [
        client.put("a", "1", PutOptions::new()).await.err(),
        client.delete("a", DeleteOptions::new()).await.err(),
        client.txn(Txn::new().and_then([put])).await.err(),
        client.compact(5, false).await.err(),
    ];
    for failure in failures {
        let err = failure.expect("refused");
        assert_eq!(err.wire(), Some(WireError::Timeout));
        assert!(err.is_fate_unknown());
    }
    assert_eq!(server.requests(), 4);
}

#[tokio::test]
async fn an_answer_is_never_asked_for_twice() {
    let server = Server::start(Mood::Compacted).await;
    let client = client(&[server.address], LONG);
    let err = client
        .get("a", GetOptions::new())
        .await
        .expect_err("compacted");
    assert_eq!(err.wire(), Some(WireError::Compacted));
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn a_write_on_a_connection_that_breaks_is_reported_not_repeated() {
    let dying = Server::start(Mood::Dies).await;
    let healthy = Server::start(Mood::Answers).await;
    let client = client(&[dying.address, healthy.address], LONG);
    let mut put = 0;
    let until_lost = async {
        loop {
            match client.put("a", "1", PutOptions::new()).await {
                Ok(_) => put += 1,
                Err(err) => return err,
            }
        }
    };
    let err = tokio::time::timeout(LONG, until_lost)
        .await
        .expect("the dying one has its turn");
    assert!(matches!(err, Error::ConnectionLost { .. }), "{err:?}");
    assert!(err.is_fate_unknown());
    assert_eq!(dying.requests(), 1);
    assert_eq!(healthy.requests(), put, "the lost write was sent again");
}

#[tokio::test]
async fn nothing_is_sent_to_what_does_not_answer() {
    // Closes at once, within the preface, and after it.
    for read in [0, 24, 60, 120] {
        let (address, accepted) = dropper(read).await;
        let one = client(&[address], SHORT);
        let err = one
            .put("a", "1", PutOptions::new())
            .await
            .expect_err("dropped");
        assert!(
            matches!(err, Error::NoConnection { .. }),
            "read {read}: {err:?}"
        );
        assert!(!err.is_fate_unknown());
        assert!(accepted.load(Ordering::SeqCst) >= 1);
    }
}

#[tokio::test]
async fn a_process_that_is_stopped_costs_no_time() {
    // The kernel accepts connections for it, and nobody answers on them.
    let stopped = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let server = Server::start(Mood::Answers).await;
    let address = stopped.local_addr().expect("address");
    let started = Instant::now();
    let client = client(&[address, server.address], LONG);
    for _ in 0..10 {
        client
            .put("a", "1", PutOptions::new())
            .await
            .expect("the other endpoint");
    }
    assert_eq!(server.requests(), 10);
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
    drop(stopped);
}

#[tokio::test]
async fn a_read_goes_elsewhere_when_the_connection_breaks() {
    let (broken, _) = dropper(24).await;
    let server = Server::start(Mood::Answers).await;
    let client = client(&[broken, server.address], LONG);
    for _ in 0..10 {
        client
            .get("a", GetOptions::new())
            .await
            .expect("the other endpoint");
    }
    assert_eq!(server.requests(), 10);
}

#[tokio::test]
async fn a_write_waits_for_a_server_that_is_not_there_yet() {
    let address = nobody().await;
    let client = client(&[address], LONG);
    let put = tokio::spawn(async move { client.put("a", "1", PutOptions::new()).await });
    // Some attempts are refused first.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let listener = TcpListener::bind(address).await.expect("bind");
    let server = Server::start_on(listener, Mood::Answers);
    put.await.expect("task").expect("put");
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn nobody_listening_is_told_with_every_endpoint() {
    let (one, two) = (nobody().await, nobody().await);
    let client = client(&[one, two], SHORT);
    let started = Instant::now();
    let err = client
        .put("a", "1", PutOptions::new())
        .await
        .expect_err("nobody");
    assert!(started.elapsed() >= SHORT);
    assert!(!err.is_fate_unknown());
    let Error::NoConnection { mut tried, .. } = err else {
        panic!("{err:?}")
    };
    tried.sort_by(|a, b| a.endpoint.cmp(&b.endpoint));
    let mut expected = [one.to_string(), two.to_string()];
    expected.sort();
    assert_eq!(
        tried
            .iter()
            .map(|at| at.endpoint.clone())
            .collect::<Vec<_>>(),
        expected
    );
    for at in tried {
        assert!(at.reason.contains("refused"), "{}", at.reason);
    }
}

#[tokio::test]
async fn dead_endpoints_cost_no_time() {
    let server = Server::start(Mood::Answers).await;
    let client = client(&[nobody().await, server.address, nobody().await], LONG);
    let started = Instant::now();
    for _ in 0..20 {
        client
            .put("a", "1", PutOptions::new())
            .await
            .expect("the living one");
    }
    assert_eq!(server.requests(), 20);
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn an_endpoint_that_dies_is_left_and_comes_back() {
    let first = Server::start(Mood::Answers).await;
    let second = Server::start(Mood::Answers).await;
    let client = client(&[first.address, second.address], LONG);
    let until_both_served = async {
        while first.requests() == 0 || second.requests() == 0 {
            client.get("a", GetOptions::new()).await.expect("both live");
        }
    };
    tokio::time::timeout(LONG, until_both_served)
        .await
        .expect("requests are spread");

    first.stop.notify_one();
    for _ in 0..20 {
        client
            .get("a", GetOptions::new())
            .await
            .expect("the second lives");
    }

    let listener = TcpListener::bind(first.address).await.expect("bind again");
    let again = Server::start_on(listener, Mood::Answers);
    let until_used = async {
        while again.requests() == 0 {
            client
                .get("a", GetOptions::new())
                .await
                .expect("the second lives");
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, until_used)
        .await
        .expect("the first is used again");
}

#[tokio::test]
async fn a_silent_server_is_given_up_at_the_deadline() {
    let server = Server::start(Mood::Silent).await;
    let client = client(&[server.address], SHORT);
    for outcome in [
        client.put("a", "1", PutOptions::new()).await.err(),
        client.get("a", GetOptions::new()).await.err(),
    ] {
        let err = outcome.expect("deadline");
        assert!(matches!(err, Error::DeadlineExceeded), "{err:?}");
        assert_eq!(err.to_string(), "context deadline exceeded");
    }
    assert_eq!(server.requests(), 2);
}

#[tokio::test]
async fn limits_on_sizes_are_kept_and_worded_as_in_etcd() {
    let server = Server::start(Mood::Answers).await;
    let builder = Client::builder([server.address.to_string()]);
    let small = builder.clone().send_bytes_max(10).build().expect("client");
    let err = small
        .put("foo", "barrrrrrrrrr", PutOptions::new())
        .await
        .expect_err("too large");
    assert_eq!(
        err.to_string(),
        "rpc error: code = ResourceExhausted desc = trying to send message larger than max \
         (19 vs. 10)"
    );
    assert_eq!(server.requests(), 0);

    let err = builder
        .send_bytes_max(100)
        .receive_bytes_max(10)
        .build()
        .expect_err("limits");
    assert_eq!(
        err.to_string(),
        "gRPC message recv limit (10 bytes) must be greater than send limit (100 bytes)"
    );

    let tiny = Client::builder([server.address.to_string()])
        .receive_bytes_max(3)
        .build()
        .expect("client");
    let request = GetOptions::new().prefix().into_request("");
    let err = tiny.range_streamed(request).await.expect_err("too large");
    assert_eq!(
        err.to_string(),
        "rpc error: code = ResourceExhausted desc = grpc: received message larger than max \
         (7 vs. 3)"
    );
}

#[tokio::test]
async fn a_stream_is_put_together() {
    let server = Server::start(Mood::Unavailable(1)).await;
    let client = client(&[server.address], LONG);
    let request = GetOptions::new().prefix().into_request("");
    let whole = client.range_streamed(request).await.expect("stream");
    assert_eq!(whole.count, 2);
    assert_eq!(whole.header.expect("header").revision, 9);
    let keys: Vec<_> = whole
        .decode_kvs()
        .expect("kvs")
        .into_iter()
        .map(|kv| kv.key)
        .collect();
    assert_eq!(keys, ["a", "b"]);
}

#[tokio::test]
async fn a_unix_socket_is_an_endpoint() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("kvd.sock");
    let endpoint = format!("unix://{}", path.display());
    let client = Client::builder([endpoint])
        .request_timeout(LONG)
        .build()
        .expect("client");
    let listener = tokio::net::UnixListener::bind(&path).expect("bind");
    let requests = Arc::new(AtomicUsize::new(0));
    let fake = Fake {
        mood: Mood::Answers,
        requests: Arc::clone(&requests),
        stop: Arc::default(),
    };
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(KvServer::new(fake))
            .serve_with_incoming(tokio_stream::wrappers::UnixListenerStream::new(listener)),
    );
    client.put("a", "1", PutOptions::new()).await.expect("put");
    assert_eq!(requests.load(Ordering::SeqCst), 1);
}
