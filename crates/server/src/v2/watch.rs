//! One watch of the v2 tree: first what the history holds, then what comes.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use kvd_api::pb::kvdcommandpb::{V2Error, V2Event};
use kvd_api::pb::mvccpb;
use kvd_api::pb::mvccpb::KeyValue;
use kvd_mvcc::{Delivery, RangeOptions, Store, WatchOptions, WatchStream};
use prost::Message;

use crate::apply::v2::{self, History};
use crate::auth::{Caller, Held, ROOT_USER};
use crate::core::Core;
use crate::error::{Error, Result};
use crate::services::off_thread;

/// The code of a watch whose beginning is gone.
const EVENT_INDEX_CLEARED: u32 = 401;

/// What to watch.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The path; cleaned here.
    pub path: Bytes,
    /// Everything below it as well.
    pub recursive: bool,
    /// The first index wanted; zero means what comes next.
    pub since: u64,
    /// Whether the client has shown that it is root, as it must while users are in force.
    pub as_root: bool,
}

/// A watch that was started. It is counted until it is dropped.
pub struct Watch {
    core: Arc<Core>,
    /// On whose behalf.
    held: Held,
    wish: Wish,
    /// Events of the history that are still to be looked at, oldest first.
    kept: VecDeque<Bytes>,
    /// The revision at which they are read.
    at: i64,
    live: WatchStream,
    /// Live events that are still to be looked at.
    arrived: VecDeque<V2Event>,
}

/// Starts a watch, or says with code 401 that the history does not reach back to its beginning.
///
/// Errors: faults of the store.
pub(super) async fn start(
    core: Arc<Core>,
    mut wish: Wish,
) -> Result<(Result<Watch, V2Error>, u64)> {
    wish.path = v2::clean(&wish.path);
    let caller = wish.as_root.then(|| Caller {
        user: ROOT_USER.into(),
        revision: core.auth().view().revision(),
    });
    let held = Held::new(core.auth(), caller);
    let since = i64::try_from(wish.since).unwrap_or(i64::MAX);
    let mut live = core.store().watch_stream();
    let (key, range_end) = v2::ring();
    let current = core.store().current_revision();
    let options = WatchOptions {
        key,
        range_end,
        start_revision: since.max(current.saturating_add(1)),
        ..WatchOptions::default()
    };
    live.watch(options)
        .map_err(|error| Error::Internal(format!("the ring of v2 events: {error}")))?;
    let index = u64::try_from(current).unwrap_or(0);
    let kept = match since {
        0 => VecDeque::new(),
        since if since > current => VecDeque::new(),
        since => match off_thread(core.store(), move |store| kept(store, current, since)).await? {
            History::Kept(events) => events.into_iter().map(|(_, key)| key).collect(),
            History::Cleared(oldest) => {
                let cause =
                    format!("the requested history has been cleared [{oldest}/{since}]").into();
                let code = EVENT_INDEX_CLEARED;
                return Ok((Err(V2Error { code, cause }), index));
            }
        },
    };
    core.metrics().v2.watcher(1);
    let watch = Watch {
        core,
        held,
        wish,
        kept,
        at: current,
        live,
        arrived: VecDeque::new(),
    };
    Ok((Ok(watch), index))
}

/// The history at `current`. A ring that was compacted there meanwhile counts as cleared: `current`
/// was the newest revision a moment ago.
fn kept(store: &Store, current: i64, since: i64) -> Result<History> {
    match v2::history(store, current, since) {
        Err(kvd_mvcc::Error::Compacted { compacted, .. }) => Ok(History::Cleared(compacted)),
        history => Ok(history?),
    }
}

impl Watch {
    /// Waits for the next event that the watch is for; none when the member stops, when the client
    /// was so slow that what it needs next is gone, and when it may not see the tree any more.
    ///
    /// Errors: faults of the store.
    pub async fn next(&mut self) -> Result<Option<V2Event>> {
        let event = self.find().await?;
        let (key, range_end) = v2::ring();
        let may_see = self.held.check(self.core.auth(), &key, &range_end).is_ok();
        Ok(event.filter(|_| may_see))
    }

    async fn find(&mut self) -> Result<Option<V2Event>> {
        if !self.kept.is_empty() {
            let kept = std::mem::take(&mut self.kept);
            let (wish, at) = (self.wish.clone(), self.at);
            let found = move |store: &Store| next_kept(store, &wish, at, kept);
            let (event, rest) = match off_thread(self.core.store(), found).await {
                // The client was so slow that its place in the history is gone.
                Err(Error::Store(kvd_mvcc::Error::Compacted { .. })) => return Ok(None),
                found => found?,
            };
            self.kept = rest;
            if event.is_some() {
                return Ok(event);
            }
        }
        loop {
            while let Some(event) = self.arrived.pop_front() {
                if concerns(self.core.store(), &event, &self.wish) {
                    return Ok(Some(event));
                }
            }
            match self.live.next().await {
                Some(Delivery::Events { events, .. }) => {
                    for event in events.iter() {
                        let event = mvccpb::Event::decode(event.encoded())
                            .map_err(|error| Error::Internal(format!("an event: {error}")))?;
                        if let Some(pair) = event.kv {
                            self.arrived.push_back(v2::decode_event(&pair)?);
                        }
                    }
                }
                Some(Delivery::Progress { .. }) => {}
                Some(Delivery::Compacted { .. }) | None => return Ok(None),
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.core.metrics().v2.watcher(-1);
    }
}

/// The first of the kept events that the watch is for, and what is left after it. What was written
/// over and compacted meanwhile is passed over with all the rest: then the client was too slow.
fn next_kept(
    store: &Store,
    wish: &Wish,
    at: i64,
    mut kept: VecDeque<Bytes>,
) -> Result<(Option<V2Event>, VecDeque<Bytes>)> {
    while let Some(key) = kept.pop_front() {
        let options = RangeOptions {
            revision: at,
            ..RangeOptions::default()
        };
        let found = store.range(&key, &[], &options)?;
        let Some(pair) = found.kvs.first() else {
            continue;
        };
        let pair = KeyValue::decode(pair.clone())
            .map_err(|error| Error::Internal(format!("a stored event: {error}")))?;
        let event = v2::decode_event(&pair)?;
        if concerns(store, &event, wish) {
            return Ok((Some(event), kept));
        }
    }
    Ok((None, kept))
}

/// Whether a watch is told of an event: it is at the watched path; or below it, if the watch is
/// recursive and no element in between is hidden; or it removed a directory above the path with the
/// node there.
fn concerns(store: &Store, event: &V2Event, wish: &Wish) -> bool {
    let Some(node) = event.node.as_ref().filter(|_| !event.refresh) else {
        return false;
    };
    if node.key == wish.path {
        return true;
    }
    if let Some(below) = below(&node.key, &wish.path) {
        return wish.recursive && !below.windows(2).any(|bytes| bytes == b"/_");
    }
    let is_removal = matches!(&event.action[..], "delete" | "expire");
    let was_directory = event.prev_node.as_ref().is_some_and(|node| node.dir);
    is_removal && was_directory && below(&wish.path, &node.key).is_some() && {
        let before = i64::try_from(node.modified_index).unwrap_or(1) - 1;
        // What cannot be looked up any more may have been there.
        v2::existed(store, &wish.path, before).unwrap_or(true)
    }
}

/// What `path` has after `directory`, with the slash, if it is below it.
fn below<'a>(path: &'a [u8], directory: &[u8]) -> Option<&'a [u8]> {
    path.strip_prefix(directory)
        .filter(|below| below.first() == Some(&b'/'))
}
