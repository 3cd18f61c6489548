//! The replicated state of all leases.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;

/// A key that goes from one lease to another. Zero means no lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseChange {
    /// The key.
    pub key: Bytes,
    /// The lease that it was attached to.
    pub from: i64,
    /// The lease that it is attached to now.
    pub to: i64,
}

/// One lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    granted_ttl: i64,
    remaining_ttl: i64,
    keys: BTreeSet<Box<[u8]>>,
}

impl Lease {
    /// Seconds that the lease lasts after each renewal.
    pub fn granted_ttl(&self) -> i64 {
        self.granted_ttl
    }

    /// Seconds that were left at the last checkpoint since the last renewal; zero when there was
    /// no such checkpoint.
    pub fn remaining_ttl(&self) -> i64 {
        self.remaining_ttl
    }

    /// Seconds that a leader who knows nothing else must grant it from now on.
    pub fn ttl_to_grant(&self) -> i64 {
        if self.remaining_ttl > 0 {
            self.remaining_ttl
        } else {
            self.granted_ttl
        }
    }

    /// The attached keys in byte order.
    pub fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.keys.iter().map(AsRef::as_ref)
    }
}

/// All leases, by ID.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lessor {
    leases: HashMap<i64, Lease>,
}

impl Lessor {
    /// Adds a lease; false, and no change, when the ID is in use.
    ///
    /// `remaining_ttl`: zero, but for a lease that is read back from the store.
    pub fn grant(&mut self, id: i64, granted_ttl: i64, remaining_ttl: i64) -> bool {
        if self.leases.contains_key(&id) {
            return false;
        }
        self.leases.insert(
            id,
            Lease {
                granted_ttl,
                remaining_ttl,
                keys: BTreeSet::new(),
            },
        );
        true
    }

    /// Takes the keys of a lease away, in byte order: they are about to be deleted, and it is about
    /// to be revoked. `None` for an unknown one.
    pub fn take_keys(&mut self, id: i64) -> Option<BTreeSet<Box<[u8]>>> {
        Some(std::mem::take(&mut self.leases.get_mut(&id)?.keys))
    }

    /// Takes a lease out. Its keys are the caller's to delete.
    pub fn revoke(&mut self, id: i64) -> Option<Lease> {
        self.leases.remove(&id)
    }

    /// Notes what is left of a lease, zero when it was renewed; `None` for an unknown one.
    pub fn checkpoint(&mut self, id: i64, remaining_ttl: i64) -> Option<&Lease> {
        let lease = self.leases.get_mut(&id)?;
        lease.remaining_ttl = remaining_ttl;
        Some(lease)
    }

    /// Moves a key between leases. A lease that is not there is passed over.
    pub fn change(&mut self, change: &LeaseChange) {
        if change.from == change.to {
            return;
        }
        if let Some(lease) = self.leases.get_mut(&change.from) {
            lease.keys.remove(&change.key[..]);
        }
        if let Some(lease) = self.leases.get_mut(&change.to) {
            // A copy of its own: the key may be a slice of a whole log entry.
            lease.keys.insert(Box::from(&change.key[..]));
        }
    }

    /// The lease of this ID.
    pub fn get(&self, id: i64) -> Option<&Lease> {
        self.leases.get(&id)
    }

    /// All leases, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (i64, &Lease)> {
        self.leases.iter().map(|(id, lease)| (*id, lease))
    }

    /// How many leases there are.
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    /// Whether there is no lease.
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(key: &'static str, from: i64, to: i64) -> LeaseChange {
        LeaseChange {
            key: Bytes::from_static(key.as_bytes()),
            from,
            to,
        }
    }

    fn keys(lessor: &Lessor, id: i64) -> Vec<&[u8]> {
        lessor.get(id).expect("granted").keys().collect()
    }

    #[test]
    fn an_id_is_granted_once_until_it_is_revoked() {
        let mut lessor = Lessor::default();
        assert!(lessor.grant(1, 10, 0));
        assert!(!lessor.grant(1, 20, 0));
        assert_eq!(lessor.get(1).map(Lease::granted_ttl), Some(10));
        assert!(lessor.revoke(1).is_some());
        assert!(lessor.revoke(1).is_none());
        assert!(lessor.grant(1, 20, 0));
        assert_eq!(lessor.len(), 1);
    }

    #[test]
    fn a_key_is_with_one_lease_at_a_time() {
        let mut lessor = Lessor::default();
        assert!(lessor.grant(1, 10, 0) && lessor.grant(2, 10, 0));
        lessor.change(&change("b", 0, 1));
        lessor.change(&change("a", 0, 1));
        assert_eq!(keys(&lessor, 1), [b"a", b"b"]);
        lessor.change(&change("a", 1, 2));
        assert_eq!((keys(&lessor, 1).len(), keys(&lessor, 2).len()), (1, 1));
        lessor.change(&change("a", 2, 0));
        lessor.change(&change("b", 1, 9));
        assert!(keys(&lessor, 1).is_empty() && keys(&lessor, 2).is_empty());
    }

    #[test]
    fn a_checkpoint_shortens_what_a_new_leader_grants_until_it_is_cleared() {
        let mut lessor = Lessor::default();
        assert!(lessor.grant(1, 600, 0));
        let to_grant = |lessor: &Lessor| lessor.get(1).map(Lease::ttl_to_grant);
        assert_eq!(to_grant(&lessor), Some(600));
        assert!(lessor.checkpoint(1, 300).is_some());
        assert_eq!(to_grant(&lessor), Some(300));
        assert!(lessor.checkpoint(1, 0).is_some());
        assert_eq!(to_grant(&lessor), Some(600));
        assert!(lessor.checkpoint(2, 5).is_none());
    }
}
