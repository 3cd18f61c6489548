//! A new cluster of one member out of the data of an old one, for when its quorum is lost for good.
//!
//! The member keeps its log, also what it does not know to be committed: some of that may have been
//! acknowledged. One more entry makes it the only member. It is written before consensus starts,
//! and commits itself: nobody else is asked any more.

use futures_util::StreamExt;
use openraft::storage::{RaftLogReader, RaftLogStorage};

use crate::error::{Error, Result};
use crate::log_store::LogStore;
use crate::membership::{self, Member};
use crate::type_config::{EntryPayload, Membership, StoredMembership};

/// Makes `member` the only member, unless it is that already. `stored` is the membership of the
/// state machine.
///
/// Errors: when the log cannot be read or written.
pub(crate) async fn alone(
    log: &mut LogStore,
    stored: &StoredMembership,
    member: &Member,
) -> Result<()> {
    let failed = |error: std::io::Error| Error::io("--force-new-cluster: the log", error);
    let state = log.get_log_state().await.map_err(failed)?;
    let Some(last) = state.last_log_id else {
        return Err(Error::Membership(
            "--force-new-cluster: this member has no data to make a cluster of".into(),
        ));
    };
    let membership = last_membership(log, stored).await.map_err(failed)?;
    if membership::split(&membership).0 == [member.id] && membership.nodes().count() == 1 {
        return Ok(());
    }
    let node = membership.get_node(&member.id).cloned();
    let mut node = node.unwrap_or_else(|| member.node());
    node.learner = false;
    let others: Vec<String> = membership
        .nodes()
        .filter(|(id, _)| **id != member.id)
        .map(|(id, node)| format!("{id:x}={node}"))
        .collect();
    let nodes = std::collections::BTreeMap::from([(member.id, node)]);
    let voters = std::collections::BTreeSet::from([member.id]);
    let alone = Membership::new(vec![voters], nodes)
        .map_err(|error| Error::Membership(error.to_string()))?;
    log.append_and_sync(last, EntryPayload::Membership(alone))
        .await
        .map_err(failed)?;
    tracing::warn!(
        member = format!("{:x}", member.id),
        removed = ?others,
        "--force-new-cluster: this member is alone from now on; the others must never start again \
         with the data that they have"
    );
    Ok(())
}

/// The last membership in the log, or that of the state machine.
async fn last_membership(
    log: &mut LogStore,
    stored: &StoredMembership,
) -> std::io::Result<Membership> {
    let mut last = stored.membership().clone();
    let mut entries = log.entries_stream(0..u64::MAX).await;
    while let Some(entry) = entries.next().await {
        if let EntryPayload::Membership(membership) = entry?.payload {
            last = membership;
        }
    }
    Ok(last)
}
