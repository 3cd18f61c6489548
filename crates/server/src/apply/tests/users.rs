//! Users and roles: etcd's rules, the same on every member.

use kvd_api::pb::authpb;
use kvd_api::pb::authpb::permission::Type;
use kvd_api::pb::etcdserverpb::*;
use kvd_api::pb::kvdcommandpb::command::Request;
use kvd_mvcc::Table;
use prost::Message;

use super::harness::Harness;
use crate::apply::Applied;

fn add(name: &str) -> Request {
    Request::AuthUserAdd(AuthUserAddRequest {
        name: name.into(),
        hashed_password: "aGFzaA==".into(),
        ..AuthUserAddRequest::default()
    })
}

fn grant(user: &str, role: &str) -> Request {
    Request::AuthUserGrantRole(AuthUserGrantRoleRequest {
        user: user.into(),
        role: role.into(),
    })
}

fn role(name: &str) -> Request {
    Request::AuthRoleAdd(AuthRoleAddRequest { name: name.into() })
}

fn permit(role: &str, kind: Type, key: &'static str, range_end: &'static str) -> Request {
    Request::AuthRoleGrantPermission(AuthRoleGrantPermissionRequest {
        name: role.into(),
        perm: Some(authpb::Permission {
            perm_type: kind as i32,
            key: key.into(),
            range_end: range_end.into(),
        }),
    })
}

fn enable() -> Request {
    Request::AuthEnable(AuthEnableRequest {})
}

/// The text of a refusal; empty when there is none.
fn refused(harness: &mut Harness, request: Request) -> String {
    match harness.request(request) {
        Ok(Applied::AuthChanged) => String::new(),
        Ok(other) => format!("{other:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_rules_are_etcds() {
    let mut harness = Harness::new();
    let rows: Vec<(Request, &str, u64)> = vec![
        (enable(), "etcdserver: root user does not exist", 1),
        (add(""), "etcdserver: user name is empty", 1),
        (add("root"), "", 2),
        (add("root"), "etcdserver: user name already exists", 2),
        (enable(), "etcdserver: root user does not have root role", 2),
        // The role needs not be there.
        (grant("root", "root"), "", 3),
        (grant("root", "root"), "", 3),
        (grant("root", "none"), "etcdserver: role name not found", 3),
        (grant("none", "root"), "etcdserver: user name not found", 3),
        (role(""), "etcdserver: role name is empty", 3),
        (role("r"), "", 4),
        (role("r"), "etcdserver: role name already exists", 4),
        (
            permit("r", Type::Read, "", ""),
            "etcdserver: invalid auth management",
            4,
        ),
        (
            permit("r", Type::Read, "b", "a"),
            "etcdserver: invalid auth management",
            4,
        ),
        (
            permit("none", Type::Read, "a", ""),
            "etcdserver: role name not found",
            4,
        ),
        (permit("r", Type::Read, "b", ""), "", 5),
        (permit("r", Type::Readwrite, "b", ""), "", 6),
        (permit("r", Type::Read, "a", "\0"), "", 7),
        (
            Request::AuthRoleGrantPermission(AuthRoleGrantPermissionRequest {
                name: "r".into(),
                perm: None,
            }),
            "etcdserver: permission not given",
            7,
        ),
        (
            Request::AuthRoleRevokePermission(AuthRoleRevokePermissionRequest {
                role: "r".into(),
                key: "a".into(),
                range_end: "".into(),
            }),
            "etcdserver: permission is not granted to the role",
            7,
        ),
        (
            Request::AuthUserRevokeRole(AuthUserRevokeRoleRequest {
                name: "root".into(),
                role: "r".into(),
            }),
            "etcdserver: role is not granted to the user",
            7,
        ),
        (grant("root", "r"), "", 8),
        // Takes it from its users.
        (
            Request::AuthRoleDelete(AuthRoleDeleteRequest { role: "r".into() }),
            "",
            9,
        ),
        (
            Request::AuthRoleDelete(AuthRoleDeleteRequest { role: "r".into() }),
            "etcdserver: role name not found",
            9,
        ),
        (
            Request::AuthUserDelete(AuthUserDeleteRequest {
                name: "none".into(),
            }),
            "etcdserver: user name not found",
            9,
        ),
        (Request::AuthDisable(AuthDisableRequest {}), "", 9),
        (enable(), "", 9),
    ];
    for (request, wanted, revision) in rows {
        let shown = format!("{request:?}");
        assert_eq!(refused(&mut harness, request), wanted, "{shown}");
        assert_eq!(harness.auth.view().revision(), revision, "{shown}");
    }
    // From now on somebody must ask.
    for request in [add("x"), enable(), Request::Put(PutRequest::default())] {
        assert_eq!(
            refused(&mut harness, request),
            "etcdserver: user name is empty"
        );
    }
    let stored = |key: &[u8]| harness.store.table_get(Table::Auth, key);
    assert_eq!(stored(b"authEnabled").as_deref(), Some(&[1][..]));
    assert_eq!(
        stored(b"authRevision").as_deref(),
        Some(&9_u64.to_be_bytes()[..])
    );
    let root = harness
        .store
        .table_get(Table::AuthUsers, b"root")
        .expect("stored");
    let root = authpb::User::decode(root).expect("a user");
    assert_eq!(
        (&root.password[..], root.roles),
        (&b"hash"[..], vec!["root".to_owned()])
    );
    assert!(root.options.is_some(), "as etcd stores it");
}
