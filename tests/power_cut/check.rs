//! One power cut: an image, a start on it, and what must hold then.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use kvd_api::pb::etcdserverpb::{PutRequest, RangeRequest};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::disk::{Disk, Lies};
use crate::history::{Change, History, Model, key_name, value_of};
use crate::image::{self, Survives};
use crate::member::{Ports, Process};
use crate::trace::{self, Trace};

/// Where the power is cut, and what survives.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// How many events were before.
    pub events: usize,
    pub survives: Survives,
}

/// What a start on an image found.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    pub revision: i64,
    /// How many revisions more than those that were acknowledged.
    pub more: i64,
}

impl Cut {
    /// Half of the cuts fall within a few events of a sync or a change of names, where most is at
    /// stake.
    pub fn draw(seed: u64, trace: &Trace) -> (Cut, StdRng) {
        let mut random = StdRng::seed_from_u64(seed);
        let count = trace.events.len();
        let anywhere = random.random_range(1..=count);
        let events = if random.random_bool(0.5) {
            anywhere
        } else {
            let is_data = |change: &trace::Change| matches!(change, trace::Change::Write { .. });
            let next = (anywhere..count).find(|at| !is_data(&trace.events[*at].change));
            (next.unwrap_or(anywhere) + random.random_range(0..5)).saturating_sub(2)
        };
        let survives = Survives::draw(&mut random);
        (
            Cut {
                events: events.clamp(1, count),
                survives,
            },
            random,
        )
    }
}

/// Cuts the power as `cut` says on a disk that `lies`, and checks what is there. `work` is a
/// folder for the image, made and removed here.
///
/// Errors: what is wrong.
pub async fn check(
    engine: &str,
    (trace, history): (&Trace, &History),
    (cut, mut random): (&Cut, StdRng),
    lies: Lies,
    ports: &Ports,
    work: &Path,
) -> Result<Found> {
    std::fs::create_dir_all(work)?;
    let disk = Disk::after(trace, cut.events, lies)?;
    let root = work.join("disk");
    image::write(&disk, cut.survives, &mut random, &root)?;
    drop(disk);
    let position = trace.events[cut.events - 1].end;
    let data_dir = root.join("data");
    let log = work.join("log");
    let process = Process::start(engine, &data_dir, ports, &log, None).await?;
    let found = content(&process, history, position, &mut random).await?;
    let after = go_on(&process, history, found.revision).await?;
    ensure!(
        !process.log().contains("panicked"),
        "it panicked:\n{}",
        process.log()
    );
    process.kill(None)?;
    if random.random_bool(0.5) {
        let process = Process::start(engine, &data_dir, ports, &log, None).await?;
        let hash = process.hash(0).await?;
        ensure!(
            (hash.hash_revision, hash.hash) == after,
            "changed by a restart: {hash:?}"
        );
        process.kill(None)?;
    }
    std::fs::remove_dir_all(work)?;
    Ok(found)
}

/// Checks what a start found against what was told to clients before `position`.
async fn content(
    process: &Process,
    history: &History,
    position: u64,
    random: &mut StdRng,
) -> Result<Found> {
    let hash = process.hash(0).await?;
    let revision = hash.hash_revision;
    let told = history.writes.iter().filter(|write| write.told <= position);
    let (acknowledged, term) = told.fold((1, 0), |(revision, term), write| {
        (write.revision.max(revision), write.term.max(term))
    });
    ensure!(
        revision >= acknowledged,
        "acknowledged revisions are lost: at {revision}, {acknowledged} was acknowledged"
    );
    for write in history
        .writes
        .iter()
        .filter(|write| write.revision <= revision)
    {
        ensure!(
            write.asked <= position,
            "revision {} was not yet asked for",
            write.revision
        );
    }
    let last = history.writes.len() as i64 + 1;
    ensure!(
        revision <= last,
        "revision {revision} is of no history, which ends at {last}"
    );
    compacted(history, hash.compact_revision, position)?;

    let model = Model::at(history, revision);
    let expected = model.hash(hash.compact_revision);
    same_pairs(process, &model, revision, term).await?;
    ensure!(
        hash.hash == expected,
        "at {revision}: {hash:?}, but the history has {expected}"
    );
    for _ in 0..2 {
        let old = random.random_range(hash.compact_revision.max(1)..=revision);
        same_pairs(process, &model, old, term)
            .await
            .with_context(|| format!("at {old}"))?;
    }
    Ok(Found {
        revision,
        more: revision - acknowledged,
    })
}

fn compacted(history: &History, found: i64, position: u64) -> Result<()> {
    let told = history
        .compactions
        .iter()
        .filter(|compaction| compaction.told <= position);
    let least = told
        .map(|compaction| compaction.revision)
        .max()
        .unwrap_or(0);
    if found <= 0 && least == 0 {
        return Ok(());
    }
    ensure!(
        found >= least,
        "compacted at {found}, though {least} was acknowledged"
    );
    let mut all = history.compactions.iter();
    let asked = all.find(|compaction| compaction.revision == found);
    match asked {
        Some(compaction) if compaction.asked <= position => Ok(()),
        _ => bail!("compacted at {found}, which nobody had asked for"),
    }
}

async fn same_pairs(process: &Process, model: &Model, revision: i64, term: u64) -> Result<()> {
    let all = Bytes::from_static(b"\0");
    let request = RangeRequest {
        key: all.clone(),
        range_end: all,
        revision,
        ..RangeRequest::default()
    };
    let response = process.kv().await?.range(request).await?.into_inner();
    let now = response
        .header
        .as_ref()
        .map_or(0, |header| header.raft_term);
    ensure!(now >= term, "term {now}, though {term} was told");
    let found = response.decode_kvs()?;
    let expected: Vec<_> = model.pairs(revision).into_values().cloned().collect();
    if found == expected {
        return Ok(());
    }
    let describe = |pairs: &[kvd_api::pb::mvccpb::KeyValue]| {
        let each = pairs.iter().map(|pair| {
            let key = String::from_utf8_lossy(&pair.key);
            format!(
                "{key}@{}/{}({} B)",
                pair.mod_revision,
                pair.version,
                pair.value.len()
            )
        });
        each.collect::<Vec<_>>().join(" ")
    };
    bail!(
        "the pairs at {revision} are\n{}\nbut should be\n{}",
        describe(&found),
        describe(&expected)
    )
}

/// A write after the power cut; returns revision and hash behind it.
async fn go_on(process: &Process, history: &History, revision: i64) -> Result<(i64, u32)> {
    let change = Change::Put {
        key: 0,
        id: u64::MAX,
        length: 100,
    };
    let (key, value) = (key_name(0), value_of(u64::MAX, 100));
    let request = PutRequest {
        key,
        value,
        ..PutRequest::default()
    };
    let response = process.kv().await?.put(request).await?.into_inner();
    let told = response.header.context("a header")?.revision;
    ensure!(
        told == revision + 1,
        "the write after {revision} has revision {told}"
    );
    let hash = process.hash(0).await?;
    let mut model = Model::at(history, revision);
    model.apply(&[change]);
    let expected = model.hash(hash.compact_revision);
    ensure!(
        hash.hash == expected,
        "after a write: {hash:?}, but the history has {expected}"
    );
    Ok((hash.hash_revision, hash.hash))
}
