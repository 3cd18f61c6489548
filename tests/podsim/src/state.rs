//! What is wanted and what is: the part of the API server that is needed here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use tokio::sync::watch;

use crate::container::Handle;
use crate::dns::{Records, Services};
use crate::manifest::{PodTemplate, PortName, Service, StatefulSet};

/// Everything.
#[derive(Debug, Default)]
pub struct State {
    /// The namespace of all of it.
    pub namespace: String,
    /// ConfigMaps.
    pub config_maps: BTreeMap<String, BTreeMap<String, String>>,
    /// Secrets, in base64.
    pub secrets: BTreeMap<String, BTreeMap<String, String>>,
    /// Services, each with its address unless it is headless.
    pub services: BTreeMap<String, (Service, Option<Ipv4Addr>)>,
    /// StatefulSets that are wanted, with the revision of their template.
    pub sets: BTreeMap<String, (StatefulSet, String)>,
    /// Those sets that are services of a compose or swarm file, and whether their tasks have names
    /// only while they are healthy: in a swarm, those with a health check.
    pub stacked: BTreeMap<String, bool>,
    /// What the CronJobs run.
    pub jobs: BTreeMap<String, PodTemplate>,
    /// Pods that are, or are ending.
    pub pods: BTreeMap<String, Pod>,
    /// Whether new pods find no node.
    pub cordoned: bool,
    /// Claims to delete when their pod is gone.
    pub doomed_claims: BTreeSet<String>,
}

/// How a pod is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Not yet.
    Run,
    /// With preStop, SIGTERM and its grace period.
    Gracefully,
    /// By SIGKILL, as when its node dies.
    AtOnce,
}

/// A pod.
#[derive(Debug)]
pub struct Pod {
    /// Which set it belongs to.
    pub set: String,
    /// What it is.
    pub template: Arc<PodTemplate>,
    /// The Service that its name is in.
    pub subdomain: String,
    /// Of its template.
    pub revision: String,
    /// Once it has a network.
    pub ip: Option<Ipv4Addr>,
    /// Whether all containers are ready.
    pub ready: bool,
    /// Its first container, while it runs.
    pub process: Option<Handle>,
    /// How often its containers were started again.
    pub restarts: u32,
    /// Says when it must end.
    pub end: watch::Sender<End>,
}

impl Pod {
    /// Whether it is on its way out.
    pub fn is_ending(&self) -> bool {
        *self.end.borrow() != End::Run
    }

    /// The number of a container's port.
    pub fn port(&self, port: &PortName) -> Option<u16> {
        match port {
            PortName::Number(number) => Some(*number),
            PortName::Name(name) => self
                .template
                .spec
                .containers
                .iter()
                .flat_map(|container| &container.ports)
                .find(|known| known.name.as_ref() == Some(name))
                .map(|known| known.container_port),
        }
    }
}

impl State {
    /// The pods of a Service that are published now, with their addresses.
    pub fn endpoints<'a>(
        &'a self,
        service: &'a Service,
    ) -> impl Iterator<Item = (&'a str, &'a Pod, Ipv4Addr)> {
        self.pods.iter().filter_map(|(name, pod)| {
            let own = &pod.template.metadata.labels;
            let selected = service.selector.iter().all(|(label, value)| {
                own.get(label) == Some(value)
                    || (label == "statefulset.kubernetes.io/pod-name" && value == name)
            });
            let shown = service.publish_not_ready_addresses || (pod.ready && !pod.is_ending());
            let selects = !service.selector.is_empty();
            let ip = pod.ip?;
            (selects && selected && shown).then_some((name.as_str(), pod, ip))
        })
    }

    /// What the name server must say.
    pub fn records(&self) -> Records {
        let mut records = Records::new();
        for (pod, ip) in self
            .pods
            .values()
            .filter_map(|pod| Some((pod, pod.ip?)))
            .filter(|(pod, _)| {
                let only_healthy = self.stacked.get(&pod.set);
                // A swarm takes a task's name away before it tells it to stop.
                !pod.is_ending() && only_healthy.is_some_and(|only| pod.ready || !only)
            })
        {
            for name in [pod.set.clone(), format!("tasks.{}", pod.set)] {
                records.entry(name).or_default().push(ip);
            }
        }
        for (name, (service, address)) in &self.services {
            let domain = format!("{name}.{}.svc.cluster.local", self.namespace);
            if let Some(address) = address {
                records.insert(domain, vec![*address]);
                continue;
            }
            for (pod_name, pod, ip) in self.endpoints(service) {
                records.entry(domain.clone()).or_default().push(ip);
                if pod.subdomain == *name {
                    records.insert(format!("{pod_name}.{domain}"), vec![ip]);
                }
            }
        }
        records
    }

    /// Where the name server says that the named ports of Services are.
    pub fn places(&self) -> Services {
        let mut places = Services::new();
        for (name, (service, address)) in &self.services {
            let domain = format!("{name}.{}.svc.cluster.local", self.namespace);
            let pods = self.endpoints(service);
            let targets: Vec<String> = match address {
                Some(_) => vec![domain.clone()],
                None => pods.map(|(pod, ..)| format!("{pod}.{domain}")).collect(),
            };
            for port in &service.ports {
                let Some(port_name) = &port.name else {
                    continue;
                };
                let all = targets.iter().map(|target| (target.clone(), port.port));
                places.insert(format!("_{port_name}._tcp.{domain}"), all.collect());
            }
        }
        places
    }

    /// The variables that a container gets for each Service with an address.
    pub fn service_links(&self) -> BTreeMap<String, String> {
        let mut links = BTreeMap::new();
        for (name, (service, address)) in &self.services {
            let (Some(address), Some(first)) = (address, service.ports.first()) else {
                continue;
            };
            let prefix = name.to_uppercase().replace('-', "_");
            links.insert(format!("{prefix}_SERVICE_HOST"), address.to_string());
            links.insert(format!("{prefix}_SERVICE_PORT"), first.port.to_string());
            links.insert(
                format!("{prefix}_PORT"),
                format!("tcp://{address}:{}", first.port),
            );
            for port in service.ports.iter().map(|port| port.port) {
                let one = format!("{prefix}_PORT_{port}_TCP");
                links.insert(one.clone(), format!("tcp://{address}:{port}"));
                links.insert(format!("{one}_PROTO"), "tcp".to_owned());
                links.insert(format!("{one}_PORT"), port.to_string());
                links.insert(format!("{one}_ADDR"), address.to_string());
            }
        }
        links
    }
}
