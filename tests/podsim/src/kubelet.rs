//! The life of one pod: sandbox, init containers, containers with their probes, the end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::sync::watch;

use crate::container::{Handle, Running};
use crate::manifest::{Container, Handler, PodTemplate, Probe};
use crate::node::{Node, Sandbox};
use crate::probe;
use crate::state::{End, Pod};

/// Runs the pod `name`, which is in the state already, until it has ended; then it is gone from it.
pub async fn run(node: Arc<Node>, name: String) {
    let taken = node.state().pods.get(&name).map(|pod| {
        let template = Arc::clone(&pod.template);
        (template, pod.subdomain.clone(), pod.end.subscribe())
    });
    let Some((template, subdomain, end)) = taken else {
        return;
    };
    let life = Life {
        node: Arc::clone(&node),
        name: name.clone(),
        template,
        end,
    };
    if let Err(error) = life.live(&subdomain).await {
        eprintln!("pod {name}: {error:#}");
    }
    let mut state = node.state();
    state.pods.remove(&name);
    let doomed: Vec<String> = state
        .doomed_claims
        .iter()
        .filter(|claim| claim.ends_with(&format!("-{name}")))
        .cloned()
        .collect();
    for claim in doomed {
        state.doomed_claims.remove(&claim);
        if let Err(error) = std::fs::remove_dir_all(node.claim(&claim)) {
            eprintln!("claim {claim}: {error}");
        }
    }
}

#[derive(Clone)]
struct Life {
    node: Arc<Node>,
    name: String,
    template: Arc<PodTemplate>,
    end: watch::Receiver<End>,
}

/// Why a container's life stopped.
enum Stopped {
    /// Its process ended, or could not start.
    Ended,
    /// Its liveness or startup probe gave up on it.
    Unhealthy,
    /// The pod ends.
    PodEnds,
}

impl Life {
    async fn live(&self, subdomain: &str) -> Result<()> {
        let (node, name) = (Arc::clone(&self.node), self.name.clone());
        let sandbox = tokio::task::spawn_blocking(move || node.sandbox(&name)).await??;
        self.node.write_etc(&sandbox, &self.name, subdomain)?;
        self.with_pod(|pod| pod.ip = Some(sandbox.ip));
        if self.initialize(&sandbox).await? {
            let mut containers = tokio::task::JoinSet::new();
            let count = self.template.spec.containers.len();
            for index in 0..count {
                let (life, sandbox) = (self.clone(), sandbox.clone());
                containers.spawn(async move { life.container(index, &sandbox).await });
            }
            while let Some(done) = containers.join_next().await {
                done.context("a container's task failed")??;
            }
        }
        self.with_pod(|pod| {
            pod.ready = false;
            pod.ip = None;
        });
        tokio::task::spawn_blocking(move || sandbox.remove()).await?
    }

    fn with_pod(&self, change: impl FnOnce(&mut Pod)) {
        if let Some(pod) = self.node.state().pods.get_mut(&self.name) {
            change(pod);
        }
    }

    fn must_end(&self) -> bool {
        *self.end.borrow() != End::Run
    }

    /// Waits until the pod must end, and says how.
    async fn ending(&self) -> End {
        let mut end = self.end.clone();
        // The sender lives in the pod's state, which outlives this.
        match end.wait_for(|end| *end != End::Run).await {
            Ok(end) => *end,
            Err(_) => End::AtOnce,
        }
    }

    /// Runs the init containers, each until it succeeds. False when the pod must end.
    async fn initialize(&self, sandbox: &Sandbox) -> Result<bool> {
        for container in &self.template.spec.init_containers {
            let mut back_off = BackOff::new(&self.node);
            loop {
                if self.must_end() {
                    return Ok(false);
                }
                let recipe = self
                    .node
                    .recipe(&self.name, &self.template, container, sandbox)?;
                let mut running = recipe.start()?;
                let status = tokio::select! {
                    status = running.wait() => status?,
                    _ = self.ending() => {
                        running.stop(Duration::from_secs(1)).await?;
                        return Ok(false);
                    }
                };
                drop(std::fs::remove_dir(&recipe.root));
                if status.success() {
                    break;
                }
                eprintln!("pod {}: {}: {status}", self.name, container.name);
                tokio::select! {
                    () = back_off.pause() => {}
                    _ = self.ending() => return Ok(false),
                }
            }
        }
        Ok(!self.must_end())
    }

    /// Keeps one container running until the pod ends.
    async fn container(&self, index: usize, sandbox: &Sandbox) -> Result<()> {
        let container = &self.template.spec.containers[index];
        let mut back_off = BackOff::new(&self.node);
        while !self.must_end() {
            let started = Instant::now();
            let recipe = self
                .node
                .recipe(&self.name, &self.template, container, sandbox)?;
            let mut running = recipe.start()?;
            if index == 0 {
                let handle = running.handle();
                self.with_pod(|pod| pod.process = Some(handle));
            }
            let stopped = self.watch(container, sandbox, &mut running).await?;
            self.with_pod(|pod| pod.ready = false);
            match stopped {
                Stopped::Ended => {}
                Stopped::Unhealthy => self.stop(container, sandbox, &mut running).await?,
                Stopped::PodEnds => {
                    if *self.end.borrow() == End::AtOnce {
                        running.kill().await?;
                    } else {
                        self.stop(container, sandbox, &mut running).await?;
                    }
                    return Ok(());
                }
            }
            self.with_pod(|pod| {
                pod.process = None;
                pod.restarts += 1;
            });
            if started.elapsed() > self.node.options.back_off * 20 {
                back_off = BackOff::new(&self.node);
            }
            tokio::select! {
                () = back_off.pause() => {}
                _ = self.ending() => {}
            }
        }
        Ok(())
    }

    /// Probes a container that runs, until something ends that.
    async fn watch(
        &self,
        container: &Container,
        sandbox: &Sandbox,
        running: &mut Running,
    ) -> Result<Stopped> {
        // The process is waited for and asked at the same time; commands go by its number.
        let asked = running.handle();
        let probing = async {
            if let Some(probe) = &container.startup_probe {
                let healthy = self.startup(container, probe, sandbox, &asked).await;
                if !healthy {
                    return;
                }
            }
            let ready = async {
                match &container.readiness_probe {
                    Some(probe) => self.readiness(probe, sandbox, &asked).await,
                    None => {
                        self.with_pod(|pod| pod.ready = true);
                        std::future::pending().await
                    }
                }
            };
            let alive = async {
                match &container.liveness_probe {
                    Some(probe) => self.liveness(container, probe, sandbox, &asked).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = ready => {}
                () = alive => {}
            }
        };
        tokio::select! {
            status = running.wait() => {
                let status = status?;
                if !self.must_end() {
                    println!("pod {}: {} ended: {status}", self.name, container.name);
                }
                Ok(Stopped::Ended)
            }
            () = probing => Ok(Stopped::Unhealthy),
            _ = self.ending() => Ok(Stopped::PodEnds),
        }
    }

    async fn attempt(
        &self,
        handler: &Handler,
        timeout: Duration,
        sandbox: &Sandbox,
        asked: &Handle,
    ) -> Result<()> {
        let port = |name: &_| {
            let state = self.node.state();
            state.pods.get(&self.name).and_then(|pod| pod.port(name))
        };
        probe::ask(handler, sandbox.ip, port, asked, timeout).await
    }

    /// The time between attempts of a probe that waits for a success, and how many times more of
    /// them there are for that.
    fn pace(&self, probe: &Probe) -> (Duration, u32) {
        let period = Duration::from_secs(probe.period_seconds.max(1));
        match self.node.options.probing {
            Some(most) if most < period => {
                let times = period.as_millis() / most.as_millis().max(1);
                (most, u32::try_from(times).unwrap_or(u32::MAX))
            }
            _ => (period, 1),
        }
    }

    /// Asks until it has failed (false) or, where that counts, succeeded (true) often enough.
    async fn outcome(
        &self,
        probe: &Probe,
        sandbox: &Sandbox,
        asked: &Handle,
        successes_count: bool,
    ) -> bool {
        let (mut good, mut bad) = (0, 0);
        let period = Duration::from_secs(probe.period_seconds);
        let (period, times) = match successes_count {
            true => self.pace(probe),
            false => (period, 1),
        };
        loop {
            let timeout = Duration::from_secs(probe.timeout_seconds);
            let answer = self.attempt(&probe.handler, timeout, sandbox, asked);
            if answer.await.is_ok() {
                (good, bad) = (good + 1, 0);
            } else {
                (good, bad) = (0, bad + 1);
            }
            if successes_count && good >= probe.success_threshold {
                return true;
            }
            if bad >= probe.failure_threshold.saturating_mul(times) {
                return false;
            }
            tokio::time::sleep(period).await;
        }
    }

    async fn startup(
        &self,
        container: &Container,
        probe: &Probe,
        sandbox: &Sandbox,
        asked: &Handle,
    ) -> bool {
        tokio::time::sleep(Duration::from_secs(probe.initial_delay_seconds)).await;
        let healthy = self.outcome(probe, sandbox, asked, true).await;
        if !healthy {
            println!(
                "pod {}: {}: the startup probe gave up",
                self.name, container.name
            );
        }
        healthy
    }

    async fn readiness(&self, probe: &Probe, sandbox: &Sandbox, asked: &Handle) {
        tokio::time::sleep(Duration::from_secs(probe.initial_delay_seconds)).await;
        loop {
            if self.outcome(probe, sandbox, asked, true).await {
                self.with_pod(|pod| pod.ready = true);
                self.outcome(probe, sandbox, asked, false).await;
                self.with_pod(|pod| pod.ready = false);
            }
            tokio::time::sleep(self.pace(probe).0).await;
        }
    }

    async fn liveness(
        &self,
        container: &Container,
        probe: &Probe,
        sandbox: &Sandbox,
        asked: &Handle,
    ) {
        tokio::time::sleep(Duration::from_secs(probe.initial_delay_seconds)).await;
        self.outcome(probe, sandbox, asked, false).await;
        println!(
            "pod {}: {}: the liveness probe gave up",
            self.name, container.name
        );
    }

    /// preStop, SIGTERM, and SIGKILL when the pod's grace period is over.
    async fn stop(
        &self,
        container: &Container,
        sandbox: &Sandbox,
        running: &mut Running,
    ) -> Result<()> {
        let grace = Duration::from_secs(self.template.spec.termination_grace_period_seconds);
        let begun = Instant::now();
        if let Some(hook) = &container.lifecycle.pre_stop {
            let asked = running.handle();
            if let Err(error) = self.attempt(hook, grace, sandbox, &asked).await {
                eprintln!("pod {}: preStop: {error:#}", self.name);
            }
        }
        let left = grace
            .saturating_sub(begun.elapsed())
            .max(Duration::from_secs(2));
        let status = running.stop(left).await?;
        if !status.success() {
            println!("pod {}: {} ended: {status}", self.name, container.name);
        }
        Ok(())
    }
}

/// The pause before a container is started again: none at first, then more and more.
struct BackOff {
    next: Duration,
    first: Duration,
}

impl BackOff {
    fn new(node: &Node) -> BackOff {
        BackOff {
            next: Duration::ZERO,
            first: node.options.back_off,
        }
    }

    async fn pause(&mut self) {
        tokio::time::sleep(self.next).await;
        self.next = (self.next * 2).clamp(self.first, self.first * 10);
    }
}
