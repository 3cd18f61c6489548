//! Members whose names have no numbers, in a network that has no name for each of them, as the tasks
//! of one service of a swarm: they are counted, and found by asking who is where.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use kvd_tests::ports::Port;
use kvd_tests::wait;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::set::{SOON, Set, has, id_of, put};

/// Answers how many are wanted as the Docker API does.
struct Wanted {
    count: Arc<AtomicU32>,
    url: String,
}

impl Wanted {
    async fn serve(count: u32) -> Result<Wanted> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/services/db", listener.local_addr()?);
        let count = Arc::new(AtomicU32::new(count));
        let shared = Arc::clone(&count);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A member that was killed meanwhile needs no answer.
                drop(answer(stream, shared.load(Ordering::Relaxed)).await);
            }
        });
        Ok(Wanted { count, url })
    }

    fn set(&self, count: u32) {
        self.count.store(count, Ordering::Relaxed);
    }
}

async fn answer(mut stream: TcpStream, count: u32) -> Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    ensure!(head.starts_with(b"GET /services/db HTTP/1.1\r\n"));
    let body = format!(r#"{{"Spec":{{"Mode":{{"Replicated":{{"Replicas":{count}}}}}}}}}"#);
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    Ok(stream.write_all(format!("{head}{body}").as_bytes()).await?)
}

const NAMES: [&str; 5] = ["alpha", "beta", "gamma", "delta", "epsilon"];

/// Five, of which three are wanted. Their peer URLs have hosts that no name server knows.
fn set(wanted: &Wanted) -> Result<Set> {
    let mut set = Set::new(0, &[])?;
    for name in NAMES {
        set.add(name, name, &["--autopilot-find-peers"])?;
        let member = set.members.last_mut().context("it was added")?;
        let port = member.peer_address().replace("127.0.0.1", "");
        let url = format!("http://{name}.nowhere.invalid{port}");
        member.add_arguments(&[
            "--initial-advertise-peer-urls",
            &url,
            "--autopilot-desired-replicas-url",
            &wanted.url,
        ]);
    }
    Ok(set)
}

#[tokio::test(flavor = "multi_thread")]
async fn members_without_numbers_or_names_are_found_and_counted() -> Result<()> {
    let wanted = Wanted::serve(3).await?;
    let mut set = set(&wanted)?;
    set.start_all(3).await?;
    let first = set.wait_members(0, &["alpha", "beta", "gamma"]).await?;
    put(&set.members[0], "before").await?;

    // A node is lost, and another takes its place.
    set.members[2].kill()?;
    set.show(&[0, 1, 3])?;
    set.start(3)?;
    set.members[3].wait_ready(SOON).await?;
    let moved = set.wait_members(0, &["alpha", "beta", "delta"]).await?;
    ensure!(has(&set.members[3], "before").await?);
    ensure!(id_of(&moved, "beta")? == id_of(&first, "beta")?);

    // The lost one comes back with its disk: it learns that it was removed, and is not wanted.
    set.show(&[0, 1, 2, 3])?;
    set.start(2)?;
    let ended = set.members[2].wait_exit(SOON).await?;
    ensure!(ended.success(), "{ended}: {}", set.members[2].log());
    set.start(2)?;
    set.wait_reason(2, "joining", "3 members are wanted, and as many answer")
        .await?;
    wanted.set(4);
    set.members[2].wait_ready(SOON).await?;
    let four = set
        .wait_members(0, &["alpha", "beta", "delta", "gamma"])
        .await?;

    // Who is stopped while all are wanted stays.
    set.members[1].terminate(SOON).await?;
    set.start(1)?;
    set.members[1].wait_ready(SOON).await?;
    let again = set
        .wait_members(0, &["alpha", "beta", "delta", "gamma"])
        .await?;
    ensure!(again == four, "{again:?}, not {four:?}");

    // One comes back at another address, under its old URL.
    set.members[1].kill()?;
    let elsewhere = Port::reserve()?;
    let listen = format!("http://127.0.0.1:{}", elsewhere.number());
    set.members[1].add_arguments(&["--listen-peer-urls", &listen]);
    let places: Vec<String> = [0, 2, 3]
        .iter()
        .map(|index| set.members[*index].peer_address())
        .chain([format!("127.0.0.1:{}", elsewhere.number())])
        .collect();
    std::fs::write(set.names_file(), places.join("\n"))?;
    set.start(1)?;
    set.members[1].wait_ready(SOON).await?;
    let again = set
        .wait_members(0, &["alpha", "beta", "delta", "gamma"])
        .await?;
    ensure!(again == four, "{again:?}, not {four:?}");

    // Two at once are too many: whoever is stopped leaves, until as many are left as are wanted.
    wanted.set(2);
    wait::until("all know", SOON, || async {
        let status = set.status(1)?;
        ensure!(status["desired_replicas"] == 2, "{status:#}");
        Ok(())
    })
    .await?;
    set.members[0].signal(Signal::TERM)?;
    set.members[3].signal(Signal::TERM)?;
    for index in [0, 3] {
        let ended = set.members[index].wait_exit(SOON).await?;
        ensure!(ended.success(), "{ended}: {}", set.members[index].log());
    }
    set.wait_members(1, &["beta", "gamma"]).await?;
    put(&set.members[2], "after").await?;
    ensure!(has(&set.members[1], "after").await?);
    set.members[2].terminate(SOON).await?;
    set.start(2)?;
    set.members[2].wait_ready(SOON).await?;
    set.wait_members(1, &["beta", "gamma"]).await?;
    Ok(())
}
