//! The three checks.

use std::sync::Arc;

use kvd_api::pb::etcdserverpb::alarm_request::AlarmAction;
use kvd_api::pb::etcdserverpb::{AlarmRequest, AlarmType};
use kvd_api::pb::kvdcommandpb::command::Request;
use kvd_mvcc::HashKv;

use super::peers;
use super::tally::{Verdict, differing, suspect, verdict};
use crate::core::Core;
use crate::error::{Error, Result};
use crate::services::kv::off_thread;

/// Compares this member's data with that of its peers before it serves anybody. Peers that cannot
/// be asked, or stand elsewhere, say nothing.
///
/// Errors: [`Error::Inconsistent`] when a peer has other data.
pub async fn initial(core: &Core) -> Result<()> {
    let member = format!("{:x}", core.member_id());
    tracing::info!(
        local_member_id = member,
        "starting initial corruption check"
    );
    let own = hash(core, 0).await?;
    let peers = peers::hashes(core, own.revision).await?;
    let differing = differing(&own, &peers);
    if differing.is_empty() {
        tracing::info!(
            local_member_id = member,
            revision = own.revision,
            answered = peers.iter().filter(|peer| peer.answer.is_ok()).count(),
            "initial corruption checking passed; no corruption"
        );
        return Ok(());
    }
    let ids: Vec<String> = differing.iter().map(|id| format!("{id:x}")).collect();
    tracing::error!(
        local_member_id = member,
        revision = own.revision,
        compact_revision = own.compact_revision,
        hash = own.hash,
        peers = ids.join(","),
        "found different hash values from remote peers"
    );
    Err(Error::Inconsistent {
        member: core.member_id(),
    })
}

/// Runs until the task is aborted; returns at once when the check is off.
pub async fn periodic(core: Arc<Core>) {
    let Some(interval) = core.config().corrupt_check_interval else {
        return;
    };
    loop {
        tokio::time::sleep(interval).await;
        if !core.is_leader() {
            continue;
        }
        if let Err(error) = check_all(&core).await {
            tracing::warn!(%error, "the check for corruption did not come to its end");
        }
    }
}

async fn check_all(core: &Core) -> Result<()> {
    let first = hash(core, 0).await?;
    let peers = peers::hashes(core, first.revision).await?;
    core.read_barrier().await?;
    let then = hash(core, 0).await?;
    let changed = then.revision == first.revision
        && then.compact_revision == first.compact_revision
        && then.hash != first.hash;
    if changed {
        let what = "its own hash of one revision has changed".to_owned();
        return alarm(core, core.member_id(), &what).await;
    }
    if let Some((id, what)) = suspect(&first, &then, &peers) {
        return alarm(core, id, &what).await;
    }
    let checked = peers.iter().filter(|peer| peer.answer.is_ok()).count();
    tracing::info!(
        number_of_peers_checked = checked,
        revision = first.revision,
        "finished peer corruption check"
    );
    Ok(())
}

/// Runs until the task is aborted; returns at once when the check is off.
pub async fn compaction(core: Arc<Core>) {
    let Some(interval) = core.config().compact_hash_check_interval else {
        return;
    };
    let mut checked = 0;
    loop {
        tokio::time::sleep(interval).await;
        if !core.is_leader() {
            continue;
        }
        if let Err(error) = check_compactions(&core, &mut checked).await {
            tracing::warn!(%error, "the check of compactions did not come to its end");
        }
    }
}

/// Compares the newest compaction that all members have done; `checked` is the one before.
async fn check_compactions(core: &Core, checked: &mut i64) -> Result<()> {
    let mut hashes = core.store().compaction_hashes();
    hashes.retain(|hash| hash.revision > *checked);
    for own in hashes.iter().rev() {
        let peers = peers::hashes(core, own.revision).await?;
        if peers.is_empty() {
            continue;
        }
        match verdict(core.member_id(), own, &peers) {
            Verdict::Same => {
                tracing::info!(
                    revision = own.revision,
                    number_of_peers_checked = peers.len(),
                    "successfully checked hash on whole cluster"
                );
                *checked = own.revision;
                return Ok(());
            }
            Verdict::Unknown => {
                tracing::warn!(
                    revision = own.revision,
                    "skipped revision in compaction hash check; was not able to check all peers"
                );
            }
            Verdict::Corrupt(members) => {
                let what = format!("its hash of compaction {} differs", own.revision);
                for member in members {
                    alarm(core, member, &what).await?;
                }
                return Ok(());
            }
            Verdict::Undecided => {
                let what = format!(
                    "members differ at compaction {}, and no majority says who is right",
                    own.revision
                );
                return alarm(core, 0, &what).await;
            }
        }
    }
    Ok(())
}

async fn hash(core: &Core, revision: i64) -> Result<HashKv> {
    off_thread(core.store(), move |store| Ok(store.hash_kv(revision)?)).await
}

/// Raises CORRUPT for a member, once.
async fn alarm(core: &Core, member: u64, what: &str) -> Result<()> {
    let is_raised = core
        .active_alarms()
        .iter()
        .any(|alarm| alarm.member_id == member && alarm.alarm == AlarmType::Corrupt as i32);
    if is_raised {
        return Ok(());
    }
    tracing::error!(
        member = format!("{member:x}"),
        what,
        "data of members differ: raising CORRUPT, which stops writes; find out which member is \
         right, replace the others, and disarm the alarm"
    );
    let request = AlarmRequest {
        action: AlarmAction::Activate as i32,
        member_id: member,
        alarm: AlarmType::Corrupt as i32,
    };
    core.propose(Request::Alarm(request)).await.map(drop)
}
