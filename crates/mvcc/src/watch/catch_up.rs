//! The thread that reads the past for watchers that are behind.
//!
//! It takes them in turn: the next one whose client has room says where a slice of records starts,
//! and all others that need something of the slice get it from the same read. A slice ends after
//! 1,000 records or 4 MiB, at the end of a revision. Once the slice reaches the hub's revision, the
//! last few revisions are read under the hub's lock, and the watchers change hands there.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;

use super::group::Group;
use super::hub::{Batch, State};
use super::outbox::{Delivery, Item};
use super::watcher::{Place, Watcher};
use crate::error::{Error, Result};
use crate::lanes::Heaps;
use crate::revision::{RevKey, Revision};
use crate::store::Core;

/// Most records in a slice, unless one revision has more; so many revisions has one response.
const SLICE_RECORDS: usize = 1000;
/// Most bytes in a slice, unless one revision has more.
const SLICE_BYTES: usize = 4 << 20;
/// Most watchers that share a slice: what the hub's lock is held for when they change hands.
const PARTY_MAX: usize = 2048;
/// Most revisions read under the hub's lock.
const LAST_REVISIONS: i64 = 32;
/// Slices that one party gets before it is others' turn.
const ROUNDS: usize = 16;
/// The pause after a read that failed.
const RETRY: Duration = Duration::from_millis(100);

/// Starts the thread. It ends with [`super::Hub::stop`].
pub(crate) fn spawn(core: Arc<Core>) -> Result<JoinHandle<()>> {
    let spawned = thread::Builder::new()
        .name("mvcc-watch".into())
        .spawn(move || run(&core));
    spawned.map_err(|source| Error::io("the watch thread", source))
}

fn run(core: &Core) {
    let mut behind = Vec::new();
    let mut busy = false;
    while core.hub.wait(&mut behind, busy) {
        busy = match pass(core, &mut behind) {
            Ok(busy) => busy,
            Err(error) => {
                tracing::warn!(%error, "reading what watchers missed failed; again");
                thread::sleep(RETRY);
                true
            }
        };
    }
}

/// Whole revisions in order, and the last one that was looked at.
struct Slice {
    records: Vec<(RevKey, Bytes)>,
    end: i64,
}

/// Serves one party of watchers; says whether there may be more to do at once.
fn pass(core: &Core, behind: &mut Vec<Arc<Watcher>>) -> Result<bool> {
    behind.retain(|watcher| watcher.place() == Place::Behind);
    let Some(first) = behind.iter().position(|watcher| watcher.outbox.has_room()) else {
        return Ok(false);
    };
    behind.rotate_left(first);
    let start = behind[0].next();
    let end = start.saturating_add(SLICE_RECORDS as i64);
    let mut group = Group::default();
    behind.retain(|watcher| {
        let joins = group.len() < PARTY_MAX
            && (start..end).contains(&watcher.next())
            && watcher.outbox.has_room();
        if joins {
            group.insert(Arc::clone(watcher));
        }
        !joins
    });
    let served = serve(core, &mut group, start, behind);
    // Whoever is not through goes to the end of the queue.
    behind.extend(group.take_all());
    served.map(|()| true)
}

/// Brings the watchers of `group` forward. Those without room go back to `behind`, those that have
/// everything to the hub.
fn serve(core: &Core, group: &mut Group, start: i64, behind: &mut Vec<Arc<Watcher>>) -> Result<()> {
    let mut from = start;
    for _ in 0..ROUNDS {
        if group.len() == 0 {
            return Ok(());
        }
        let to = core.hub.revision();
        if from <= to {
            let slice = read_slice(core, from, to)?;
            from = slice.end + 1;
            hand_out(core, group, slice, to, behind);
        }
        let mut state = core.hub.lock();
        if change_hands(core, &mut state, group, from, behind)? {
            return Ok(());
        }
    }
    Ok(())
}

/// Moves the watchers, which have everything before `from`, to the hub, unless there is too much
/// left to read under its lock; says so.
fn change_hands(
    core: &Core,
    state: &mut State,
    group: &mut Group,
    from: i64,
    behind: &mut Vec<Arc<Watcher>>,
) -> Result<bool> {
    if from.saturating_add(LAST_REVISIONS) <= state.revision {
        return Ok(false);
    }
    let mut from = from;
    while from <= state.revision {
        let slice = read_slice(core, from, state.revision)?;
        from = slice.end + 1;
        hand_out_locked(core, group, slice, state.revision, behind, Some(state));
    }
    for watcher in group.take_all() {
        // A watcher of the party may start after all of it.
        watcher.set_next(watcher.next().max(from));
        core.hub.admit(state, watcher);
    }
    Ok(true)
}

/// Reads the revisions from `from` on, up to `to` at most.
fn read_slice(core: &Core, from: i64, to: i64) -> Result<Slice> {
    let last = Revision::new(to, i64::MAX);
    let mut records: Vec<(RevKey, Bytes)> = Vec::new();
    let mut bytes = 0;
    let mut next = Revision::new(from, 0);
    loop {
        let limit = SLICE_RECORDS.saturating_sub(records.len()).max(1);
        let page = core.records.scan_page(next, last, limit)?;
        let Some((key, _)) = page.last() else {
            return Ok(Slice { records, end: to });
        };
        let after = key.revision().next();
        bytes += page.iter().map(|(_, record)| record.len()).sum::<usize>();
        records.extend(page);
        if records.len() >= SLICE_RECORDS || bytes >= SLICE_BYTES {
            break;
        }
        let Some(after) = after else {
            return Ok(Slice { records, end: to });
        };
        next = after;
    }
    finish_revision(core, records, to)
}

/// Cuts the records after the last revision that is surely whole; if there is but one, reads the
/// rest of it.
fn finish_revision(core: &Core, mut records: Vec<(RevKey, Bytes)>, to: i64) -> Result<Slice> {
    let Some(last) = records.last().map(|(key, _)| key.revision()) else {
        return Ok(Slice { records, end: to });
    };
    let whole = records.partition_point(|(key, _)| key.revision().main < last.main);
    if whole > 0 {
        records.truncate(whole);
        let end = last.main - 1;
        return Ok(Slice { records, end });
    }
    let mut next = last.next();
    while let Some(from) = next {
        let end = Revision::new(last.main, i64::MAX);
        let page = core.records.scan_page(from, end, SLICE_RECORDS)?;
        let Some((key, _)) = page.last() else { break };
        next = key.revision().next();
        records.extend(page);
    }
    let end = last.main;
    Ok(Slice { records, end })
}

fn hand_out(
    core: &Core,
    group: &mut Group,
    slice: Slice,
    revision: i64,
    behind: &mut Vec<Arc<Watcher>>,
) {
    hand_out_locked(core, group, slice, revision, behind, None);
}

/// Queues the slice's events for the watchers of `group`, and cancels those that a compaction came
/// before. `state`: the hub's lock, if the caller has it.
fn hand_out_locked(
    core: &Core,
    group: &mut Group,
    slice: Slice,
    revision: i64,
    behind: &mut Vec<Arc<Watcher>>,
    state: Option<&State>,
) {
    // What the slice misses because of a compaction is below this: it is asked after the read.
    let compacted = core.index.compacted_settled();
    let lost = group.filtered(|watcher| watcher.next() < compacted);
    for watcher in lost {
        group.remove(&watcher);
        cancel(core, &watcher, compacted, behind, state);
    }
    let mut batch = Batch::default();
    for (record, kv) in slice.records {
        batch.add(group, record, kv);
    }
    let mut wakes = Heaps::default();
    for (watcher, events, bytes) in batch.into_parts() {
        let events = events.into();
        if !core
            .hub
            .deliver(&watcher, events, bytes, revision, &mut wakes)
        {
            group.remove(&watcher);
            behind.push(watcher);
        }
    }
    let end = slice.end;
    group.each(|watcher| {
        if watcher.next() <= end {
            watcher.set_next(end + 1);
        }
    });
}

/// Ends a watcher whose next revision is gone.
fn cancel(
    core: &Core,
    watcher: &Arc<Watcher>,
    compact_revision: i64,
    behind: &mut Vec<Arc<Watcher>>,
    state: Option<&State>,
) {
    if state.is_some() {
        // The hub's lock is needed to let it go: the next pass does.
        behind.push(Arc::clone(watcher));
        return;
    }
    let serial = watcher.serial;
    let delivery = Delivery::Compacted {
        id: watcher.id,
        compact_revision,
    };
    core.hub.remove(watcher);
    let item = Item { serial, delivery };
    watcher.outbox.push_and_wake(item, 0, true);
}
