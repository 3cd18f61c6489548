//! Watchers see what their user may read, for as long as that is so.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use kvd_api::pb::authpb::permission::Type;
use kvd_api::pb::etcdserverpb::watch_client::WatchClient;
use kvd_api::pb::etcdserverpb::watch_request::RequestUnion;
use kvd_api::pb::etcdserverpb::{
    AuthEnableRequest, AuthRoleRevokePermissionRequest, AuthUserChangePasswordRequest,
    WatchCreateRequest, WatchRequest,
};
use kvd_api::wire::WatchResponse;
use kvd_tests::cluster::Cluster;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::session::{CHEAP, Session, one_member};

struct Watcher {
    requests: mpsc::Sender<WatchRequest>,
    responses: Streaming<WatchResponse>,
}

impl Watcher {
    async fn open(session: &Session) -> Result<Watcher> {
        let (requests, receiver) = mpsc::channel(8);
        let mut client = WatchClient::new(session.channel.clone());
        let mut request = session.with(ReceiverStream::new(receiver));
        request.metadata_mut().remove("grpc-timeout");
        let responses = client.watch(request).await?.into_inner();
        Ok(Watcher {
            requests,
            responses,
        })
    }

    async fn create(&mut self, key: &str, range_end: &str) -> Result<WatchResponse> {
        let create = WatchCreateRequest {
            key: Bytes::copy_from_slice(key.as_bytes()),
            range_end: Bytes::copy_from_slice(range_end.as_bytes()),
            ..WatchCreateRequest::default()
        };
        let request = WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(create)),
        };
        self.requests.send(request).await?;
        self.next().await
    }

    async fn next(&mut self) -> Result<WatchResponse> {
        let response = tokio::time::timeout(Duration::from_secs(20), self.responses.message());
        response.await??.context("the stream ended")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_are_for_whole_ranges_that_may_be_read() -> Result<()> {
    let (cluster, root, alice) = one_member().await?;
    root.permit("staff", Type::Read, "k", "").await?;
    root.permit("staff", Type::Read, "p/", "p0").await?;
    root.permit("staff", Type::Write, "w", "").await?;
    let mut watcher = Watcher::open(&alice).await?;
    for (key, end) in [
        ("k", "l"),
        ("k", "\0"),
        ("j", "l"),
        ("w", ""),
        ("", "\0"),
        ("p", "p0"),
    ] {
        let refused = watcher.create(key, end).await?;
        ensure!(
            refused.created && refused.canceled,
            "{key:?} {end:?}: {refused:?}"
        );
        assert_eq!(refused.watch_id, -1);
        assert_eq!(
            refused.cancel_reason,
            "rpc error: code = PermissionDenied desc = etcdserver: permission denied"
        );
    }
    for (key, end) in [("k", ""), ("k", "k\0"), ("p/", "p0"), ("p/a", "p/b")] {
        let created = watcher.create(key, end).await?;
        ensure!(
            created.created && !created.canceled,
            "{key:?} {end:?}: {created:?}"
        );
    }
    // The watch on one key sees that key alone.
    root.put("k/next", "secret").await?;
    root.put("ka", "secret").await?;
    root.put("k", "seen").await?;
    for _ in 0..2 {
        let events = watcher.next().await?.decode_events()?;
        let keys: Vec<_> = events.into_iter().filter_map(|event| event.kv).collect();
        ensure!(keys.len() == 1 && &keys[0].key[..] == b"k", "{keys:?}");
    }

    let mut nobody = Watcher::open(&Session::anonymous(&cluster.members[0]).await?).await?;
    let refused = nobody.create("k", "").await?;
    assert_eq!(
        refused.cancel_reason,
        "rpc error: code = InvalidArgument desc = etcdserver: user name is empty"
    );
    let mut wrong = alice.clone();
    wrong.token = Some("wrong.1".into());
    let mut wrong = Watcher::open(&wrong).await?;
    let refused = wrong.create("k", "").await?;
    assert_eq!(
        refused.cancel_reason,
        "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_ends_with_its_permission() -> Result<()> {
    let (_cluster, root, alice) = one_member().await?;
    root.permit("staff", Type::Read, "a", "").await?;
    root.permit("staff", Type::Read, "b", "").await?;
    let mut watcher = Watcher::open(&alice).await?;
    let a = watcher.create("a", "").await?.watch_id;
    let b = watcher.create("b", "").await?.watch_id;
    root.put("a", "before").await?;
    assert_eq!(watcher.next().await?.watch_id, a);

    let revoke = AuthRoleRevokePermissionRequest {
        role: "staff".into(),
        key: Bytes::from_static(b"a"),
        range_end: Bytes::new(),
    };
    root.auth()
        .role_revoke_permission(root.with(revoke))
        .await?;
    root.put("a", "after").await?;
    root.put("b", "after").await?;
    let ended = watcher.next().await?;
    ensure!(ended.canceled && ended.watch_id == a, "{ended:?}");
    assert_eq!(
        ended.cancel_reason,
        "rpc error: code = PermissionDenied desc = etcdserver: permission denied"
    );
    let next = watcher.next().await?;
    ensure!(next.watch_id == b && next.events.len() == 1, "{next:?}");

    // Another password ends what was opened with the old one.
    let change = AuthUserChangePasswordRequest {
        name: "alice".into(),
        password: "other".into(),
        ..AuthUserChangePasswordRequest::default()
    };
    root.auth().user_change_password(root.with(change)).await?;
    root.put("b", "secret").await?;
    let ended = watcher.next().await?;
    ensure!(ended.canceled && ended.watch_id == b, "{ended:?}");
    assert_eq!(
        ended.cancel_reason,
        "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_of_nobody_end_when_auth_is_turned_on() -> Result<()> {
    let cluster = Cluster::start(1, &CHEAP).await?;
    let nobody = Session::anonymous(&cluster.members[0]).await?;
    let mut watcher = Watcher::open(&nobody).await?;
    let created = watcher.create("k", "").await?;
    ensure!(created.created && !created.canceled, "{created:?}");
    nobody.add_user("root", "root").await?;
    nobody.auth().auth_enable(AuthEnableRequest {}).await?;
    let ended = watcher.next().await?;
    assert_eq!(
        ended.cancel_reason,
        "rpc error: code = InvalidArgument desc = etcdserver: user name is empty"
    );
    Ok(())
}
