//! check perf: does the cluster keep up with a given load of puts?
//!
//! Clients with a connection each put 1 KiB values under random keys of 256 bytes at a fixed rate
//! for a minute; then everything is deleted again. Source: etcd `etcdctl/ctlv3/command/check.go`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use kvd_client::{Client, DeleteOptions, GetOptions, PutOptions};
use rand::Rng;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Session;
use crate::args::{Globals, PerfArgs};
use crate::failure::{self, Failure, Outcome};
use crate::go_text::quote::quote;
use crate::print::Streams;

const KEY_BYTES: usize = 256;
const VALUE_BYTES: usize = 1024;
/// Longest time for deleting, and for compacting, what the check wrote.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(30);
/// How often puts are handed out; finer steps are below what timers keep.
const TICK: Duration = Duration::from_millis(2);

/// A load to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Load {
    /// Puts a second.
    rate: u64,
    clients: usize,
    duration: Duration,
}

impl Load {
    fn named(name: &str) -> Result<Load, Failure> {
        let (rate, clients) = match name {
            "s" | "small" => (150, 50),
            "m" | "medium" => (1_000, 200),
            "l" | "large" => (8_000, 500),
            "xl" | "xLarge" => (15_000, 1_000),
            _ => return Err(Failure::bad_feature(format!("unknown load option {name}"))),
        };
        Ok(Load {
            rate,
            clients,
            duration: Duration::from_secs(60),
        })
    }
}

pub(super) async fn perf(globals: &Globals, args: &PerfArgs, to: &mut Streams<'_>) -> Outcome {
    let load = Load::named(&args.load)?;
    let session = Session::open(globals, to).await?;
    let first = session.client.clone();
    let options = GetOptions::new().prefix().limit(1);
    if !first
        .get(args.prefix.clone(), options)
        .await?
        .kvs
        .is_empty()
    {
        let message = format!(
            "prefix {} has keys. Delete with 'kvctl del --prefix {}' first",
            quote(args.prefix.as_bytes()),
            args.prefix
        );
        return Err(Failure::invalid_input(message));
    }
    let mut clients = vec![first.clone()];
    while clients.len() < load.clients {
        clients.push(session.another(globals, session.endpoints())?);
    }
    let figures = run(clients, load, &args.prefix).await;
    clean_up(&first, args, to).await?;
    verdict(&figures, load, to)
}

/// What came of the puts.
#[derive(Debug, Default)]
struct Figures {
    seconds: Vec<f64>,
    errors: BTreeMap<String, usize>,
    total: f64,
}

impl Figures {
    fn rate(&self) -> f64 {
        if self.total > 0.0 {
            self.seconds.len() as f64 / self.total
        } else {
            0.0
        }
    }

    fn slowest(&self) -> f64 {
        self.seconds.iter().copied().fold(0.0, f64::max)
    }

    fn deviation(&self) -> f64 {
        let count = self.seconds.len().max(1) as f64;
        let mean = self.seconds.iter().sum::<f64>() / count;
        let squares: f64 = self.seconds.iter().map(|one| (one - mean).powi(2)).sum();
        (squares / count).sqrt()
    }
}

/// Holds the load until its time is over or the user interrupts.
async fn run(clients: Vec<Client>, load: Load, prefix: &str) -> Figures {
    let (keys, queue) = mpsc::channel::<Vec<u8>>(clients.len());
    let queue = Arc::new(Mutex::new(queue));
    let started = Instant::now();
    let mut workers = JoinSet::new();
    for client in clients {
        workers.spawn(work(client, Arc::clone(&queue)));
    }
    let bar = ProgressBar::new(load.duration.as_secs()).with_style(bar_style());
    pace(keys, load, prefix, &bar).await;
    bar.finish();
    if !bar.is_hidden() {
        // The bar leaves the cursor behind itself, where the verdict would be glued to it.
        eprintln!();
    }
    let mut figures = Figures::default();
    while let Some(worker) = workers.join_next().await {
        match worker {
            Ok(one) => {
                figures.seconds.extend(one.seconds);
                for (error, count) in one.errors {
                    *figures.errors.entry(error).or_default() += count;
                }
            }
            Err(err) => *figures.errors.entry(err.to_string()).or_default() += 1,
        }
    }
    figures.total = started.elapsed().as_secs_f64();
    figures
}

pub(super) fn bar_style() -> ProgressStyle {
    // A template that does not parse costs the looks, not the check.
    ProgressStyle::with_template("{pos} / {len} [{bar:40}] {percent}% {elapsed}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Puts what the queue holds, until it is closed and empty.
async fn work(client: Client, queue: Arc<Mutex<mpsc::Receiver<Vec<u8>>>>) -> Figures {
    let mut figures = Figures::default();
    let value = vec![0; VALUE_BYTES];
    loop {
        let next = queue.lock().await.recv().await;
        let Some(key) = next else { return figures };
        let started = Instant::now();
        match client.put(key, value.clone(), PutOptions::new()).await {
            Ok(_) => figures.seconds.push(started.elapsed().as_secs_f64()),
            Err(err) => *figures.errors.entry(failure::text(&err)).or_default() += 1,
        }
    }
}

/// Hands out keys at the load's rate. What the cluster is too slow to take is not made up for
/// later.
async fn pace(keys: mpsc::Sender<Vec<u8>>, load: Load, prefix: &str, bar: &ProgressBar) {
    let started = Instant::now();
    let end = started + load.duration;
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    let burst_max = (load.rate as f64 * 10.0 * TICK.as_secs_f64()).max(1.0);
    let mut handed_out = 0.0;
    loop {
        tokio::select! {
            _ = &mut interrupted => return,
            _ = ticks.tick() => {}
        }
        let now = Instant::now();
        if now >= end {
            return;
        }
        bar.set_position(started.elapsed().as_secs());
        let due = started.elapsed().as_secs_f64() * load.rate as f64;
        handed_out = f64::max(handed_out, due - burst_max);
        while handed_out < due {
            tokio::select! {
                _ = &mut interrupted => return,
                () = tokio::time::sleep_until(end) => return,
                sent = keys.send(random_key(prefix, KEY_BYTES)) => if sent.is_err() { return },
            }
            handed_out += 1.0;
        }
    }
}

/// A key whose first bytes after the prefix are random.
pub(super) fn random_key(prefix: &str, bytes: usize) -> Vec<u8> {
    let mut key = prefix.as_bytes().to_vec();
    let start = key.len();
    key.resize(start + bytes, 0);
    rand::rng().fill(&mut key[start..start + 8]);
    key
}

async fn clean_up(client: &Client, args: &PerfArgs, to: &mut Streams<'_>) -> Outcome {
    let client = client.with_timeout(CLEANUP_TIMEOUT);
    let deleted = match client
        .delete(args.prefix.clone(), DeleteOptions::new().prefix())
        .await
    {
        Ok(deleted) => deleted,
        Err(err) => {
            let why = failure::text(&err);
            writeln!(
                to.out,
                "FAIL: Cleanup failed during key deletion: ERROR({why})"
            )?;
            return Ok(());
        }
    };
    if args.auto_compact {
        let revision = deleted.header.map_or(0, |header| header.revision);
        compact(&client, revision, to).await?;
    }
    if args.auto_defrag {
        defragment(&client, to).await?;
    }
    Ok(())
}

/// Drops the history of what was written, from the disk as well.
pub(super) async fn compact(client: &Client, revision: i64, to: &mut Streams<'_>) -> Outcome {
    writeln!(to.out, "Compacting with revision {revision}")?;
    let client = client.with_timeout(CLEANUP_TIMEOUT);
    client.compact(revision, true).await?;
    writeln!(to.out, "Compacted with revision {revision}")?;
    Ok(())
}

/// Defragments every endpoint of the client.
pub(super) async fn defragment(client: &Client, to: &mut Streams<'_>) -> Outcome {
    let client = client.with_timeout(CLEANUP_TIMEOUT);
    for endpoint in client.endpoints() {
        let quoted = quote(endpoint.as_bytes());
        writeln!(to.out, "Defragmenting {quoted}")?;
        client.defragment(endpoint).await?;
        writeln!(to.out, "Defragmented {quoted}")?;
    }
    Ok(())
}

fn verdict(figures: &Figures, load: Load, to: &mut Streams<'_>) -> Outcome {
    let mut passed = figures.errors.is_empty();
    if !passed {
        writeln!(to.out, "FAIL: too many errors")?;
        for (error, count) in &figures.errors {
            writeln!(to.out, "FAIL: ERROR({error}) -> {count}")?;
        }
    }
    let rate = figures.rate();
    let shown = rate as u64 + 1;
    if rate / load.rate as f64 <= 0.9 {
        writeln!(to.out, "FAIL: Throughput too low: {shown} writes/s")?;
        passed = false;
    } else {
        writeln!(to.out, "PASS: Throughput is {shown} writes/s")?;
    }
    let slowest = figures.slowest();
    if slowest > 0.5 {
        writeln!(to.out, "Slowest request took too long: {slowest:.6}s")?;
        passed = false;
    } else {
        writeln!(to.out, "PASS: Slowest request took {slowest:.6}s")?;
    }
    let deviation = figures.deviation();
    if deviation > 0.1 {
        writeln!(to.out, "Stddev too high: {deviation:.6}s")?;
        passed = false;
    } else {
        writeln!(to.out, "PASS: Stddev is {deviation:.6}s")?;
    }
    writeln!(to.out, "{}", if passed { "PASS" } else { "FAIL" })?;
    if passed {
        Ok(())
    } else {
        Err(Failure::silent(failure::ERROR))
    }
}

#[cfg(test)]
mod tests;
