//! Locks and elections by users who may use one prefix and nothing else.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use kvd_api::pb::authpb::permission::Type;
use kvd_api::pb::etcdserverpb::LeaseGrantRequest;
use kvd_api::pb::v3electionpb::election_client::ElectionClient;
use kvd_api::pb::v3electionpb::{CampaignRequest, LeaderRequest, ProclaimRequest, ResignRequest};
use kvd_api::pb::v3lockpb::lock_client::LockClient;
use kvd_api::pb::v3lockpb::{LockRequest, LockResponse, UnlockRequest};
use kvd_tests::cluster::Cluster;
use tonic::Status;
use tonic::transport::Channel;

use super::session::{CHEAP, Session, refusal};

const DENIED: &str = "etcdserver: permission denied";
const PATIENCE: Duration = Duration::from_secs(60);

async fn grant(session: &Session, id: i64) -> Result<()> {
    let grant = LeaseGrantRequest { ttl: 600, id };
    session.lease().lease_grant(session.with(grant)).await?;
    Ok(())
}

async fn lock(session: &Session, name: &'static str, lease: i64) -> Result<LockResponse, Status> {
    let request = LockRequest {
        name: Bytes::from_static(name.as_bytes()),
        lease,
    };
    let mut request = session.with(request);
    request.set_timeout(PATIENCE);
    let mut locks = LockClient::new(session.channel.clone());
    Ok(locks.lock(request).await?.into_inner())
}

async fn unlock(session: &Session, key: Bytes) -> Result<(), Status> {
    let mut locks = LockClient::new(session.channel.clone());
    locks.unlock(session.with(UnlockRequest { key })).await?;
    Ok(())
}

/// Root, and two users: `locker`, who may use what is below `l/` and `e/`, and `reader`, who may
/// read it.
async fn users(cluster: &Cluster) -> Result<(Session, Session)> {
    let root = Session::enable(&cluster.members[0]).await?;
    for (user, kind) in [("locker", Type::Readwrite), ("reader", Type::Read)] {
        root.add_role(user).await?;
        root.permit(user, kind, "l/", "l0").await?;
        root.permit(user, kind, "e/", "e0").await?;
        root.add_user(user, user).await?;
    }
    // Each at another member.
    let locker = Session::of(&cluster.members[1], "locker").await?;
    let reader = Session::of(&cluster.members[2], "reader").await?;
    Ok((locker, reader))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_needs_its_prefix_and_no_more() -> Result<()> {
    let cluster = Cluster::start(3, &CHEAP).await?;
    let (locker, reader) = users(&cluster).await?;
    for id in [1, 2, 3] {
        grant(&locker, id).await?;
    }
    let first = lock(&locker, "l", 1).await?;
    assert_eq!(first.key, "l/1");
    // Another name is another prefix, also one that begins the same.
    for name in ["m", "l2", ""] {
        let refused = refusal(lock(&locker, name, 2).await);
        ensure!(refused == DENIED, "{name:?}: {refused}");
    }
    // Who may only read can neither lock nor unlock.
    ensure!(
        refusal(lock(&reader, "l", 3).await) == DENIED,
        "a reader locks"
    );
    ensure!(
        refusal(unlock(&reader, first.key.clone()).await) == DENIED,
        "a reader unlocks"
    );
    let nobody = Session::anonymous(&cluster.members[0]).await?;
    let refused = refusal(lock(&nobody, "l", 3).await);
    ensure!(refused == "etcdserver: user name is empty", "{refused}");

    // The next in the queue waits on behalf of its user, too.
    let second = locker.at(&cluster.members[0]).await?;
    let waiting = tokio::spawn(async move { lock(&second, "l", 3).await });
    let queued = kvd_tests::wait::until("the queue", PATIENCE, || async {
        ensure!(locker.get("l/3").await? == 1, "it does not wait yet");
        Ok(())
    });
    queued.await?;
    unlock(&locker, first.key.clone()).await?;
    let second = tokio::time::timeout(PATIENCE, waiting).await???;
    assert_eq!(second.key, "l/3");
    ensure!(second.fencing_token > first.fencing_token, "{second:?}");
    unlock(&locker, second.key).await?;
    Ok(())
}

fn election(session: &Session) -> ElectionClient<Channel> {
    ElectionClient::new(session.channel.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_election_needs_its_prefix_and_no_more() -> Result<()> {
    let cluster = Cluster::start(3, &CHEAP).await?;
    let (locker, reader) = users(&cluster).await?;
    grant(&locker, 1).await?;
    let campaign = |name: &'static str| CampaignRequest {
        name: Bytes::from_static(name.as_bytes()),
        lease: 1,
        value: Bytes::from_static(b"one"),
    };
    for (session, name) in [(&locker, "f"), (&reader, "e")] {
        let mut client = election(session);
        let refused = client.campaign(session.with(campaign(name))).await;
        ensure!(refusal(refused) == DENIED, "a campaign for {name}");
    }
    let mut client = election(&locker);
    let elected = client.campaign(locker.with(campaign("e"))).await?;
    let leader = elected.into_inner().leader.context("a leader")?;
    assert_eq!(leader.key, "e/1");

    // Who may read sees who leads, and is told of what it proclaims.
    let ask = |name: &'static str| LeaderRequest {
        name: Bytes::from_static(name.as_bytes()),
    };
    let mut observed = election(&reader)
        .observe(reader.with(ask("e")))
        .await?
        .into_inner();
    let told = tokio::time::timeout(PATIENCE, observed.message()).await??;
    let told = told.and_then(|told| told.kv).context("the leader")?;
    assert_eq!(&told.value[..], b"one");
    let proclaim = |value: &'static str| ProclaimRequest {
        leader: Some(leader.clone()),
        value: Bytes::from_static(value.as_bytes()),
    };
    let refused = election(&reader)
        .proclaim(reader.with(proclaim("mine")))
        .await;
    ensure!(refusal(refused) == DENIED, "a reader proclaims");
    election(&locker)
        .proclaim(locker.with(proclaim("two")))
        .await?;
    let told = tokio::time::timeout(PATIENCE, observed.message()).await??;
    let told = told
        .and_then(|told| told.kv)
        .context("what was proclaimed")?;
    assert_eq!(&told.value[..], b"two");
    let hidden = election(&reader).leader(reader.with(ask("f"))).await;
    ensure!(refusal(hidden) == DENIED, "another election");

    let resign = || ResignRequest {
        leader: Some(leader.clone()),
    };
    let refused = election(&reader).resign(reader.with(resign())).await;
    ensure!(refusal(refused) == DENIED, "a reader resigns for another");
    election(&locker).resign(locker.with(resign())).await?;
    ensure!(locker.get("e/1").await? == 0, "its key is gone");
    Ok(())
}
