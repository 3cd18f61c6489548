//! The `etcd-client` crate against three members.

use anyhow::{Context, Result, ensure};
use etcd_client::{
    AlarmAction, AlarmType, Client, Compare, CompareOp, CompactionOptions, DeleteOptions,
    GetOptions, PutOptions, SortOrder, SortTarget, Txn, TxnOp,
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
