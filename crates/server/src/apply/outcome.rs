//! What becomes of one command.

use kvd_api::error::WireError;
use kvd_api::pb::etcdserverpb::{AlarmResponse, DeleteRangeResponse, PutResponse, TxnResponse};
use kvd_api::pb::kvdcommandpb::V2Reply;
use kvd_raft::Fault;

use crate::error::Error;

/// The result of a command that was carried out.
///
/// Headers carry the revision only; the service that answers knows the rest.
#[derive(Clone, Debug, PartialEq)]
pub enum Applied {
    /// A pair was written.
    Put(PutResponse),
    /// Keys were deleted, perhaps none.
    DeleteRange(DeleteRangeResponse),
    /// One branch of a transaction was run.
    Txn(TxnResponse),
    /// Compaction is scheduled: reads below it fail from now on, space is freed in the background.
    Compacted {
        /// The store's current revision, which compaction does not change.
        revision: i64,
    },
    /// Alarms that were asked for, raised or cleared.
    Alarm(AlarmResponse),
    /// A lease was granted.
    LeaseGranted {
        /// Its ID.
        id: i64,
        /// Seconds that it lasts after each renewal.
        ttl: i64,
    },
    /// A lease is gone and its keys are deleted.
    LeaseRevoked,
    /// What is left of leases is noted.
    LeasesCheckpointed,
    /// Users, roles or whether auth is on are as asked for.
    AuthChanged,
    /// Members know a token.
    TokenAssigned {
        /// The log index at which they learnt of it.
        index: u64,
    },
    /// A member's name and client URLs are known.
    Published,
    /// The cluster's version is set.
    ClusterVersionSet,
    /// A downgrade job is started or ended.
    DowngradeSet,
    /// What the v2 tree says to a request, refusals included.
    V2(V2Reply),
}

/// Why a command was not carried out.
#[derive(Debug)]
pub(super) enum Failure {
    /// The same on every member: for the caller.
    Answer(Error),
    /// This member's own: it must stop.
    Fault(Fault),
}

impl Failure {
    /// A fault with the error that caused it.
    pub(super) fn fault(error: impl std::error::Error + Send + Sync + 'static) -> Failure {
        Failure::Fault(Fault::with_source("applying a command failed", error))
    }

    /// A broken invariant of ours.
    pub(super) fn broken(invariant: &str) -> Failure {
        Failure::Fault(Fault::new(invariant))
    }
}

/// The result of one command.
pub(super) type Outcome<T> = Result<T, Failure>;

impl From<WireError> for Failure {
    fn from(error: WireError) -> Failure {
        Failure::Answer(error.into())
    }
}

impl From<kvd_mvcc::Error> for Failure {
    fn from(error: kvd_mvcc::Error) -> Failure {
        if error.is_answer() {
            Failure::Answer(error.into())
        } else {
            Failure::fault(error)
        }
    }
}
