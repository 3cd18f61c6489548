//! Compose and swarm files, turned into what is run here: each service a set of one pod.
//!
//! What a file says of image, variables, volumes, the root's being read-only and the time to stop is
//! kept. The image's health check is the pod's readiness. A container's name in the network is the
//! service's, and `tasks.SERVICE` in a swarm: [`crate::state::State::records`] has both.
//!
//! Left out: published ports, placement, networks, capabilities.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Debug, Deserialize)]
struct Stack {
    services: BTreeMap<String, Service>,
    #[serde(default)]
    volumes: BTreeMap<String, Option<Value>>,
}

#[derive(Debug, Deserialize)]
struct Service {
    image: String,
    #[serde(default)]
    command: Vec<String>,
    #[serde(default)]
    environment: BTreeMap<String, String>,
    #[serde(default)]
    volumes: Vec<String>,
    #[serde(default)]
    read_only: bool,
    #[serde(default = "ten_seconds")]
    stop_grace_period: String,
}

fn ten_seconds() -> String {
    "10s".to_owned()
}

/// The manifests of a compose or swarm file.
///
/// Errors: a file that cannot be read, an image's name with a variable that has no default, a volume
/// that is not declared.
pub fn manifests(text: &str) -> Result<String> {
    let mut value: serde_yaml_ng::Value = serde_yaml_ng::from_str(text)?;
    // `<<: *settings`
    value.apply_merge()?;
    let stack: Stack = serde_yaml_ng::from_value(value)?;
    ensure!(!stack.services.is_empty(), "there are no services");
    let mut documents = String::new();
    for (name, service) in &stack.services {
        let set = set(name, service, &stack.volumes)?;
        // JSON is YAML.
        documents.push_str(&format!("---\n{set}\n"));
    }
    Ok(documents)
}

fn set(name: &str, service: &Service, volumes: &BTreeMap<String, Option<Value>>) -> Result<Value> {
    let (mut mounts, mut claims) = (Vec::new(), Vec::new());
    for volume in &service.volumes {
        let (volume, path) = volume.split_once(':').context("VOLUME:PATH")?;
        ensure!(
            volumes.contains_key(volume),
            "volume {volume} is not declared"
        );
        mounts.push(json!({"name": volume, "mountPath": path}));
        claims.push(json!({"metadata": {"name": volume}}));
    }
    let variables = service.environment.iter();
    let variables: Vec<Value> = variables
        .map(|(name, value)| json!({"name": name, "value": value}))
        .collect();
    let seconds = service.stop_grace_period.strip_suffix('s');
    let seconds: u64 = seconds.context("seconds")?.parse()?;
    // The health check of deploy/docker/Dockerfile; without its start period, since nothing acts on
    // a failure here.
    let health = json!({
        "exec": {"command": ["kvctl", "endpoint", "health"]},
        "periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": 3
    });
    Ok(json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": name},
        "spec": {
            "serviceName": name, "replicas": 1, "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "terminationGracePeriodSeconds": seconds,
                    "enableServiceLinks": false,
                    // A new volume has the owner of what the image has in its place.
                    "securityContext": {"fsGroup": 65532},
                    "containers": [{
                        "name": "kvd", "image": image(&service.image)?,
                        "command": service.command, "env": variables, "volumeMounts": mounts,
                        "readinessProbe": health,
                        "securityContext": {"readOnlyRootFilesystem": service.read_only},
                    }],
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
        let all = Manifests::parse(&manifests(text).expect("a stack")).expect("manifests");
        let set = &all.stateful_sets["a"];
        let container = &set.template.spec.containers[0];
        assert_eq!((container.image.as_str(), set.replicas), ("i:1", 1));
        assert_eq!(container.env[0].value.as_deref(), Some("v"));
        assert_eq!(container.volume_mounts[0].mount_path, "/data");
        assert!(container.security_context.read_only_root_filesystem);
        assert_eq!(all.stateful_sets.len(), 2);
        let undeclared = "services: {a: {image: i, volumes: ['d:/data']}}";
        assert!(manifests(undeclared).is_err());
    }
}
