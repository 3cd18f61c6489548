//! A StatefulSet on one Linux machine: reads the manifests of `deploy/k8s` and runs them.
//!
//! Every pod is real processes in a network namespace of their own, with their own address and host
//! name, a root made of this machine's programs and the image's, and their volumes. What Kubernetes
//! does around them is done here, as far as a member of a StatefulSet can tell:
//!
//! - [`host`]: namespaces around the whole test, and what the machine must have.
//! - [`manifest`]: the objects that are run.
//! - [`state`]: what is wanted and what is, Services' endpoints and names.
//! - [`controller`]: StatefulSets: ordered or parallel, rolling updates, scale.
//! - [`node`]: networks, volumes, variables. A pod that is made anew gets another address; a claim
//!   is a folder that stays.
//! - [`kubelet`]: a pod's life: init containers, probes, restarts with back-off, preStop and the
//!   grace period.
//! - [`container`], [`probe`]: one process; one question.
//! - [`dns`]: the name server, which can be down or know nobody. Records follow readiness after
//!   [`node::Options::publishing`].
//! - [`api`]: the API server, for pods that ask how many are wanted.
//! - [`service`]: Services with an address relay to the pods that are published.
//! - [`stack`]: compose and swarm files, as sets of pods; [`docker`]: what a swarm does besides.
//! - [`cluster`]: all of it together, and the things to do to it.
//!
//! Left out: scheduling, resources, storage classes, network policies, admission; Jobs that run by
//! themselves; subPath and projected volumes, and host volumes but Docker's socket. A Deployment's
//! pods have numbers. Times differ where [`node::Options`] says.

pub mod api;
pub mod cluster;
pub mod container;
pub mod controller;
pub mod dns;
pub mod docker;
mod exchange;
pub mod host;
pub mod kubelet;
pub mod manifest;
pub mod node;
pub mod probe;
pub mod service;
pub mod stack;
pub mod state;
