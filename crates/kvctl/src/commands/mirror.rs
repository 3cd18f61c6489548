//! make-mirror: copies keys to another cluster and goes on copying what changes.
//!
//! First everything under the prefix as it stands at one revision, page by page; then a watch from
//! the revision after it. With `--rev` only the watch. What changed in one revision goes into one
//! transaction, up to `--max-txn-ops` a transaction.
//!
//! Differs from etcd: a destination that cannot be reached for a while is tried again. Repeating a
//! write is safe here, since the same changes follow in the same order; and when it ends, it tells
//! with which `--rev` to go on.
//!
//! Source: etcd `etcdctl/ctlv3/command/make_mirror_command.go`, `client/v3/mirror/syncer.go`.

use std::time::Duration;

use kvd_client::{
    Client, DeleteOptions, Error, EventType, GetOptions, KeyValue, Op, PutOptions, Txn,
    WatchOptions, WatchResponse,
};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep};

use super::child::Signals;
use super::session::{self, Session};
use crate::args::{Globals, MirrorArgs};
use crate::failure::{self, Failure, Outcome};
use crate::print::Streams;

/// Pairs fetched at once while copying what there is.
const PAGE_PAIRS: i64 = 1000;
/// How often the number of copied keys is printed.
const TOLD_EVERY: Duration = Duration::from_secs(30);
/// How long a destination that is not available is tried again.
const PATIENCE: Duration = Duration::from_secs(60);
const RETRY_PAUSE: Duration = Duration::from_millis(500);

pub(super) async fn run(globals: &Globals, args: &MirrorArgs, to: &mut Streams<'_>) -> Outcome {
    let [destination] = &args.words[..] else {
        return Err(Failure::bad_args(
            "make-mirror takes one destination argument",
        ));
    };
    let destination = destination.to_string_lossy().into_owned();
    let session = Session::open(globals, to).await?;
    let target = session::destination(globals, args, destination, to).await?;
    if args.no_dest_prefix && !args.dest_prefix.is_empty() {
        return Err(Failure::bad_args(
            "`--dest-prefix` and `--no-dest-prefix` cannot be set at the same time, choose one",
        ));
    }
    let mut told = interval_at(Instant::now() + TOLD_EVERY, TOLD_EVERY);
    told.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut mirror = Mirror::new(session.client, target, args);
    let mut signals = Signals::new()?;
    let outcome = tokio::select! {
        ended = mirror.go(to, &mut told) => ended,
        _ = signals.next() => Err(Failure::silent(failure::SUCCESS)),
    };
    match (outcome, mirror.next_revision) {
        (Err(failure), Some(next)) => {
            let details = format!("{}To go on from here: --rev={next}\n", failure.details);
            Err(Failure { details, ..failure })
        }
        (outcome, _) => outcome,
    }
}

struct Mirror {
    source: Client,
    target: Client,
    prefix: Vec<u8>,
    target_prefix: Vec<u8>,
    ops_max: usize,
    /// The revision from which a later run has to go on; `None` before all that there was is
    /// copied.
    next_revision: Option<i64>,
    copied: u64,
}

impl Mirror {
    fn new(source: Client, target: Client, args: &MirrorArgs) -> Self {
        use std::os::unix::ffi::OsStrExt as _;
        let prefix = args.prefix.as_bytes().to_vec();
        let target_prefix = match args.dest_prefix.as_bytes() {
            b"" if args.no_dest_prefix => Vec::new(),
            b"" => prefix.clone(),
            other => other.to_vec(),
        };
        Mirror {
            source,
            target,
            prefix,
            target_prefix,
            ops_max: usize::try_from(args.max_txn_ops)
                .unwrap_or(usize::MAX)
                .max(1),
            next_revision: (args.rev > 1).then_some(args.rev),
            copied: 0,
        }
    }

    async fn go(&mut self, to: &mut Streams<'_>, told: &mut Interval) -> Outcome {
        let from = match self.next_revision {
            Some(revision) => revision,
            None => self.copy_all(to, told).await?,
        };
        let options = WatchOptions::new().prefix().revision(from);
        let mut watch = self.source.watch(self.prefix.clone(), options).await?;
        loop {
            tokio::select! {
                _ = told.tick() => self.tell(to)?,
                response = watch.next() => self.apply(response?).await?,
            }
        }
    }

    fn tell(&self, to: &mut Streams<'_>) -> Outcome {
        writeln!(to.out, "{}", self.copied)?;
        to.out.flush()?;
        Ok(())
    }

    /// Copies what there is now; returns the revision that comes next.
    async fn copy_all(
        &mut self,
        to: &mut Streams<'_>,
        told: &mut Interval,
    ) -> Result<i64, Failure> {
        let end = match &self.prefix[..] {
            b"" => b"\0".to_vec(),
            prefix => kvd_client::prefix_end(prefix).to_vec(),
        };
        let mut from = match &self.prefix[..] {
            b"" => b"\0".to_vec(),
            prefix => prefix.to_vec(),
        };
        let mut revision = 0;
        loop {
            let page = GetOptions::new()
                .range(end.clone())
                .limit(PAGE_PAIRS)
                .revision(revision);
            let page = self.source.get(from, page).await?;
            if revision == 0 {
                revision = page.header.map_or(0, |header| header.revision);
            }
            let last = page.kvs.last().map(|kv| kv.key.to_vec());
            for kv in page.kvs {
                let op = [self.put(&kv)];
                self.write(&op).await?;
            }
            tokio::select! {
                biased;
                _ = told.tick() => self.tell(to)?,
                () = std::future::ready(()) => {}
            }
            match last {
                Some(mut last) if page.more => {
                    last.push(0);
                    from = last;
                }
                _ => {
                    self.next_revision = Some(revision + 1);
                    return Ok(revision + 1);
                }
            }
        }
    }

    /// Copies what happened, a revision after the other.
    async fn apply(&mut self, response: WatchResponse) -> Outcome {
        let mut ops = Vec::new();
        let mut current = 0;
        for event in &response.events {
            let Some(kv) = &event.kv else { continue };
            if current != 0 && kv.mod_revision > current {
                self.write(&ops).await?;
                ops.clear();
                self.next_revision = Some(kv.mod_revision);
            } else if ops.len() == self.ops_max {
                self.write(&ops).await?;
                ops.clear();
            }
            current = kv.mod_revision;
            ops.push(match event.r#type() {
                EventType::Put => self.put(kv),
                EventType::Delete => Op::delete(self.renamed(&kv.key), DeleteOptions::new()),
            });
        }
        if !ops.is_empty() {
            self.write(&ops).await?;
            self.next_revision = Some(current + 1);
        }
        Ok(())
    }

    fn put(&self, kv: &KeyValue) -> Op {
        Op::put(self.renamed(&kv.key), kv.value.clone(), PutOptions::new())
    }

    /// The key at the destination.
    fn renamed(&self, key: &[u8]) -> Vec<u8> {
        let rest = key.strip_prefix(&self.prefix[..]).unwrap_or(key);
        [&self.target_prefix, rest].concat()
    }

    /// Writes to the destination, again and again while it is not available.
    async fn write(&mut self, ops: &[Op]) -> Outcome {
        let end = Instant::now() + PATIENCE;
        loop {
            let txn = Txn::new().and_then(ops.to_vec());
            match self.target.txn(txn).await {
                Ok(_) => break,
                Err(error) if is_passing(&error) && Instant::now() < end => {
                    sleep(RETRY_PAUSE).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.copied += ops.len() as u64;
        Ok(())
    }
}

fn is_passing(error: &Error) -> bool {
    matches!(error, Error::NoConnection { .. }) || error.is_fate_unknown()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: MirrorArgs,
    }

    #[tokio::test]
    async fn prefixes_are_rewritten_once_at_the_start() {
        for (flags, key, renamed) in [
            (&[][..], "a/a/b", "a/a/b"),
            (&["--prefix=a/"], "a/a/b", "a/a/b"),
            (&["--prefix=a/", "--dest-prefix=x/"], "a/a/b", "x/a/b"),
            (&["--prefix=a/", "--no-dest-prefix"], "a/a/b", "a/b"),
            (&["--dest-prefix=x/"], "a", "x/a"),
        ] {
            let words = std::iter::once(&"mirror").chain(flags);
            let args = Line::parse_from(words).args;
            let client = Client::builder(["a:1"]).build().expect("client");
            let mirror = Mirror::new(client.clone(), client, &args);
            let got = mirror.renamed(key.as_bytes());
            assert_eq!(String::from_utf8_lossy(&got), renamed, "{flags:?}");
        }
    }
}
