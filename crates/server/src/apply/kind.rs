//! The kinds of commands, and how long each takes.
//!
//! Source: etcd `server/etcdserver/v3_server.go`, `getRequestType`.

use std::time::Duration;

use kvd_api::pb::kvdcommandpb::command::Request;

use crate::metrics::Outcomes;

/// The kinds of commands, by etcd's names.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Put,
    DeleteRange,
    Txn,
    Compaction,
    Alarm,
    ClusterMemberAttrSet,
    ClusterVersionSet,
    LeaseGrant,
    LeaseRevoke,
    LeaseCheckpoint,
    DowngradeInfoSet,
    AuthEnable,
    AuthDisable,
    Authenticate,
    AuthUserAdd,
    AuthUserDelete,
    AuthUserChangePassword,
    AuthUserGrantRole,
    AuthUserRevokeRole,
    AuthRoleAdd,
    AuthRoleDelete,
    AuthRoleGrantPermission,
    AuthRoleRevokePermission,
    V2,
}

impl Kind {
    /// The kind of a command.
    pub(crate) fn of(request: &Request) -> Kind {
        match request {
            Request::Put(_) => Kind::Put,
            Request::DeleteRange(_) => Kind::DeleteRange,
            Request::Txn(_) => Kind::Txn,
            Request::Compaction(_) => Kind::Compaction,
            Request::Alarm(_) => Kind::Alarm,
            Request::PublishMember(_) => Kind::ClusterMemberAttrSet,
            Request::SetClusterVersion(_) => Kind::ClusterVersionSet,
            Request::LeaseGrant(_) => Kind::LeaseGrant,
            Request::LeaseRevoke(_) | Request::LeaseExpire(_) => Kind::LeaseRevoke,
            Request::LeaseCheckpoint(_) => Kind::LeaseCheckpoint,
            Request::DowngradeInfoSet(_) => Kind::DowngradeInfoSet,
            Request::AuthEnable(_) => Kind::AuthEnable,
            Request::AuthDisable(_) => Kind::AuthDisable,
            Request::Authenticate(_) => Kind::Authenticate,
            Request::AuthUserAdd(_) => Kind::AuthUserAdd,
            Request::AuthUserDelete(_) => Kind::AuthUserDelete,
            Request::AuthUserChangePassword(_) => Kind::AuthUserChangePassword,
            Request::AuthUserGrantRole(_) => Kind::AuthUserGrantRole,
            Request::AuthUserRevokeRole(_) => Kind::AuthUserRevokeRole,
            Request::AuthRoleAdd(_) => Kind::AuthRoleAdd,
            Request::AuthRoleDelete(_) => Kind::AuthRoleDelete,
            Request::AuthRoleGrantPermission(_) => Kind::AuthRoleGrantPermission,
            Request::AuthRoleRevokePermission(_) => Kind::AuthRoleRevokePermission,
            Request::V2(_) => Kind::V2,
        }
    }

    /// etcd's name.
    pub(crate) fn name(self) -> &'static str {
        NAMES[self as usize]
    }
}

/// How many kinds there are.
const KINDS: usize = 24;

/// etcd's names, in the order of [`Kind`].
const NAMES: [&str; KINDS] = [
    "Put",
    "DeleteRange",
    "Txn",
    "Compaction",
    "Alarm",
    "ClusterMemberAttrSet",
    "ClusterVersionSet",
    "LeaseGrant",
    "LeaseRevoke",
    "LeaseCheckpoint",
    "DowngradeInfoSet",
    "AuthEnable",
    "AuthDisable",
    "Authenticate",
    "AuthUserAdd",
    "AuthUserDelete",
    "AuthUserChangePassword",
    "AuthUserGrantRole",
    "AuthUserRevokeRole",
    "AuthRoleAdd",
    "AuthRoleDelete",
    "AuthRoleGrantPermission",
    "AuthRoleRevokePermission",
    "V2",
];

/// How long something takes that is done with commands, by [`Kind`].
pub(crate) struct Durations([Outcomes; KINDS]);

impl Durations {
    /// Durations that `outcomes` makes of a kind's name.
    pub(crate) fn new(outcomes: impl Fn(&'static str) -> Outcomes) -> Durations {
        Durations(NAMES.map(outcomes))
    }

    /// Counts what took `took`.
    pub(crate) fn observe(&self, kind: Kind, ok: bool, took: Duration) {
        self.0[kind as usize].observe(ok, took);
    }
}
