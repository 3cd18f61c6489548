//! When leases run out, in order: the leader's side, which is never replicated.
//!
//! Each lease stands in one ordered set by the time at which it wants attention: its deadline, and
//! after that the next try to have it revoked. A second set holds the times of checkpoints, for
//! leases that last longer than the time between two of them. Both cost one look-up a change,
//! however many leases there are; what is not due is never touched.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

/// The deadlines of all leases.
#[derive(Debug, Default)]
pub struct Expiry {
    entries: HashMap<i64, Entry>,
    wakes: BTreeSet<(Instant, i64)>,
    checkpoints: BTreeSet<(Instant, i64)>,
    /// Time between two checkpoints of a lease.
    interval: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    deadline: Instant,
    /// The deadline, or the next try to revoke.
    wake: Instant,
    checkpoint: Option<Instant>,
    /// A checkpoint may be in the log that a renewal must clear.
    checkpointed: bool,
}

impl Expiry {
    /// No deadlines yet. `interval`: the time between two checkpoints of a lease.
    pub fn new(interval: Duration) -> Expiry {
        Expiry {
            interval,
            ..Expiry::default()
        }
    }

    /// Sets the deadline of a lease, new or renewed at `now`.
    pub fn set(&mut self, id: i64, deadline: Instant, now: Instant) {
        let mut checkpointed = false;
        if let Some(entry) = self.remove_entry(id) {
            checkpointed = entry.checkpointed;
        }
        let is_long = deadline.saturating_duration_since(now) > self.interval;
        let entry = Entry {
            deadline,
            wake: deadline,
            checkpoint: is_long.then(|| now + self.interval),
            checkpointed,
        };
        self.insert(id, entry);
    }

    /// Forgets a lease.
    pub fn remove(&mut self, id: i64) {
        self.remove_entry(id);
    }

    /// When the lease runs out.
    pub fn deadline(&self, id: i64) -> Option<Instant> {
        self.entries.get(&id).map(|entry| entry.deadline)
    }

    /// Up to `limit` leases whose deadline has come, oldest first. Each is given out again after
    /// `retry`, unless it is removed or renewed until then.
    pub fn take_expired(&mut self, now: Instant, limit: usize, retry: Duration) -> Vec<i64> {
        let due = self.wakes.range(..=(now, i64::MAX));
        let expired: Vec<i64> = due.take(limit).map(|(_, id)| *id).collect();
        for id in &expired {
            if let Some(mut entry) = self.remove_entry(*id) {
                entry.wake = now + retry;
                self.insert(*id, entry);
            }
        }
        expired
    }

    /// Up to `limit` leases whose checkpoint is due, with the time that is left of each. The next
    /// checkpoint of each is one interval away.
    pub fn take_checkpoints(&mut self, now: Instant, limit: usize) -> Vec<(i64, Duration)> {
        let due = self.checkpoints.range(..=(now, i64::MAX));
        let ids: Vec<i64> = due.take(limit).map(|(_, id)| *id).collect();
        let mut taken = Vec::with_capacity(ids.len());
        for id in ids {
            let Some(mut entry) = self.remove_entry(id) else {
                continue;
            };
            let left = entry.deadline.saturating_duration_since(now);
            if !left.is_zero() {
                taken.push((id, left));
                entry.checkpointed = true;
            }
            entry.checkpoint = (left > self.interval).then(|| now + self.interval);
            self.insert(id, entry);
        }
        taken
    }

    /// Whether a checkpoint of the lease was given out since the last [`Self::cleared`].
    pub fn is_checkpointed(&self, id: i64) -> bool {
        self.entries
            .get(&id)
            .is_some_and(|entry| entry.checkpointed)
    }

    /// No checkpoint of the lease is in force any more.
    pub fn cleared(&mut self, id: i64) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.checkpointed = false;
        }
    }

    fn insert(&mut self, id: i64, entry: Entry) {
        self.wakes.insert((entry.wake, id));
        if let Some(checkpoint) = entry.checkpoint {
            self.checkpoints.insert((checkpoint, id));
        }
        self.entries.insert(id, entry);
    }

    fn remove_entry(&mut self, id: i64) -> Option<Entry> {
        let entry = self.entries.remove(&id)?;
        self.wakes.remove(&(entry.wake, id));
        if let Some(checkpoint) = entry.checkpoint {
            self.checkpoints.remove(&(checkpoint, id));
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_lease_expires_at_its_deadline_and_not_before() {
        let start = Instant::now();
        let mut expiry = Expiry::new(300 * SECOND);
        expiry.set(1, start + 5 * SECOND, start);
        let almost = start + 5 * SECOND - Duration::from_nanos(1);
        assert!(expiry.take_expired(almost, 10, SECOND).is_empty());
        assert_eq!(expiry.take_expired(start + 5 * SECOND, 10, SECOND), [1]);
    }

    #[test]
    fn an_expired_lease_is_given_out_again_until_it_is_removed() {
        let start = Instant::now();
        let mut expiry = Expiry::new(300 * SECOND);
        expiry.set(1, start, start);
        assert_eq!(expiry.take_expired(start, 10, 3 * SECOND), [1]);
        assert!(expiry.take_expired(start + SECOND, 10, SECOND).is_empty());
        assert_eq!(expiry.take_expired(start + 3 * SECOND, 10, SECOND), [1]);
        expiry.remove(1);
        assert!(
            expiry
                .take_expired(start + 99 * SECOND, 10, SECOND)
                .is_empty()
        );
    }

    #[test]
    fn the_limit_takes_the_oldest_first() {
        let start = Instant::now();
        let mut expiry = Expiry::new(300 * SECOND);
        for id in 0..10_i64 {
            let age = u32::try_from(10 - id).expect("small");
            expiry.set(id, start + age * SECOND, start);
        }
        let now = start + 60 * SECOND;
        assert_eq!(expiry.take_expired(now, 3, SECOND), [9, 8, 7]);
        assert_eq!(expiry.take_expired(now, 3, SECOND), [6, 5, 4]);
    }

    #[test]
    fn only_long_leases_are_checkpointed_once_an_interval() {
        let start = Instant::now();
        let mut expiry = Expiry::new(300 * SECOND);
        expiry.set(1, start + 300 * SECOND, start);
        expiry.set(2, start + 1000 * SECOND, start);
        assert!(expiry.take_checkpoints(start + 299 * SECOND, 10).is_empty());
        let now = start + 300 * SECOND;
        assert_eq!(expiry.take_checkpoints(now, 10), [(2, 700 * SECOND)]);
        assert!(expiry.is_checkpointed(2) && !expiry.is_checkpointed(1));
        assert!(expiry.take_checkpoints(now, 10).is_empty());
        // A renewal moves the next checkpoint away, but what is in the log must be cleared still.
        let renewed = start + 500 * SECOND;
        expiry.set(2, renewed + 1000 * SECOND, renewed);
        assert!(expiry.is_checkpointed(2));
        assert!(expiry.take_checkpoints(start + 700 * SECOND, 10).is_empty());
        expiry.cleared(2);
        assert!(!expiry.is_checkpointed(2));
        let now = renewed + 300 * SECOND;
        assert_eq!(expiry.take_checkpoints(now, 10), [(2, 700 * SECOND)]);
        // What lasts no longer than an interval is not checkpointed again.
        let now = now + 300 * SECOND;
        assert_eq!(expiry.take_checkpoints(now, 10), [(2, 400 * SECOND)]);
        let now = now + 300 * SECOND;
        assert_eq!(expiry.take_checkpoints(now, 10), [(2, 100 * SECOND)]);
        assert!(expiry.take_checkpoints(now + 300 * SECOND, 10).is_empty());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Set(i64, u64),
        Remove(i64),
        Expire(u64, usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0_i64..8, 0_u64..50).prop_map(|(id, ttl)| Step::Set(id, ttl)),
            (0_i64..8).prop_map(Step::Remove),
            (0_u64..20, 1_usize..5).prop_map(|(pass, limit)| Step::Expire(pass, limit)),
        ]
    }

    proptest! {
        /// Against a map that is searched through each time.
        #[test]
        fn it_does_what_a_plain_map_does(steps in proptest::collection::vec(step(), 0..100)) {
            let start = Instant::now();
            let at = |second: u64| start + Duration::from_secs(second);
            let (mut now, retry) = (0_u64, 3_u64);
            let mut expiry = Expiry::new(300 * SECOND);
            let mut model: BTreeMap<i64, u64> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Set(id, ttl) => {
                        expiry.set(id, at(now + ttl), at(now));
                        model.insert(id, now + ttl);
                    }
                    Step::Remove(id) => {
                        expiry.remove(id);
                        model.remove(&id);
                    }
                    Step::Expire(pass, limit) => {
                        now += pass;
                        let mut due: Vec<(u64, i64)> = model
                            .iter()
                            .filter(|(_, wake)| **wake <= now)
                            .map(|(id, wake)| (*wake, *id))
                            .collect();
                        due.sort_unstable();
                        due.truncate(limit);
                        let wanted: Vec<i64> = due.into_iter().map(|(_, id)| id).collect();
                        let retry_after = Duration::from_secs(retry);
                        prop_assert_eq!(expiry.take_expired(at(now), limit, retry_after), &wanted[..]);
                        for id in wanted {
                            model.insert(id, now + retry);
                        }
                    }
                }
            }
        }
    }
}
