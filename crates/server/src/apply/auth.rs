//! Users, roles and tokens; and whether a command may be carried out on behalf of its caller.
//!
//! Source: etcd `server/auth/store.go`, `server/etcdserver/apply/auth.go`.

use bytes::Bytes;
use kvd_api::error::WireError;
use kvd_api::pb::authpb;
use kvd_api::pb::etcdserverpb::alarm_request::AlarmAction;
use kvd_api::pb::etcdserverpb::{
    AuthRoleGrantPermissionRequest, AuthRoleRevokePermissionRequest, AuthUserAddRequest,
    AuthUserChangePasswordRequest, AuthUserGrantRoleRequest, AuthUserRevokeRoleRequest,
};
use kvd_api::pb::kvdcommandpb::command::Request;
use kvd_api::pb::kvdcommandpb::{Authenticate, Caller as CommandCaller};
use kvd_mvcc::{Table, Writer};
use prost::Message;

use super::outcome::{Applied, Failure, Outcome};
use crate::auth::{Auth, Caller, ROOT_ROLE, ROOT_USER, View, is_valid_range, password, simple};
use crate::error::Error;
use crate::lease::Leases;

/// etcd's words when a hash cannot be read.
const BAD_HASH: &str = "auth: authentication failed, password was given for no password user";

/// Refuses what the caller may not do at this place in the log.
///
/// What members ask by themselves has no caller and needs none: there is no client behind it. A
/// request of a client about keys or users without one is refused like one of nobody.
///
/// Answers: those of [`View`].
pub(super) fn admit(
    auth: &Auth,
    leases: &Leases,
    request: &Request,
    caller: Option<CommandCaller>,
) -> Result<(), WireError> {
    if !auth.is_enabled() {
        return Ok(());
    }
    let view = auth.view();
    let caller = caller.map(|caller| Caller {
        user: caller.user.into(),
        revision: caller.auth_revision,
    });
    let caller = caller.as_ref();
    match request {
        Request::Put(put) => view.put(caller, put, leases),
        Request::DeleteRange(delete) => view.delete_range(caller, delete),
        Request::Txn(txn) => view.txn(caller, txn, leases),
        Request::LeaseRevoke(revoke) => view.lease(caller, revoke.id, leases),
        Request::AuthEnable(_)
        | Request::AuthDisable(_)
        | Request::AuthUserAdd(_)
        | Request::AuthUserDelete(_)
        | Request::AuthUserChangePassword(_)
        | Request::AuthUserGrantRole(_)
        | Request::AuthUserRevokeRole(_)
        | Request::AuthRoleAdd(_)
        | Request::AuthRoleDelete(_)
        | Request::AuthRoleGrantPermission(_)
        | Request::AuthRoleRevokePermission(_)
        | Request::V2(_) => view.admin(caller),
        Request::Compaction(_) if caller.is_some() => view.admin(caller),
        Request::Alarm(alarm) if caller.is_some() && alarm.action() != AlarmAction::Get => {
            view.admin(caller)
        }
        Request::Compaction(_)
        | Request::Alarm(_)
        | Request::LeaseGrant(_)
        | Request::Authenticate(_)
        | Request::LeaseExpire(_)
        | Request::LeaseCheckpoint(_)
        | Request::PublishMember(_)
        | Request::DowngradeInfoSet(_)
        | Request::SetClusterVersion(_) => Ok(()),
    }
}

/// Carries out a change of users and roles.
pub(super) fn change(writer: &mut Writer, auth: &Auth, request: Request) -> Outcome<Applied> {
    match request {
        Request::AuthEnable(_) => enable(writer, auth),
        Request::AuthDisable(_) => disable(writer, auth),
        Request::AuthUserAdd(request) => user_add(writer, auth, request),
        Request::AuthUserDelete(request) => user_delete(writer, auth, &request.name),
        Request::AuthUserChangePassword(request) => change_password(writer, auth, &request),
        Request::AuthUserGrantRole(request) => user_grant_role(writer, auth, request),
        Request::AuthUserRevokeRole(request) => user_revoke_role(writer, auth, &request),
        Request::AuthRoleAdd(request) => role_add(writer, auth, request.name),
        Request::AuthRoleDelete(request) => role_delete(writer, auth, &request.role),
        Request::AuthRoleGrantPermission(request) => role_grant_permission(writer, auth, request),
        Request::AuthRoleRevokePermission(request) => {
            role_revoke_permission(writer, auth, &request)
        }
        _ => Err(Failure::broken(
            "a command is neither known nor about users and roles",
        )),
    }
}

/// A change of users and roles: made on a copy of the view, written to the tables, and published
/// when it is whole.
struct Change<'a> {
    writer: &'a mut Writer,
    auth: &'a Auth,
    next: View,
}

impl<'a> Change<'a> {
    fn new(writer: &'a mut Writer, auth: &'a Auth) -> Change<'a> {
        let next = View::clone(&auth.view());
        Change { writer, auth, next }
    }

    fn user(&self, name: &str) -> Result<authpb::User, WireError> {
        let user = self.next.user(name).ok_or(WireError::UserNameNotFound)?;
        Ok(user.record().clone())
    }

    fn role(&self, name: &str) -> Result<authpb::Role, WireError> {
        self.next
            .role(name)
            .cloned()
            .ok_or(WireError::RoleNameNotFound)
    }

    fn set_user(&mut self, user: authpb::User) {
        let value = user.encode_to_vec().into();
        self.writer
            .table_put(Table::AuthUsers, user.name.clone(), value);
        self.next.set_user(user);
    }

    fn set_role(&mut self, role: authpb::Role) {
        let value = role.encode_to_vec().into();
        self.writer
            .table_put(Table::AuthRoles, role.name.clone(), value);
        self.next.set_role(role);
    }

    fn set_enabled(&mut self, enabled: bool) {
        let value = Bytes::copy_from_slice(&[u8::from(enabled)]);
        self.writer
            .table_put(Table::Auth, Bytes::from_static(b"authEnabled"), value);
        self.next.set_enabled(enabled);
    }

    /// Counts the change and makes it visible.
    fn publish_next(mut self) -> Outcome<Applied> {
        let revision = self.next.revision() + 1;
        let value = Bytes::copy_from_slice(&revision.to_be_bytes());
        self.writer
            .table_put(Table::Auth, Bytes::from_static(b"authRevision"), value);
        self.next.set_revision(revision);
        self.publish()
    }

    fn publish(self) -> Outcome<Applied> {
        self.auth.publish(self.next);
        Ok(Applied::AuthChanged)
    }
}

/// Turns auth on. Nothing happens if it is on.
///
/// Answers: [`WireError::RootUserDoesNotExist`], [`WireError::RootUserDoesNotHaveRootRole`].
fn enable(writer: &mut Writer, auth: &Auth) -> Outcome<Applied> {
    let mut change = Change::new(writer, auth);
    if change.next.is_enabled() {
        return Ok(Applied::AuthChanged);
    }
    let root = change.next.user(ROOT_USER);
    let root = root.ok_or(WireError::RootUserDoesNotExist)?;
    if !root.record().roles.iter().any(|role| role == ROOT_ROLE) {
        return Err(WireError::RootUserDoesNotHaveRootRole.into());
    }
    change.set_enabled(true);
    change.publish()
}

/// Turns auth off; all tokens are gone. Nothing happens if it is off.
fn disable(writer: &mut Writer, auth: &Auth) -> Outcome<Applied> {
    let mut change = Change::new(writer, auth);
    if !change.next.is_enabled() {
        return Ok(Applied::AuthChanged);
    }
    change.set_enabled(false);
    auth.forget_tokens();
    change.publish_next()
}

/// Notes a token of a user whose password was right at an auth revision.
///
/// Answers: [`WireError::AuthenticationIsNotEnabled`], [`WireError::AuthFailed`];
/// [`WireError::RevisionOfAuthStoreIsOld`] when the password may have been changed meanwhile.
pub(super) fn authenticate(auth: &Auth, request: &Authenticate, index: u64) -> Outcome<Applied> {
    let view = auth.view();
    if !view.is_enabled() {
        return Err(WireError::AuthenticationIsNotEnabled.into());
    }
    if view.revision() != request.auth_revision {
        return Err(WireError::RevisionOfAuthStoreIsOld.into());
    }
    let user = view.user(&request.name).ok_or(WireError::AuthFailed)?;
    if user.has_no_password() {
        return Err(WireError::AuthFailed.into());
    }
    let digest = simple::Digest::try_from(&request.token_digest[..]);
    let digest = digest.map_err(|_| WireError::AuthFailed)?;
    auth.assign_token(digest, &request.name);
    Ok(Applied::TokenAssigned { index })
}

/// Adds a user.
///
/// Answers: [`WireError::UserNameIsEmpty`], [`WireError::UserNameAlreadyExists`].
fn user_add(writer: &mut Writer, auth: &Auth, request: AuthUserAddRequest) -> Outcome<Applied> {
    if request.name.is_empty() {
        return Err(WireError::UserNameIsEmpty.into());
    }
    let mut change = Change::new(writer, auth);
    if change.next.user(&request.name).is_some() {
        return Err(WireError::UserNameAlreadyExists.into());
    }
    let options = request.options.unwrap_or_default();
    let password = if options.no_password {
        Bytes::new()
    } else {
        hashed(&request.hashed_password)?
    };
    change.set_user(authpb::User {
        name: request.name.into(),
        password,
        roles: Vec::new(),
        options: Some(options),
    });
    change.publish_next()
}

/// Deletes a user; the user's tokens are gone.
///
/// Answers: [`WireError::InvalidAuthManagement`] for root while auth is on,
/// [`WireError::UserNameNotFound`].
fn user_delete(writer: &mut Writer, auth: &Auth, name: &str) -> Outcome<Applied> {
    let mut change = Change::new(writer, auth);
    if change.next.is_enabled() && name == ROOT_USER {
        return Err(WireError::InvalidAuthManagement.into());
    }
    change.user(name)?;
    change
        .writer
        .table_delete(Table::AuthUsers, name.as_bytes());
    change.next.remove_user(name);
    auth.forget_tokens_of(name);
    change.publish_next()
}

/// Changes a user's password; the user's tokens are gone.
///
/// Answers: [`WireError::UserNameNotFound`].
fn change_password(
    writer: &mut Writer,
    auth: &Auth,
    request: &AuthUserChangePasswordRequest,
) -> Outcome<Applied> {
    let mut change = Change::new(writer, auth);
    let mut user = change.user(&request.name)?;
    user.password = if user.options.is_some_and(|options| options.no_password) {
        Bytes::new()
    } else {
        hashed(&request.hashed_password)?
    };
    change.set_user(user);
    auth.forget_tokens_of(&request.name);
    change.publish_next()
}

fn hashed(text: &str) -> Result<Bytes, Failure> {
    let decoded = password::decode(text);
    let decoded = decoded.ok_or_else(|| Error::Unknown(BAD_HASH.to_owned()));
    Ok(decoded.map_err(Failure::Answer)?.into())
}

/// Gives a user a role. Nothing happens if the user has it.
///
/// Answers: [`WireError::UserNameNotFound`], [`WireError::RoleNameNotFound`].
fn user_grant_role(
    writer: &mut Writer,
    auth: &Auth,
    request: AuthUserGrantRoleRequest,
) -> Outcome<Applied> {
    let mut change = Change::new(writer, auth);
    let mut user = change.user(&request.user)?;
    if request.role != ROOT_ROLE {
        change.role(&request.role)?;
    }
    match user.roles.binary_search(&request.role) {
        Ok(_) => Ok(Applied::AuthChanged),
        Err(at) => {
            user.roles.insert(at, request.role);
            change.set_user(user);
            change.publish_next()
        }
    }
}

/// Takes a role from a user.
///
/// Answers: [`WireError::InvalidAuthManagement`] for root's root while auth is on,
/// [`WireError::UserNameNotFound`], [`WireError::RoleIsNotGrantedToTheUser`].
fn user_revoke_role(
    writer: &mut Writer,
    auth: &Auth,
    request: &AuthUserRevokeRoleRequest,
) -> Outcome<Applied> {
    let mut change = Change::new(writer, auth);
    if change.next.is_enabled() && request.name == ROOT_USER && request.role == ROOT_ROLE {
        return Err(WireError::InvalidAuthManagement.into());
    }
    let mut user = change.user(&request.name)?;
    if !without_role(&mut user, &request.role) {
        return Err(WireError::RoleIsNotGrantedToTheUser.into());
    }
    change.set_user(user);
    change.publish_next()
}

/// Whether the user had the role.
fn without_role(user: &mut authpb::User, role: &str) -> bool {
    let before = user.roles.len();
    user.roles.retain(|have| have != role);
    user.roles.len() != before
}

/// Adds a role without permissions.
///
/// Answers: [`WireError::RoleNameIsEmpty`], [`WireError::RoleNameAlreadyExists`].
fn role_add(writer: &mut Writer, auth: &Auth, name: String) -> Outcome<Applied> {
    if name.is_empty() {
        return Err(WireError::RoleNameIsEmpty.into());
    }
    let mut change = Change::new(writer, auth);
    if change.next.role(&name).is_some() {
        return Err(WireError::RoleNameAlreadyExists.into());
    }
    change.set_role(authpb::Role {
        name: name.into(),
        key_permission: Vec::new(),
    });
    change.publish_next()
}

/// Deletes a role and takes it from all users.
///
/// Answers: [`WireError::InvalidAuthManagement`] for root while auth is on,
/// [`WireError::RoleNameNotFound`].
fn role_delete(writer: &mut Writer, auth: &Auth, name: &str) -> Outcome<Applied> {
    let mut change = Change::new(writer, auth);
    if change.next.is_enabled() && name == ROOT_ROLE {
        return Err(WireError::InvalidAuthManagement.into());
    }
    change.role(name)?;
    change
        .writer
        .table_delete(Table::AuthRoles, name.as_bytes());
    change.next.remove_role(name);
    let users: Vec<_> = change
        .next
        .users()
        .map(|user| user.record().clone())
        .collect();
    for mut user in users {
        if without_role(&mut user, name) {
            change.set_user(user);
        }
    }
    change.publish_next()
}

/// Gives a role a permission, or changes the type of the one that it has for the range.
///
/// Answers: [`WireError::PermissionNotGiven`], [`WireError::InvalidAuthManagement`] for a range
/// that holds nothing, [`WireError::RoleNameNotFound`].
fn role_grant_permission(
    writer: &mut Writer,
    auth: &Auth,
    request: AuthRoleGrantPermissionRequest,
) -> Outcome<Applied> {
    let granted = request.perm.ok_or(WireError::PermissionNotGiven)?;
    if !is_valid_range(&granted.key, &granted.range_end) {
        return Err(WireError::InvalidAuthManagement.into());
    }
    let mut change = Change::new(writer, auth);
    let mut role = change.role(&request.name)?;
    let known = role
        .key_permission
        .iter_mut()
        .find(|have| have.key == granted.key && have.range_end == granted.range_end);
    match known {
        Some(known) => known.perm_type = granted.perm_type,
        None => {
            role.key_permission.push(granted);
            role.key_permission.sort_by(|a, b| a.key.cmp(&b.key));
        }
    }
    change.set_role(role);
    change.publish_next()
}

/// Takes a permission from a role; its range must be the very one that was granted.
///
/// Answers: [`WireError::RoleNameNotFound`], [`WireError::PermissionIsNotGrantedToTheRole`].
fn role_revoke_permission(
    writer: &mut Writer,
    auth: &Auth,
    request: &AuthRoleRevokePermissionRequest,
) -> Outcome<Applied> {
    let mut change = Change::new(writer, auth);
    let mut role = change.role(&request.role)?;
    let before = role.key_permission.len();
    role.key_permission
        .retain(|have| have.key != request.key || have.range_end != request.range_end);
    if role.key_permission.len() == before {
        return Err(WireError::PermissionIsNotGrantedToTheRole.into());
    }
    change.set_role(role);
    change.publish_next()
}
