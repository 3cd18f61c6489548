//! Power cuts under a whole member: log and store together, as a real `kvd` writes them.
//!
//! A library that is preloaded into `kvd` (`shim.c`) records every write, truncate, rename and
//! sync while clients write, several processes long. Then the power is cut many times at random
//! places of that trace: an image of the disk is rebuilt from what was durable by then and a
//! random choice of what was not (`disk.rs`, `image.rs`), `kvd` is started on it, and must serve
//! everything that had been acknowledged, a whole prefix of the history, with the right hash.
//!
//! - `KVD_POWER_CUT_SEEDS=500` cuts so often on each engine, in runs of [`CUTS_OF_A_RUN`];
//!   otherwise as often as fits, at least [`LEAST_CUTS`] times. It also adds a run that fills
//!   several segments of the log, and one of many small records.
//! - `KVD_SEED=n` is the seed of the first run; cut `i` has the seed `n + i`.
//! - A failure keeps the run's folder and names the command that replays the one cut on it, with
//!   `KVD_POWER_CUT_TRACE`.
#![allow(missing_docs)]
#![cfg(target_os = "linux")]

mod check;
mod disk;
mod drive;
mod history;
mod image;
mod member;
mod trace;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use check::{Cut, check};
use disk::Lies;
use drive::Volume;
use history::History;
use image::Survives;
use member::Ports;
use trace::Trace;

/// Cuts on each engine, however long they take.
const LEAST_CUTS: u64 = 40;
/// Then the next run begins, when a number of seeds is given.
const CUTS_OF_A_RUN: u64 = 100;
/// More cuts fit into this time, of the run and its cuts.
const TIME: Duration = Duration::from_secs(25);
/// Each of the two longer runs gets this part of the number of seeds that is given.
const LARGE_PART: u64 = 10;

const HONEST: Lies = |_| false;

fn variable(name: &str) -> Result<Option<u64>> {
    match std::env::var(name) {
        Ok(text) => Ok(Some(
            text.parse()
                .with_context(|| format!("{name} is not a number"))?,
        )),
        Err(_) => Ok(None),
    }
}

fn first_seed() -> Result<u64> {
    Ok(variable("KVD_SEED")?.unwrap_or_else(|| rand::random::<u32>().into()))
}

/// A run and where its files are.
struct Recorded {
    engine: String,
    seed: u64,
    trace: Trace,
    history: History,
    folder: tempfile::TempDir,
}

impl Recorded {
    async fn make(engine: &str, volume: Volume, seed: u64) -> Result<Recorded> {
        println!("{engine}: KVD_SEED={seed}");
        let folder = tempfile::Builder::new()
            .prefix("kvd-power-cut-")
            .tempdir()?;
        let folder_path = folder.path().canonicalize()?;
        if let Err(error) = drive::run(engine, seed, volume, &folder_path).await {
            return Err(error.context(format!(
                "the run itself failed (KVD_SEED={seed}); it is kept in {}",
                folder.keep().display()
            )));
        }
        let (trace, history) = drive::load(&folder_path)?;
        println!(
            "{engine}: {} events, {} MB, {} revisions, {} compactions",
            trace.events.len(),
            trace.bytes.len() >> 20,
            history.writes.len(),
            history.compactions.len()
        );
        Ok(Recorded {
            engine: engine.to_owned(),
            seed,
            trace,
            history,
            folder,
        })
    }

    /// Cuts the power until `enough`.
    async fn cut(self, enough: impl Fn(u64) -> bool) -> Result<()> {
        let ports = Ports::reserve()?;
        let (mut cuts, mut more) = (0, 0);
        while !enough(cuts) {
            let seed = self.seed.wrapping_add(cuts);
            let (cut, random) = Cut::draw(seed, &self.trace);
            let work = self.folder.path().join(format!("cut-{seed}"));
            let recorded = (&self.trace, &self.history);
            let found = check(
                &self.engine,
                recorded,
                (&cut, random),
                HONEST,
                &ports,
                &work,
            )
            .await;
            match found {
                Ok(found) => more += u64::from(found.more > 0),
                Err(error) => {
                    let folder = self.folder.keep();
                    bail!(
                        "{cut:?} of {} events: {error:#}\nreplay it: KVD_POWER_CUT_TRACE={} \
                         KVD_SEED={seed} cargo test -p kvd-tests --test power_cut {}",
                        self.trace.events.len(),
                        folder.display(),
                        self.engine
                    );
                }
            }
            cuts += 1;
        }
        println!(
            "{}: {cuts} cuts, {more} with more than was acknowledged",
            self.engine
        );
        Ok(())
    }
}

/// One cut on a trace that a failure kept.
async fn replay(engine: &str, folder: &Path) -> Result<()> {
    let seed = variable("KVD_SEED")?.context("KVD_SEED names the cut")?;
    let (trace, history) = drive::load(folder)?;
    let (cut, random) = Cut::draw(seed, &trace);
    println!("{cut:?} of {} events", trace.events.len());
    let work = folder.join(format!("replay-{seed}"));
    if work.exists() {
        std::fs::remove_dir_all(&work)?;
    }
    let recorded = (&trace, &history);
    check(
        engine,
        recorded,
        (&cut, random),
        HONEST,
        &Ports::reserve()?,
        &work,
    )
    .await?;
    Ok(())
}

async fn cut_the_power(engine: &str) -> Result<()> {
    if let Some(folder) = std::env::var_os("KVD_POWER_CUT_TRACE") {
        return replay(engine, &PathBuf::from(folder)).await;
    }
    let (begin, seed) = (Instant::now(), first_seed()?);
    let Some(seeds) = variable("KVD_POWER_CUT_SEEDS")? else {
        let recorded = Recorded::make(engine, Volume::Small, seed).await?;
        return recorded
            .cut(|cuts| cuts >= LEAST_CUTS && begin.elapsed() >= TIME)
            .await;
    };
    for first in (0..seeds).step_by(CUTS_OF_A_RUN as usize) {
        let count = CUTS_OF_A_RUN.min(seeds - first);
        let recorded = Recorded::make(engine, Volume::Small, seed.wrapping_add(first)).await?;
        recorded.cut(|cuts| cuts >= count).await?;
    }
    for (volume, after) in [(Volume::Large, 0), (Volume::Many, 1)] {
        let count = seeds.div_ceil(LARGE_PART);
        let seed = seed.wrapping_add(seeds + after * count);
        let recorded = Recorded::make(engine, volume, seed).await?;
        recorded.cut(|cuts| cuts >= count).await?;
    }
    Ok(())
}

#[tokio::test]
async fn sled_loses_nothing_that_was_acknowledged() -> Result<()> {
    cut_the_power("sled").await
}

#[tokio::test]
async fn redb_loses_nothing_that_was_acknowledged() -> Result<()> {
    cut_the_power("redb").await
}

/// The check must be able to fail: acknowledged writes are lost on a disk that syncs nothing, on
/// one that does not sync the log, and on one that does not sync the names in the log's directory.
#[tokio::test]
async fn a_disk_that_lies_is_caught() -> Result<()> {
    if std::env::var_os("KVD_POWER_CUT_TRACE").is_some() {
        return Ok(());
    }
    let recorded = Recorded::make("redb", Volume::Small, first_seed()?).await?;
    let ports = Ports::reserve()?;
    let work = recorded.folder.path().join("lies");
    let trace = (&recorded.trace, &recorded.history);
    let lies: [(&str, Lies); 3] = [
        ("everything", |_| true),
        ("the log", |path| path.ends_with(".wal")),
        ("the log's directory", |path| path.ends_with("/wal")),
    ];
    // Early enough that the store, too, has not been flushed since.
    let told = recorded.history.writes[8].told;
    let before = recorded
        .trace
        .events
        .iter()
        .take_while(|event| event.end <= told);
    let cut = Cut {
        events: before.count(),
        survives: Survives::Nothing,
    };
    let (_, random) = Cut::draw(recorded.seed, &recorded.trace);
    for (what, lies) in lies {
        let result = check("redb", trace, (&cut, random.clone()), lies, &ports, &work).await;
        let Err(error) = result else {
            bail!("a disk that lies about {what} was not caught")
        };
        let reason = error.to_string();
        println!("a disk that lies about {what}: {reason}");
        ensure!(
            reason.contains("acknowledged revisions are lost"),
            "for another reason: {reason}"
        );
        std::fs::remove_dir_all(&work)?;
    }
    check("redb", trace, (&cut, random), HONEST, &ports, &work).await?;
    Ok(())
}
