//! Waiting for one's turn.

use bytes::Bytes;
use kvd_api::pb::mvccpb::event::EventType;

use crate::client::Client;
use crate::error::Result;
use crate::kv::GetOptions;
use crate::watch::WatchOptions;
use crate::{SortOrder, SortTarget};

/// Waits until no key with `prefix` is left that was created at `revision` or before: one watch at
/// a time, on the latest of them.
pub(super) async fn for_turn(client: &Client, prefix: &Bytes, revision: i64) -> Result<()> {
    loop {
        let earlier = GetOptions::new()
            .prefix()
            .max_create_revision(revision)
            .sort(SortTarget::Create, SortOrder::Descend)
            .limit(1);
        let found = client.get(prefix.clone(), earlier).await?;
        let Some(last) = found.kvs.into_iter().next() else {
            return Ok(());
        };
        let seen_at = found.header.map_or(0, |header| header.revision);
        let from = WatchOptions::new().revision(seen_at + 1).without_puts();
        let mut watch = client.watch(last.key, from).await?;
        loop {
            let response = watch.next().await?;
            let gone = |event: &crate::Event| event.r#type() == EventType::Delete;
            if response.events.iter().any(gone) {
                break;
            }
        }
    }
}

/// The oldest key with a prefix: whoever it belongs to holds the lock, or leads.
pub(super) fn oldest() -> GetOptions {
    GetOptions::new()
        .prefix()
        .sort(SortTarget::Create, SortOrder::Ascend)
        .limit(1)
}
