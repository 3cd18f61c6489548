//! The `etcd-client` crate against three members.

use anyhow::{Context, Result, ensure};
use etcd_client::{
    AlarmAction, AlarmType, Client, Compare, CompareOp, CompactionOptions, DeleteOptions, EventType,
    GetOptions, LeaseTimeToLiveOptions, ProclaimOptions, PutOptions, ResignOptions, SortOrder,
    SortTarget, Txn, TxnOp, WatchOptions,
};
use kvd_tests::cluster::Cluster;

async fn connect(cluster: &Cluster) -> Result<Client> {
    let urls: Vec<String> = cluster.members.iter().map(|member| member.client_url()).collect();
    Ok(Client::connect(urls, None).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn puts_gets_deletes_and_transactions() -> Result<()> {
    let cluster = Cluster::start(3, &[]).await?;
    let mut client = connect(&cluster).await?;
    let first = client.put("foo", "bar", None).await?;
    let revision = first.header().context("a header")?.revision();
    let options = PutOptions::new().with_prev_key();
    let second = client.put("foo", "baz", Some(options)).await?;
    let previous = second.prev_key().context("the previous pair")?;
    assert_eq!(previous.value(), b"bar");

    let old = client.get("foo", Some(GetOptions::new().with_revision(revision))).await?;
    assert_eq!(old.kvs()[0].value(), b"bar");
    let now = client.get("foo", None).await?;
    assert_eq!((now.kvs()[0].value(), now.kvs()[0].version()), (&b"baz"[..], 2));

    for number in 0..10 {
        client.put(format!("list/{number}"), number.to_string(), None).await?;
    }
    let options = GetOptions::new()
        .with_prefix()
        .with_limit(3)
        .with_sort(SortTarget::Key, SortOrder::Descend);
    let listed = client.get("list/", Some(options)).await?;
    let keys: Vec<&[u8]> = listed.kvs().iter().map(|kv| kv.key()).collect();
    assert_eq!(keys, [&b"list/9"[..], b"list/8", b"list/7"]);
    assert_eq!((listed.count(), listed.more()), (10, true));

    let txn = Txn::new()
        .when([Compare::value("foo", CompareOp::Equal, "baz")])
        .and_then([TxnOp::put("foo", "txn", None), TxnOp::get("foo", None)])
        .or_else([TxnOp::get("foo", None)]);
    let answer = client.txn(txn).await?;
    ensure!(answer.succeeded(), "{answer:?}");
    assert_eq!(answer.op_responses().len(), 2);

    let deleted = client.delete("list/", Some(DeleteOptions::new().with_prefix())).await?;
    assert_eq!(deleted.deleted(), 10);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn compaction_members_status_and_alarms() -> Result<()> {
    let cluster = Cluster::start(3, &[]).await?;
    let mut client = connect(&cluster).await?;
    for number in 0..5 {
        client.put("k", number.to_string(), None).await?;
    }
    client.compact(4, Some(CompactionOptions::new().with_physical())).await?;
    let old = client.get("k", Some(GetOptions::new().with_revision(3))).await;
    let error = old.err().context("revision 3 is compacted")?.to_string();
    ensure!(error.contains("required revision has been compacted"), "{error}");

    let members = client.member_list().await?;
    assert_eq!(members.members().len(), 3);
    let status = client.status().await?;
    ensure!(status.leader() != 0 && status.version() == "3.7.1", "{status:?}");
    let alarms = client.alarm(AlarmAction::Get, AlarmType::None, None).await?;
    ensure!(alarms.alarms().is_empty(), "{alarms:?}");
    let first = client.hash_kv(0).await?;
    ensure!(first.hash() != 0, "{first:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_see_what_was_and_what_comes() -> Result<()> {
    let cluster = Cluster::start(3, &[]).await?;
    let mut client = connect(&cluster).await?;
    let first = client.put("w/a", "1", None).await?;
    let revision = first.header().context("a header")?.revision();
    client.put("w/b", "1", None).await?;
    client.delete("w/a", None).await?;
    let options = WatchOptions::new().with_prefix().with_start_revision(revision).with_prev_key();
    let (mut watcher, mut stream) = client.watch("w/", Some(options)).await?;
    client.put("w/b", "2", None).await?;
    let mut seen = Vec::new();
    while seen.len() < 4 {
        let response = stream.message().await?.context("the stream ended")?;
        for event in response.events() {
            let kv = event.kv().context("a pair")?;
            let previous = event.prev_kv().map(|kv| kv.value_str().map(str::to_owned));
            seen.push((event.event_type(), kv.key_str()?.to_owned(), previous.transpose()?));
        }
    }
    let put = |key: &str, previous: Option<&str>| {
        (EventType::Put, key.to_owned(), previous.map(str::to_owned))
    };
    let deleted = (EventType::Delete, "w/a".to_owned(), Some("1".to_owned()));
    assert_eq!(seen, [put("w/a", None), put("w/b", None), deleted, put("w/b", Some("1"))]);
    watcher.cancel().await?;
    let response = stream.message().await?.context("the stream ended")?;
    ensure!(response.canceled(), "{response:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_are_granted_kept_told_and_revoked() -> Result<()> {
    let cluster = Cluster::start(3, &[]).await?;
    let mut client = connect(&cluster).await?;
    let id = client.lease_grant(60, None).await?.id();
    client.put("leased", "v", Some(PutOptions::new().with_lease(id))).await?;
    let (mut keeper, mut replies) = client.lease_keep_alive(id).await?;
    for _ in 0..3 {
        keeper.keep_alive().await?;
        let reply = replies.message().await?.context("the stream ended")?;
        assert_eq!((reply.id(), reply.ttl()), (id, 60));
    }
    let options = LeaseTimeToLiveOptions::new().with_keys();
    let told = client.lease_time_to_live(id, Some(options)).await?;
    ensure!((55..=60).contains(&told.ttl()) && told.granted_ttl() == 60, "{told:?}");
    assert_eq!(told.keys(), [b"leased"]);
    assert_eq!(client.leases().await?.leases()[0].id(), id);
    client.lease_revoke(id).await?;
    assert_eq!(client.get("leased", None).await?.count(), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_and_elections_go_from_one_to_the_next() -> Result<()> {
    let cluster = Cluster::start(3, &[]).await?;
    let mut client = connect(&cluster).await?;
    let held = client.lock("l", None).await?.key().to_vec();
    let mut other = connect(&cluster).await?;
    let waiter = tokio::spawn(async move { other.lock("l", None).await });
    let queued = Some(GetOptions::new().with_prefix().with_count_only());
    while client.get("l/", queued.clone()).await?.count() < 2 {}
    ensure!(!waiter.is_finished(), "two hold the lock");
    client.unlock(held).await?;
    client.unlock(waiter.await??.key()).await?;

    let lease = client.lease_grant(60, None).await?.id();
    let won = client.campaign("e", "one", lease).await?;
    let leader = won.leader().context("a leader")?.clone();
    let mut observed = client.observe("e").await?;
    let mut heard = async || -> Result<String> {
        let told = observed.message().await?.context("the stream ended")?;
        Ok(told.kv().context("a pair")?.value_str()?.to_owned())
    };
    assert_eq!(heard().await?, "one");
    let options = ProclaimOptions::new().with_leader(leader.clone());
    client.proclaim("uno", Some(options)).await?;
    assert_eq!(heard().await?, "uno");
    let now = client.leader("e").await?;
    assert_eq!(now.kv().context("a pair")?.value(), b"uno");
    client.resign(Some(ResignOptions::new().with_leader(leader))).await?;
    let nobody = client.leader("e").await.err().context("somebody leads")?.to_string();
    ensure!(nobody.contains("election: no leader"), "{nobody}");
    Ok(())
}
