//! Ends streams whose clients want a leader to exist, once there has been none for long.
//!
//! A client says so by the metadata `hasleader: true`. A call that begins without a leader is
//! refused before (`services/admission`). One that is under way ends later: streams that come back
//! all at once cost more than requests that are refused.
//!
//! Source: etcd `server/etcdserver/api/v3rpc/interceptor.go`, `monitorLeader`.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, Stream, StreamExt};
use kvd_api::error::WireError;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::core::Core;

/// Election timeouts without a leader after which a stream that asked for one ends.
const NO_LEADER_MAX: u32 = 3;

/// Counts the election timeouts without a leader.
pub(super) struct LeaderCheck {
    core: Arc<Core>,
    ticks: Interval,
    missed: u32,
}

impl LeaderCheck {
    /// The check of a stream whose call came with `metadata`; `None` when it asked for none.
    pub(super) fn wanted(core: &Arc<Core>, metadata: &MetadataMap) -> Option<LeaderCheck> {
        let wanted = metadata.get("hasleader").is_some_and(|it| it == "true");
        wanted.then(|| LeaderCheck {
            core: Arc::clone(core),
            ticks: every(core.config().election_timeout),
            missed: 0,
        })
    }
}

/// Resolves when there has been no leader for too long, if that is wanted. Nothing is lost when
/// the future is dropped.
pub(super) async fn lost(check: &mut Option<LeaderCheck>) {
    let Some(check) = check else {
        return std::future::pending().await;
    };
    while check.missed < NO_LEADER_MAX {
        check.ticks.tick().await;
        check.missed = if check.core.leader() == 0 {
            check.missed + 1
        } else {
            0
        };
    }
}

/// The replies of a stream, in a box.
pub(super) type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// `replies` as long as `check` holds; then [`WireError::NoLeader`].
pub(super) fn guard<T: Send + 'static>(
    check: Option<LeaderCheck>,
    replies: Replies<T>,
) -> Replies<T> {
    if check.is_none() {
        return replies;
    }
    let guarded = stream::unfold(Some((check, replies)), |state| async move {
        let (mut check, mut replies) = state?;
        tokio::select! {
            reply = replies.next() => Some((reply?, Some((check, replies)))),
            () = lost(&mut check) => Some((Err(WireError::NoLeader.into()), None)),
        }
    });
    Box::pin(guarded)
}

/// Ticks once in a period, for the first time at its end.
pub(super) fn every(period: Duration) -> Interval {
    let period = period.max(Duration::from_millis(1));
    let mut ticks = interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
