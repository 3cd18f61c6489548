//! Ends streams early: those whose clients want a leader to exist, once there has been none for long.
//!
//! A client says so by the metadata `hasleader: true`. A call that begins without a leader is
//! refused before (`services/admission`). One that is under way ends later: streams that come back
//! all at once cost more than requests that are refused.
//!
//! Source: etcd `server/etcdserver/api/v3rpc/interceptor.go`, `monitorLeader`.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, Stream, StreamExt};
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

    /// Resolves when there has been no leader for too long.
    pub(super) async fn lost(mut self) {
        while self.missed < NO_LEADER_MAX {
            self.ticks.tick().await;
            self.missed = match self.core.leader() {
                0 => self.missed + 1,
                _ => 0,
            };
        }
    }
}

/// The replies of a stream, in a box.
pub(super) type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Why a stream ends early, once it has to.
pub(super) type End = BoxFuture<'static, Status>;

/// `replies` as long as `check` holds; then [`WireError::NoLeader`].
pub(super) fn guard<T: Send + 'static>(
    check: Option<LeaderCheck>,
    replies: Replies<T>,
) -> Replies<T> {
    let lost = check.map(|check| check.lost().map(|()| WireError::NoLeader.into()));
    until(lost.map(FutureExt::boxed), replies)
}

/// `replies` until one of `ends` comes about.
pub(super) fn until<T: 'static>(
    ends: impl IntoIterator<Item = End>,
    replies: Replies<T>,
) -> Replies<T> {
    let ends: FuturesUnordered<End> = ends.into_iter().collect();
    if ends.is_empty() {
        return replies;
    }
    Box::pin(Until {
        ends: Some(ends),
        replies,
    })
}

/// A stream with an early end, which is asked for only when it may have come.
struct Until<T> {
    /// None when it is over.
    ends: Option<FuturesUnordered<End>>,
    replies: Replies<T>,
}

impl<T> Stream for Until<T> {
    type Item = Result<T, Status>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<T, Status>>> {
        let Some(ends) = &mut self.ends else {
            return Poll::Ready(None);
        };
        if let Poll::Ready(Some(status)) = ends.poll_next_unpin(context) {
            self.ends = None;
            return Poll::Ready(Some(Err(status)));
        }
        self.replies.as_mut().poll_next(context)
    }
}

/// Ticks once in a period, for the first time at its end.
pub(super) fn every(period: Duration) -> Interval {
    let period = period.max(Duration::from_millis(1));
    let mut ticks = interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
