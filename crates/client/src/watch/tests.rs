//! Watches against a server that follows a script.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use kvd_api::error::WireError;
use kvd_api::pb::etcdserverpb::ResponseHeader;
use kvd_api::pb::etcdserverpb::watch_request::RequestUnion;
use kvd_api::pb::etcdserverpb::watch_server::{self, WatchServer};
use kvd_api::pb::etcdserverpb::{WatchCreateRequest, WatchRequest};
use kvd_api::wire;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

use super::*;
use crate::error::Error;
use crate::{Client, Event, EventType, KeyValue};

type Sent = std::result::Result<wire::WatchResponse, Status>;

/// What the server does once a watch is asked for: the answers, after which the stream ends, or
/// stays open.
#[derive(Clone)]
struct Act {
    answers: Vec<Sent>,
    stays: bool,
}

#[derive(Clone, Default)]
struct Fake {
    /// One act a stream, in order; then streams stay open and silent.
    acts: Arc<Mutex<Vec<Act>>>,
    asked: Arc<Mutex<Vec<WatchCreateRequest>>>,
    canceled: Arc<Mutex<Vec<i64>>>,
}

#[tonic::async_trait]
impl watch_server::Watch for Fake {
    type WatchStream = ReceiverStream<Sent>;

    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> std::result::Result<Response<Self::WatchStream>, Status> {
        let (sender, receiver) = mpsc::channel(16);
        let fake = self.clone();
        let mut requests = request.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                match request.request_union {
                    Some(RequestUnion::CreateRequest(create)) => {
                        fake.asked.lock().unwrap().push(create);
                        let act = {
                            let mut acts = fake.acts.lock().unwrap();
                            (!acts.is_empty()).then(|| acts.remove(0))
                        };
                        let act = act.unwrap_or(Act {
                            answers: vec![created(0, 100)],
                            stays: true,
                        });
                        for answer in act.answers {
                            if sender.send(answer).await.is_err() {
                                return;
                            }
                        }
                        if !act.stays {
                            return;
                        }
                    }
                    Some(RequestUnion::CancelRequest(cancel)) => {
                        fake.canceled.lock().unwrap().push(cancel.watch_id);
                    }
                    Some(RequestUnion::ProgressRequest(_)) => {
                        let all = wire::WatchResponse {
                            header: header(55),
                            watch_id: -1,
                            ..Default::default()
                        };
                        drop(sender.send(Ok(all)).await);
                    }
                    None => {}
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader {
        revision,
        ..Default::default()
    })
}

fn created(watch_id: i64, revision: i64) -> Sent {
    Ok(wire::WatchResponse {
        header: header(revision),
        watch_id,
        created: true,
        ..Default::default()
    })
}

fn events(watch_id: i64, revisions: &[i64], fragment: bool) -> Sent {
    let event = |revision: &i64| {
        let kv = KeyValue {
            key: Bytes::from_static(b"a"),
            mod_revision: *revision,
            ..Default::default()
        };
        let event = Event {
            r#type: EventType::Put.into(),
            kv: Some(kv),
            prev_kv: None,
        };
        Bytes::from(event.encode_to_vec())
    };
    Ok(wire::WatchResponse {
        header: header(revisions.last().copied().unwrap_or(0)),
        watch_id,
        fragment,
        events: revisions.iter().map(event).collect(),
        ..Default::default()
    })
}

fn ended(watch_id: i64, compact_revision: i64, reason: &str) -> wire::WatchResponse {
    wire::WatchResponse {
        header: header(9),
        watch_id,
        canceled: true,
        compact_revision,
        cancel_reason: reason.to_owned(),
        ..Default::default()
    }
}

async fn start(acts: Vec<Act>) -> (Fake, Client) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address: SocketAddr = listener.local_addr().expect("address");
    let fake = Fake {
        acts: Arc::new(Mutex::new(acts)),
        ..Fake::default()
    };
    let service = WatchServer::new(fake.clone());
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener)),
    );
    let client = Client::builder([address.to_string()])
        .build()
        .expect("client");
    (fake, client)
}

fn revisions(response: &WatchResponse) -> Vec<i64> {
    let kvs = response.events.iter().filter_map(|event| event.kv.as_ref());
    kvs.map(|kv| kv.mod_revision).collect()
}

#[tokio::test]
async fn a_watch_goes_on_after_the_last_whole_response_when_its_stream_ends() {
    let (fake, client) = start(vec![
        Act {
            answers: vec![
                created(0, 4),
                events(0, &[5, 6], false),
                events(0, &[7], true),
            ],
            stays: false,
        },
        Act {
            answers: vec![Err(WireError::ServerStopped.into())],
            stays: false,
        },
        Act {
            // The half of revision 7 that came before counts for nothing.
            answers: vec![
                created(3, 9),
                events(3, &[7], true),
                events(3, &[7, 8], false),
            ],
            stays: true,
        },
    ])
    .await;
    let mut watch = client.watch("a", WatchOptions::new()).await.expect("watch");
    assert_eq!(watch.created().revision, 4);
    assert_eq!(revisions(&watch.next().await.expect("first")), [5, 6]);
    assert_eq!(revisions(&watch.next().await.expect("second")), [7, 7, 8]);
    let asked = fake.asked.lock().unwrap();
    let starts: Vec<i64> = asked.iter().map(|one| one.start_revision).collect();
    assert_eq!(starts, [0, 7, 7]);
}

#[tokio::test]
async fn from_now_means_from_when_the_server_first_answered() {
    let (fake, client) = start(vec![Act {
        answers: vec![created(0, 41)],
        stays: false,
    }])
    .await;
    let _watch = client.watch("a", WatchOptions::new()).await.expect("watch");
    while fake.asked.lock().unwrap().len() < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(fake.asked.lock().unwrap()[1].start_revision, 42);
}

#[tokio::test]
async fn a_compacted_start_ends_the_watch_with_the_revision() {
    let (_fake, client) = start(vec![Act {
        answers: vec![created(0, 9), Ok(ended(0, 5, ""))],
        stays: true,
    }])
    .await;
    let options = WatchOptions::new().revision(2);
    let mut watch = client.watch("a", options).await.expect("watch");
    let error = watch.next().await.expect_err("compacted");
    assert_eq!(error.to_string(), WireError::Compacted.message());
    assert!(
        matches!(
            error,
            Error::WatchCanceled {
                compact_revision: 5,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(matches!(watch.next().await, Err(Error::WatchClosed)));
}

#[tokio::test]
async fn a_refused_watch_leaves_the_others_of_its_stream_alone() {
    let refusal = wire::WatchResponse {
        created: true,
        ..ended(-1, 0, "etcdserver: permission denied")
    };
    let (_fake, client) = start(vec![
        Act {
            answers: vec![created(0, 3)],
            stays: true,
        },
        Act {
            answers: vec![Ok(refusal), events(0, &[4], false)],
            stays: true,
        },
    ])
    .await;
    let stream = client.watch_stream();
    let mut allowed = stream.watch("a", WatchOptions::new()).await.expect("watch");
    let refused = stream.watch("b", WatchOptions::new()).await;
    assert_eq!(
        refused.expect_err("refused").to_string(),
        "etcdserver: permission denied"
    );
    assert_eq!(revisions(&allowed.next().await.expect("event")), [4]);
}

#[tokio::test]
async fn no_leader_ends_the_watch() {
    let (_fake, client) = start(vec![Act {
        answers: vec![created(0, 3), Err(WireError::NoLeader.into())],
        stays: false,
    }])
    .await;
    let client = client.with_required_leader();
    let mut watch = client.watch("a", WatchOptions::new()).await.expect("watch");
    let error = watch.next().await.expect_err("no leader");
    assert_eq!(error.wire(), Some(WireError::NoLeader));
}

#[tokio::test]
async fn progress_is_told_to_every_watch_and_a_dropped_one_is_cancelled() {
    let (fake, client) = start(vec![
        Act {
            answers: vec![created(0, 3)],
            stays: true,
        },
        Act {
            answers: vec![created(1, 3)],
            stays: true,
        },
    ])
    .await;
    let stream = client.watch_stream();
    let mut one = stream.watch("a", WatchOptions::new()).await.expect("watch");
    let mut two = stream.watch("b", WatchOptions::new()).await.expect("watch");
    stream.request_progress().await.expect("progress");
    for watch in [&mut one, &mut two] {
        let progress = watch.next().await.expect("progress");
        assert!(progress.is_progress_notify());
        assert_eq!(progress.header.revision, 55);
    }
    drop(two);
    while fake.canceled.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(*fake.canceled.lock().unwrap(), [1]);
}
