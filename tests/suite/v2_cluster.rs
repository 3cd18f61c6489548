//! The v2 API and the commands of API 2 on three members.
#![allow(missing_docs)]

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvd_tests::cluster::Cluster;
use kvd_tests::http;
use kvd_tests::member::{Member, binary};
use kvd_tests::wait;

const CLIENTS: usize = 50;
const INCREMENTS: u64 = 2;

/// Adds one to a counter by comparing its index, until nobody was faster.
fn increment(address: &str) -> Result<()> {
    loop {
        let node = http::get(address, "/v2/keys/counter?quorum=true")?.json()?["node"].take();
        let value: u64 = node["value"].as_str().context("a value")?.parse()?;
        let path = format!("/v2/keys/counter?prevIndex={}", node["modifiedIndex"]);
        let reply = http::form(address, "PUT", &path, &format!("value={}", value + 1))?;
        match reply.status {
            200 => return Ok(()),
            412 => ensure!(reply.json()?["errorCode"] == 101, "{reply:?}"),
            _ => anyhow::bail!("{reply:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_clients_swap_one_counter_and_none_is_lost() -> Result<()> {
    let cluster = Cluster::start(3, &[]).await?;
    let addresses: Vec<String> = cluster.members.iter().map(Member::client_address).collect();
    http::form(&addresses[0], "PUT", "/v2/keys/counter", "value=0")?;
    let clients = (0..CLIENTS).map(|client| {
        let address = addresses[client % addresses.len()].clone();
        tokio::task::spawn_blocking(move || (0..INCREMENTS).try_for_each(|_| increment(&address)))
    });
    for client in clients.collect::<Vec<_>>() {
        client.await??;
    }
    let node = http::get(&addresses[1], "/v2/keys/counter?quorum=true")?.json()?;
    let want = (CLIENTS as u64 * INCREMENTS).to_string();
    assert_eq!(node["node"]["value"], want);
    cluster.equal_hashes(Duration::from_secs(20)).await?;
    Ok(())
}

/// Runs `kvctl` with API 2 against members.
fn kvctl(members: &[&Member], arguments: &[&str], input: &str) -> Result<Output> {
    use std::io::Write;
    let urls: Vec<String> = members.iter().map(|member| member.client_url()).collect();
    let mut child = Command::new(binary("kvctl")?)
        .env("KVCTL_API", "2")
        .args(["--endpoints", &urls.join(",")])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // A command that reads nothing may have ended before it is written.
    drop(
        child
            .stdin
            .take()
            .context("its input")?
            .write_all(input.as_bytes()),
    );
    Ok(child.wait_with_output()?)
}

/// Arguments, exit code, stdout, stderr: as etcdctl 3.4.23 with API 2 wrote them for etcd 3.4.23,
/// but for the indexes.
const COMMANDS: &[(&[&str], i32, &str, &str)] = &[
    (&["set", "foo", "bar"], 0, "bar\n", ""),
    (
        &["-o", "json", "set", "foo", "baz"],
        0,
        "{\"action\":\"set\",\"node\":{\"key\":\"/foo\",\"value\":\"baz\",\"nodes\":null,\"createdIndex\":3,\"modifiedIndex\":3},\"prevNode\":{\"key\":\"/foo\",\"value\":\"bar\",\"nodes\":null,\"createdIndex\":2,\"modifiedIndex\":2}}\n",
        "",
    ),
    (
        &["-o", "extended", "get", "foo"],
        0,
        "Key: /foo\nCreated-Index: 3\nModified-Index: 3\nTTL: 0\nIndex: 3\n\nbaz\n",
        "",
    ),
    (&["rm", "foo"], 0, "PrevNode.Value: baz\n", ""),
    (&["mk", "foo", "1"], 0, "1\n", ""),
    (
        &["mk", "foo", "2"],
        4,
        "",
        "Error:  105: Key already exists (/foo) [5]\n",
    ),
    (&["mkdir", "dir"], 0, "", ""),
    (
        &["-o", "json", "mkdir", "dir2"],
        0,
        "{\"action\":\"create\",\"node\":{\"key\":\"/dir2\",\"dir\":true,\"value\":\"\",\"nodes\":null,\"createdIndex\":7,\"modifiedIndex\":7},\"prevNode\":null}\n",
        "",
    ),
    (&["ls", "--sort", "-p"], 0, "/dir/\n/dir2/\n/foo\n", ""),
    (&["get", "dir"], 1, "", "/dir: is a directory\n"),
    (
        &["setdir", "dir"],
        4,
        "",
        "Error:  102: Not a file (/dir) [7]\n",
    ),
    (&["update", "foo", "2"], 0, "2\n", ""),
    (
        &["update", "nope", "2"],
        4,
        "",
        "Error:  100: Key not found (/nope) [8]\n",
    ),
    (&["updatedir", "dir", "--ttl", "100"], 0, "", ""),
    (
        &["rm", "dir"],
        4,
        "",
        "Error:  102: Not a file (/dir) [9]\n",
    ),
    (&["rmdir", "dir"], 0, "", ""),
    (
        &["rm", "--with-value", "x", "foo"],
        4,
        "",
        "Error:  101: Compare failed ([x != 2]) [10]\n",
    ),
    (&["rm", "--with-value", "2", "foo"], 0, "\n", ""),
    (&["mk", "--in-order", "q", "a"], 0, "a\n", ""),
    (&["ls", "-r", "q"], 0, "/q/00000000000000000012\n", ""),
    (
        &["set", "--swap-with-value", "x", "q/1", "y"],
        4,
        "",
        "Error:  100: Key not found (/q/1) [12]\n",
    ),
    (&["set", "--", "k", "-v"], 0, "-v\n", ""),
    (
        &["-o", "bogus", "get", "k"],
        0,
        "",
        "Unsupported output format: bogus\n",
    ),
    (&["rm", "-r", "--dir", "q"], 0, "", ""),
    (&["get"], 1, "", "Error:  key required\n"),
    (&["set", "k"], 1, "", "Error:  value required\n"),
    (
        &["exec-watch", "a"],
        1,
        "",
        "Error:  key and command to exec required\n",
    ),
    (&["member", "list", "a"], 1, "", "No arguments accepted\n"),
    (
        &["member", "add"],
        1,
        "",
        "Provide a name and a single member peerURL\n",
    ),
    (
        &["member", "add", "a", "b"],
        1,
        "",
        "URL scheme must be http, https, unix, or unixs: b\n",
    ),
    (
        &["member", "remove", "1"],
        1,
        "",
        "Couldn't find a member in the cluster with an ID of 1.\n",
    ),
    (&["bogus"], 3, "", "No help topic for 'bogus'\n"),
    (&["watch", "--after-index", "4", "foo"], 0, "1\n", ""),
    (
        &["--version"],
        0,
        "kvctl version: 3.7.1\nAPI version: 2\n",
        "",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn kvctl_of_api_2_speaks_as_etcdctl() -> Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let member = &cluster.members[0];
    for (arguments, code, stdout, stderr) in COMMANDS {
        let output = kvctl(&[member], arguments, "")?;
        let asked = arguments.join(" ");
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            *stdout,
            "{asked}: {output:?}"
        );
        assert_eq!(String::from_utf8_lossy(&output.stderr), *stderr, "{asked}");
        assert_eq!(output.status.code(), Some(*code), "{asked}");
    }
    let output = kvctl(&[member], &["set", "k"], "from stdin\n")?;
    assert_eq!(String::from_utf8_lossy(&output.stdout), "from stdin\n\n");
    let output = kvctl(&[member], &["member", "list"], "")?;
    let id = String::from_utf8_lossy(&output.stdout);
    let id = id.split(':').next().context("an ID")?;
    let (url, peer) = (member.client_url(), member.peer_url());
    let want = format!("{id}: name=m0 peerURLs={peer} clientURLs={url} isLeader=true\n");
    assert_eq!(String::from_utf8_lossy(&output.stdout), want);
    let nobody = kvctl(
        &[member],
        &["--endpoints", "http://127.0.0.1:1", "get", "k"],
        "",
    )?;
    assert_eq!(nobody.status.code(), Some(2));
    assert_eq!(
        String::from_utf8_lossy(&nobody.stderr),
        "Error:  client: etcd cluster is unavailable or misconfigured; error #0: dial tcp \
         127.0.0.1:1: connect: connection refused\n\nerror #0: dial tcp 127.0.0.1:1: connect: \
         connection refused\n\n"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_dies_and_the_tree_is_there() -> Result<()> {
    let mut cluster = Cluster::start(3, &[]).await?;
    let addresses: Vec<String> = cluster.members.iter().map(Member::client_address).collect();
    let leader = cluster.leader().await?;
    let follower = (leader + 1) % 3;
    http::form(
        &addresses[follower],
        "PUT",
        "/v2/keys/message",
        "value=Hello world",
    )?;
    http::form(
        &addresses[follower],
        "PUT",
        "/v2/keys/short",
        "value=1&ttl=4",
    )?;
    for address in &addresses {
        let reply = http::get(address, "/v2/keys/message?quorum=true")?.json()?;
        assert_eq!(reply["node"]["value"], "Hello world");
    }
    let members: Vec<&Member> = cluster.members.iter().collect();
    let health = kvctl(&members, &["cluster-health"], "")?;
    let text = String::from_utf8_lossy(&health.stdout).into_owned();
    assert_eq!(health.status.code(), Some(0), "{text}");
    assert_eq!(
        text.matches(" is healthy: got healthy result from http")
            .count(),
        3
    );
    ensure!(text.ends_with("cluster is healthy\n"), "{text}");

    let dead_url = cluster.members[leader].client_url();
    cluster.members[leader].kill()?;
    let left = cluster.leader().await?;
    let survivor = [&cluster.members[left]];
    let text = wait::until("degraded", Duration::from_secs(20), || async {
        let health = kvctl(&survivor, &["cluster-health"], "")?;
        let text = String::from_utf8_lossy(&health.stdout).into_owned();
        ensure!(text.ends_with("cluster is degraded\n"), "{text}");
        ensure!(health.status.code() == Some(5), "{health:?}");
        ensure!(text.matches(" is healthy: ").count() == 2, "{text}");
        Ok(text)
    })
    .await?;
    let dead = dead_url.trim_start_matches("http://");
    for line in [
        format!(
            "on {dead_url}: Get \"{dead_url}/health\": dial tcp {dead}: connect: connection refused"
        ),
        format!("is unreachable: [{dead_url}] are all unreachable"),
    ] {
        ensure!(text.contains(&line), "{line}: {text}");
    }
    let reply = http::form(&addresses[left], "PUT", "/v2/keys/message", "value=after")?;
    assert_eq!(reply.status, 200, "{reply:?}");
    wait::until("the end of a TTL", Duration::from_secs(30), || async {
        let reply = http::get(&addresses[left], "/v2/keys/short?quorum=true")?;
        ensure!(reply.status == 404, "{reply:?}");
        Ok(())
    })
    .await?;
    cluster.restart(leader).await?;
    wait::until(
        "the value on every member",
        Duration::from_secs(20),
        || async {
            for address in &addresses {
                let reply = http::get(address, "/v2/keys/message")?.json()?;
                ensure!(reply["node"]["value"] == "after", "{reply}");
            }
            Ok(())
        },
    )
    .await?;
    cluster.equal_hashes(Duration::from_secs(20)).await?;
    Ok(())
}
