//! The manifests of `deploy/k8s` on podsim, with kvctl, Debian's etcdctl and curl as clients.
//!
//! Every test runs in namespaces of its own, as root; elsewhere it says `skipped` and why.
//! `KVD_PODSIM_REQUIRED=1` makes that a failure. `KVD_PODSIM_STEPS` and `KVD_SEED` set the length of
//! the random run and replay its choices: `make podsim STEPS=… SEED=…`.
#![allow(missing_docs)]

mod autopilot;
mod backup;
mod checked;
mod document;
mod document_v2;
mod faults;
mod front;
mod members;
mod moves;
mod random;
mod stack;
