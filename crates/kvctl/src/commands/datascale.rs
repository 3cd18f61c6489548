//! check datascale: how much memory does a member take for a given number of keys?
//!
//! Puts 512-byte values under keys of 512 bytes and reads the member's resident memory from its
//! metrics before and after; then everything is deleted again.
//!
//! Source: etcd `etcdctl/ctlv3/command/check.go`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::ProgressBar;
use kvd_client::{Client, DeleteOptions, GetOptions, PutOptions};
use tokio::task::JoinSet;

use super::Session;
use super::check::{bar_style, compact, defragment, random_key};
use crate::args::{DatascaleArgs, Globals};
use crate::failure::{self, Failure, Outcome};
use crate::go_text::quote::quote;
use crate::print::Streams;

const KEY_BYTES: usize = 512;
const VALUE_BYTES: usize = 512;
const MEMORY: &str = "process_resident_memory_bytes";

/// How many keys, and clients that put them.
#[derive(Clone, Copy, Debug)]
struct Scale {
    keys: u64,
    clients: usize,
}

impl Scale {
    fn named(name: &str) -> Result<Scale, Failure> {
        let (keys, clients) = match name {
            "s" | "small" => (10_000, 50),
            "m" | "medium" => (100_000, 200),
            "l" | "large" => (1_000_000, 500),
            "xl" | "xLarge" => (3_000_000, 1_000),
            _ => return Err(Failure::bad_feature(format!("unknown load option {name}"))),
        };
        Ok(Scale { keys, clients })
    }
}

pub(super) async fn run(globals: &Globals, args: &DatascaleArgs, to: &mut Streams<'_>) -> Outcome {
    let scale = Scale::named(&args.load)?;
    let session = Session::open(globals, to).await?;
    let client = &session.client;
    let options = GetOptions::new().prefix().limit(1);
    if !client
        .get(args.prefix.clone(), options)
        .await?
        .kvs
        .is_empty()
    {
        let prefix = quote(args.prefix.as_bytes());
        let message = format!(
            "prefix {prefix} has keys. Delete with kvctl del --prefix {} first",
            args.prefix
        );
        return Err(Failure::invalid_input(message));
    }
    let endpoint = client.endpoints().next().unwrap_or_default().to_owned();
    let before = memory(client, &endpoint, "before", to).await?;
    writeln!(
        to.out,
        "Start data scale check for work load [{} key-value pairs, {} bytes per key-value, {} \
         concurrent clients].",
        scale.keys,
        KEY_BYTES + VALUE_BYTES,
        scale.clients
    )?;
    to.out.flush()?;
    let mut clients = vec![client.clone()];
    while clients.len() < scale.clients {
        clients.push(session.another(globals, session.endpoints())?);
    }
    let errors = put_all(clients, scale.keys, &args.prefix).await;
    let after = memory(client, &endpoint, "after", to).await?;
    let deleted = client
        .delete(args.prefix.clone(), DeleteOptions::new().prefix())
        .await?;
    if args.auto_compact {
        let revision = deleted.header.map_or(0, |header| header.revision);
        compact(client, revision, to).await?;
    }
    if args.auto_defrag {
        defragment(client, to).await?;
    }
    if !errors.is_empty() {
        writeln!(to.out, "FAIL: too many errors")?;
        for (error, count) in &errors {
            writeln!(to.out, "FAIL: ERROR({error}) -> {count}")?;
        }
        return Err(Failure::silent(failure::ERROR));
    }
    let megabytes = (after - before) / (1024.0 * 1024.0);
    writeln!(
        to.out,
        "PASS: Approximate system memory used : {megabytes:.2} MB."
    )?;
    Ok(())
}

async fn put_all(clients: Vec<Client>, keys: u64, prefix: &str) -> BTreeMap<String, usize> {
    let bar = ProgressBar::new(keys).with_style(bar_style());
    let next = Arc::new(AtomicU64::new(0));
    let mut workers = JoinSet::new();
    for client in clients {
        let (next, bar, prefix) = (Arc::clone(&next), bar.clone(), prefix.to_owned());
        workers.spawn(async move {
            let mut errors = BTreeMap::<String, usize>::new();
            let value = vec![0; VALUE_BYTES];
            while next.fetch_add(1, Ordering::Relaxed) < keys {
                let key = random_key(&prefix, KEY_BYTES);
                if let Err(err) = client.put(key, value.clone(), PutOptions::new()).await {
                    *errors.entry(failure::text(&err)).or_default() += 1;
                }
                bar.inc(1);
            }
            errors
        });
    }
    let mut all = BTreeMap::new();
    while let Some(worker) = workers.join_next().await {
        match worker {
            Ok(errors) => {
                for (error, count) in errors {
                    *all.entry(error).or_default() += count;
                }
            }
            Err(err) => *all.entry(err.to_string()).or_default() += 1,
        }
    }
    bar.finish();
    if !bar.is_hidden() {
        eprintln!();
    }
    all
}

/// The member's resident memory in bytes.
async fn memory(
    client: &Client,
    endpoint: &str,
    when: &str,
    to: &mut Streams<'_>,
) -> Result<f64, Failure> {
    let read = match client.metrics(endpoint).await {
        Ok(text) => value_of(&text),
        Err(err) => Err(format!("fetch error: {}", failure::text(&err))),
    };
    match read {
        Ok(bytes) if bytes > 0.0 => return Ok(bytes),
        Ok(_) => {}
        Err(why) => writeln!(to.out, "{why}")?,
    }
    writeln!(
        to.out,
        "FAIL: Could not read {MEMORY} {when} the put operations."
    )?;
    Err(Failure::silent(failure::ERROR))
}

fn value_of(metrics: &str) -> Result<f64, String> {
    let value = metrics.lines().find_map(|line| line.strip_prefix(MEMORY));
    let value = value.map(str::trim).filter(|value| !value.is_empty());
    let value = value.ok_or_else(|| format!("could not find: {MEMORY}"))?;
    value.parse().map_err(|err| format!("parse error: {err}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_found_among_the_metrics() {
        let text = "# HELP process_resident_memory_bytes Resident.\n\
                    process_resident_memory_bytes 2.5e+07\nother 1\n";
        assert_eq!(value_of(text), Ok(2.5e7));
        assert!(value_of("other 1\n").is_err());
    }
}
