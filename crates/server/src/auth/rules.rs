//! Who may call which RPC at all: one row each. A test compares the rows with the descriptors, and
//! what has no row is for administrators alone.
//!
//! The rows are asked by admission, before any service sees the call. Where it depends on the
//! request, the service asks [`super::View`] besides, and apply asks again.

use super::Caller;
use super::view::{Verdict, View};

/// Who may call an RPC while auth is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Anyone; what the request shows is not looked at.
    Open,
    /// Anyone, but a token that is shown must be good.
    Anyone,
    /// Users. Which of them may depends on the keys, or whatever the request is about.
    User,
    /// Streams: each message is checked for itself, by the rule of users.
    Messages,
    /// Users with the role root.
    Admin,
}

/// gRPC health and reflection: what they say is no secret, and probes have no users.
const OPEN: [&str; 2] = ["/grpc.health.v1.Health/", "/grpc.reflection."];

/// Every RPC of etcd's, in byte order.
pub const RULES: &[(&str, Rule)] = &[
    ("/etcdserverpb.Auth/AuthDisable", Rule::Admin),
    ("/etcdserverpb.Auth/AuthEnable", Rule::Admin),
    ("/etcdserverpb.Auth/AuthStatus", Rule::Anyone),
    ("/etcdserverpb.Auth/Authenticate", Rule::Open),
    ("/etcdserverpb.Auth/RoleAdd", Rule::Admin),
    ("/etcdserverpb.Auth/RoleDelete", Rule::Admin),
    // One's own roles.
    ("/etcdserverpb.Auth/RoleGet", Rule::User),
    ("/etcdserverpb.Auth/RoleGrantPermission", Rule::Admin),
    ("/etcdserverpb.Auth/RoleList", Rule::Admin),
    ("/etcdserverpb.Auth/RoleRevokePermission", Rule::Admin),
    ("/etcdserverpb.Auth/UserAdd", Rule::Admin),
    ("/etcdserverpb.Auth/UserChangePassword", Rule::Admin),
    ("/etcdserverpb.Auth/UserDelete", Rule::Admin),
    // Oneself.
    ("/etcdserverpb.Auth/UserGet", Rule::User),
    ("/etcdserverpb.Auth/UserGrantRole", Rule::Admin),
    ("/etcdserverpb.Auth/UserList", Rule::Admin),
    ("/etcdserverpb.Auth/UserRevokeRole", Rule::Admin),
    ("/etcdserverpb.Cluster/MemberAdd", Rule::Admin),
    ("/etcdserverpb.Cluster/MemberList", Rule::User),
    ("/etcdserverpb.Cluster/MemberPromote", Rule::Admin),
    ("/etcdserverpb.Cluster/MemberRemove", Rule::Admin),
    ("/etcdserverpb.Cluster/MemberUpdate", Rule::Admin),
    ("/etcdserverpb.KV/Compact", Rule::Admin),
    ("/etcdserverpb.KV/DeleteRange", Rule::User),
    ("/etcdserverpb.KV/Put", Rule::User),
    ("/etcdserverpb.KV/Range", Rule::User),
    ("/etcdserverpb.KV/RangeStream", Rule::User),
    ("/etcdserverpb.KV/Txn", Rule::User),
    ("/etcdserverpb.Lease/LeaseGrant", Rule::User),
    ("/etcdserverpb.Lease/LeaseKeepAlive", Rule::Messages),
    ("/etcdserverpb.Lease/LeaseLeases", Rule::User),
    ("/etcdserverpb.Lease/LeaseRevoke", Rule::User),
    ("/etcdserverpb.Lease/LeaseTimeToLive", Rule::User),
    // Asking is for users, changing for administrators.
    ("/etcdserverpb.Maintenance/Alarm", Rule::User),
    ("/etcdserverpb.Maintenance/Defragment", Rule::Admin),
    ("/etcdserverpb.Maintenance/Downgrade", Rule::Admin),
    ("/etcdserverpb.Maintenance/Hash", Rule::Admin),
    ("/etcdserverpb.Maintenance/HashKV", Rule::Admin),
    ("/etcdserverpb.Maintenance/MoveLeader", Rule::Admin),
    ("/etcdserverpb.Maintenance/Snapshot", Rule::Admin),
    ("/etcdserverpb.Maintenance/Status", Rule::User),
    ("/etcdserverpb.Watch/Watch", Rule::Messages),
    ("/v3electionpb.Election/Campaign", Rule::User),
    ("/v3electionpb.Election/Leader", Rule::User),
    ("/v3electionpb.Election/Observe", Rule::User),
    ("/v3electionpb.Election/Proclaim", Rule::User),
    ("/v3electionpb.Election/Resign", Rule::User),
    ("/v3lockpb.Lock/Lock", Rule::User),
    ("/v3lockpb.Lock/Unlock", Rule::User),
];

impl Rule {
    /// The rule of the RPC at `path`.
    pub fn of(path: &str) -> Rule {
        match RULES.binary_search_by(|(known, _)| (*known).cmp(path)) {
            Ok(at) => RULES[at].1,
            Err(_) if OPEN.iter().any(|open| path.starts_with(open)) => Rule::Open,
            Err(_) => Rule::Admin,
        }
    }

    /// Whether `caller` may call.
    ///
    /// Differs from etcd: an administrator's JSON web token of before the last change of auth is
    /// refused as old. etcd takes it for whatever is no key.
    ///
    /// Errors: those of [`View::somebody`] and [`View::admin`], and
    /// [`kvd_api::error::WireError::RevisionOfAuthStoreIsOld`].
    pub fn check(self, view: &View, caller: Option<&Caller>) -> Verdict {
        match self {
            Rule::Open | Rule::Anyone | Rule::Messages => Ok(()),
            Rule::User => view.somebody(caller),
            Rule::Admin => {
                view.admin(caller)?;
                view.fresh(caller)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    #[test]
    fn every_rpc_has_a_rule_and_every_rule_an_rpc() {
        let files = FileDescriptorSet::decode(kvd_api::DESCRIPTORS).expect("descriptors decode");
        let mut rpcs = BTreeSet::new();
        for file in &files.file {
            for service in &file.service {
                for method in &service.method {
                    let (package, service) = (file.package(), service.name());
                    rpcs.insert(format!("/{package}.{service}/{}", method.name()));
                }
            }
        }
        let ruled: BTreeSet<String> = RULES.iter().map(|(path, _)| (*path).to_owned()).collect();
        let missing: Vec<_> = rpcs.difference(&ruled).collect();
        assert!(missing.is_empty(), "no rule for {missing:?}");
        let unknown: Vec<_> = ruled.difference(&rpcs).collect();
        assert!(
            unknown.is_empty(),
            "rules for RPCs that do not exist: {unknown:?}"
        );
        assert!(
            RULES.is_sorted_by_key(|(path, _)| *path),
            "found by halving"
        );
    }

    #[test]
    fn what_has_no_rule_is_for_administrators() {
        assert_eq!(Rule::of("/etcdserverpb.KV/Range"), Rule::User);
        assert_eq!(Rule::of("/etcdserverpb.KV/Rang"), Rule::Admin);
        assert_eq!(Rule::of("/new.Service/Method"), Rule::Admin);
        assert_eq!(Rule::of("/grpc.health.v1.Health/Check"), Rule::Open);
    }
}
