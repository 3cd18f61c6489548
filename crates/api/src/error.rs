//! The wire errors: every error that etcd's clients recognise, with its gRPC code and exact text.
//!
//! Client libraries map errors by their text, so the text is contract. This is the only place in
//! the workspace where a [`tonic::Status`] is built.
//!
//! Source: etcd `api/v3rpc/rpctypes/error.go` and `server/etcdserver/api/v3rpc/util.go`.

use tonic::{Code, Status};

macro_rules! wire_errors {
    ($($(#[$doc:meta])* $name:ident => $code:ident, $text:literal;)*) => {
        /// An error as etcd's clients know it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum WireError {
            $($(#[$doc])* $name,)*
        }

        impl WireError {
            /// Every row of the table.
            pub const ALL: &'static [WireError] = &[$(WireError::$name,)*];

            /// The gRPC code that etcd sends with it.
            pub fn code(self) -> Code {
                match self {
                    $(WireError::$name => Code::$code,)*
                }
            }

            /// The text that etcd sends, to the letter.
            pub fn message(self) -> &'static str {
                match self {
                    $(WireError::$name => $text,)*
                }
            }
        }
    };
}

wire_errors! {
    /// Raised by: empty key.
    EmptyKey => InvalidArgument, "etcdserver: key is not provided";
    /// Raised by: ignore_value/lease on absent key; empty txn op.
    KeyNotFound => InvalidArgument, "etcdserver: key not found";
    /// Raised by: ignore_value with value.
    ValueIsProvided => InvalidArgument, "etcdserver: value is provided";
    /// Raised by: ignore_lease with lease.
    LeaseIsProvided => InvalidArgument, "etcdserver: lease is provided";
    /// Raised by: txn size.
    TooManyOps => InvalidArgument, "etcdserver: too many operations in txn request";
    /// Raised by: txn overlap.
    DuplicateKey => InvalidArgument, "etcdserver: duplicate key given in txn request";
    /// Raised by: metadata not UTF-8.
    InvalidClientApiVersion => InvalidArgument, "etcdserver: invalid client api version";
    /// Raised by: bad enum.
    InvalidSortOption => InvalidArgument, "etcdserver: invalid sort option";
    /// Raised by: range, compact, hashkv, watch reason.
    Compacted => OutOfRange, "etcdserver: mvcc: required revision has been compacted";
    /// Raised by: range, compact, hashkv.
    FutureRevision => OutOfRange, "etcdserver: mvcc: required revision is a future revision";
    /// Raised by: quota / NOSPACE.
    NoSpace => ResourceExhausted, "etcdserver: mvcc: database space exceeded";
    /// Raised by: revoke, put with lease.
    RequestedLeaseNotFound => NotFound, "etcdserver: requested lease not found";
    /// Raised by: grant dup ID.
    LeaseAlreadyExists => FailedPrecondition, "etcdserver: lease already exists";
    /// Raised by: grant.
    TooLargeLeaseTtl => OutOfRange, "etcdserver: too large lease TTL";
    /// Raised by: watch stream.
    WatchCanceled => Cancelled, "etcdserver: watch canceled";
    /// Raised by: member add.
    MemberIdAlreadyExist => FailedPrecondition, "etcdserver: member ID already exist";
    /// Raised by: member add/update.
    PeerUrlsAlreadyExists => FailedPrecondition, "etcdserver: Peer URLs already exists";
    /// Raised by: add/remove/promote (wire code is Unknown, see below).
    NotEnoughStartedMembers => Unknown, "etcdserver: re-configuration failed due to not enough started members";
    /// Raised by: member add.
    MemberBadUrls => InvalidArgument, "etcdserver: given member URLs are invalid";
    /// Raised by: remove/update/promote; removed ID.
    MemberNotFound => NotFound, "etcdserver: member not found";
    /// Raised by: promote.
    MemberNotLearner => FailedPrecondition, "etcdserver: can only promote a learner member";
    /// Raised by: promote.
    LearnerNotReady => FailedPrecondition, "etcdserver: can only promote a learner member which is in sync with leader";
    /// Raised by: learner add.
    TooManyLearnerMembersInCluster => FailedPrecondition, "etcdserver: too many learner members in cluster";
    /// Raised by: peer hashkv.
    ClusterIdMismatch => FailedPrecondition, "etcdserver: cluster ID mismatch";
    /// Raised by: > max-request-bytes.
    RequestIsTooLarge => InvalidArgument, "etcdserver: request is too large";
    /// Raised by: apply backlog (wire code is Unknown).
    TooManyRequests => Unknown, "etcdserver: too many requests";
    /// Raised by: auth enable.
    RootUserDoesNotExist => FailedPrecondition, "etcdserver: root user does not exist";
    /// Raised by: auth enable.
    RootUserDoesNotHaveRootRole => FailedPrecondition, "etcdserver: root user does not have root role";
    /// Raised by: user add.
    UserNameAlreadyExists => FailedPrecondition, "etcdserver: user name already exists";
    /// Raised by: user add; missing credentials.
    UserNameIsEmpty => InvalidArgument, "etcdserver: user name is empty";
    /// Raised by: user ops; admin check of deleted user.
    UserNameNotFound => FailedPrecondition, "etcdserver: user name not found";
    /// Raised by: role add.
    RoleNameAlreadyExists => FailedPrecondition, "etcdserver: role name already exists";
    /// Raised by: role ops.
    RoleNameNotFound => FailedPrecondition, "etcdserver: role name not found";
    /// Raised by: role add.
    RoleNameIsEmpty => InvalidArgument, "etcdserver: role name is empty";
    /// Raised by: authenticate.
    AuthFailed => InvalidArgument, "etcdserver: authentication failed, invalid user ID or password";
    /// Raised by: grant with nil perm.
    PermissionNotGiven => InvalidArgument, "etcdserver: permission not given";
    /// Raised by: RBAC.
    PermissionDenied => PermissionDenied, "etcdserver: permission denied";
    /// Raised by: revoke role.
    RoleIsNotGrantedToTheUser => FailedPrecondition, "etcdserver: role is not granted to the user";
    /// Raised by: revoke permission.
    PermissionIsNotGrantedToTheRole => FailedPrecondition, "etcdserver: permission is not granted to the role";
    /// Raised by: authenticate.
    AuthenticationIsNotEnabled => FailedPrecondition, "etcdserver: authentication is not enabled";
    /// Raised by: token check.
    InvalidAuthToken => Unauthenticated, "etcdserver: invalid auth token";
    /// Raised by: root guard, bad permission range.
    InvalidAuthManagement => InvalidArgument, "etcdserver: invalid auth management";
    /// Raised by: stale token.
    RevisionOfAuthStoreIsOld => InvalidArgument, "etcdserver: revision of auth store is old";
    /// Raised by: hasleader metadata; forwarding.
    NoLeader => Unavailable, "etcdserver: no leader";
    /// Raised by: MoveLeader on follower.
    NotLeader => FailedPrecondition, "etcdserver: not leader";
    /// Raised by: ReadIndex, TimeToLive.
    LeaderChanged => Unavailable, "etcdserver: leader changed";
    /// Raised by: v3 capability missing.
    NotCapable => FailedPrecondition, "etcdserver: not capable";
    /// Raised by: shutdown.
    ServerStopped => Unavailable, "etcdserver: server stopped";
    /// Raised by: propose/read timeout.
    Timeout => Unavailable, "etcdserver: request timed out";
    /// Raised by: propose timeout.
    TimeoutDueToLeaderFail => Unavailable, "etcdserver: request timed out, possibly due to previous leader failure";
    /// Raised by: propose timeout.
    TimeoutDueToConnectionLost => Unavailable, "etcdserver: request timed out, possibly due to connection lost";
    /// Raised by: lease ops, promote.
    TimeoutWaitAppliedIndex => Unavailable, "etcdserver: request timed out, waiting for the applied index took too long";
    /// Raised by: strict reconfig.
    UnhealthyCluster => Unavailable, "etcdserver: unhealthy cluster";
    /// Raised by: CORRUPT alarm.
    CorruptCluster => DataLoss, "etcdserver: corrupt cluster";
    /// Raised by: learner.
    NotSupportedForLearner => FailedPrecondition, "etcdserver: rpc not supported for learner";
    /// Raised by: MoveLeader.
    BadLeaderTransferee => FailedPrecondition, "etcdserver: bad leader transferee";
    /// Raised by: downgrade.
    WrongDowngradeTargetVersionFormat => InvalidArgument, "etcdserver: wrong downgrade target version format";
    /// Raised by: downgrade.
    InvalidDowngradeTargetVersion => InvalidArgument, "etcdserver: invalid downgrade target version";
    /// Raised by: downgrade.
    ClusterVersionUnavailable => FailedPrecondition, "etcdserver: cluster version not found during downgrade";
    /// Raised by: downgrade.
    DowngradeInProcess => FailedPrecondition, "etcdserver: cluster has a downgrade job in progress";
    /// Raised by: defined; CANCEL swallows it.
    NoInflightDowngrade => FailedPrecondition, "etcdserver: no inflight downgrade job";
    /// Raised by: propose with cancelled ctx.
    RequestCanceled => Cancelled, "etcdserver: request canceled";
    /// Raised by: defined; plain ctx errors pass through instead.
    ContextDeadlineExceeded => DeadlineExceeded, "etcdserver: context deadline exceeded";
    /// Raised by: MoveLeader.
    TimeoutLeaderTransfer => Unknown, "etcdserver: request timed out, leader transfer took too long";
    /// Raised by: bad downgrade action.
    UnknownMethod => Unknown, "etcdserver: unknown method";
    /// Raised by: a lock whose key is gone when its turn comes.
    MutexSessionExpired => Unknown, "mutex: session is expired";
    /// Raised by: Election.Leader of an election without candidates.
    ElectionNoLeader => Unknown, "election: no leader";
    /// Raised by: Election.Proclaim by who does not lead; a campaign whose key is gone.
    ElectionNotLeader => Unknown, "election: not leader";
    /// Raised by: Election.Proclaim and Resign without `leader`.
    ElectionLeaderMissing => Unknown, "\"leader\" field must be provided";
    /// Raised by: RangeStream with an explicit order.
    RangeStreamSort => Unimplemented, "RangeStream does not support custom sort orders";
    /// Raised by: RangeStream with a revision filter.
    RangeStreamFilter => Unimplemented, "RangeStream does not support revision filters";
    /// Raised by: a put of a key that the v2 API keeps its tree under. kvd's own.
    ReservedKey => InvalidArgument, "kvd: the key is in the range that is reserved for the v2 API";
}

impl WireError {
    /// The error of the table that a member answered with.
    pub fn of(status: &Status) -> Option<WireError> {
        let is_same = |error: &&WireError| {
            error.message() == status.message() && error.code() == status.code()
        };
        WireError::ALL.iter().find(is_same).copied()
    }
}

impl std::fmt::Display for WireError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for WireError {}

impl From<WireError> for Status {
    fn from(error: WireError) -> Status {
        Status::new(error.code(), error.message())
    }
}

/// A part of etcd's API that kvd does not have yet; `rpc` is its full name.
pub fn unimplemented(rpc: &str) -> Status {
    Status::unimplemented(format!("kvd does not implement {rpc} yet"))
}

/// A fault of this member: something that no client can cause or mend.
pub fn internal(text: impl Into<String>) -> Status {
    Status::internal(text)
}

/// An answer with code Unknown, which etcd uses for errors outside its table.
pub fn unknown(text: impl Into<String>) -> Status {
    Status::unknown(text)
}

/// A request whose own deadline passed while the server worked on it.
pub fn deadline_exceeded() -> Status {
    Status::deadline_exceeded("context deadline exceeded")
}

/// A peer that is not, or no longer, one this member talks to: another cluster's, or one that
/// means another member.
pub fn peer_refused(text: impl Into<String>) -> Status {
    Status::failed_precondition(text)
}

/// What a peer is told that was removed from the cluster.
const PEER_REMOVED: &str = "the member has been permanently removed from the cluster";

/// A peer that was removed from the cluster, and does not know it yet.
pub fn peer_removed() -> Status {
    Status::failed_precondition(PEER_REMOVED)
}

/// Whether a peer answered that this member was removed.
pub fn is_peer_removed(status: &Status) -> bool {
    status.code() == Code::FailedPrecondition && status.message() == PEER_REMOVED
}

/// A peer's request that cannot be served now.
pub fn peer_unavailable(text: impl Into<String>) -> Status {
    Status::unavailable(text)
}

/// A peer's message that lacks something or contradicts itself.
pub fn peer_malformed(text: impl Into<String>) -> Status {
    Status::invalid_argument(text)
}

/// The answer of gRPC for Go to a message over the limit, when `headers` are tonic's answer to
/// one. `limit` is in bytes. The size of the message is taken from tonic's text.
pub fn too_large(headers: &http::HeaderMap, limit: usize) -> Option<Status> {
    let code = headers.get("grpc-status")?;
    if code != "11" {
        return None;
    }
    too_large_in_stream(&Status::from_header_map(headers)?, limit)
}

/// As [`too_large`], for the error with which a stream of requests ended.
pub fn too_large_in_stream(status: &Status, limit: usize) -> Option<Status> {
    if status.code() != Code::OutOfRange {
        return None;
    }
    let found = status
        .message()
        .strip_prefix("Error, decoded message length too large: found ")?;
    let size = found.split(' ').next()?;
    Some(Status::resource_exhausted(format!(
        "grpc: received message larger than max ({size} vs. {limit})"
    )))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_text_of_the_table_is_used_once() {
        let texts: HashSet<&str> = WireError::ALL.iter().map(|error| error.message()).collect();
        assert_eq!(texts.len(), WireError::ALL.len());
    }

    #[test]
    fn an_oversized_message_is_refused_in_the_words_of_grpc_for_go() {
        let tonic = Status::out_of_range(
            "Error, decoded message length too large: found 3000000 bytes, \
             the limit is: 2097152 bytes",
        );
        let in_stream = too_large_in_stream(&tonic, 2_097_152).expect("recognised");
        let response: http::Response<()> = tonic.into_http();
        let status = too_large(response.headers(), 2_097_152).expect("recognised");
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(
            status.message(),
            "grpc: received message larger than max (3000000 vs. 2097152)"
        );
        assert_eq!(in_stream.message(), status.message());
    }
}
