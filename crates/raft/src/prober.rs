//! Asks every peer all the time whether the way to it is open, and whether it still counts this
//! member among the members.
//!
//! Only a leader talks to everybody otherwise. What the probes find is the base of the checks
//! before a change of the membership, of the metrics of connections, and of how a member learns
//! that it was removed: nobody sends it the entry that removes it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvd_api::pb::kvdpeerpb as pb;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::time::{MissedTickBehavior, timeout};

use crate::core::Core;
use crate::transport::client::{Peer, Purpose};

/// Between two probes of a peer.
const INTERVAL: Duration = Duration::from_millis(500);

/// Between two probes of one that does not answer: it may be there again.
const INTERVAL_LOST: Duration = Duration::from_millis(100);

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// Runs until it is cancelled.
pub(crate) async fn run(core: Arc<Core>) {
    let mut ticks = tokio::time::interval(INTERVAL_LOST);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut probes = tokio::task::JoinSet::new();
    let mut under_way = BTreeSet::new();
    let mut asked: BTreeMap<u64, Instant> = BTreeMap::new();
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                let peers = peers(&core);
                asked.retain(|id, _| peers.iter().any(|peer| peer.id == *id));
                for peer in peers {
                    let interval = if peer.is_connected() { INTERVAL } else { INTERVAL_LOST };
                    let is_due = asked.get(&peer.id).is_none_or(|at| at.elapsed() >= interval);
                    if is_due && under_way.insert(peer.id) {
                        asked.insert(peer.id, Instant::now());
                        probes.spawn(probe(core.clone(), peer));
                    }
                }
            }
            Some(probed) = probes.join_next() => {
                // A probe does not panic; if one did, its peer would not be asked again.
                if let Ok(id) = probed {
                    under_way.remove(&id);
                }
            }
        }
    }
}

/// Everybody else. Those that are no members any more are forgotten.
fn peers(core: &Core) -> Vec<Arc<Peer>> {
    let metrics = core.raft().server_metrics();
    let metrics = metrics.borrow_watched();
    let membership = metrics.membership_config.membership();
    core.peers
        .forget_others(|id| membership.get_node(&id).is_some());
    membership
        .nodes()
        .filter(|(id, _)| **id != core.options.member_id)
        .map(|(id, node)| core.peers.get(*id, node))
        .collect()
}

async fn probe(core: Arc<Core>, peer: Arc<Peer>) -> u64 {
    let mut client = peer.client(Purpose::Control);
    let started = Instant::now();
    let process = core.process;
    let asked = client.probe(peer.request(pb::ProbeRequest { process }));
    match timeout(PATIENCE, asked).await {
        Ok(Ok(reply)) => {
            core.peers.met(peer.id, reply.into_inner().process);
            peer.answered();
            peer.events().peer_round_trip(peer.id, started.elapsed());
        }
        Ok(Err(status)) => {
            peer.failed(&status);
            peer.connected(false);
        }
        // One that is only slow, and meanwhile answered another request, is connected.
        Err(_) if peer.answered_since(started) => peer.events().peer_failed(peer.id),
        Err(_) => {
            peer.events().peer_failed(peer.id);
            peer.connected(false);
        }
    }
    peer.id
}
