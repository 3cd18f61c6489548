//! The leases of this member: what apply says there is and, while it leads, when each runs out.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kvd_api::pb::kvdcommandpb::LeaseRecord;
use kvd_mvcc::{Expiry, LeaseChange, Lessor, Store, Table};
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::watch;

use crate::apply::v2;
use crate::auth::LeaseKeys;
use crate::error::{Error, Result};
use crate::limits;

/// All leases. Apply changes what there is; the expiry loop and renewals change when it runs out.
pub struct Leases {
    state: Mutex<State>,
    /// Held from choosing checkpoints until they are applied, so that a renewal's clearing of a
    /// checkpoint never overtakes it.
    pub(super) checkpoints: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    lessor: Lessor,
    /// Set while this member leads and manages the leases.
    primary: Option<Primary>,
}

struct Primary {
    term: u64,
    expiry: Expiry,
    /// Renewals of expired leases that wait for the revoke. Dropping the sender ends the wait.
    waiting: HashMap<i64, watch::Sender<()>>,
}

/// What became of a renewal.
pub enum Renewal {
    /// This member does not manage the leases in this term.
    NotPrimary,
    /// There is no such lease.
    Unknown,
    /// It has run out and is about to be revoked; the receiver fails when that is settled.
    Expired(watch::Receiver<()>),
    /// A checkpoint must be cleared first.
    Checkpointed,
    /// Renewed for so many seconds.
    Renewed(i64),
}

/// What the leader knows of a lease.
#[derive(Debug, PartialEq, Eq)]
pub enum TimeToLive {
    /// This member does not manage the leases in this term.
    NotPrimary,
    /// There is no such lease.
    Unknown,
    /// The lease is there.
    Known {
        /// Whole seconds that are left; negative while it waits to be revoked for that long.
        ttl: i64,
        /// Seconds that were granted.
        granted_ttl: i64,
        /// The keys in byte order, if asked for.
        keys: Vec<Bytes>,
    },
}

impl LeaseKeys for Leases {
    fn lease_keys(&self, id: i64) -> Vec<Bytes> {
        self.keys(id).unwrap_or_default()
    }
}

impl Leases {
    /// The leases that `store` holds.
    ///
    /// Errors: [`Error::Internal`] when a stored lease cannot be read.
    pub fn restore(store: &Store) -> Result<Leases> {
        let leases = Leases {
            state: Mutex::default(),
            checkpoints: tokio::sync::Mutex::default(),
        };
        leases.reload(store)?;
        Ok(leases)
    }

    /// Replaces the leases by those that `store` holds.
    ///
    /// Errors: [`Error::Internal`] when a stored lease cannot be read.
    pub(crate) fn reload(&self, store: &Store) -> Result<()> {
        let mut lessor = Lessor::default();
        for (_, record) in store.table_scan(Table::Lease) {
            let record = LeaseRecord::decode(record)
                .map_err(|error| Error::Internal(format!("a stored lease is damaged: {error}")))?;
            lessor.grant(record.id, record.ttl, record.remaining_ttl);
        }
        if !lessor.is_empty() {
            for (key, to) in store.leased_keys() {
                lessor.change(&LeaseChange { key, from: 0, to });
            }
        }
        let mut state = self.state.lock();
        state.lessor = lessor;
        // Only followers install snapshots; whoever leads next makes its own deadlines.
        state.primary = None;
        Ok(())
    }

    /// Adds a lease; false when the ID is in use.
    pub(crate) fn grant(&self, id: i64, ttl: i64) -> bool {
        let mut state = self.state.lock();
        let State { lessor, primary } = &mut *state;
        let granted = lessor.grant(id, ttl, 0);
        if granted && let Some(primary) = primary {
            // The only use of the clock while applying. Nothing replicated depends on it.
            let now = Instant::now();
            primary.expiry.set(id, now + seconds(ttl), now);
        }
        granted
    }

    /// Takes the keys of a lease away, in byte order, to be deleted before [`Self::revoke`]; `None`
    /// for an unknown one. They may be many: nothing is done with them under the lock.
    pub(crate) fn take_keys(&self, id: i64) -> Option<BTreeSet<Box<[u8]>>> {
        self.state.lock().lessor.take_keys(id)
    }

    /// The keys of a lease in byte order; `None` for an unknown one.
    pub(crate) fn keys(&self, id: i64) -> Option<Vec<Bytes>> {
        let state = self.state.lock();
        let lease = state.lessor.get(id)?;
        Some(lease.keys().map(Bytes::copy_from_slice).collect())
    }

    /// Whether a lease is a TTL of the v2 tree.
    pub(crate) fn is_v2(&self, id: i64) -> bool {
        let state = self.state.lock();
        let lease = state.lessor.get(id);
        lease.is_some_and(|lease| lease.keys().next().is_some_and(v2::is_reserved))
    }

    /// Forgets a lease whose keys have been deleted.
    pub(crate) fn revoke(&self, id: i64) {
        let mut state = self.state.lock();
        state.lessor.revoke(id);
        if let Some(primary) = &mut state.primary {
            primary.expiry.remove(id);
            primary.waiting.remove(&id);
        }
    }

    /// Notes what is left of a lease. Returns what to store of it; `None` for an unknown one.
    pub(crate) fn checkpoint(&self, id: i64, remaining_ttl: i64) -> Option<LeaseRecord> {
        let mut state = self.state.lock();
        let lease = state.lessor.checkpoint(id, remaining_ttl)?;
        Some(LeaseRecord {
            id,
            ttl: lease.granted_ttl(),
            remaining_ttl,
        })
    }

    /// Moves keys between leases.
    pub(crate) fn change(&self, changes: &[LeaseChange]) {
        if changes.is_empty() {
            return;
        }
        let mut state = self.state.lock();
        for change in changes {
            state.lessor.change(change);
        }
    }

    /// Whether there is such a lease.
    pub fn contains(&self, id: i64) -> bool {
        self.state.lock().lessor.get(id).is_some()
    }

    /// How many leases there are.
    pub fn len(&self) -> usize {
        self.state.lock().lessor.len()
    }

    /// Whether there is no lease.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The IDs of all leases but those of v2's TTLs: by deadline where this member leads, else by
    /// ID.
    pub fn ids(&self) -> Vec<i64> {
        let state = self.state.lock();
        let mut ids: Vec<_> = state
            .lessor
            .iter()
            .filter(|(_, lease)| !lease.keys().next().is_some_and(v2::is_reserved))
            .map(|(id, _)| {
                let primary = state.primary.as_ref();
                (primary.and_then(|primary| primary.expiry.deadline(id)), id)
            })
            .collect();
        drop(state);
        ids.sort_unstable();
        ids.into_iter().map(|(_, id)| id).collect()
    }

    /// Begins to manage the leases for the leader of `term`: each lives from `now` on for its TTL,
    /// or what was left at its last checkpoint, and `extend`. Where many would run out at once,
    /// those that are too many for one second live longer.
    pub(super) fn promote(&self, term: u64, now: Instant, extend: Duration) {
        let mut state = self.state.lock();
        let lessor = &state.lessor;
        let mut deadlines: Vec<(Instant, i64)> = lessor
            .iter()
            .map(|(id, lease)| (now + seconds(lease.ttl_to_grant()) + extend, id))
            .collect();
        deadlines.sort_unstable();
        let a_second = limits::LEASE_EXPIRIES_AFTER_ELECTION;
        for at in a_second..deadlines.len() {
            let earliest = deadlines[at - a_second].0 + Duration::from_secs(1);
            deadlines[at].0 = deadlines[at].0.max(earliest);
        }
        let mut expiry = Expiry::new(limits::LEASE_CHECKPOINT_INTERVAL);
        for (deadline, id) in deadlines {
            expiry.set(id, deadline, now);
        }
        state.primary = Some(Primary {
            term,
            expiry,
            waiting: HashMap::new(),
        });
    }

    /// Ends managing the leases; renewals that wait are told.
    pub(super) fn demote(&self) {
        self.state.lock().primary = None;
    }

    /// Renews a lease from `now` on, if this member manages the leases in `term`.
    pub fn renew(&self, id: i64, term: u64, now: Instant) -> Renewal {
        let mut state = self.state.lock();
        let State { lessor, primary } = &mut *state;
        let Some(primary) = primary.as_mut().filter(|primary| primary.term == term) else {
            return Renewal::NotPrimary;
        };
        let Some(lease) = lessor.get(id) else {
            return Renewal::Unknown;
        };
        if primary
            .expiry
            .deadline(id)
            .is_none_or(|deadline| deadline <= now)
        {
            let waiting = primary.waiting.entry(id);
            let sender = waiting.or_insert_with(|| watch::channel(()).0);
            return Renewal::Expired(sender.subscribe());
        }
        if lease.remaining_ttl() > 0 || primary.expiry.is_checkpointed(id) {
            return Renewal::Checkpointed;
        }
        let ttl = lease.granted_ttl();
        primary.expiry.set(id, now + seconds(ttl), now);
        Renewal::Renewed(ttl)
    }

    /// The checkpoints of the lease are cleared: the caller has applied that.
    pub(super) fn cleared(&self, id: i64) {
        if let Some(primary) = &mut self.state.lock().primary {
            primary.expiry.cleared(id);
        }
    }

    /// What is left of a lease at `now`, if this member manages the leases in `term`.
    pub fn time_to_live(&self, id: i64, term: u64, now: Instant, want_keys: bool) -> TimeToLive {
        let state = self.state.lock();
        let Some(primary) = state.primary.as_ref().filter(|p| p.term == term) else {
            return TimeToLive::NotPrimary;
        };
        let (Some(lease), Some(deadline)) = (state.lessor.get(id), primary.expiry.deadline(id))
        else {
            return TimeToLive::Unknown;
        };
        let ttl = if deadline >= now {
            whole_seconds(deadline - now)
        } else {
            -whole_seconds(now - deadline)
        };
        let keys = lease.keys().filter(|_| want_keys);
        TimeToLive::Known {
            ttl,
            granted_ttl: lease.granted_ttl(),
            keys: keys.map(Bytes::copy_from_slice).collect(),
        }
    }

    /// Leases that have run out at `now`, at most `limit`; none unless this member leads.
    pub(super) fn take_expired(&self, now: Instant, limit: usize) -> Vec<i64> {
        match &mut self.state.lock().primary {
            Some(primary) => primary
                .expiry
                .take_expired(now, limit, limits::LEASE_EXPIRY_RETRY),
            None => Vec::new(),
        }
    }

    /// Whether a lease that was taken as expired still is: it has not been revoked since.
    pub(super) fn is_expired(&self, id: i64, now: Instant) -> bool {
        let state = self.state.lock();
        let deadline = state.primary.as_ref().and_then(|p| p.expiry.deadline(id));
        deadline.is_some_and(|deadline| deadline <= now)
    }

    /// Leases whose checkpoint is due at `now`, with the seconds that are left, rounded up.
    pub(super) fn take_checkpoints(&self, now: Instant, limit: usize) -> Vec<(i64, i64)> {
        let mut state = self.state.lock();
        let State { lessor, primary } = &mut *state;
        let Some(primary) = primary else {
            return Vec::new();
        };
        let due = primary.expiry.take_checkpoints(now, limit);
        let left = due.into_iter().map(|(id, left)| {
            let up = i64::from(left.subsec_nanos() > 0);
            (id, whole_seconds(left).saturating_add(up))
        });
        // A lease that has more than its TTL left, after an election, needs no checkpoint.
        left.filter(|(id, left)| lessor.get(*id).is_some_and(|l| *left < l.granted_ttl()))
            .collect()
    }
}

fn seconds(ttl: i64) -> Duration {
    // Apply bounds TTLs far below what an instant can hold.
    Duration::from_secs(
        u64::try_from(ttl)
            .unwrap_or(0)
            .min(limits::LEASE_TTL_MAX_SECONDS),
    )
}

fn whole_seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
