//! Leases on three members: never early, not late, through every member, across a leader's death.
#![allow(missing_docs)]

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use kvd_api::pb::etcdserverpb::lease_client::LeaseClient;
use kvd_api::pb::etcdserverpb::watch_client::WatchClient;
use kvd_api::pb::etcdserverpb::watch_create_request::FilterType;
use kvd_api::pb::etcdserverpb::watch_request::RequestUnion;
use kvd_api::pb::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseLeasesRequest, LeaseRevokeRequest,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, PutRequest, RangeRequest, WatchCreateRequest,
    WatchRequest,
};
use kvd_tests::cluster::Cluster;
use kvd_tests::member::Member;
use kvd_tests::wait;
use rustix::process::Signal;
use tonic::transport::{Channel, Endpoint};

const SECOND: Duration = Duration::from_secs(1);
/// The default of `--election-timeout`.
const ELECTION: Duration = SECOND;

async fn leases(member: &Member) -> Result<LeaseClient<Channel>> {
    Ok(LeaseClient::new(member.channel().await?))
}

async fn grant(member: &Member, ttl: i64, id: i64) -> Result<()> {
    let request = LeaseGrantRequest { ttl, id };
    leases(member).await?.lease_grant(request).await?;
    Ok(())
}

async fn put(member: &Member, key: &str, lease: i64) -> Result<()> {
    let request = PutRequest {
        key: Bytes::from(key.to_owned()),
        lease,
        ..PutRequest::default()
    };
    member.kv().await?.put(request).await?;
    Ok(())
}

/// The number of keys and the current revision.
async fn keys(member: &Member) -> Result<(i64, i64)> {
    let request = RangeRequest {
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
        count_only: true,
        ..RangeRequest::default()
    };
    let answer = member.kv().await?.range(request).await?.into_inner();
    Ok((answer.count, answer.header.context("a header")?.revision))
}

async fn keep_alive(member: &Member, id: i64) -> Result<i64> {
    let requests = tokio_stream_of(LeaseKeepAliveRequest { id });
    let mut replies = leases(member)
        .await?
        .lease_keep_alive(requests)
        .await?
        .into_inner();
    Ok(replies.message().await?.context("a reply")?.ttl)
}

/// A stream of one message.
fn tokio_stream_of<T: Send + 'static>(message: T) -> impl tonic::IntoStreamingRequest<Message = T> {
    tonic::Request::new(futures_util::stream::iter([message]))
}

async fn time_to_live(member: &Member, id: i64) -> Result<LeaseTimeToLiveResponse> {
    let request = LeaseTimeToLiveRequest { id, keys: true };
    let answer = leases(member).await?.lease_time_to_live(request).await?;
    Ok(answer.into_inner())
}

#[tokio::test]
async fn every_member_grants_renews_tells_and_revokes() -> Result<()> {
    let cluster = Cluster::start(3, &[]).await?;
    for (id, member) in (1_i64..).zip(&cluster.members) {
        grant(member, 60, id).await?;
        for key in ["b", "a", "c"] {
            put(member, key, id).await?;
        }
        for other in &cluster.members {
            assert_eq!(keep_alive(other, id).await?, 60);
            assert_eq!(keep_alive(other, 99).await?, 0, "an unknown lease");
            let told = time_to_live(other, id).await?;
            ensure!((58..=60).contains(&told.ttl), "{told:?}");
            assert_eq!((told.granted_ttl, told.keys.len()), (60, 3));
            assert_eq!(time_to_live(other, 99).await?.ttl, -1);
        }
        let (_, before) = keys(member).await?;
        let revoke = LeaseRevokeRequest { id };
        leases(member).await?.lease_revoke(revoke).await?;
        let after = keys(member).await?;
        assert_eq!(after, (0, before + 1), "all keys at one revision");
        assert_eq!(keep_alive(member, id).await?, 0);
    }
    cluster.equal_hashes(10 * SECOND).await?;
    Ok(())
}

/// What a stream has begun is not gone on with until its client reads: nobody else may need that.
#[tokio::test]
async fn a_client_that_does_not_read_its_renewals_holds_up_nobody() -> Result<()> {
    let cluster = Cluster::start(3, &[]).await?;
    cluster.leader().await?;
    grant(&cluster.members[0], 60, 1).await?;
    let mut unread = Vec::new();
    for member in &cluster.members {
        // Room for two replies.
        let endpoint = Endpoint::from_shared(member.client_url())?.initial_stream_window_size(100);
        let mut client = LeaseClient::new(endpoint.connect().await?);
        let renewals = std::iter::repeat_n(LeaseKeepAliveRequest { id: 1 }, 20);
        let renewals = futures_util::stream::iter(renewals);
        unread.push(client.lease_keep_alive(renewals).await?);
    }
    for _ in 0..20 {
        for member in &cluster.members {
            let read = tokio::time::timeout(3 * SECOND, keys(member)).await;
            read.context("a read waits")??;
            let renewed = tokio::time::timeout(3 * SECOND, keep_alive(member, 1)).await;
            assert_eq!(renewed.context("a renewal waits")??, 60);
        }
    }
    drop(unread);
    Ok(())
}

#[tokio::test]
async fn who_hears_of_the_end_of_a_leases_key_finds_no_lease() -> Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let member = &cluster.members[0];
    let create = WatchCreateRequest {
        key: Bytes::from_static(b"k"),
        filters: vec![FilterType::Noput as i32],
        ..WatchCreateRequest::default()
    };
    let request_union = Some(RequestUnion::CreateRequest(create));
    let requests = tokio_stream_of(WatchRequest { request_union });
    let mut watches = WatchClient::new(member.channel().await?);
    let mut told = watches.watch(requests).await?.into_inner();
    told.message().await?.context("the watcher is made")?;
    let mut asking = leases(member).await?;
    for id in 1..=100 {
        grant(member, 60, id).await?;
        put(member, "k", id).await?;
        let mut revoking = leases(member).await?;
        let revoke = LeaseRevokeRequest { id };
        let revoked = tokio::spawn(async move { revoking.lease_revoke(revoke).await });
        told.message().await?.context("the deletion")?;
        let request = LeaseTimeToLiveRequest { id, keys: false };
        let left = asking.lease_time_to_live(request).await?.into_inner();
        assert_eq!(left.ttl, -1, "lease {id}");
        revoked.await??;
    }
    Ok(())
}

#[tokio::test]
async fn a_lease_expires_on_time_and_lives_while_a_follower_renews_it() -> Result<()> {
    let cluster = Cluster::start(3, &[]).await?;
    let leader = cluster.leader().await?;
    let follower = &cluster.members[(leader + 1) % 3];
    grant(follower, 3, 1).await?;
    put(follower, "kept", 1).await?;
    grant(follower, 3, 2).await?;
    let granted = Instant::now();
    put(follower, "lost", 2).await?;
    while granted.elapsed() < 6 * SECOND {
        assert_eq!(keep_alive(follower, 1).await?, 3);
        let (count, _) = keys(follower).await?;
        // The clock began before the grant did on the leader: checked after the read.
        ensure!(
            count == 2 || granted.elapsed() >= Duration::from_millis(2_900),
            "early"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(keys(follower).await?.0, 1, "one has expired, one is kept");
    wait::until("the end of the lease", 6 * SECOND, || async {
        let (count, _) = keys(follower).await?;
        ensure!(count == 0, "{count} keys");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_leaders_death_neither_shortens_a_lease_nor_makes_it_last() -> Result<()> {
    let mut cluster = Cluster::start(3, &[]).await?;
    let leader = cluster.leader().await?;
    let ttl = 4 * SECOND;
    let other = (leader + 1) % 3;
    grant(&cluster.members[other], 4, 1).await?;
    let granted = Instant::now();
    put(&cluster.members[other], "a", 1).await?;
    tokio::time::sleep(2 * SECOND).await;
    cluster.members[leader].kill()?;
    let killed = Instant::now();
    let new_leader = cluster.leader().await?;
    let elected = Instant::now();
    let seen = loop {
        // An answer says how it was at some moment before it came.
        match keys(&cluster.members[new_leader]).await {
            Ok((0, _)) => break Instant::now(),
            Ok(_) => {}
            Err(error) => println!("{error:#}"),
        }
        ensure!(killed.elapsed() < 30 * SECOND, "it never expired");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    ensure!(seen - granted >= ttl, "expired after {:?}", seen - granted);
    let late = seen - elected;
    ensure!(
        late <= ttl + ELECTION + 2 * SECOND,
        "expired {late:?} after the election"
    );
    cluster.restart(leader).await?;
    cluster.equal_hashes(20 * SECOND).await?;
    Ok(())
}

#[tokio::test]
async fn leases_and_their_keys_survive_a_restart_of_all() -> Result<()> {
    let mut cluster = Cluster::start(3, &[]).await?;
    grant(&cluster.members[0], 100, 7).await?;
    put(&cluster.members[0], "a", 7).await?;
    for member in &mut cluster.members {
        member.kill()?;
    }
    cluster.start_all().await?;
    for member in &cluster.members {
        let told = time_to_live(member, 7).await?;
        // A whole TTL and one election timeout from the election on.
        ensure!((90..=101).contains(&told.ttl), "{told:?}");
        assert_eq!(
            (told.granted_ttl, told.keys),
            (100, vec![Bytes::from_static(b"a")])
        );
        let listed = leases(member)
            .await?
            .lease_leases(LeaseLeasesRequest {})
            .await?;
        assert_eq!(listed.into_inner().leases.len(), 1);
    }
    Ok(())
}

/// Renews through one member; `None` when no answer comes in a second.
async fn try_keep_alive(member: &Member, id: i64) -> Option<i64> {
    let answer = tokio::time::timeout(SECOND, keep_alive(member, id)).await;
    answer.ok()?.ok()
}

#[tokio::test]
async fn a_leader_that_slept_ends_no_lease_that_was_renewed_meanwhile() -> Result<()> {
    let cluster = Cluster::start(3, &[]).await?;
    let leader = cluster.leader().await?;
    let others = [(leader + 1) % 3, (leader + 2) % 3];
    grant(&cluster.members[others[0]], 3, 1).await?;
    put(&cluster.members[others[0]], "a", 1).await?;
    cluster.members[leader].signal(Signal::STOP)?;
    let stopped = Instant::now();
    let mut renewed = Instant::now();
    // Both relay renewals, first to a leader that does not answer, then to the next one.
    while stopped.elapsed() < 7 * SECOND {
        for other in others {
            let before = Instant::now();
            match try_keep_alive(&cluster.members[other], 1).await {
                Some(ttl) => {
                    ensure!(
                        ttl == 3,
                        "TTL {ttl}, {:?} after the renewal",
                        renewed.elapsed()
                    );
                    renewed = before;
                }
                None => println!("no answer {:?} after the stop", stopped.elapsed()),
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    ensure!(
        renewed > stopped + 2 * SECOND,
        "no renewal without the old leader"
    );
    cluster.members[leader].signal(Signal::CONT)?;
    let woken = Instant::now();
    while woken.elapsed() < 3 * SECOND {
        for member in &cluster.members {
            let before = Instant::now();
            if let Some(ttl) = try_keep_alive(member, 1).await {
                ensure!(
                    ttl == 3,
                    "TTL {ttl}, {:?} after the renewal",
                    renewed.elapsed()
                );
                renewed = before;
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let at = &cluster.members[others[0]];
    while keys(at).await?.0 == 1 {
        ensure!(renewed.elapsed() < 20 * SECOND, "it never expired");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let lived = renewed.elapsed();
    // The last renewal was answered at most a second after `renewed`.
    ensure!(lived >= 3 * SECOND, "expired {lived:?} after a renewal");
    ensure!(
        lived <= 3 * SECOND + ELECTION + 3 * SECOND,
        "expired only {lived:?} after it"
    );
    cluster.equal_hashes(20 * SECOND).await?;
    Ok(())
}

#[tokio::test]
async fn a_leader_killed_while_leases_run_out_leaves_none_and_ends_none_twice() -> Result<()> {
    const LEASES: i64 = 300;
    let mut cluster = Cluster::start(3, &[]).await?;
    let leader = cluster.leader().await?;
    let other = &cluster.members[(leader + 1) % 3];
    let mut client = leases(other).await?;
    let mut kv = other.kv().await?;
    for id in 1..=LEASES {
        client.lease_grant(LeaseGrantRequest { ttl: 2, id }).await?;
        let request = PutRequest {
            key: Bytes::from(format!("k/{id}")),
            lease: id,
            ..PutRequest::default()
        };
        kv.put(request).await?;
    }
    let (_, after_puts) = keys(other).await?;
    // On a slow machine the first have run out before the last is put.
    let first_expiry = wait::until("the first to run out", 10 * SECOND, || async {
        let (count, revision) = keys(other).await?;
        ensure!(count < LEASES, "{count} keys");
        Ok(revision)
    })
    .await?;
    ensure!(first_expiry >= after_puts, "the revision went back");
    cluster.members[leader].kill()?;
    let survivor = cluster.leader().await?;
    let elected = Instant::now();
    let at = &cluster.members[survivor];
    wait::until("the end of all leases", 30 * SECOND, || async {
        let (count, _) = keys(at).await?;
        ensure!(count == 0, "{count} keys");
        Ok(())
    })
    .await?;
    // Their TTL, an election timeout, and what so many revokes may take.
    let late = elected.elapsed();
    ensure!(
        late <= 2 * SECOND + ELECTION + 4 * SECOND,
        "{late:?} after the election"
    );
    let (_, revision) = keys(at).await?;
    // Revision 1 is that of an empty store: one for each put, one for each end.
    assert_eq!(revision, 1 + 2 * LEASES);
    cluster.restart(leader).await?;
    cluster.equal_hashes(20 * SECOND).await?;
    Ok(())
}
