//! Random steps with a seed, each followed by convergence.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kvd_podsim::cluster::{CONVERGENCE, Cluster};
use kvd_podsim::dns::Mood;
use kvd_podsim::host;
use kvd_podsim::node::Options;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::process::Signal;

use crate::checked::Checked;

/// Steps when `KVD_PODSIM_STEPS` says nothing.
const STEPS: u64 = 20;
/// Sets of pods that make them side by side: most of a step is spent waiting.
const SETS: u64 = 2;
/// Time between probes of a pod that is not ready yet.
const PROBING: Duration = Duration::from_millis(200);
/// Steps between checks of the history.
const PIECE: u64 = 4;

#[test]
fn random_steps_lose_nothing() -> Result<()> {
    let name = "random::random_steps_lose_nothing";
    let seed = number("KVD_SEED").unwrap_or_else(|| rand::rng().random());
    let variables = [("KVD_SEED", seed.to_string())];
    host::side_by_side(name, usize::try_from(SETS)?, &variables, |set| {
        random_steps(set as u64, seed)
    })
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// The steps of one of the sets, whose pods and clients are its own.
async fn random_steps(set: u64, seed: u64) -> Result<()> {
    let all = number("KVD_PODSIM_STEPS").unwrap_or(STEPS);
    println!("set {set}, seed {seed}: replay with make podsim STEPS={all} SEED={seed}");
    let own = seed.wrapping_add(set);
    let steps = all / SETS + u64::from(set < all % SETS);
    let mut random = StdRng::seed_from_u64(own);
    // Most of a step would be spent between two probes of a pod that has been ready for long.
    let options = Options {
        probing: Some(PROBING),
        ..Options::default()
    };
    let mut cluster = Cluster::new(options).await?;
    cluster.apply(&host::render("base")?).await?;
    cluster.wait_ready(CONVERGENCE).await?;
    let mut checked = Checked::start(&cluster, own)?;
    checked.converged(&cluster).await?;
    let mut slowest = Duration::ZERO;
    for step in 1..=steps {
        let started = Instant::now();
        let what = one(&mut cluster, &mut random, step)
            .await
            .context("a step")?;
        let begun = Instant::now();
        checked
            .converged(&cluster)
            .await
            .with_context(|| format!("set {set}, step {step}: {what}; seed {seed}"))?;
        let took = begun.elapsed();
        slowest = slowest.max(took);
        if step % PIECE == 0 {
            let checking = checked.check().await;
            checking.with_context(|| format!("set {set}, after step {step}; seed {seed}"))?;
        }
        println!(
            "set {set}, step {step}: {what}: well after {:.1} s of {:.1} s",
            took.as_secs_f64(),
            started.elapsed().as_secs_f64()
        );
    }
    let acknowledged = checked.finish().await?;
    println!(
        "set {set}: {steps} steps, {acknowledged} acknowledged operations, slowest {slowest:?}"
    );
    Ok(())
}

/// Does one thing to the cluster and says what.
async fn one(cluster: &mut Cluster, random: &mut StdRng, step: u64) -> Result<String> {
    let pods = cluster.pods();
    let pod = pods[random.random_range(0..pods.len())].clone();
    let what = match random.random_range(0..100) {
        0..20 => {
            cluster.delete_pod(&pod);
            format!("{pod} is deleted")
        }
        20..35 => {
            let leader = cluster.leader().await?;
            cluster.delete_pod(&leader);
            format!("{leader}, the leader, is deleted")
        }
        35..50 => {
            cluster.lose_pod(&pod);
            format!("the node of {pod} dies")
        }
        50..60 => {
            cluster.signal(&pod, Signal::KILL)?;
            format!("the process of {pod} is killed")
        }
        60..68 => {
            cluster.signal(&pod, Signal::STOP)?;
            pause(random).await;
            cluster.signal(&pod, Signal::CONT)?;
            format!("the process of {pod} stood still")
        }
        68..78 => {
            for pod in &pods {
                cluster.delete_pod(pod);
            }
            "all pods are deleted".to_owned()
        }
        78..83 => {
            for pod in &pods {
                cluster.lose_pod(pod);
            }
            "all nodes die".to_owned()
        }
        83..88 => {
            cluster.delete_set().await?;
            cluster.apply(&host::render("base")?).await?;
            "the set is deleted and made anew".to_owned()
        }
        88..94 => {
            cluster.update(|template| {
                let annotations = &mut template.metadata.annotations;
                annotations.insert("step".to_owned(), step.to_string());
            })?;
            "the pods are updated".to_owned()
        }
        _ => {
            let moods = [Mood::Down, Mood::KnowsNobody];
            let mood = moods[random.random_range(0..2)];
            cluster.set_dns(mood);
            cluster.delete_pod(&pod);
            pause(random).await;
            cluster.set_dns(Mood::Well);
            format!("{pod} is deleted while the name server is {mood:?}")
        }
    };
    // The controller and kubelet must have begun before anything is waited for.
    tokio::time::sleep(Duration::from_millis(100)).await;
    Ok(what)
}

/// The length of a fault: part of the schedule, not a wait for anything.
async fn pause(random: &mut StdRng) {
    tokio::time::sleep(Duration::from_millis(random.random_range(500..4000))).await;
}
