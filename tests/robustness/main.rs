//! Histories of concurrent clients while members are killed and paused: linearizable, nothing
//! acknowledged lost, every member with the same hash at the end.
//!
//! `KVD_ROBUSTNESS_SECONDS` sets the length of the run (default 60), `KVD_SEED` replays the
//! choices of one (the schedule of the processes is the machine's).

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kvd_tests::cluster::Cluster;
use kvd_tests::history::{Input, Operation, Output};
use kvd_tests::workload::{self, Histories, Options, Workload};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::process::Signal;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn seed() -> u64 {
    let seed = number("KVD_SEED").unwrap_or_else(|| rand::rng().random());
    println!("seed {seed}: replay with KVD_SEED={seed} cargo test -p kvd-tests --test robustness");
    seed
}

async fn run(size: usize, length: Duration, arguments: &[&str]) -> Result<Histories> {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::start(size, arguments).await?;
    let urls: Vec<String> = cluster
        .members
        .iter()
        .map(|member| member.client_url())
        .collect();
    let options = Options {
        clients: 8,
        keys: 6,
        seed,
        operations: 3_200,
        pause: Duration::ZERO,
    };
    let mut running = Workload::start(&urls, &options)?;
    let mut rounds = 0;
    let mut acknowledged = 0;
    let mut all = Histories::new();
    let end = Instant::now() + length;
    while Instant::now() < end {
        rounds += 1;
        fault(&mut cluster, &mut random).await?;
        // Progress after the fault, so that a run without any proves nothing by accident.
        let before = running.acknowledged();
        kvd_tests::wait::until("progress", Duration::from_secs(20), || async {
            ensure!(running.acknowledged() > before + 20, "clients are stuck");
            Ok(())
        })
        .await?;
        if rounds % 5 == 0 {
            // Each key's history is checked in pieces of bounded length: the clients pause, the
            // keys are read, and the values start the next piece.
            acknowledged += running.acknowledged();
            let mut piece = running.finish(&all).await?;
            workload::read_back(&mut piece, &urls[0]).await?;
            workload::verify(&workload::continued(&piece, &all))?;
            all = piece;
            running = Workload::start(
                &urls,
                &Options {
                    seed: seed + rounds,
                    ..options.clone()
                },
            )?;
        }
    }
    acknowledged += running.acknowledged();
    let mut last = running.finish(&all).await?;
    cluster.start_all().await?;
    workload::read_back(&mut last, &urls[size - 1]).await?;
    let last = workload::continued(&last, &all);
    workload::verify(&last)?;
    let hash = cluster.equal_hashes(Duration::from_secs(20)).await?;
    println!(
        "{rounds} faults, {acknowledged} acknowledged operations, hash {}",
        hash.hash
    );
    Ok(last)
}

/// Kills or pauses one member, or all, and brings them back.
async fn fault(cluster: &mut Cluster, random: &mut StdRng) -> Result<()> {
    let size = cluster.members.len();
    let victim = match random.random_range(0..3) {
        0 => cluster.leader().await?,
        _ => random.random_range(0..size),
    };
    match random.random_range(0..10) {
        0..5 => {
            cluster.members[victim].kill()?;
            pause(random).await;
            cluster.restart(victim).await?;
        }
        5..9 => {
            cluster.members[victim].signal(Signal::STOP)?;
            pause(random).await;
            cluster.members[victim].signal(Signal::CONT)?;
        }
        _ => {
            for member in &mut cluster.members {
                member.kill()?;
            }
            cluster.start_all().await?;
        }
    }
    Ok(())
}

/// The length of a fault: part of the schedule, not a wait for anything.
async fn pause(random: &mut StdRng) {
    tokio::time::sleep(Duration::from_millis(random.random_range(100..2500))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_stay_linearizable_while_they_are_killed_and_paused() -> Result<()> {
    let length = Duration::from_secs(number("KVD_ROBUSTNESS_SECONDS").unwrap_or(60));
    let mut histories = run(3, length, &["--snapshot-count", "500"]).await?;
    planted_violations_are_found(&mut histories);
    Ok(())
}

/// The same check must fail on a history that is wrong: a stale read and a lost write planted
/// into what was really recorded.
fn planted_violations_are_found(histories: &mut Histories) {
    let mut stale = histories.clone();
    let mut lost = histories.clone();
    for (key, history) in histories.iter() {
        let last = history
            .iter()
            .map(|operation| operation.call)
            .max()
            .unwrap_or(0);
        let at = |call, input, output| Operation {
            client: usize::MAX,
            input,
            output,
            call,
            answer: call + 1,
        };
        let planted = stale.entry(*key).or_default();
        planted.push(at(last + 10, Input::Put(u64::MAX), Output::Done));
        planted.push(at(last + 20, Input::Put(u64::MAX - 1), Output::Done));
        planted.push(at(last + 30, Input::Get, Output::Value(Some(u64::MAX))));
        let planted = lost.entry(*key).or_default();
        planted.push(at(last + 10, Input::Put(u64::MAX), Output::Done));
        planted.push(at(last + 30, Input::Get, Output::Value(None)));
        // A delete whose answer never came would explain the loss.
        planted.retain(|operation| {
            operation.output != Output::Unknown || operation.input != Input::Delete
        });
    }
    workload::verify(&stale).expect_err("a planted stale read is found");
    workload::verify(&lost).expect_err("a planted lost write is found");
}
