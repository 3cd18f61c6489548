//! Backups that are etcd's: the store as an etcd snapshot file, and a store made of one.
//!
//! ```text
//! snapshot file   a bbolt database (kvd_bbolt), then the SHA-256 of it (32 bytes)
//!
//! bucket           etcd's keys and values                          here
//! alarm            encoded AlarmMember → nothing                   Table::Alarm, the same
//! auth             authEnabled, authRevision                       Table::Auth, the same
//! authRoles        name → encoded authpb.Role                      Table::AuthRoles, the same
//! authUsers        name → encoded authpb.User                      Table::AuthUsers, the same
//! cluster          clusterVersion, downgrade                       Table::Cluster, the same
//! key              revision → encoded mvccpb.KeyValue              the records, the same
//! lease            ID, 8 bytes → encoded leasepb.Lease             Table::Lease, the same
//! members          ID in hex → JSON                                Table::Members, translated
//! members_removed  ID in hex → "removed"                           Table::MembersRemoved, translated
//! meta             consistent_index, term, confState,              the position and the members
//!                  storageVersion
//!                  scheduledCompactRev, finishedCompactRev         Table::Meta, the same
//! ```
//!
//! [`export`](mod@export) writes the database from a [`Content`](kvd_mvcc::Content) in one pass;
//! [`Restore`] makes the data directory of a new member from a file. Who is in the cluster and how
//! far the log is does not come back from a file: a restored cluster is a new one.
//!
//! Source: etcd `server/storage/schema`, `etcdutl/snapshot/v3_snapshot.go`.

mod export;
mod file;
mod member;
mod restore;

pub use export::export;
pub use file::{HASH_BYTES, SnapshotFile};
pub use restore::{Import, Restore};

/// etcd's buckets, in the order in which a database holds them.
pub const BUCKETS: [&str; 10] = [
    "alarm",
    "auth",
    "authRoles",
    "authUsers",
    "cluster",
    "key",
    "lease",
    "members",
    "members_removed",
    "meta",
];
