//! What the leader does about leases by its clock: revokes what has run out, notes what is left.
//!
//! A member that becomes leader first waits until it has applied everything of the terms before;
//! else it could not know that a checkpoint was cleared by a renewal. Then it gives every lease
//! its time anew. When it is deposed all of that is dropped.
//!
//! Source: etcd `server/lease/lessor.go`, `runLoop`; `server/etcdserver/server.go`,
//! `revokeExpiredLeases`.

use std::sync::Arc;
use std::time::Instant;

use futures_util::stream::{self, StreamExt};
use kvd_api::error::WireError;
use kvd_api::pb::kvdcommandpb::{LeaseCheckpoint, LeaseExpire, LeaseRemaining, command};
use kvd_raft::Role;
use tokio::time::MissedTickBehavior;

use super::renew::verify_leadership;
use crate::core::Core;
use crate::error::Error;
use crate::limits;

/// Runs until the member stops.
pub async fn run(core: Arc<Core>) {
    let mut status = core.node().status();
    loop {
        let leads = status.wait_for(|status| status.role == Role::Leader).await;
        let Ok(term) = leads.map(|status| status.term) else {
            return;
        };
        tokio::select! {
            () = lead(&core, term) => {}
            _ = status.wait_for(|status| status.role != Role::Leader || status.term != term) => {}
        }
        core.leases().demote();
    }
}

/// Manages the leases in `term`; never returns while this member leads.
async fn lead(core: &Core, term: u64) {
    while let Err(error) = core.read_barrier().await {
        tracing::debug!(%error, "not yet sure to lead; leases wait");
        // A member that is being stopped fails at once; this would never give way to who ends it.
        tokio::time::sleep(limits::LEASE_TICK).await;
    }
    let election_timeout = core.config().election_timeout;
    core.leases()
        .promote(term, Instant::now(), election_timeout);
    let mut ticks = tokio::time::interval(limits::LEASE_TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        revoke_expired(core, term).await;
        checkpoint(core, term).await;
    }
}

async fn revoke_expired(core: &Core, term: u64) {
    let expired = core
        .leases()
        .take_expired(Instant::now(), limits::LEASE_EXPIRIES_PER_TICK);
    if expired.is_empty() {
        return;
    }
    // Without a quorum nobody can revoke; with another leader it is not ours to do.
    match verify_leadership(core, false).await {
        Ok(Some(now)) if now == term => {}
        _ => {
            tracing::warn!(
                leases = expired.len(),
                "not revoking expired leases: this member cannot confirm that it leads"
            );
            return;
        }
    }
    stream::iter(expired)
        .for_each_concurrent(limits::LEASE_EXPIRIES_IN_FLIGHT, |id| async move {
            if !core.leases().is_expired(id, Instant::now()) {
                return;
            }
            let expire = LeaseExpire { id, term };
            match core.propose(command::Request::LeaseExpire(expire)).await {
                Ok(_) => core.metrics().debugging_server_lease_expired.inc(),
                // Somebody revoked it first.
                Err(Error::Wire(WireError::RequestedLeaseNotFound)) => {}
                Err(error) => {
                    let lease_id = format!("{id:016x}");
                    tracing::warn!(lease_id, %error, "failed to revoke an expired lease; again");
                }
            }
        })
        .await;
}

async fn checkpoint(core: &Core, term: u64) {
    for _ in 0..limits::LEASE_CHECKPOINTS_PER_TICK {
        let gate = core.leases().checkpoints.lock().await;
        let most = limits::LEASE_CHECKPOINT_BATCH;
        let due = core.leases().take_checkpoints(Instant::now(), most);
        if due.is_empty() {
            return;
        }
        let leases = due
            .into_iter()
            .map(|(id, remaining_ttl)| LeaseRemaining { id, remaining_ttl });
        let checkpoint = LeaseCheckpoint {
            term,
            leases: leases.collect(),
        };
        let proposed = core.propose(command::Request::LeaseCheckpoint(checkpoint));
        if let Err(error) = proposed.await {
            // The next one is due in one interval; until then a new leader grants more.
            tracing::warn!(%error, "what is left of leases could not be noted");
            return;
        }
        drop(gate);
    }
}
