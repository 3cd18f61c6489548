//! What a swarm does around its tasks: templates in their variables, and the API on its managers, as
//! far as it is asked for a service.
//!
//! Each pod of a stack's set is the task of a node of its own, whose disk is the pod's claim: the
//! nodes are `worker-1`, `worker-2`, …, and a task is always begun on the same one.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use anyhow::Result;
use tokio::net::{UnixListener, UnixStream};

use crate::exchange;
use crate::node::Node;

/// Where the API is on a node.
pub const SOCKET: &str = "/var/run/docker.sock";
/// Where it is here, in the node's folder.
pub const NAME: &str = "docker.sock";
/// What the stack is called, which its services' names begin with.
const STACK: &str = "kvd";

/// Fills in a template's fields for the task `pod`.
pub fn templated(value: &str, pod: &str) -> String {
    let (set, number) = pod.rsplit_once('-').unwrap_or((pod, ""));
    let number = number.parse().map_or(1, |number: u32| number + 1);
    value
        .replace("{{.Node.Hostname}}", &format!("worker-{number}"))
        .replace("{{.Task.Slot}}", &number.to_string())
        .replace("{{.Service.Name}}", &format!("{STACK}_{set}"))
}

/// Serves the API of a swarm whose services are the sets of `node`.
///
/// Errors: the socket cannot be made.
pub fn serve(node: Arc<Node>) -> Result<()> {
    let path = node.folder().join(NAME);
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o660))?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // Who asked and is gone needs no answer.
            tokio::spawn(answer(Arc::clone(&node), stream));
        }
    });
    Ok(())
}

async fn answer(node: Arc<Node>, mut stream: UnixStream) -> Result<()> {
    let head = exchange::head(&mut stream).await?;
    let found = {
        let state = node.state();
        let sets = state.sets.iter();
        let mut asked = sets.filter(|(name, _)| {
            let start = format!("GET /services/{STACK}_{name} ");
            head.starts_with(&start)
        });
        asked.next().map(|(name, (set, _))| {
            format!(
                r#"{{"ID":"x","Spec":{{"Name":"{STACK}_{name}","Mode":{{"Replicated":{{"Replicas":{}}}}}}}}}"#,
                set.replicas
            )
        })
    };
    let (status, body) = match found {
        Some(body) => ("200 OK", body),
        None => (
            "404 Not Found",
            r#"{"message":"service not found"}"#.to_owned(),
        ),
    };
    exchange::answer(&mut stream, status, &body).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_named_after_its_node() {
        let filled = templated("{{.Node.Hostname}}.etcd {{.Service.Name}}", "etcd-2");
        assert_eq!(filled, "worker-3.etcd kvd_etcd");
        assert_eq!(templated("{{.Task.Slot}}", "etcd-0"), "1");
    }
}
