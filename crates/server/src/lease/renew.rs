//! Renewing leases and asking what is left of them, here or at the leader.
//!
//! Source: etcd `server/etcdserver/v3_server.go`, `LeaseRenew`, `leaseTimeToLive`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kvd_api::error::WireError;
use kvd_api::pb::kvdcommandpb::{LeaseCheckpoint, LeaseRemaining, command};
use kvd_raft::Role;

use super::leases::{Renewal, TimeToLive};
use crate::core::Core;
use crate::error::{Error, Result};
use crate::limits;

/// Time between two tries to find the leader.
const RETRY: Duration = Duration::from_millis(50);

/// Renews a lease. Returns its TTL in seconds, `None` when there is no such lease.
///
/// Errors: [`WireError::NoLeader`] when there is none for too long, [`WireError::Timeout`] when it
/// does not answer in time; [`WireError::TimeoutWaitAppliedIndex`].
pub async fn renew(core: &Arc<Core>, id: i64) -> Result<Option<i64>> {
    let renewing = async {
        loop {
            if core.is_leader() {
                match renew_here(core, id).await? {
                    Here::NotLeader => {}
                    Here::Unknown => return Ok(None),
                    Here::Known(ttl) => return Ok(Some(ttl)),
                }
            } else {
                match core.lease_peers().renew(core, id).await {
                    Some(Here::Unknown) => return Ok(None),
                    Some(Here::Known(ttl)) => return Ok(Some(ttl)),
                    Some(Here::NotLeader) | None => {}
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    };
    match tokio::time::timeout(core.request_timeout(), renewing).await {
        Ok(result) => result,
        Err(_) => Err(out_of_time(core)),
    }
}

/// Says what is left of a lease; [`TimeToLive::NotPrimary`] is never returned.
///
/// Errors: those of [`renew`].
pub async fn time_to_live(core: &Core, id: i64, keys: bool) -> Result<TimeToLive> {
    let asking = async {
        loop {
            let found = if core.is_leader() {
                time_to_live_here(core, id, keys).await?
            } else {
                core.lease_peers().time_to_live(core, id, keys).await
            };
            if found != TimeToLive::NotPrimary {
                return Ok(found);
            }
            tokio::time::sleep(RETRY).await;
        }
    };
    match tokio::time::timeout(core.request_timeout(), asking).await {
        Ok(result) => result,
        Err(_) => Err(out_of_time(core)),
    }
}

/// Why the leader's answer did not come in time: as in etcd, there being no leader is told apart.
fn out_of_time(core: &Core) -> Error {
    match core.leader() {
        0 => WireError::NoLeader.into(),
        _ => WireError::Timeout.into(),
    }
}

/// What a member that may lead says of a lease.
pub(super) enum Here<T> {
    NotLeader,
    Unknown,
    Known(T),
}

/// Renews a lease if this member leads.
///
/// Errors: [`WireError::TimeoutWaitAppliedIndex`].
pub(super) async fn renew_here(core: &Arc<Core>, id: i64) -> Result<Here<i64>> {
    let Some(term) = verify_leadership(core, !core.leases().contains(id)).await? else {
        return Ok(Here::NotLeader);
    };
    loop {
        match core.leases().renew(id, term, Instant::now()) {
            Renewal::NotPrimary => return Ok(Here::NotLeader),
            Renewal::Unknown => return Ok(Here::Unknown),
            Renewal::Renewed(ttl) => {
                core.metrics().lease_renewed.inc();
                return Ok(Here::Known(ttl));
            }
            Renewal::Expired(mut settled) => {
                // Fails when the lease is revoked or this member is deposed, which is waited for.
                while settled.changed().await.is_ok() {}
            }
            Renewal::Checkpointed => clear_checkpoint(core, id, term).await?,
        }
    }
}

/// Makes the replicated state forget what was left of a lease, before it is renewed: the next
/// leader must not take that for what is left after the renewal.
async fn clear_checkpoint(core: &Arc<Core>, id: i64, term: u64) -> Result<()> {
    // In a task of its own: who renews may be a stream whose client does not read, and is not
    // polled again until it does. The gate, for which the expiry of all leases waits, must not.
    let clearing = tokio::spawn(clear_behind_gate(Arc::clone(core), id, term));
    clearing.await.unwrap_or_else(|error| {
        let what = format!("clearing a checkpoint did not finish: {error}");
        Err(Error::Internal(what))
    })
}

async fn clear_behind_gate(core: Arc<Core>, id: i64, term: u64) -> Result<()> {
    let _gate = core.leases().checkpoints.lock().await;
    let leases = vec![LeaseRemaining {
        id,
        remaining_ttl: 0,
    }];
    let clear = LeaseCheckpoint { term, leases };
    core.propose(command::Request::LeaseCheckpoint(clear))
        .await?;
    core.leases().cleared(id);
    Ok(())
}

/// As [`time_to_live`], if this member leads.
///
/// Errors: [`WireError::TimeoutWaitAppliedIndex`].
pub(super) async fn time_to_live_here(core: &Core, id: i64, keys: bool) -> Result<TimeToLive> {
    match verify_leadership(core, true).await? {
        Some(term) => Ok(core.leases().time_to_live(id, term, Instant::now(), keys)),
        None => Ok(TimeToLive::NotPrimary),
    }
}

/// Asks a quorum whether this member leads; returns its term if so. `wait`: until everything that
/// was acknowledged before the call is applied.
///
/// Errors: [`WireError::TimeoutWaitAppliedIndex`].
pub(super) async fn verify_leadership(core: &Core, wait: bool) -> Result<Option<u64>> {
    let Ok(index) = Box::pin(core.node().read_index()).await else {
        return Ok(None);
    };
    // After the answer: a leader that was deposed meanwhile has learnt it by now.
    let status = core.status();
    if status.role != Role::Leader {
        return Ok(None);
    }
    if wait {
        let applied = core.wait_applied(index);
        match tokio::time::timeout(limits::LEASE_APPLIED_WAIT, applied).await {
            Ok(applied) => applied?,
            Err(_) => return Err(WireError::TimeoutWaitAppliedIndex.into()),
        }
    }
    Ok(Some(status.term))
}
