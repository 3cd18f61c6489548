//! The objects of a manifest, as far as they are run.
//!
//! Fields that change what runs are read; those that place or bound pods on real nodes (affinity,
//! resources, storage classes) and objects of other kinds are passed over. An object of a kind that
//! *is* run must be readable.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_yaml_ng::Value;

/// What one file or one rendered folder holds.
#[derive(Clone, Debug, Default)]
pub struct Manifests {
    /// StatefulSets, and Deployments run as such, by name.
    pub stateful_sets: BTreeMap<String, StatefulSet>,
    /// What the CronJobs run, by name.
    pub jobs: BTreeMap<String, PodTemplate>,
    /// Names of PersistentVolumeClaims.
    pub claims: BTreeSet<String>,
    /// Services by name.
    pub services: BTreeMap<String, Service>,
    /// ConfigMaps by name.
    pub config_maps: BTreeMap<String, BTreeMap<String, String>>,
    /// Names of Secrets, with their values as they stand in the manifest: base64.
    pub secrets: BTreeMap<String, BTreeMap<String, String>>,
    /// The namespace of the objects; `default` when they name none.
    pub namespace: String,
}

impl Manifests {
    /// Reads YAML documents.
    ///
    /// Errors: YAML that is none, an object of a known kind that cannot be read, two namespaces.
    pub fn parse(text: &str) -> Result<Manifests> {
        let mut all = Manifests {
            namespace: "default".to_owned(),
            ..Manifests::default()
        };
        for document in serde_yaml_ng::Deserializer::from_str(text) {
            let value = Value::deserialize(document)?;
            if !value.is_null() {
                all.add(value)?;
            }
        }
        Ok(all)
    }

    fn add(&mut self, value: Value) -> Result<()> {
        let object: Object = serde_yaml_ng::from_value(value.clone())?;
        let name = object.metadata.name;
        if let Some(namespace) = object.metadata.namespace {
            ensure!(
                self.namespace == "default" || self.namespace == namespace,
                "objects of two namespaces: {} and {namespace}",
                self.namespace
            );
            self.namespace = namespace;
        }
        let context = || format!("{} {name}", object.kind);
        match (object.api_version.as_str(), object.kind.as_str()) {
            ("apps/v1", "StatefulSet") => {
                let set: Whole<StatefulSet> =
                    serde_yaml_ng::from_value(value).with_context(context)?;
                let labels = &set.spec.template.metadata.labels;
                for (label, wanted) in &set.spec.selector.match_labels {
                    if labels.get(label) != Some(wanted) {
                        bail!("{}: the selector does not match its own pods", context());
                    }
                }
                self.stateful_sets.insert(name, set.spec);
            }
            ("apps/v1", "Deployment") => {
                let set: Whole<Deployment> =
                    serde_yaml_ng::from_value(value).with_context(context)?;
                self.stateful_sets.insert(name, set.spec.into());
            }
            ("v1", "Service") => {
                let service: Whole<Service> =
                    serde_yaml_ng::from_value(value).with_context(context)?;
                self.services.insert(name, service.spec);
            }
            ("batch/v1", "CronJob") => {
                let job: Whole<CronJob> = serde_yaml_ng::from_value(value).with_context(context)?;
                self.jobs.insert(name, job.spec.job_template.spec.template);
            }
            ("v1", "PersistentVolumeClaim") => {
                self.claims.insert(name);
            }
            ("v1", "ConfigMap") => {
                let map: Data = serde_yaml_ng::from_value(value).with_context(context)?;
                self.config_maps.insert(name, map.data);
            }
            ("v1", "Secret") => {
                let map: Data = serde_yaml_ng::from_value(value).with_context(context)?;
                self.secrets.insert(name, map.data);
            }
            _ => {}
        }
        Ok(())
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Object {
    api_version: String,
    kind: String,
    metadata: Metadata,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    name: String,
    namespace: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Whole<T> {
    spec: T,
}

#[derive(Debug, Deserialize)]
struct Data {
    #[serde(default)]
    data: BTreeMap<String, String>,
}

/// `spec` of a Deployment, which is run as a set that starts all at once and has no disks.
#[derive(Debug, Deserialize)]
struct Deployment {
    #[serde(default = "one")]
    replicas: usize,
    selector: Selector,
    template: PodTemplate,
}

impl From<Deployment> for StatefulSet {
    fn from(deployment: Deployment) -> StatefulSet {
        StatefulSet {
            service_name: String::new(),
            replicas: deployment.replicas,
            pod_management_policy: Policy::Parallel,
            update_strategy: UpdateStrategy::default(),
            selector: deployment.selector,
            template: deployment.template,
            volume_claim_templates: Vec::new(),
            persistent_volume_claim_retention_policy: Retention::default(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CronJob {
    job_template: Whole<Job>,
}

#[derive(Debug, Deserialize)]
struct Job {
    template: PodTemplate,
}

/// `spec` of a Service.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    /// `None` for a headless one.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: Option<String>,
    /// Whether pods that are not ready are published.
    #[serde(default)]
    pub publish_not_ready_addresses: bool,
    /// Labels of its pods.
    #[serde(default)]
    pub selector: BTreeMap<String, String>,
    /// What it listens on.
    #[serde(default)]
    pub ports: Vec<ServicePort>,
}

impl Service {
    /// Whether it has no address of its own.
    pub fn is_headless(&self) -> bool {
        self.cluster_ip.as_deref() == Some("None")
    }
}

/// A port of a Service.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// Its name, which SRV records have.
    pub name: Option<String>,
    /// The port that clients use.
    pub port: u16,
    /// The container's port, by number or by name.
    pub target_port: Option<PortName>,
}

/// A port by number or by the name that a container gives it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(untagged)]
pub enum PortName {
    /// By number.
    Number(u16),
    /// By name.
    Name(String),
}

/// `spec` of a StatefulSet.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatefulSet {
    /// The headless Service that its pods' names are in.
    pub service_name: String,
    /// How many pods.
    #[serde(default = "one")]
    pub replicas: usize,
    /// `OrderedReady` or `Parallel`.
    #[serde(default)]
    pub pod_management_policy: Policy,
    /// `RollingUpdate` or `OnDelete`.
    #[serde(default)]
    pub update_strategy: UpdateStrategy,
    /// Which pods are its own.
    pub selector: Selector,
    /// What its pods are.
    pub template: PodTemplate,
    /// Their disks.
    #[serde(default)]
    pub volume_claim_templates: Vec<ClaimTemplate>,
    /// What becomes of disks.
    #[serde(default)]
    pub persistent_volume_claim_retention_policy: Retention,
}

fn one() -> usize {
    1
}

/// `podManagementPolicy`.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
pub enum Policy {
    /// One after the other, each when those before it are ready.
    #[default]
    OrderedReady,
    /// All at once.
    Parallel,
}

/// `updateStrategy`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpdateStrategy {
    /// `RollingUpdate` or `OnDelete`.
    #[serde(default = "rolling_update", rename = "type")]
    pub kind: String,
    /// Its parameters.
    #[serde(default)]
    pub rolling_update: RollingUpdate,
}

fn rolling_update() -> String {
    "RollingUpdate".to_owned()
}

impl Default for UpdateStrategy {
    fn default() -> Self {
        UpdateStrategy {
            kind: rolling_update(),
            rolling_update: RollingUpdate::default(),
        }
    }
}

/// `updateStrategy.rollingUpdate`.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct RollingUpdate {
    /// Pods with a lower number are not updated.
    #[serde(default)]
    pub partition: usize,
}

/// `selector`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Selector {
    /// Labels that all must be there.
    #[serde(default)]
    pub match_labels: BTreeMap<String, String>,
}

/// `volumeClaimTemplates`.
#[derive(Clone, Debug, Deserialize)]
pub struct ClaimTemplate {
    /// Its name, which the pods' volume has too.
    pub metadata: Named,
}

/// Something with a name.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Named {
    /// The name.
    pub name: String,
}

/// `persistentVolumeClaimRetentionPolicy`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Retention {
    /// `Retain` (or nothing) or `Delete`.
    pub when_deleted: Option<String>,
    /// `Retain` (or nothing) or `Delete`.
    pub when_scaled: Option<String>,
}

/// `template`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct PodTemplate {
    /// Labels and annotations.
    #[serde(default)]
    pub metadata: PodMetadata,
    /// What runs.
    pub spec: PodSpec,
}

/// `template.metadata`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct PodMetadata {
    /// What selectors look at.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Anything; a change of them is a new revision.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

/// `template.spec`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    /// Run one after the other, before the others.
    #[serde(default)]
    pub init_containers: Vec<Container>,
    /// Run side by side.
    pub containers: Vec<Container>,
    /// What they can mount.
    #[serde(default)]
    pub volumes: Vec<Volume>,
    /// Time between the wish to end the pod and SIGKILL.
    #[serde(default = "thirty")]
    pub termination_grace_period_seconds: u64,
    /// Users and groups.
    #[serde(default)]
    pub security_context: PodSecurity,
    /// Whether containers get a variable for each Service.
    #[serde(default = "yes")]
    pub enable_service_links: bool,
    /// Whether containers get a token for the API.
    #[serde(default = "yes")]
    pub automount_service_account_token: bool,
}

fn thirty() -> u64 {
    30
}

fn yes() -> bool {
    true
}

/// `securityContext` of a pod.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSecurity {
    /// The user of its containers, instead of the image's.
    pub run_as_user: Option<u32>,
    /// Their group.
    pub run_as_group: Option<u32>,
    /// Their further group, which owns the volumes.
    pub fs_group: Option<u32>,
}

/// A container.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    /// Its name.
    pub name: String,
    /// What it is made of.
    pub image: String,
    /// What runs, instead of the image's own.
    #[serde(default)]
    pub command: Vec<String>,
    /// Further words of the command.
    #[serde(default)]
    pub args: Vec<String>,
    /// Variables.
    #[serde(default)]
    pub env: Vec<Variable>,
    /// Variables from whole ConfigMaps and Secrets.
    #[serde(default)]
    pub env_from: Vec<EnvFrom>,
    /// Names for ports.
    #[serde(default)]
    pub ports: Vec<ContainerPort>,
    /// What is mounted where.
    #[serde(default)]
    pub volume_mounts: Vec<VolumeMount>,
    /// Asked until it succeeds once; the other probes wait for it.
    pub startup_probe: Option<Probe>,
    /// Whether clients may come.
    pub readiness_probe: Option<Probe>,
    /// Whether the container must be started anew.
    pub liveness_probe: Option<Probe>,
    /// What runs around its start and end.
    #[serde(default)]
    pub lifecycle: Lifecycle,
    /// Rights.
    #[serde(default)]
    pub security_context: ContainerSecurity,
}

/// A port of a container.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerPort {
    /// The number.
    pub container_port: u16,
    /// The name.
    pub name: Option<String>,
}

/// `securityContext` of a container.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerSecurity {
    /// The user, instead of the pod's.
    pub run_as_user: Option<u32>,
    /// Whether only volumes can be written.
    #[serde(default)]
    pub read_only_root_filesystem: bool,
}

/// `env`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Variable {
    /// The name.
    pub name: String,
    /// The value; `$(OTHER)` is replaced.
    pub value: Option<String>,
    /// Where else the value comes from.
    pub value_from: Option<ValueFrom>,
}

/// `valueFrom`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ValueFrom {
    /// A key of a ConfigMap.
    pub config_map_key_ref: Option<KeyRef>,
    /// A key of a Secret.
    pub secret_key_ref: Option<KeyRef>,
    /// A field of the pod.
    pub field_ref: Option<FieldRef>,
}

/// A key of a ConfigMap or Secret.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct KeyRef {
    /// Which map.
    pub name: String,
    /// Which key.
    pub key: String,
}

/// A field of the pod.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FieldRef {
    /// Such as `metadata.name`.
    pub field_path: String,
}

/// `envFrom`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EnvFrom {
    /// All keys of a ConfigMap.
    pub config_map_ref: Option<Named>,
    /// All keys of a Secret.
    pub secret_ref: Option<Named>,
}

/// `volumeMounts`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeMount {
    /// Which volume.
    pub name: String,
    /// Where.
    pub mount_path: String,
    /// Whether it cannot be written.
    #[serde(default)]
    pub read_only: bool,
}

/// `volumes`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Volume {
    /// The name.
    pub name: String,
    /// Files of a ConfigMap.
    pub config_map: Option<Named>,
    /// Files of a Secret.
    pub secret: Option<SecretVolume>,
    /// A claim by its own name.
    pub persistent_volume_claim: Option<ClaimVolume>,
    /// An empty directory that lives as long as the pod.
    pub empty_dir: Option<Value>,
    /// Something of the node's own.
    pub host_path: Option<HostPath>,
}

/// `volumes.hostPath`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct HostPath {
    /// Where it is on the node.
    pub path: String,
}

/// `volumes.persistentVolumeClaim`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimVolume {
    /// Which claim.
    pub claim_name: String,
}

/// `volumes.secret`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretVolume {
    /// Which Secret.
    pub secret_name: String,
}

/// `lifecycle`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Lifecycle {
    /// Runs before SIGTERM, within the grace period.
    pub pre_stop: Option<Handler>,
}

/// What a hook or a probe does.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Handler {
    /// Runs a command in the container.
    pub exec: Option<Exec>,
    /// Asks by HTTP.
    pub http_get: Option<HttpGet>,
    /// Connects.
    pub tcp_socket: Option<TcpSocket>,
    /// Waits.
    pub sleep: Option<Sleep>,
}

/// A command.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Exec {
    /// Its words.
    pub command: Vec<String>,
}

/// A request.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct HttpGet {
    /// The path.
    #[serde(default)]
    pub path: String,
    /// The port.
    pub port: PortName,
}

/// A connection.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct TcpSocket {
    /// The port.
    pub port: PortName,
}

/// A pause.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Sleep {
    /// How long.
    pub seconds: u64,
}

/// A probe.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// What is asked.
    #[serde(flatten)]
    pub handler: Handler,
    /// Seconds from the container's start to the first time.
    #[serde(default)]
    pub initial_delay_seconds: u64,
    /// Seconds between times.
    #[serde(default = "ten")]
    pub period_seconds: u64,
    /// Seconds for the answer.
    #[serde(default = "one_second")]
    pub timeout_seconds: u64,
    /// Failures in a row that count.
    #[serde(default = "three")]
    pub failure_threshold: u32,
    /// Successes in a row that count.
    #[serde(default = "once")]
    pub success_threshold: u32,
}

fn ten() -> u64 {
    10
}

fn one_second() -> u64 {
    1
}

fn three() -> u32 {
    3
}

fn once() -> u32 {
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    const SET: &str = "
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: ns}
spec:
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      containers:
        - name: db
          image: i:1
          readinessProbe: {httpGet: {path: /, port: web}}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: ns}
spec: {clusterIP: None, selector: {app: db}, ports: [{port: 1}]}
";

    #[test]
    fn what_is_not_said_has_kubernetes_defaults() {
        let all = Manifests::parse(SET).expect("readable");
        let set = &all.stateful_sets["db"];
        assert_eq!(all.namespace, "ns");
        assert_eq!(
            (set.replicas, set.pod_management_policy),
            (1, Policy::OrderedReady)
        );
        let spec = &set.template.spec;
        assert_eq!(spec.termination_grace_period_seconds, 30);
        let probe = spec.containers[0].readiness_probe.as_ref().expect("one");
        assert_eq!((probe.period_seconds, probe.failure_threshold), (10, 3));
        assert!(all.services["db"].is_headless());
    }

    #[test]
    fn a_set_that_does_not_select_its_own_pods_is_refused() {
        let wrong = SET.replace("labels: {app: db}", "labels: {app: x}");
        let error = Manifests::parse(&wrong).expect_err("refused");
        assert!(format!("{error:#}").contains("does not match"), "{error:#}");
    }

    #[test]
    fn two_namespaces_are_refused() {
        let wrong = SET.replacen("namespace: ns", "namespace: other", 1);
        assert!(Manifests::parse(&wrong).is_err());
    }
}
