//! The v2 API of one member: shapes, codes and headers as etcd 3.4 has them, TTLs, watches.
#![allow(missing_docs)]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use kvd_api::pb::etcdserverpb::lease_client::LeaseClient;
use kvd_api::pb::etcdserverpb::{LeaseLeasesRequest, PutRequest, RangeRequest};
use kvd_tests::cluster::Cluster;
use kvd_tests::http;
use kvd_tests::wait;

/// Method, path below `/v2/keys`, form, status and body, as etcd 3.4.23 answered to the same
/// requests on an empty store; only its indexes began with 4 and not with 2.
const EXCHANGES: &[(&str, &str, &str, u16, &str)] = &[
    (
        "GET",
        "",
        "",
        200,
        r#"{"action":"get","node":{"dir":true}}"#,
    ),
    (
        "PUT",
        "/foo",
        "value=bar",
        201,
        r#"{"action":"set","node":{"key":"/foo","value":"bar","modifiedIndex":2,"createdIndex":2}}"#,
    ),
    (
        "PUT",
        "/foo",
        "value=a+%3Cb%3E",
        200,
        r#"{"action":"set","node":{"key":"/foo","value":"a \u003cb\u003e","modifiedIndex":3,"createdIndex":3},"prevNode":{"key":"/foo","value":"bar","modifiedIndex":2,"createdIndex":2}}"#,
    ),
    (
        "GET",
        "/foo?quorum=true",
        "",
        200,
        r#"{"action":"get","node":{"key":"/foo","value":"a \u003cb\u003e","modifiedIndex":3,"createdIndex":3}}"#,
    ),
    (
        "PUT",
        "/foo?prevExist=false",
        "value=x",
        412,
        r#"{"errorCode":105,"message":"Key already exists","cause":"/foo","index":3}"#,
    ),
    (
        "PUT",
        "/foo?prevExist=true",
        "value=x",
        200,
        r#"{"action":"update","node":{"key":"/foo","value":"x","modifiedIndex":4,"createdIndex":3},"prevNode":{"key":"/foo","value":"a \u003cb\u003e","modifiedIndex":3,"createdIndex":3}}"#,
    ),
    (
        "PUT",
        "/foo?prevValue=no&prevIndex=9",
        "value=y",
        412,
        r#"{"errorCode":101,"message":"Compare failed","cause":"[no != x] [9 != 4]","index":4}"#,
    ),
    (
        "PUT",
        "/foo?prevValue=x",
        "value=y",
        200,
        r#"{"action":"compareAndSwap","node":{"key":"/foo","value":"y","modifiedIndex":5,"createdIndex":3},"prevNode":{"key":"/foo","value":"x","modifiedIndex":4,"createdIndex":3}}"#,
    ),
    (
        "PUT",
        "/foo?noValueOnSuccess=true",
        "value=z",
        200,
        r#"{"action":"set"}"#,
    ),
    (
        "PUT",
        "/foo/bar",
        "value=1",
        400,
        r#"{"errorCode":104,"message":"Not a directory","cause":"/foo","index":6}"#,
    ),
    (
        "PUT",
        "/d?dir=true",
        "",
        201,
        r#"{"action":"set","node":{"key":"/d","dir":true,"modifiedIndex":7,"createdIndex":7}}"#,
    ),
    (
        "PUT",
        "/d?dir=true",
        "",
        403,
        r#"{"errorCode":102,"message":"Not a file","cause":"/d","index":7}"#,
    ),
    (
        "POST",
        "/d",
        "value=1",
        201,
        r#"{"action":"create","node":{"key":"/d/00000000000000000008","value":"1","modifiedIndex":8,"createdIndex":8}}"#,
    ),
    (
        "PUT",
        "/d/_hidden",
        "value=2",
        201,
        r#"{"action":"set","node":{"key":"/d/_hidden","value":"2","modifiedIndex":9,"createdIndex":9}}"#,
    ),
    (
        "GET",
        "/?recursive=true&sorted=true",
        "",
        200,
        r#"{"action":"get","node":{"dir":true,"nodes":[{"key":"/d","dir":true,"nodes":[{"key":"/d/00000000000000000008","value":"1","modifiedIndex":8,"createdIndex":8}],"modifiedIndex":7,"createdIndex":7},{"key":"/foo","value":"z","modifiedIndex":6,"createdIndex":6}]}}"#,
    ),
    (
        "DELETE",
        "/d",
        "",
        403,
        r#"{"errorCode":102,"message":"Not a file","cause":"/d","index":9}"#,
    ),
    (
        "DELETE",
        "/d?dir=true",
        "",
        403,
        r#"{"errorCode":108,"message":"Directory not empty","cause":"/d","index":9}"#,
    ),
    (
        "DELETE",
        "/d?recursive=true",
        "",
        200,
        r#"{"action":"delete","node":{"key":"/d","dir":true,"modifiedIndex":10,"createdIndex":7},"prevNode":{"key":"/d","dir":true,"modifiedIndex":7,"createdIndex":7}}"#,
    ),
    (
        "DELETE",
        "/",
        "",
        400,
        r#"{"errorCode":107,"message":"Root is read only","cause":"/","index":10}"#,
    ),
    (
        "DELETE",
        "/foo?prevValue=z",
        "",
        200,
        r#"{"action":"compareAndDelete","node":{"key":"/foo","modifiedIndex":11,"createdIndex":6},"prevNode":{"key":"/foo","value":"z","modifiedIndex":6,"createdIndex":6}}"#,
    ),
    (
        "GET",
        "/a/b",
        "",
        404,
        r#"{"errorCode":100,"message":"Key not found","cause":"/a","index":11}"#,
    ),
    (
        "PUT",
        "/foo",
        "ttl=x",
        400,
        r#"{"errorCode":202,"message":"The given TTL in POST form is not a number","cause":"invalid value for \"ttl\"","index":0}"#,
    ),
    (
        "PUT",
        "/foo?wait=true",
        "value=1",
        400,
        r#"{"errorCode":209,"message":"Invalid field","cause":"\"wait\" can only be used with GET requests","index":0}"#,
    ),
    (
        "PUT",
        "/foo",
        "value=%zz",
        400,
        r#"{"errorCode":210,"message":"Invalid POST form","cause":"invalid URL escape \"%zz\"","index":0}"#,
    ),
];

fn header<'a>(reply: &'a http::Reply, name: &str) -> Option<&'a str> {
    let lines = reply
        .headers
        .lines()
        .filter_map(|line| line.split_once(": "));
    let mut values = lines.filter(|(known, _)| known.eq_ignore_ascii_case(name));
    values.next().map(|(_, value)| value)
}

async fn single(arguments: &[&str]) -> Result<(Cluster, String)> {
    let cluster = Cluster::start(1, arguments).await?;
    let address = cluster.members[0].client_address();
    Ok((cluster, address))
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_answer_as_those_of_etcd_34() -> Result<()> {
    let (_cluster, address) = single(&[]).await?;
    for (method, path, form, status, body) in EXCHANGES {
        let reply = http::form(&address, method, &format!("/v2/keys{path}"), form)?;
        let asked = format!("{method} {path} {form}");
        assert_eq!(reply.body, format!("{body}\n"), "{asked}");
        assert_eq!(reply.status, *status, "{asked}");
        assert_eq!(header(&reply, "content-type"), Some("application/json"));
        ensure!(header(&reply, "x-etcd-cluster-id").is_some(), "{asked}");
        let is_error = *status >= 400;
        assert_eq!(header(&reply, "x-raft-term").is_none(), is_error, "{asked}");
        assert_eq!(
            header(&reply, "x-raft-index").is_none(),
            is_error,
            "{asked}"
        );
        let json = reply.json()?;
        let index = match json.get("index") {
            Some(index) => index.as_u64(),
            None => json["node"]["modifiedIndex"]
                .as_u64()
                .filter(|_| *method != "GET"),
        };
        if let Some(index) = index {
            assert_eq!(
                header(&reply, "x-etcd-index"),
                Some(&index.to_string()[..]),
                "{asked}"
            );
        }
    }
    let reply = http::request(&address, "PATCH", "/v2/keys/foo", "")?;
    assert_eq!(
        (reply.status, &reply.body[..]),
        (405, "Method Not Allowed\n")
    );
    assert_eq!(header(&reply, "allow"), Some("HEAD,GET,PUT,POST,DELETE"));
    http::form(&address, "PUT", "/v2/keys/h", "value=1")?;
    let reply = http::request(&address, "HEAD", "/v2/keys/h", "")?;
    assert_eq!((reply.status, &reply.body[..]), (200, ""));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn members_stats_and_auth_answer() -> Result<()> {
    let (cluster, address) = single(&[]).await?;
    let url = cluster.members[0].client_url();
    let members = http::get(&address, "/v2/members")?.json()?;
    assert_eq!(members["members"][0]["name"], "m0");
    assert_eq!(members["members"][0]["clientURLs"][0], url);
    let leader = http::get(&address, "/v2/members/leader")?.json()?;
    assert_eq!(leader["id"], members["members"][0]["id"]);
    assert_eq!(http::get(&address, "/v2/machines")?.body, url);
    assert_eq!(http::get(&address, "/v2/members/x")?.status, 404);
    let reply = http::form(&address, "POST", "/v2/members", "x")?;
    assert_eq!(reply.status, 415);
    let reply = http::request(&address, "DELETE", "/v2/members/xyz", "")?;
    assert_eq!(reply.body, "{\"message\":\"No such member: xyz\"}");
    let stats = http::get(&address, "/v2/stats/self")?.json()?;
    assert_eq!(
        (&stats["state"], &stats["id"]),
        (&"StateLeader".into(), &leader["id"])
    );
    let stats = http::get(&address, "/v2/stats/leader")?.json()?;
    assert_eq!(stats["leader"], leader["id"]);
    http::form(&address, "PUT", "/v2/keys/a", "value=1")?;
    let stats = http::get(&address, "/v2/stats/store")?.json()?;
    assert_eq!(
        (&stats["setsSuccess"], &stats["watchers"]),
        (&1.into(), &0.into())
    );
    assert_eq!(
        http::get(&address, "/v2/auth/enable")?.body,
        "{\"enabled\":false}\n"
    );
    assert_eq!(
        http::request(&address, "PUT", "/v2/auth/enable", "")?.status,
        501
    );
    Ok(())
}

async fn range(cluster: &Cluster) -> Result<i64> {
    let all = RangeRequest {
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
        ..RangeRequest::default()
    };
    let mut kv = cluster.members[0].kv().await?;
    Ok(kv.range(all).await?.into_inner().count)
}

#[tokio::test(flavor = "multi_thread")]
async fn v3_neither_sees_nor_writes_the_v2_tree() -> Result<()> {
    let (cluster, address) = single(&[]).await?;
    http::form(&address, "PUT", "/v2/keys/a/b", "value=1&ttl=100")?;
    assert_eq!(range(&cluster).await?, 0);
    let reserved = Bytes::from([&[0xff; 16][..], b"kvd-v2/n"].concat());
    let put = PutRequest {
        key: reserved,
        ..PutRequest::default()
    };
    let refused = cluster.members[0].kv().await?.put(put).await;
    let refused = refused.err().context("it is refused")?;
    ensure!(
        refused.message().contains("reserved for the v2 API"),
        "{refused}"
    );
    let mut leases = LeaseClient::new(cluster.members[0].channel().await?);
    let listed = leases
        .lease_leases(LeaseLeasesRequest {})
        .await?
        .into_inner();
    ensure!(listed.leases.is_empty(), "{listed:?}");
    let (visible, address) = single(&["--v2-keys-visible-in-v3"]).await?;
    http::form(&address, "PUT", "/v2/keys/a", "value=1")?;
    ensure!(range(&visible).await? > 0, "a flag shows them");
    let (_off, address) = single(&["--enable-v2=false"]).await?;
    let reply = http::get(&address, "/v2/keys/a")?;
    assert_eq!(
        (reply.status, &reply.body[..]),
        (404, "404 page not found\n")
    );
    Ok(())
}

/// A watch: the lines of its body as they come, and the index of its beginning.
struct Watch {
    reader: BufReader<TcpStream>,
    index: u64,
    /// Whether the next line says how long a chunk is.
    status: u16,
}

impl Watch {
    fn start(address: &str, path: &str) -> Result<Watch> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        write!(
            stream,
            "GET /v2/keys{path} HTTP/1.1\r\nHost: {address}\r\n\r\n"
        )?;
        let mut reader = BufReader::new(stream);
        let (mut status, mut index) = (0, 0);
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            if line == "\r\n" {
                break;
            }
            if let Some(rest) = line.strip_prefix("HTTP/1.1 ") {
                status = rest[..3].parse()?;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("x-etcd-index: ") {
                index = value.trim().parse()?;
            }
        }
        Ok(Watch {
            reader,
            index,
            status,
        })
    }

    /// The next event: each is a chunk of its own.
    fn next(&mut self) -> Result<serde_json::Value> {
        loop {
            let mut line = String::new();
            ensure!(self.reader.read_line(&mut line)? > 0, "the watch has ended");
            if line.starts_with('{') {
                return Ok(serde_json::from_str(&line)?);
            }
        }
    }
}

fn said(event: &serde_json::Value) -> (String, String) {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    (text(&event["action"]), text(&event["node"]["key"]))
}

fn pair(action: &str, key: &str) -> (String, String) {
    (action.to_owned(), key.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_hear_what_is_to_come_and_what_was() -> Result<()> {
    let (_cluster, address) = single(&[]).await?;
    let put =
        |path: &str, form: &str| http::form(&address, "PUT", &format!("/v2/keys{path}"), form);
    put("/d/x", "value=1")?;
    let mut at_key = Watch::start(&address, "/d/x?wait=true")?;
    assert_eq!((at_key.status, at_key.index), (200, 2));
    let mut below = Watch::start(&address, "/?wait=true&recursive=true&stream=true")?;
    let mut beside = Watch::start(&address, "/d?wait=true&stream=true")?;
    put("/d/_hidden/y", "value=1")?;
    put("/d/x", "ttl=100&refresh=true")?;
    put("/d/x", "value=2")?;
    assert_eq!(said(&at_key.next()?), pair("set", "/d/x"));
    // Neither the hidden key nor the refresh was told.
    let event = below.next()?;
    assert_eq!(
        (said(&event), &event["node"]["modifiedIndex"]),
        (pair("set", "/d/x"), &5.into())
    );
    let mut gone = Watch::start(&address, "/d/x?wait=true")?;
    let mut never_there = Watch::start(&address, "/d/zz?wait=true&stream=true")?;
    http::request(&address, "DELETE", "/v2/keys/d?recursive=true", "")?;
    assert_eq!(said(&gone.next()?), pair("delete", "/d"));
    assert_eq!(said(&beside.next()?), pair("delete", "/d"));
    assert_eq!(said(&below.next()?), pair("delete", "/d"));
    put("/d/zz", "value=1")?;
    assert_eq!(said(&never_there.next()?), pair("set", "/d/zz"));
    // The past, from an index on, and then what comes.
    let mut past = Watch::start(&address, "/d/x?wait=true&waitIndex=1&stream=true")?;
    for index in [2_u64, 5, 6] {
        assert_eq!(past.next()?["node"]["modifiedIndex"], index);
    }
    put("/d/x", "value=3")?;
    assert_eq!(past.next()?["node"]["modifiedIndex"], 8);
    let mut future = Watch::start(&address, "/d/x?wait=true&waitIndex=10")?;
    put("/d/x", "value=4")?;
    put("/d/x", "value=5")?;
    assert_eq!(future.next()?["node"]["modifiedIndex"], 10);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_has_a_thousand_events() -> Result<()> {
    let (_cluster, address) = single(&[]).await?;
    let writers = (0..8).map(|_| {
        let address = address.clone();
        tokio::task::spawn_blocking(move || -> Result<()> {
            for _ in 0..126 {
                http::form(&address, "PUT", "/v2/keys/a", "value=1")?;
            }
            Ok(())
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await??;
    }
    // 1,008 events, the first at index 2.
    let reply = http::get(&address, "/v2/keys/a?wait=true&waitIndex=9")?;
    assert_eq!(
        reply.body,
        "{\"errorCode\":401,\"message\":\"The event in requested index is outdated and cleared\",\
         \"cause\":\"the requested history has been cleared [10/9]\",\"index\":1009}\n"
    );
    assert_eq!(
        (reply.status, header(&reply, "x-etcd-index")),
        (400, Some("1009"))
    );
    let mut kept = Watch::start(&address, "/a?wait=true&waitIndex=10")?;
    assert_eq!(kept.next()?["node"]["modifiedIndex"], 10);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ttl_ends_a_directory_and_all_below_it() -> Result<()> {
    let (_cluster, address) = single(&[]).await?;
    http::form(&address, "PUT", "/v2/keys/d?dir=true", "ttl=2")?;
    let reply = http::form(&address, "PUT", "/v2/keys/d/x", "value=1&ttl=1000")?.json()?;
    ensure!(reply["node"]["expiration"].is_string(), "{reply}");
    assert_eq!(reply["node"]["ttl"], 1000);
    http::form(&address, "PUT", "/v2/keys/kept", "value=1&ttl=2")?;
    http::form(
        &address,
        "PUT",
        "/v2/keys/kept?prevExist=true",
        "value=1&ttl=",
    )?;
    let mut watch = Watch::start(&address, "/d/x?wait=true")?;
    let event = watch.next()?;
    assert_eq!(said(&event), pair("expire", "/d"));
    assert_eq!(
        (&event["node"]["dir"], &event["prevNode"]["dir"]),
        (&true.into(), &true.into())
    );
    assert_eq!(http::get(&address, "/v2/keys/d/x")?.status, 404);
    assert_eq!(http::get(&address, "/v2/keys/kept")?.status, 200);
    wait::until("the count", Duration::from_secs(5), || async {
        let stats = http::get(&address, "/v2/stats/store")?.json()?;
        ensure!(stats["expireCount"] == 1, "{stats}");
        Ok(())
    })
    .await
}
