//! The addresses of Services: a relay to the pods that are published, in turn.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::{TcpListener, TcpStream};

use crate::manifest::PortName;
use crate::node::Node;

/// How often it is looked whether there are pods at all.
const LOOK: Duration = Duration::from_millis(20);

/// Listens on the Service's address and relays each connection to a pod. While no pod is published,
/// connections are refused.
///
/// Errors: when the address cannot be listened on.
pub async fn serve(node: Arc<Node>, service: String, address: Ipv4Addr, port: u16) -> Result<()> {
    let what = format!("Service {service}, port {port}");
    drop(TcpListener::bind((address, port)).await.context(what)?);
    tokio::spawn(async move {
        let mut turn = 0;
        let mut listener = None;
        loop {
            if targets(&node, &service, port).is_empty() {
                listener = None;
                tokio::time::sleep(LOOK).await;
                continue;
            }
            if listener.is_none() {
                listener = TcpListener::bind((address, port)).await.ok();
            }
            let Some(listening) = &listener else {
                tokio::time::sleep(LOOK).await;
                continue;
            };
            if let Ok(Ok((client, _))) = tokio::time::timeout(LOOK, listening.accept()).await {
                let pods = targets(&node, &service, port);
                turn += 1;
                tokio::spawn(relay(client, pods, turn));
            }
        }
    });
    Ok(())
}

fn targets(node: &Node, service: &str, port: u16) -> Vec<SocketAddr> {
    let state = node.state();
    let Some((spec, _)) = state.services.get(service) else {
        return Vec::new();
    };
    let Some(known) = spec.ports.iter().find(|known| known.port == port) else {
        return Vec::new();
    };
    let target = known.target_port.clone().unwrap_or(PortName::Number(port));
    state
        .endpoints(spec)
        .filter_map(|(_, pod, ip)| Some(SocketAddr::from((ip, pod.port(&target)?))))
        .collect()
}

/// A pod that has just died is passed over, where a real node's first packet would be lost.
async fn relay(mut client: TcpStream, pods: Vec<SocketAddr>, turn: usize) {
    for attempt in 0..pods.len() {
        let connecting = TcpStream::connect(pods[(turn + attempt) % pods.len()]);
        let connected = tokio::time::timeout(Duration::from_secs(1), connecting).await;
        if let Ok(Ok(mut pod)) = connected {
            // Either side may go at any time; the other learns it by the close.
            drop(client.set_nodelay(true));
            drop(pod.set_nodelay(true));
            drop(tokio::io::copy_bidirectional(&mut client, &mut pod).await);
            return;
        }
    }
}
