//! Compose and swarm files, turned into what is run here: each service a set of pods.
//!
//! What a file says of image, command, user, variables, volumes, configs, replicas, the root's being
//! read-only and the time to stop is kept. The health check of kvd's image is the pods' readiness,
//! also where the file disables it: then only nothing else depends on it. A container's name in the
//! network is the service's, and `tasks.SERVICE` in a swarm: [`crate::state::State::records`] has
//! both. In a swarm, tasks with a health check have them only while they are healthy.
//!
//! Left out: published ports, placement, networks, capabilities.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Debug, Deserialize)]
struct Stack {
    services: BTreeMap<String, Service>,
    #[serde(default)]
    volumes: BTreeMap<String, Option<Value>>,
    #[serde(default)]
    configs: BTreeMap<String, Config>,
}

#[derive(Debug, Deserialize)]
struct Config {
    file: String,
}

#[derive(Debug, Deserialize)]
struct Service {
    image: String,
    user: Option<String>,
    #[serde(default)]
    command: Vec<String>,
    #[serde(default)]
    environment: BTreeMap<String, String>,
    #[serde(default)]
    volumes: Vec<String>,
    #[serde(default)]
    configs: Vec<Mounted>,
    #[serde(default)]
    read_only: bool,
    #[serde(default = "ten_seconds")]
    stop_grace_period: String,
    #[serde(default)]
    healthcheck: HealthCheck,
    deploy: Option<Deploy>,
}

#[derive(Debug, Deserialize)]
struct Mounted {
    source: String,
    target: String,
}

#[derive(Debug, Default, Deserialize)]
struct HealthCheck {
    #[serde(default)]
    disable: bool,
}

#[derive(Debug, Deserialize)]
struct Deploy {
    replicas: Option<usize>,
}

fn ten_seconds() -> String {
    "10s".to_owned()
}

/// What a file becomes.
#[derive(Debug)]
pub struct Deployed {
    /// Manifests of its services and configs.
    pub manifests: String,
    /// Its services, and whether their tasks have names only while they are healthy.
    pub names: BTreeMap<String, bool>,
}

/// The manifests of a compose or swarm file, whose configs are in `folder`.
///
/// Errors: a file that cannot be read, an image's name with a variable that has no default, a volume
/// that is not declared.
pub fn manifests(text: &str, folder: &Path) -> Result<Deployed> {
    let mut value: serde_yaml_ng::Value = serde_yaml_ng::from_str(text)?;
    // `<<: *settings`
    value.apply_merge()?;
    let stack: Stack = serde_yaml_ng::from_value(value)?;
    ensure!(!stack.services.is_empty(), "there are no services");
    let (mut documents, mut names) = (Vec::new(), BTreeMap::new());
    for (name, service) in &stack.services {
        let is_healthy_first =
            service.deploy.is_some() && is_kvd(&service.image) && !service.healthcheck.disable;
        names.insert(name.clone(), is_healthy_first);
        documents.push(set(name, service, &stack)?);
        for mounted in &service.configs {
            let config = stack.configs.get(&mounted.source);
            let config = config.with_context(|| format!("no config {}", mounted.source))?;
            let content = std::fs::read_to_string(folder.join(&config.file))?;
            let (_, file) = mounted.target.rsplit_once('/').context("a path")?;
            documents.push(json!({
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": mounted.source},
                "data": {file: content},
            }));
        }
    }
    // JSON is YAML.
    let documents = documents
        .iter()
        .map(|document| format!("---\n{document}\n"));
    Ok(Deployed {
        manifests: documents.collect(),
        names,
    })
}

fn is_kvd(image: &str) -> bool {
    image.contains("kvd")
}

/// Mounts, claims and volumes of a service.
type Volumes = (Vec<Value>, Vec<Value>, Vec<Value>);

fn volumes(service: &Service, stack: &Stack) -> Result<Volumes> {
    let (mut mounts, mut claims, mut volumes) = (Vec::new(), Vec::new(), Vec::new());
    for volume in &service.volumes {
        let (volume, path) = volume.split_once(':').context("VOLUME:PATH")?;
        let (path, is_read_only) = match path.strip_suffix(":ro") {
            Some(path) => (path, true),
            None => (path, false),
        };
        let name = volume.trim_start_matches('/').replace(['/', '.'], "-");
        mounts.push(json!({"name": name, "mountPath": path, "readOnly": is_read_only}));
        if volume.starts_with('/') {
            volumes.push(json!({"name": name, "hostPath": {"path": volume}}));
            continue;
        }
        ensure!(
            stack.volumes.contains_key(volume),
            "volume {volume} is not declared"
        );
        claims.push(json!({"metadata": {"name": name}}));
    }
    for Mounted { source, target } in &service.configs {
        let (folder, _) = target.rsplit_once('/').context("a path")?;
        mounts.push(json!({"name": source, "mountPath": folder}));
        volumes.push(json!({"name": source, "configMap": {"name": source}}));
    }
    Ok((mounts, claims, volumes))
}

fn set(name: &str, service: &Service, stack: &Stack) -> Result<Value> {
    let (mounts, claims, volumes) = volumes(service, stack)?;
    let variables = service.environment.iter();
    let variables: Vec<Value> = variables
        .map(|(name, value)| json!({"name": name, "value": value}))
        .collect();
    let seconds = service.stop_grace_period.strip_suffix('s');
    let seconds: u64 = seconds.context("seconds")?.parse()?;
    let replicas = service.deploy.as_ref().and_then(|deploy| deploy.replicas);
    let user = service
        .user
        .as_deref()
        .and_then(|user| user.split(':').next());
    let user: Option<u32> = user.map(str::parse).transpose()?;
    let mut container = json!({
        "name": "kvd", "image": image(&service.image)?,
        "command": service.command, "env": variables, "volumeMounts": mounts,
        "securityContext": {"readOnlyRootFilesystem": service.read_only, "runAsUser": user},
    });
    if is_kvd(&service.image) {
        // The health check of deploy/docker/Dockerfile; without its start period, since nothing acts
        // on a failure here.
        container["readinessProbe"] = json!({
            "exec": {"command": ["kvctl", "endpoint", "health"]},
            "periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": 3
        });
    }
    Ok(json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": name},
        "spec": {
            "serviceName": name, "replicas": replicas.unwrap_or(1),
            "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "terminationGracePeriodSeconds": seconds,
                    "enableServiceLinks": false,
                    "automountServiceAccountToken": false,
                    // A new volume has the owner of what the image has in its place.
                    "securityContext": {"fsGroup": 65532},
                    "containers": [container],
                    "volumes": volumes,
                },
            },
            "volumeClaimTemplates": claims,
        },
    }))
}

/// `${VARIABLE:-DEFAULT}` is its default.
fn image(name: &str) -> Result<&str> {
    let Some(variable) = name.strip_prefix("${") else {
        return Ok(name);
    };
    let inner = variable.strip_suffix('}').context("a variable's end")?;
    Ok(inner.split_once(":-").context("a default")?.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Manifests;

    #[test]
    fn services_become_sets_of_one_pod() {
        let text = "x: &x {image: '${I:-i:1}', read_only: true}\n\
                    services: {a: {<<: *x, environment: {K: v}, volumes: ['d:/data']}, b: {image: \
                    j}}\nvolumes: {d: }\n";
        let stack = manifests(text, Path::new("/")).expect("a stack");
        let all = Manifests::parse(&stack.manifests).expect("manifests");
        let set = &all.stateful_sets["a"];
        let container = &set.template.spec.containers[0];
        assert_eq!((container.image.as_str(), set.replicas), ("i:1", 1));
        assert_eq!(container.env[0].value.as_deref(), Some("v"));
        assert_eq!(container.volume_mounts[0].mount_path, "/data");
        assert!(container.security_context.read_only_root_filesystem);
        assert_eq!(all.stateful_sets.len(), 2);
        let undeclared = "services: {a: {image: i, volumes: ['d:/data']}}";
        assert!(manifests(undeclared, Path::new("/")).is_err());
    }
}
