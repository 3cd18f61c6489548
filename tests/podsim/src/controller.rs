//! The StatefulSet controller: one step towards what is wanted.

use std::sync::Arc;

use anyhow::Result;
use tokio::sync::watch;

use crate::kubelet;
use crate::manifest::{Policy, StatefulSet};
use crate::node::Node;
use crate::state::{End, Pod, State};

/// What one look at a set decides.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Make the pod with this number.
    Create(usize),
    /// End the pod with this number.
    Delete(usize),
}

/// Looks at every set and does what is due.
///
/// Errors: when a claim's folder cannot be made.
pub fn reconcile(node: &Arc<Node>) -> Result<()> {
    let mut state = node.state();
    let sets: Vec<(String, StatefulSet, String)> = state
        .sets
        .iter()
        .map(|(name, (set, revision))| (name.clone(), set.clone(), revision.clone()))
        .collect();
    for (name, set, revision) in &sets {
        for step in steps(&state, name, set, revision) {
            match step {
                Step::Create(_) if state.cordoned => {}
                Step::Create(number) => create(node, &mut state, name, set, revision, number)?,
                Step::Delete(number) => {
                    let pod = format!("{name}-{number}");
                    end(&state, &pod, End::Gracefully);
                    let delete = set
                        .persistent_volume_claim_retention_policy
                        .when_scaled
                        .as_deref();
                    if number >= set.replicas && delete == Some("Delete") {
                        let claims = set.volume_claim_templates.iter();
                        let claims = claims.map(|claim| format!("{}-{pod}", claim.metadata.name));
                        state.doomed_claims.extend(claims);
                    }
                }
            }
        }
    }
    // Pods of sets that are gone are collected all at once.
    for pod in state.pods.values() {
        if !state.sets.contains_key(&pod.set) && !pod.is_ending() {
            pod.end.send_replace(End::Gracefully);
        }
    }
    Ok(())
}

/// Tells a pod to end.
pub fn end(state: &State, pod: &str, how: End) {
    if let Some(pod) = state.pods.get(pod) {
        pod.end.send_replace(how);
    }
}

fn create(
    node: &Arc<Node>,
    state: &mut State,
    name: &str,
    set: &StatefulSet,
    revision: &str,
    number: usize,
) -> Result<()> {
    let pod = format!("{name}-{number}");
    for claim in &set.volume_claim_templates {
        std::fs::create_dir_all(node.claim(&format!("{}-{pod}", claim.metadata.name)))?;
    }
    let made = Pod {
        set: name.to_owned(),
        template: Arc::new(set.template.clone()),
        subdomain: set.service_name.clone(),
        revision: revision.to_owned(),
        ip: None,
        ready: false,
        process: None,
        restarts: 0,
        end: watch::Sender::new(End::Run),
    };
    state.pods.insert(pod.clone(), made);
    tokio::spawn(kubelet::run(Arc::clone(node), pod));
    Ok(())
}

/// What is due for one set. Source: Kubernetes, `stateful_set_control.go`.
pub fn steps(state: &State, name: &str, set: &StatefulSet, revision: &str) -> Vec<Step> {
    let pod = |number: usize| state.pods.get(&format!("{name}-{number}"));
    let settled = |number: usize| pod(number).is_some_and(|pod| pod.ready && !pod.is_ending());
    let ordered = set.pod_management_policy == Policy::OrderedReady;
    let mut steps = Vec::new();
    for number in 0..set.replicas {
        if pod(number).is_none() {
            steps.push(Step::Create(number));
        }
        if ordered && !settled(number) {
            return steps;
        }
    }
    let mut surplus: Vec<usize> = state
        .pods
        .keys()
        .filter_map(|pod| pod.strip_prefix(name)?.strip_prefix('-')?.parse().ok())
        .filter(|number| *number >= set.replicas)
        .collect();
    surplus.sort_unstable_by(|a, b| b.cmp(a));
    for number in surplus {
        if pod(number).is_some_and(|pod| !pod.is_ending()) {
            steps.push(Step::Delete(number));
        }
        if ordered {
            return steps;
        }
    }
    if !steps.is_empty() || set.update_strategy.kind != "RollingUpdate" {
        return steps;
    }
    for number in (set.update_strategy.rolling_update.partition..set.replicas).rev() {
        let old = pod(number).is_some_and(|pod| pod.revision != revision && !pod.is_ending());
        if old {
            return vec![Step::Delete(number)];
        }
        if !settled(number) {
            return steps;
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Manifests;

    fn set(policy: &str, replicas: usize) -> StatefulSet {
        let text = format!(
            "{{apiVersion: apps/v1, kind: StatefulSet, metadata: {{name: db}}, spec: {{serviceName: \
             db, replicas: {replicas}, podManagementPolicy: {policy}, selector: {{}}, template: \
             {{spec: {{containers: []}}}}}}}}"
        );
        let mut all = Manifests::parse(&text).expect("readable");
        all.stateful_sets.remove("db").expect("one")
    }

    /// A state with pods of the given readiness, all of revision `r1`.
    fn state(ready: &[bool]) -> State {
        let mut state = State::default();
        let set = set("Parallel", 1);
        for (number, ready) in ready.iter().enumerate() {
            let pod = Pod {
                set: "db".to_owned(),
                template: Arc::new(set.template.clone()),
                subdomain: "db".to_owned(),
                revision: "r1".to_owned(),
                ip: None,
                ready: *ready,
                process: None,
                restarts: 0,
                end: watch::Sender::new(End::Run),
            };
            state.pods.insert(format!("db-{number}"), pod);
        }
        state
    }

    fn due(ready: &[bool], policy: &str, replicas: usize, revision: &str) -> Vec<Step> {
        steps(&state(ready), "db", &set(policy, replicas), revision)
    }

    #[test]
    fn ordered_pods_wait_for_those_before_them_and_parallel_ones_do_not() {
        assert_eq!(due(&[], "OrderedReady", 3, "r1"), [Step::Create(0)]);
        assert_eq!(due(&[false], "OrderedReady", 3, "r1"), []);
        assert_eq!(due(&[true], "OrderedReady", 3, "r1"), [Step::Create(1)]);
        let all = [Step::Create(0), Step::Create(1), Step::Create(2)];
        assert_eq!(due(&[], "Parallel", 3, "r1"), all);
    }

    #[test]
    fn a_set_shrinks_from_the_end() {
        let ready = [true, true, true];
        assert_eq!(due(&ready, "OrderedReady", 1, "r1"), [Step::Delete(2)]);
        assert_eq!(
            due(&ready, "Parallel", 1, "r1"),
            [Step::Delete(2), Step::Delete(1)]
        );
    }

    #[test]
    fn an_update_takes_one_pod_after_the_other_from_the_end() {
        assert_eq!(due(&[true, true], "Parallel", 2, "r2"), [Step::Delete(1)]);
        let mut state = state(&[true, true]);
        let pod = state.pods.get_mut("db-1").expect("there");
        (pod.revision, pod.ready) = ("r2".to_owned(), false);
        let set = set("Parallel", 2);
        assert_eq!(steps(&state, "db", &set, "r2"), []);
        state.pods.get_mut("db-1").expect("there").ready = true;
        assert_eq!(steps(&state, "db", &set, "r2"), [Step::Delete(0)]);
    }
}
