//! Golden scripts over leases and their deadlines. Update with `UPDATE_GOLDENFILES=1`, then read
//! the diff.

use std::error::Error;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Expiry, LeaseChange, Lessor};

/// Times are seconds since the start of the script.
struct Runner {
    start: Instant,
    lessor: Lessor,
    expiry: Expiry,
}

impl Runner {
    fn at(&self, seconds: u64) -> Instant {
        self.start + Duration::from_secs(seconds)
    }

    fn since(&self, time: Instant) -> u64 {
        (time - self.start).as_secs()
    }

    fn dump(&self, output: &mut String) -> std::fmt::Result {
        let mut ids: Vec<i64> = self.lessor.iter().map(|(id, _)| id).collect();
        ids.sort_unstable();
        for id in ids {
            let Some(lease) = self.lessor.get(id) else {
                continue;
            };
            let keys: Vec<_> = lease.keys().map(String::from_utf8_lossy).collect();
            let deadline = self.expiry.deadline(id).map(|time| self.since(time));
            writeln!(
                output,
                "{id}: granted={} remaining={} to_grant={} deadline={deadline:?} {keys:?}",
                lease.granted_ttl(),
                lease.remaining_ttl(),
                lease.ttl_to_grant()
            )?;
        }
        Ok(())
    }
}

impl goldenscript::Runner for Runner {
    fn run(&mut self, command: &goldenscript::Command) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        let now: u64 = args.lookup_parse("now")?.unwrap_or(0);
        let ttl: i64 = args.lookup_parse("ttl")?.unwrap_or(0);
        let left: i64 = args.lookup_parse("left")?.unwrap_or(0);
        let limit: usize = args.lookup_parse("limit")?.unwrap_or(100);
        let (from, to) = (args.lookup_parse("from")?, args.lookup_parse("to")?);
        let position = args.next_pos().map(|arg| arg.value.clone());
        args.reject_rest()?;
        let id = || -> Result<i64, Box<dyn Error>> {
            Ok(position.as_deref().ok_or("which lease?")?.parse()?)
        };
        let mut output = String::new();
        match command.name.as_str() {
            "grant" => {
                let granted = self.lessor.grant(id()?, ttl, left);
                writeln!(output, "{}", if granted { "granted" } else { "in use" })?;
            }
            "revoke" => {
                self.expiry.remove(id()?);
                let lease = self.lessor.revoke(id()?);
                let keys = lease.map(|lease| lease.keys().count());
                writeln!(output, "keys to delete: {keys:?}")?;
            }
            "move" => self.lessor.change(&LeaseChange {
                key: Bytes::from(position.ok_or("which key?")?),
                from: from.unwrap_or(0),
                to: to.unwrap_or(0),
            }),
            "checkpoint" => {
                let known = self.lessor.checkpoint(id()?, left).is_some();
                writeln!(output, "{}", if known { "noted" } else { "unknown" })?;
            }
            "renew" => {
                let seconds = u64::try_from(ttl)?;
                self.expiry.set(id()?, self.at(now + seconds), self.at(now));
            }
            "cleared" => self.expiry.cleared(id()?),
            "expired" => {
                let now = self.at(now);
                let expired = self.expiry.take_expired(now, limit, Duration::from_secs(3));
                writeln!(output, "{expired:?}")?;
            }
            "checkpoints" => {
                for (id, left) in self.expiry.take_checkpoints(self.at(now), limit) {
                    writeln!(output, "{id}: {} s left", left.as_secs())?;
                }
            }
            "is_checkpointed" => writeln!(output, "{}", self.expiry.is_checkpointed(id()?))?,
            "dump" => self.dump(&mut output)?,
            name => return Err(format!("unknown command {name}").into()),
        }
        Ok(output)
    }
}

#[test]
fn scripts() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/testscripts/lease");
    for entry in std::fs::read_dir(dir).expect("the scripts are there") {
        let mut runner = Runner {
            start: Instant::now(),
            lessor: Lessor::default(),
            expiry: Expiry::new(Duration::from_secs(300)),
        };
        let path = entry.expect("readable").path();
        goldenscript::run(&mut runner, path).expect("the script runs");
    }
}
