//! The variant `autopilot`: the set grows, shrinks and heals with no command typed, under a checked
//! workload and with clients that may never be left without an answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use kvd_api::pb::etcdserverpb::PutRequest;
use kvd_api::pb::etcdserverpb::kv_client::KvClient;
use kvd_podsim::api::Api;
use kvd_podsim::cluster::{CONVERGENCE, Cluster};
use kvd_podsim::host;
use kvd_podsim::node::Options;
use kvd_tests::{http, wait};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use tonic::transport::Endpoint;

use crate::checked::Checked;

#[test]
fn scaling_needs_no_command_and_fails_no_request() -> Result<()> {
    host::isolated(
        "autopilot::scaling_needs_no_command_and_fails_no_request",
        scaled(),
    )
}

#[test]
fn lost_disks_and_a_silent_api_heal_by_themselves() -> Result<()> {
    host::isolated(
        "autopilot::lost_disks_and_a_silent_api_heal_by_themselves",
        healed(),
    )
}

#[test]
fn random_scaling_and_losses_lose_nothing() -> Result<()> {
    let name = "autopilot::random_scaling_and_losses_lose_nothing";
    let seed = number("KVD_SEED").unwrap_or_else(|| rand::rng().random());
    let variables = [("KVD_SEED", seed.to_string())];
    let sets = if steps() < MANY { 1 } else { 2 };
    host::side_by_side(name, sets, &variables, |set| {
        random_steps(set as u64, sets as u64, seed)
    })
}

/// So many random steps are made on two sets of pods side by side: most of a step is spent waiting.
const MANY: u64 = 20;

/// As many as the other random test makes, unless `KVD_PODSIM_AUTOPILOT_STEPS` says otherwise: each
/// takes several times as long.
fn steps() -> u64 {
    let own = number("KVD_PODSIM_AUTOPILOT_STEPS");
    own.or_else(|| number("KVD_PODSIM_STEPS")).unwrap_or(3)
}

/// The manifests, with so many pods that begin together, and a shorter time to be promoted.
async fn base(size: usize) -> Result<Cluster> {
    let mut cluster = Cluster::new(Options::default()).await?;
    cluster.apply(&manifests(size)?).await?;
    Ok(cluster)
}

fn manifests(size: usize) -> Result<String> {
    let text = host::render("variants/autopilot")?;
    let short = text.replace("stabilization-time: \"10s\"", "stabilization-time: \"1s\"");
    ensure!(short != text, "the manifests say how long");
    let sized = short
        .replace("replicas: 3", &format!("replicas: {size}"))
        .replace("size: \"3\"", &format!("size: \"{size}\""));
    ensure!(size == 3 || sized != short, "the manifests say how many");
    Ok(sized)
}

/// A client that writes one key again and again, each value until it is acknowledged: doing that
/// twice does no harm. It may never have to try for longer than [`PATIENCE`].
struct Patient {
    stop: Arc<AtomicBool>,
    longest: Arc<AtomicU64>,
    running: tokio::task::JoinHandle<Result<u64>>,
}

/// How long a request may take with all of its repetitions.
const PATIENCE: Duration = Duration::from_secs(15);

impl Patient {
    fn start(cluster: &Cluster) -> Result<Patient> {
        let url = format!("http://{}:2379", cluster.service("etcd-client")?);
        let stop = Arc::new(AtomicBool::new(false));
        let longest = Arc::new(AtomicU64::new(0));
        let running = tokio::spawn(write(url, Arc::clone(&stop), Arc::clone(&longest)));
        Ok(Patient {
            stop,
            longest,
            running,
        })
    }

    async fn finish(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let writes = self.running.await??;
        let longest = self.longest.load(Ordering::Relaxed);
        println!("{writes} writes, none failed; the longest took {longest} ms");
        ensure!(writes > 0);
        Ok(())
    }
}

async fn write(url: String, stop: Arc<AtomicBool>, longest: Arc<AtomicU64>) -> Result<u64> {
    let endpoint = Endpoint::from_shared(url)?.connect_timeout(Duration::from_secs(1));
    let mut connected = None;
    let mut writes = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let request = PutRequest {
            key: Bytes::from_static(b"patient"),
            value: Bytes::from(writes.to_string()),
            ..PutRequest::default()
        };
        loop {
            let attempt = async {
                if connected.is_none() {
                    connected = Some(KvClient::new(endpoint.connect().await?));
                }
                let client = connected.as_mut().context("a connection")?;
                anyhow::Ok(client.put(request.clone()).await?)
            };
            let outcome = tokio::time::timeout(Duration::from_secs(2), attempt).await;
            match outcome {
                Ok(Ok(_)) => break,
                failed => {
                    connected = None;
                    ensure!(
                        begun.elapsed() < PATIENCE,
                        "write {writes} has not succeeded for {PATIENCE:?}: {failed:?}"
                    );
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
        let took = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        longest.fetch_max(took, Ordering::Relaxed);
        writes += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(writes)
}

fn status(cluster: &Cluster, pod: &str) -> Result<Value> {
    http::get(&format!("{}:2381", cluster.ip(pod)?), "/v1/autopilot")?.json()
}

/// Waits until the members have exactly the names `wanted`, in order, with votes, all healthy, as
/// the first pod tells on its `port`.
pub async fn voters(cluster: &Cluster, port: u16, wanted: &[String]) -> Result<()> {
    wait::until("the members", CONVERGENCE, || async {
        let address = format!("{}:{port}", cluster.ip("etcd-0")?);
        let status = http::get(&address, "/v1/autopilot")?.json()?;
        let members = status["members"].as_array().context("members")?;
        let mut names: Vec<&str> = members.iter().filter_map(|m| m["name"].as_str()).collect();
        names.sort_unstable();
        ensure!(names == wanted, "{names:?}: {status:#}");
        ensure!(
            status["healthy"] == true && status["voters"] == wanted.len(),
            "{status:#}"
        );
        Ok(())
    })
    .await
    .with_context(|| cluster.logs())
}

/// Waits until exactly the wanted pods are members, with votes, all healthy, and clients are served.
async fn settled(cluster: &Cluster, checked: &Checked, size: usize) -> Result<()> {
    let begun = Instant::now();
    let wanted: Vec<String> = (0..size).map(|number| format!("etcd-{number}")).collect();
    voters(cluster, 2381, &wanted).await?;
    checked.converged(cluster).await?;
    ensure!(
        begun.elapsed() <= CONVERGENCE,
        "it took {:?}",
        begun.elapsed()
    );
    println!("  well after {:.1} s", begun.elapsed().as_secs_f64());
    Ok(())
}

async fn scaled() -> Result<()> {
    let cluster = base(1).await?;
    cluster.wait_ready(CONVERGENCE).await?;
    let mut checked = Checked::start(&cluster, 8)?;
    settled(&cluster, &checked, 1).await?;
    let patient = Patient::start(&cluster)?;
    for size in [3, 5, 3, 1, 3] {
        println!("to {size}");
        cluster.scale(size);
        settled(&cluster, &checked, size).await?;
        checked.check().await?;
    }
    // Pods that came back on the disks that they had left are others now.
    let kept = cluster
        .claim("data-etcd-2")
        .join("default.etcd/member.removed");
    ensure!(kept.is_dir(), "the old data is set aside");
    patient.finish().await?;
    println!("{} acknowledged operations", checked.finish().await?);
    Ok(())
}

async fn lose_disk(cluster: &Cluster, pod: &str, kill: bool) -> Result<()> {
    cluster.delete_claim(&format!("data-{pod}"))?;
    let before = cluster.ip(pod)?;
    match kill {
        true => cluster.lose_pod(pod),
        false => cluster.delete_pod(pod),
    }
    // From here on the pod that is waited for is another one.
    wait::until("another pod", CONVERGENCE * 2, || async {
        ensure!(cluster.ip(pod)? != before, "it has not ended");
        Ok(())
    })
    .await
}

async fn healed() -> Result<()> {
    let cluster = base(3).await?;
    // Nothing begins before it is known how many are wanted.
    cluster.wait_ready(CONVERGENCE).await?;
    let mut checked = Checked::start(&cluster, 9)?;
    settled(&cluster, &checked, 3).await?;
    let patient = Patient::start(&cluster)?;

    println!("a claim and its pod, of the leader");
    let leader = cluster.leader().await?;
    lose_disk(&cluster, &leader, false).await?;
    settled(&cluster, &checked, 3).await?;

    println!("the API forbids, and a pod is deleted: it stays a member");
    cluster.set_api(Api::Forbids);
    cluster.scale(2);
    wait::until("the reason", CONVERGENCE, || async {
        let status = status(&cluster, "etcd-0")?;
        let error = status["desired_error"].as_str().unwrap_or_default();
        ensure!(
            error.contains("needs a Role") && status["desired_replicas"] == 3,
            "{status:#}"
        );
        Ok(())
    })
    .await?;
    cluster.set_api(Api::Down);
    cluster.scale(3);
    wait::until("the reason", CONVERGENCE, || async {
        let status = status(&cluster, "etcd-0")?;
        let error = status["desired_error"].as_str().unwrap_or_default();
        ensure!(error.contains("does not answer"), "{status:#}");
        Ok(())
    })
    .await?;
    cluster.set_api(Api::Well);
    settled(&cluster, &checked, 3).await?;

    println!("two pods at once");
    cluster.delete_pod("etcd-1");
    cluster.delete_pod("etcd-2");
    settled(&cluster, &checked, 3).await?;
    patient.finish().await?;

    println!("new addresses for all");
    for pod in cluster.pods() {
        cluster.lose_pod(&pod);
    }
    settled(&cluster, &checked, 3).await?;
    checked.check().await?;
    println!("{} acknowledged operations", checked.finish().await?);
    Ok(())
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// The steps of one of the sets, whose pods and clients are its own.
async fn random_steps(set: u64, sets: u64, seed: u64) -> Result<()> {
    let all = steps();
    println!("set {set}, seed {seed}: replay with make podsim STEPS={all} SEED={seed}");
    let steps = all / sets + u64::from(set < all % sets);
    let seed = seed.wrapping_add(set);
    let mut random = StdRng::seed_from_u64(seed);
    let cluster = base(3).await?;
    cluster.wait_ready(CONVERGENCE).await?;
    let mut checked = Checked::start(&cluster, seed)?;
    settled(&cluster, &checked, 3).await?;
    let mut size = 3;
    for step in 1..=steps {
        let what = one(&cluster, &mut random, &mut size).await?;
        println!("set {set}, step {step}: {what}");
        settled(&cluster, &checked, size)
            .await
            .with_context(|| format!("step {step}: {what}; seed {seed}"))?;
        let checking = checked.check().await;
        checking.with_context(|| format!("after step {step}: {what}; seed {seed}"))?;
    }
    println!("{} acknowledged operations", checked.finish().await?);
    Ok(())
}

/// Does one thing to the cluster and says what.
async fn one(cluster: &Cluster, random: &mut StdRng, size: &mut usize) -> Result<String> {
    let pods = cluster.pods();
    let pod = pods[random.random_range(0..pods.len())].clone();
    Ok(match random.random_range(0..100) {
        0..45 => {
            *size = [1, 2, 3, 4, 5][random.random_range(0..5)];
            cluster.scale(*size);
            format!("scaled to {size}")
        }
        45..65 if *size >= 3 => {
            let kill = random.random_bool(0.5);
            lose_disk(cluster, &pod, kill).await?;
            format!("{pod} loses its disk")
        }
        65..80 => {
            cluster.lose_pod(&pod);
            format!("the node of {pod} dies")
        }
        80..90 => {
            for pod in &pods {
                cluster.lose_pod(pod);
            }
            "all nodes die".to_owned()
        }
        _ => {
            cluster.delete_pod(&pod);
            format!("{pod} is deleted")
        }
    })
}
