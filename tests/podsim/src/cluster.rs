//! The front door: apply manifests, do to pods what happens to pods, wait until all is well.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kvd_api::pb::etcdserverpb::maintenance_client::MaintenanceClient;
use kvd_api::pb::etcdserverpb::{HashKvRequest, StatusRequest, StatusResponse};
use kvd_tests::member::binary;
use kvd_tests::wait;
use rustix::process::Signal;
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use crate::api::{self, Api};
use crate::container::{Handle, signal_process};
use crate::controller;
use crate::dns::{self, Mood, Zone};
use crate::docker;
use crate::host;
use crate::manifest::Manifests;
use crate::node::{self, Node, Options};
use crate::service;
use crate::stack;
use crate::state::End;

/// Within this time a cluster must be well again, whatever was done to it.
pub const CONVERGENCE: Duration = Duration::from_secs(60);

/// How long a member may take to answer.
const SOON: Duration = Duration::from_secs(5);

/// The image's programs, and the other name of each.
const PROGRAMS: [(&str, &str); 3] = [("kvd", "etcd"), ("kvctl", "etcdctl"), ("kvutl", "etcdutl")];

/// The image of the front.
const NGINX: &str = "docker.io/nginxinc/nginx-unprivileged:1.29-alpine";

/// The name of the StatefulSet of all our manifests.
const SET: &str = "etcd";

/// A cluster of one node.
#[derive(Debug)]
pub struct Cluster {
    node: Arc<Node>,
    zone: Arc<Zone>,
    folder: TempDir,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    addresses: u8,
}

impl Cluster {
    /// A cluster without pods, with its name server and this build's image as
    /// `ghcr.io/kvd-io/kvd:0.1.0` and `:0.2.0`.
    ///
    /// Errors: outside of [`host::isolated`], or without binaries.
    pub async fn new(options: Options) -> Result<Cluster> {
        let folder = tempfile::Builder::new().prefix("kvd-podsim-").tempdir()?;
        for part in ["logs", "claims", "pods"] {
            std::fs::create_dir(folder.path().join(part))?;
        }
        // Pods' users must reach their volumes.
        host::run("chmod", &["755", &folder.path().display().to_string()])?;
        let node = Arc::new(Node::new(folder.path(), options));
        for version in ["0.1.0", "0.2.0"] {
            let image = folder.path().join("images").join(version);
            std::fs::create_dir_all(&image)?;
            for (program, etcds) in PROGRAMS {
                std::fs::copy(binary(program)?, image.join(program))?;
                std::os::unix::fs::symlink(program, image.join(etcds))?;
            }
            std::fs::write(image.join("image-version"), version)?;
            node.set_image(&format!("ghcr.io/kvd-io/kvd:{version}"), &image);
        }
        // Its program is this machine's.
        let image = folder.path().join("images").join("nginx");
        std::fs::create_dir_all(&image)?;
        std::fs::write(image.join("image-version"), NGINX)?;
        node.set_image(NGINX, &image);
        host::run("ip", &["addr", "add", "10.96.0.10/32", "dev", "lo"])?;
        host::run("ip", &["addr", "add", "10.96.0.1/32", "dev", "lo"])?;
        api::serve(Arc::clone(&node), &node.account(), "kvd").await?;
        let zone = Arc::new(Zone::default());
        dns::serve(Arc::clone(&zone)).await?;
        let mut cluster = Cluster {
            node,
            zone,
            folder,
            tasks: Vec::new(),
            addresses: 20,
        };
        cluster.start_tasks();
        Ok(cluster)
    }

    fn start_tasks(&mut self) {
        let node = Arc::clone(&self.node);
        self.tasks.push(tokio::spawn(async move {
            loop {
                if let Err(error) = controller::reconcile(&node) {
                    eprintln!("controller: {error:#}");
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }));
        let (node, zone) = (Arc::clone(&self.node), Arc::clone(&self.zone));
        self.tasks.push(tokio::spawn(async move {
            loop {
                tokio::time::sleep(node.options.publishing).await;
                let state = node.state();
                zone.publish(state.records());
                zone.publish_ports(state.places());
            }
        }));
    }

    /// Applies manifests: new objects are made, known ones are changed.
    ///
    /// Errors: manifests that cannot be read; a Service that cannot be listened on.
    pub async fn apply(&mut self, text: &str) -> Result<()> {
        let manifests = Manifests::parse(text)?;
        let mut listen = Vec::new();
        {
            let mut state = self.node.state();
            state.namespace = manifests.namespace;
            state.config_maps.extend(manifests.config_maps);
            state.secrets.extend(manifests.secrets);
            state.jobs.extend(manifests.jobs);
            for claim in manifests.claims {
                std::fs::create_dir_all(self.node.claim(&claim))?;
            }
            for (name, spec) in manifests.services {
                let known = state.services.get(&name).and_then(|known| known.1);
                let mut address = known;
                if known.is_none() && !spec.is_headless() {
                    self.addresses += 1;
                    let new = Ipv4Addr::new(10, 96, 0, self.addresses);
                    address = Some(new);
                    listen.extend(spec.ports.iter().map(|port| (name.clone(), new, port.port)));
                }
                state.services.insert(name, (spec, address));
            }
            for (name, set) in manifests.stateful_sets {
                let template = serde_yaml_ng::to_string(&set.template)?;
                state.sets.insert(name, (set, template));
            }
        }
        for (name, address, port) in listen {
            let alias = format!("{address}/32");
            host::run("ip", &["addr", "add", &alias, "dev", "lo"])?;
            service::serve(Arc::clone(&self.node), name, address, port).await?;
        }
        self.resolve_here()
    }

    /// Runs a compose or swarm file, whose configs are in `folder`.
    ///
    /// Errors: a file that cannot be read.
    pub async fn deploy(&mut self, text: &str, folder: &Path) -> Result<()> {
        let stack = stack::manifests(text, folder)?;
        self.node.state().stacked.extend(stack.names);
        docker::serve(Arc::clone(&self.node))?;
        self.apply(&stack.manifests).await
    }

    /// Lets programs outside of pods ask the cluster's name server too.
    fn resolve_here(&self) -> Result<()> {
        let path = self.folder.path().join("resolv.conf");
        let namespace = self.node.state().namespace.clone();
        // Pods' short names as well, which no machine outside would have.
        let text = node::resolv_conf(&namespace);
        let mounted = path.exists();
        std::fs::write(&path, text)?;
        if !mounted {
            let path = path.display().to_string();
            host::run("mount", &["--bind", &path, "/etc/resolv.conf"])?;
        }
        Ok(())
    }

    /// The namespace of everything.
    pub fn namespace(&self) -> String {
        self.node.state().namespace.clone()
    }

    /// The address of a Service.
    ///
    /// Errors: when there is no such Service, or it is headless.
    pub fn service(&self, name: &str) -> Result<Ipv4Addr> {
        let state = self.node.state();
        let known = state.services.get(name).and_then(|known| known.1);
        known.with_context(|| format!("Service {name} has no address"))
    }

    /// Whether pods that are wanted find no node: they are made once this is over.
    pub fn cordon(&self, cordoned: bool) {
        self.node.state().cordoned = cordoned;
    }

    /// The name server.
    pub fn zone(&self) -> &Zone {
        &self.zone
    }

    /// Sets how the name server behaves.
    pub fn set_dns(&self, mood: Mood) {
        self.zone.set_mood(mood);
    }

    /// Sets how the Kubernetes API behaves.
    pub fn set_api(&self, api: Api) {
        self.node.api.set(api);
    }

    /// The names of all pods.
    pub fn pods(&self) -> Vec<String> {
        self.node.state().pods.keys().cloned().collect()
    }

    /// The names of the pods that run kvd.
    pub fn members(&self) -> Vec<String> {
        let state = self.node.state();
        let is_member = |template: &crate::manifest::PodTemplate| {
            let first = template.spec.containers.first();
            first.is_some_and(|container| container.image.contains("/kvd:"))
        };
        let pods = state.pods.iter();
        pods.filter(|(_, pod)| is_member(&pod.template))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// A pod's address.
    ///
    /// Errors: when it has none.
    pub fn ip(&self, pod: &str) -> Result<Ipv4Addr> {
        let state = self.node.state();
        let ip = state.pods.get(pod).and_then(|pod| pod.ip);
        ip.with_context(|| format!("{pod} has no address"))
    }

    /// How often a pod's containers were started again.
    pub fn restarts(&self, pod: &str) -> u32 {
        self.node
            .state()
            .pods
            .get(pod)
            .map_or(0, |pod| pod.restarts)
    }

    fn handle(&self, pod: &str) -> Result<Handle> {
        let state = self.node.state();
        let handle = state.pods.get(pod).and_then(|pod| pod.process.clone());
        handle.with_context(|| format!("{pod} does not run"))
    }

    /// Runs a command in a pod's first container, as `kubectl exec` does.
    ///
    /// Errors: when the pod does not run.
    pub async fn exec(&self, pod: &str, words: &[&str]) -> Result<Output> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let output = self.handle(pod)?.exec(&words).output();
        tokio::time::timeout(Duration::from_secs(30), output)
            .await
            .with_context(|| format!("{pod}: {words:?} does not end"))?
            .map_err(Into::into)
    }

    /// Deletes a pod: it ends, and the controller makes it anew, with another address.
    pub fn delete_pod(&self, pod: &str) {
        controller::end(&self.node.state(), pod, End::Gracefully);
    }

    /// Ends a pod by SIGKILL, as when its node dies.
    pub fn lose_pod(&self, pod: &str) {
        controller::end(&self.node.state(), pod, End::AtOnce);
    }

    /// Sends a signal to a pod's process, behind the kubelet's back.
    ///
    /// Errors: when the pod does not run.
    pub fn signal(&self, pod: &str, signal: Signal) -> Result<()> {
        signal_process(self.handle(pod)?.pid, signal);
        Ok(())
    }

    /// Takes a pod's network away, or gives it back: nothing reaches it and nothing leaves.
    ///
    /// Errors: when the pod has none.
    pub fn connect(&self, pod: &str, connected: bool) -> Result<()> {
        let veth = node::veth(self.ip(pod)?);
        let state = if connected { "up" } else { "down" };
        host::ip(&format!("link set {veth} {state}\n"))
    }

    /// Deletes the StatefulSet and waits until its pods are gone. Claims stay.
    ///
    /// Errors: when pods are still there after their grace period.
    pub async fn delete_set(&self) -> Result<()> {
        self.node.state().sets.clear();
        wait::until("the end of all pods", CONVERGENCE * 2, || async {
            let pods = self.pods();
            ensure!(pods.is_empty(), "{pods:?}");
            Ok(())
        })
        .await
    }

    /// Deletes a pod's claim, with what is in it, as soon as the pod is gone.
    ///
    /// Errors: when there is no such claim.
    pub fn delete_claim(&self, claim: &str) -> Result<()> {
        let folder = self.node.claim(claim);
        ensure!(folder.is_dir(), "there is no claim {claim}");
        let mut state = self.node.state();
        let used = state
            .pods
            .keys()
            .any(|pod| claim.ends_with(&format!("-{pod}")));
        if used {
            state.doomed_claims.insert(claim.to_owned());
            return Ok(());
        }
        drop(state);
        Ok(std::fs::remove_dir_all(folder)?)
    }

    /// The folder of a claim.
    pub fn claim(&self, name: &str) -> std::path::PathBuf {
        self.node.claim(name)
    }

    /// `kubectl scale`.
    pub fn scale(&self, replicas: usize) {
        if let Some((set, _)) = self.node.state().sets.get_mut(SET) {
            set.replicas = replicas;
        }
    }

    /// Changes the pods' template, which updates them one after the other.
    ///
    /// Errors: when there is no set.
    pub fn update(&self, change: impl FnOnce(&mut crate::manifest::PodTemplate)) -> Result<()> {
        let mut state = self.node.state();
        let (set, revision) = state.sets.get_mut(SET).context("there is no set")?;
        change(&mut set.template);
        *revision = serde_yaml_ng::to_string(&set.template)?;
        Ok(())
    }

    /// Waits until every pod that is wanted is there, of the wanted revision, and ready.
    ///
    /// Errors: when that takes longer than `deadline`; the logs' ends are quoted.
    pub async fn wait_ready(&self, deadline: Duration) -> Result<()> {
        let ready = wait::until("all pods", deadline, || async { self.all_ready() }).await;
        ready.with_context(|| self.logs())
    }

    fn all_ready(&self) -> Result<()> {
        let state = self.node.state();
        let mut wanted = 0;
        for (name, (set, revision)) in &state.sets {
            wanted += set.replicas;
            for number in 0..set.replicas {
                let name = format!("{name}-{number}");
                let pod = state.pods.get(&name);
                let pod = pod.with_context(|| format!("{name} is not there"))?;
                ensure!(pod.ready && !pod.is_ending(), "{name} is not ready");
                ensure!(pod.revision == *revision, "{name} is not updated");
            }
        }
        ensure!(state.pods.len() == wanted, "there are more pods");
        Ok(())
    }

    /// The ends of all logs.
    pub fn logs(&self) -> String {
        let mut all = String::new();
        let Ok(entries) = std::fs::read_dir(self.folder.path().join("logs")) else {
            return all;
        };
        let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths.iter().rev().take(8) {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let end = &lines[lines.len().saturating_sub(12)..];
            all.push_str(&format!("---- {}\n{}\n", path.display(), end.join("\n")));
        }
        all
    }

    /// Runs a CronJob's pod once, as `kubectl create job --from=cronjob/NAME` does, and returns
    /// whether its container succeeded and what it said.
    ///
    /// Errors: when there is no such CronJob, or it does not end within two minutes.
    pub async fn run_job(&self, name: &str) -> Result<(bool, String)> {
        let template = self.node.state().jobs.get(name).cloned();
        let template = template.with_context(|| format!("there is no CronJob {name}"))?;
        let container = template.spec.containers.first().context("a container")?;
        let sandbox = self.node.sandbox(name)?;
        self.node.write_etc(&sandbox, name, "")?;
        let recipe = self.node.recipe(name, &template, container, &sandbox)?;
        let ended = tokio::time::timeout(CONVERGENCE * 2, recipe.start()?.wait()).await;
        let said = std::fs::read_to_string(&recipe.log)?;
        let status = ended.with_context(|| format!("{name} does not end:\n{said}"))??;
        sandbox.remove()?;
        Ok((status.success(), said))
    }

    /// Runs a program of this machine outside of the pods: a client somewhere else.
    ///
    /// Errors: when it cannot be started, or does not end.
    pub async fn client(&self, program: &str, arguments: &[&str]) -> Result<Output> {
        self.client_with(program, arguments, &[]).await
    }

    /// The same with further variables.
    ///
    /// Errors: when it cannot be started, or does not end.
    pub async fn client_with(
        &self,
        program: &str,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Result<Output> {
        let path = if program == "kvctl" {
            binary(program)?
        } else {
            Path::new(program).to_owned()
        };
        let running = tokio::process::Command::new(path)
            .args(arguments)
            .envs(variables.iter().copied())
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true)
            .output();
        tokio::time::timeout(Duration::from_secs(30), running)
            .await
            .with_context(|| format!("{program} {arguments:?} does not end"))?
            .with_context(|| format!("starting {program}"))
    }

    /// A pod's status as its member tells it.
    ///
    /// Errors: when it does not answer in two seconds.
    pub async fn status(&self, pod: &str) -> Result<StatusResponse> {
        let asking = async {
            let mut member = self.maintenance(pod).await?;
            Ok(member.status(StatusRequest {}).await?.into_inner())
        };
        let answer = tokio::time::timeout(Duration::from_secs(2), asking).await;
        answer.context("no status in 2 s")?
    }

    async fn maintenance(&self, pod: &str) -> Result<MaintenanceClient<Channel>> {
        let endpoint = Endpoint::from_shared(format!("http://{}:2379", self.ip(pod)?))?;
        let endpoint = endpoint.connect_timeout(Duration::from_secs(1));
        Ok(MaintenanceClient::new(endpoint.connect().await?))
    }

    /// The pod whose member leads.
    ///
    /// Errors: when none says so within ten seconds.
    pub async fn leader(&self) -> Result<String> {
        wait::until("a leader", Duration::from_secs(10), || async {
            for pod in self.pods() {
                let Ok(status) = self.status(&pod).await else {
                    continue;
                };
                if status
                    .header
                    .is_some_and(|header| header.member_id == status.leader)
                {
                    return Ok(pod);
                }
            }
            bail!("no pod leads")
        })
        .await
    }

    /// Waits until all members hash to the same at the same revision.
    ///
    /// Errors: when they do not within `deadline`.
    pub async fn equal_hashes(&self, deadline: Duration) -> Result<u32> {
        wait::until("equal hashes", deadline, || async {
            let mut revision = 0;
            for pod in self.members() {
                let header = self.status(&pod).await?.header.context("a header")?;
                revision = revision.max(header.revision);
            }
            let mut first = None;
            for pod in self.members() {
                let request = HashKvRequest { revision };
                let mut member = self.maintenance(&pod).await?;
                let asking = tokio::time::timeout(SOON, member.hash_kv(request));
                let hash = asking.await.context("no hash")??.into_inner();
                let got = (hash.hash, hash.hash_revision, hash.compact_revision);
                let expected = first.get_or_insert(got);
                ensure!(got == *expected, "{pod} has {got:?}, another {expected:?}");
            }
            Ok(first.context("there is no pod")?.0)
        })
        .await
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
    }
}
