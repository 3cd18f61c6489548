//! The node: what pods share, and what they are made of.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;

use crate::api;
use crate::container::Recipe;
use crate::dns;
use crate::docker;
use crate::host;
use crate::manifest::{Container, PodTemplate, Variable};
use crate::state::State;

/// The network of all pods.
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 0);

/// The user of kvd's image, where the pod names none.
const IMAGE_USER: u32 = 65532;

/// How times differ from a real cluster's.
#[derive(Clone, Debug)]
pub struct Options {
    /// Pause before a container is started a second time, which doubles up to ten times of it.
    /// Kubelet's is 10 s, up to five minutes.
    pub back_off: Duration,
    /// How long a change takes to reach the name server.
    pub publishing: Duration,
    /// Most time between two attempts of a startup or readiness probe that has not succeeded yet.
    /// It gives up no earlier for that; `None` asks as seldom as the manifests say.
    pub probing: Option<Duration>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            back_off: Duration::from_secs(1),
            publishing: Duration::from_millis(500),
            probing: None,
        }
    }
}

/// The node's end of a pod's network.
pub(crate) fn veth(ip: Ipv4Addr) -> String {
    let number = u32::from(ip).wrapping_sub(u32::from(FIRST));
    format!("veth{number}")
}

/// A node.
#[derive(Debug)]
pub struct Node {
    /// Times.
    pub options: Options,
    state: Mutex<State>,
    images: Mutex<BTreeMap<String, PathBuf>>,
    /// How the API behaves.
    pub api: api::Mood,
    folder: PathBuf,
    addresses: AtomicU32,
}

impl Node {
    /// A node with its files in `folder`.
    pub fn new(folder: &Path, options: Options) -> Node {
        Node {
            options,
            state: Mutex::default(),
            images: Mutex::default(),
            api: api::Mood::default(),
            folder: folder.to_owned(),
            // 10.244.0.1 is the node's own.
            addresses: AtomicU32::new(2),
        }
    }

    /// What is wanted and what is. Not to be held across an `await`.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The folder of all files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Says which programs an image holds: those in `folder`.
    pub fn set_image(&self, name: &str, folder: &Path) {
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        images.insert(name.to_owned(), folder.to_owned());
    }

    /// The folder of a claim, whose name is `CLAIM-POD`.
    pub fn claim(&self, name: &str) -> PathBuf {
        self.folder.join("claims").join(name)
    }

    /// The folder of the token that pods get.
    pub fn account(&self) -> PathBuf {
        self.folder.join("account")
    }

    /// Makes the network of a pod: an address that no pod had before.
    ///
    /// Errors: when a namespace cannot be made.
    pub fn sandbox(&self, name: &str) -> Result<Sandbox> {
        let number = self.addresses.fetch_add(1, Ordering::Relaxed);
        let ip = Ipv4Addr::from(u32::from(FIRST) + number);
        let netns = format!("{name}-{number}");
        let veth = veth(ip);
        let folder = self.folder.join("pods").join(&netns);
        std::fs::create_dir_all(&folder)?;
        host::ip(&format!(
            "netns add {netns}\n\
             link add {veth} type veth peer name eth0 netns {netns}\n\
             link set {veth} master cni0 up\n"
        ))?;
        host::ip_in(
            &netns,
            &format!(
                "addr add {ip}/16 dev eth0\n\
                 link set lo up\n\
                 link set eth0 up\n\
                 route add default via 10.244.0.1\n"
            ),
        )?;
        Ok(Sandbox { netns, ip, folder })
    }

    /// Writes `/etc` of a pod's containers.
    ///
    /// Errors: when files cannot be written.
    pub fn write_etc(&self, sandbox: &Sandbox, pod: &str, subdomain: &str) -> Result<()> {
        let namespace = self.state().namespace.clone();
        let etc = sandbox.folder.join("etc");
        std::fs::create_dir_all(&etc)?;
        let domain = format!("{subdomain}.{namespace}.svc.cluster.local");
        let hosts = format!(
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n{}\t{pod}.{domain}\t{pod}\n",
            sandbox.ip
        );
        std::fs::write(etc.join("hosts"), hosts)?;
        std::fs::write(etc.join("resolv.conf"), resolv_conf(&namespace))?;
        std::fs::write(etc.join("hostname"), format!("{pod}\n"))?;
        std::fs::write(etc.join("nsswitch.conf"), "hosts: files dns\n")?;
        let passwd = "root:x:0:0::/root:/bin/sh\nnonroot:x:65532:65532::/:/bin/sh\n";
        std::fs::write(etc.join("passwd"), passwd)?;
        std::fs::write(etc.join("group"), "root:x:0:\nnonroot:x:65532:\n")?;
        Ok(())
    }

    /// What a container of a pod is started from.
    ///
    /// Errors: when the pod refers to something that is not there.
    pub fn recipe(
        &self,
        pod: &str,
        template: &PodTemplate,
        container: &Container,
        sandbox: &Sandbox,
    ) -> Result<Recipe> {
        let images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        let image = images
            .get(&container.image)
            .with_context(|| format!("there is no image {}", container.image))?
            .clone();
        drop(images);
        let security = &template.spec.security_context;
        let user = container.security_context.run_as_user;
        let user = user.or(security.run_as_user).unwrap_or(IMAGE_USER);
        let group = security.run_as_group.unwrap_or(user);
        let mut command = container.command.clone();
        if command.is_empty() {
            command.push("kvd".to_owned());
        }
        command.extend(container.args.iter().cloned());
        let root = sandbox.folder.join(format!("root-{}", container.name));
        let log = format!("{}.{}.log", sandbox.netns, container.name);
        let environment = self.environment(pod, template, container, sandbox)?;
        let command = command.iter().map(|word| expand(word, &environment));
        Ok(Recipe {
            netns: sandbox.netns.clone(),
            hostname: pod.to_owned(),
            root,
            etc: sandbox.folder.join("etc"),
            image,
            user: (user, group, security.fs_group),
            read_only: container.security_context.read_only_root_filesystem,
            mounts: self.mounts(pod, template, container, sandbox)?,
            command: command.collect(),
            environment,
            log: self.folder.join("logs").join(log),
        })
    }

    fn mounts(
        &self,
        pod: &str,
        template: &PodTemplate,
        container: &Container,
        sandbox: &Sandbox,
    ) -> Result<Vec<(PathBuf, String, bool)>> {
        let mut mounts = Vec::new();
        for mount in &container.volume_mounts {
            let volume = template
                .spec
                .volumes
                .iter()
                .find(|volume| volume.name == mount.name);
            let folder = match volume {
                None => {
                    let claim = self.claim(&format!("{}-{pod}", mount.name));
                    ensure!(claim.is_dir(), "{pod}: there is no claim {}", mount.name);
                    claim
                }
                Some(volume) => self.volume(volume, sandbox)?,
            };
            let group = template.spec.security_context.fs_group;
            if !folder.is_dir() {
                mounts.push((folder, mount.mount_path.clone(), !mount.read_only));
                continue;
            }
            own(&folder, group).with_context(|| format!("volume {}", mount.name))?;
            mounts.push((folder, mount.mount_path.clone(), !mount.read_only));
        }
        if template.spec.automount_service_account_token {
            mounts.push((self.account(), api::MOUNTED.to_owned(), false));
        }
        Ok(mounts)
    }

    fn volume(&self, volume: &crate::manifest::Volume, sandbox: &Sandbox) -> Result<PathBuf> {
        if let Some(host) = &volume.host_path {
            ensure!(host.path == docker::SOCKET, "{} is not here", host.path);
            return Ok(self.folder.join(docker::NAME));
        }
        if let Some(claim) = &volume.persistent_volume_claim {
            let folder = self.claim(&claim.claim_name);
            ensure!(folder.is_dir(), "there is no claim {}", claim.claim_name);
            return Ok(folder);
        }
        let folder = sandbox.folder.join("volumes").join(&volume.name);
        std::fs::create_dir_all(&folder)?;
        let state = self.state();
        if let Some(map) = &volume.config_map {
            let data = state.config_maps.get(&map.name);
            let data = data.with_context(|| format!("there is no ConfigMap {}", map.name))?;
            for (file, text) in data {
                std::fs::write(folder.join(file), text)?;
            }
        } else if let Some(secret) = &volume.secret {
            let data = state.secrets.get(&secret.secret_name);
            let data =
                data.with_context(|| format!("there is no Secret {}", secret.secret_name))?;
            for (file, text) in data {
                std::fs::write(folder.join(file), decode(text)?)?;
            }
        } else if volume.empty_dir.is_none() {
            bail!("volume {} is of a kind that is not run here", volume.name);
        }
        Ok(folder)
    }

    fn environment(
        &self,
        pod: &str,
        template: &PodTemplate,
        container: &Container,
        sandbox: &Sandbox,
    ) -> Result<BTreeMap<String, String>> {
        let state = self.state();
        let mut all = BTreeMap::from([
            (
                "PATH".to_owned(),
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
            ),
            ("HOSTNAME".to_owned(), pod.to_owned()),
            ("KUBERNETES_SERVICE_HOST".to_owned(), "10.96.0.1".to_owned()),
            ("KUBERNETES_SERVICE_PORT".to_owned(), "443".to_owned()),
        ]);
        if template.spec.enable_service_links {
            all.extend(state.service_links());
        }
        for source in &container.env_from {
            if let Some(map) = &source.config_map_ref {
                let data = state.config_maps.get(&map.name);
                let data = data.with_context(|| format!("there is no ConfigMap {}", map.name))?;
                all.extend(data.clone());
            }
            if let Some(map) = &source.secret_ref {
                let data = state.secrets.get(&map.name);
                let data = data.with_context(|| format!("there is no Secret {}", map.name))?;
                for (key, value) in data {
                    all.insert(key.clone(), String::from_utf8(decode(value)?)?);
                }
            }
        }
        for variable in &container.env {
            let value = value_of(variable, &state, pod, sandbox)?;
            all.insert(variable.name.clone(), expand(&value, &all));
        }
        for value in all.values_mut() {
            *value = docker::templated(value, pod);
        }
        Ok(all)
    }
}

/// The network and files of one pod.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// The name of its network namespace.
    pub netns: String,
    /// Its address.
    pub ip: Ipv4Addr,
    /// What lives as long as the pod.
    pub folder: PathBuf,
}

impl Sandbox {
    /// Removes all of it.
    ///
    /// Errors: when something still holds on to it.
    pub fn remove(&self) -> Result<()> {
        host::run("ip", &["netns", "delete", &self.netns])?;
        std::fs::remove_dir_all(&self.folder)?;
        Ok(())
    }
}

/// `resolv.conf` of a pod.
pub fn resolv_conf(namespace: &str) -> String {
    format!(
        "nameserver {}\nsearch {namespace}.svc.cluster.local svc.cluster.local cluster.local\n\
         options ndots:5\n",
        dns::ADDRESS
    )
}

fn decode(text: &str) -> Result<Vec<u8>> {
    Ok(base64::engine::general_purpose::STANDARD.decode(text)?)
}

/// As kubelet does for `fsGroup`: the group owns the volume and may write it.
fn own(folder: &Path, group: Option<u32>) -> Result<()> {
    let (mode, group) = match group {
        Some(group) => (0o2775, Some(group)),
        None => (0o777, None),
    };
    chown(folder, None, group)?;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(mode))?;
    Ok(())
}

fn value_of(variable: &Variable, state: &State, pod: &str, sandbox: &Sandbox) -> Result<String> {
    let Some(from) = &variable.value_from else {
        return Ok(variable.value.clone().unwrap_or_default());
    };
    if let Some(key) = &from.config_map_key_ref {
        let value = state.config_maps.get(&key.name);
        let value = value.and_then(|map| map.get(&key.key));
        return value
            .cloned()
            .with_context(|| format!("there is no {} in ConfigMap {}", key.key, key.name));
    }
    if let Some(key) = &from.secret_key_ref {
        let value = state
            .secrets
            .get(&key.name)
            .and_then(|map| map.get(&key.key));
        let value = value.with_context(|| format!("no {} in Secret {}", key.key, key.name))?;
        return Ok(String::from_utf8(decode(value)?)?);
    }
    let field = from.field_ref.as_ref();
    match field.map(|field| field.field_path.as_str()) {
        Some("metadata.name") => Ok(pod.to_owned()),
        Some("metadata.namespace") => Ok(state.namespace.clone()),
        Some("status.podIP") => Ok(sandbox.ip.to_string()),
        other => bail!("{}: {other:?} is not known here", variable.name),
    }
}

/// Replaces `$(NAME)`, as Kubernetes does in values and commands; unknown names stay.
fn expand(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("$(") {
        let Some(length) = rest[start..].find(')') else {
            break;
        };
        let name = &rest[start + 2..start + length];
        expanded.push_str(&rest[..start]);
        match variables.get(name) {
            Some(value) => expanded.push_str(value),
            None => expanded.push_str(&rest[start..=start + length]),
        }
        rest = &rest[start + length + 1..];
    }
    expanded.push_str(rest);
    expanded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_in_values_are_replaced_and_shells_are_left_alone() {
        let known = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
        assert_eq!(expand("x$(A)y$(B)${A}", &known), "x1y$(B)${A}");
        assert_eq!(expand("$(A", &known), "$(A");
    }
}
