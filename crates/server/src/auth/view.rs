//! One state of the users and roles, and every question that is asked of it.
//!
//! A view never changes: whoever holds one decides by it without a lock. What is asked in its name
//! is as old as the view; apply asks again at the request's place in the log.
//!
//! Source: etcd `server/auth/store.go`, `server/etcdserver/apply/auth.go`.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use kvd_api::error::WireError;
use kvd_api::pb::authpb;
use kvd_api::pb::etcdserverpb::request_op::Request as Op;
use kvd_api::pb::etcdserverpb::{DeleteRangeRequest, PutRequest, RequestOp, TxnRequest};

use super::caller::Caller;
use super::permissions::{Access, Permissions};

/// The user that auth cannot be without.
pub const ROOT_USER: &str = "root";
/// The role that may do everything. It needs no stored role.
pub const ROOT_ROLE: &str = "root";

/// What a decision gives.
pub type Verdict = Result<(), WireError>;

/// The keys that are attached to a lease, by its ID; nothing for an unknown one.
pub trait LeaseKeys {
    /// The keys of lease `id`.
    fn lease_keys(&self, id: i64) -> Vec<Bytes>;
}

/// A user as stored, and what follows from it.
#[derive(Clone, Debug)]
pub struct User {
    record: authpb::User,
    is_root: bool,
    permissions: Permissions,
}

impl User {
    /// The user as stored.
    pub fn record(&self) -> &authpb::User {
        &self.record
    }

    /// Whether the user has no password and so cannot authenticate with one.
    pub fn has_no_password(&self) -> bool {
        self.record
            .options
            .is_some_and(|options| options.no_password)
    }

    fn has_role(&self, role: &str) -> bool {
        self.record.roles.iter().any(|have| have == role)
    }
}

/// Users and roles at one auth revision.
#[derive(Clone, Debug, Default)]
pub struct View {
    enabled: bool,
    revision: u64,
    users: BTreeMap<Arc<str>, Arc<User>>,
    roles: BTreeMap<Arc<str>, Arc<authpb::Role>>,
}

impl View {
    /// A view of what is stored.
    pub fn new(
        enabled: bool,
        revision: u64,
        users: Vec<authpb::User>,
        roles: Vec<authpb::Role>,
    ) -> View {
        let mut view = View {
            enabled,
            // As in etcd, a store in which nothing was ever changed is at 1.
            revision: revision.max(1),
            ..View::default()
        };
        for role in roles {
            view.roles.insert(name(&role.name), Arc::new(role));
        }
        for user in users {
            view.set_user(user);
        }
        view
    }

    /// Whether callers must show who they are.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Counts the changes of users and roles.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// A user by name.
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.get(name).map(|user| &**user)
    }

    /// The users' names in byte order.
    pub fn user_names(&self) -> Vec<String> {
        self.users.keys().map(|name| name.to_string()).collect()
    }

    /// A role by name.
    pub fn role(&self, name: &str) -> Option<&authpb::Role> {
        self.roles.get(name).map(|role| &**role)
    }

    /// The roles' names in byte order.
    pub fn role_names(&self) -> Vec<String> {
        self.roles.keys().map(|name| name.to_string()).collect()
    }

    /// All users, in order of their names.
    pub fn users(&self) -> impl Iterator<Item = &User> {
        self.users.values().map(|user| &**user)
    }

    // Changes, made on a copy that is published as a whole.

    pub(crate) fn set_enabled(&mut self, enabled: bool) {
        self.enabled = enabled;
    }

    pub(crate) fn set_revision(&mut self, revision: u64) {
        self.revision = revision;
    }

    pub(crate) fn set_user(&mut self, record: authpb::User) {
        let roles = record.roles.iter();
        let roles = roles.filter_map(|role| self.roles.get(role.as_str()));
        let permissions = Permissions::merge(roles.flat_map(|role| &role.key_permission));
        let user = User {
            is_root: record.roles.iter().any(|role| role == ROOT_ROLE),
            permissions,
            record,
        };
        self.users.insert(name(&user.record.name), Arc::new(user));
    }

    pub(crate) fn remove_user(&mut self, name: &str) {
        self.users.remove(name);
    }

    pub(crate) fn set_role(&mut self, record: authpb::Role) {
        let name = name(&record.name);
        self.roles.insert(Arc::clone(&name), Arc::new(record));
        self.merge_again(&name);
    }

    /// Users that have the role keep its name until [`View::set_user`] takes it.
    pub(crate) fn remove_role(&mut self, name: &str) {
        self.roles.remove(name);
        self.merge_again(name);
    }

    fn merge_again(&mut self, role: &str) {
        let users = self.users.values().filter(|user| user.has_role(role));
        let records: Vec<_> = users.map(|user| user.record.clone()).collect();
        for record in records {
            self.set_user(record);
        }
    }

    // Decisions. While auth is off everything is permitted.

    /// Whether the caller is somebody.
    ///
    /// Differs from etcd: a name without a user, such as that of a certificate, or of a user that
    /// was deleted, is nobody. etcd does not look it up here.
    ///
    /// Errors: [`WireError::UserNameIsEmpty`], [`WireError::RevisionOfAuthStoreIsOld`],
    /// [`WireError::PermissionDenied`].
    pub fn somebody(&self, caller: Option<&Caller>) -> Verdict {
        if !self.enabled {
            return Ok(());
        }
        self.known(caller)?;
        Ok(())
    }

    /// Whether the caller may change users, members and the like.
    ///
    /// Errors: [`WireError::UserNameIsEmpty`], [`WireError::UserNameNotFound`],
    /// [`WireError::PermissionDenied`].
    pub fn admin(&self, caller: Option<&Caller>) -> Verdict {
        if !self.enabled {
            return Ok(());
        }
        let caller = caller.ok_or(WireError::UserNameIsEmpty)?;
        match self.users.get(&*caller.user) {
            Some(user) if user.is_root => Ok(()),
            Some(_) => Err(WireError::PermissionDenied),
            None => Err(WireError::UserNameNotFound),
        }
    }

    /// Whether the caller was recognised at this revision or a later one.
    ///
    /// Errors: [`WireError::RevisionOfAuthStoreIsOld`].
    pub fn fresh(&self, caller: Option<&Caller>) -> Verdict {
        match caller {
            Some(caller) if caller.revision < self.revision => {
                Err(WireError::RevisionOfAuthStoreIsOld)
            }
            _ => Ok(()),
        }
    }

    /// Whether the caller may see a user.
    ///
    /// Errors: those of [`View::admin`].
    pub fn see_user(&self, caller: Option<&Caller>, name: &str) -> Verdict {
        match self.admin(caller) {
            Err(_) if caller.is_some_and(|caller| &*caller.user == name) => Ok(()),
            verdict => verdict,
        }
    }

    /// Whether the caller may see a role.
    ///
    /// Errors: those of [`View::admin`].
    pub fn see_role(&self, caller: Option<&Caller>, role: &str) -> Verdict {
        let has = |caller: &Caller| {
            let user = self.users.get(&*caller.user);
            user.is_some_and(|user| user.has_role(role))
        };
        match self.admin(caller) {
            Err(_) if caller.is_some_and(has) => Ok(()),
            verdict => verdict,
        }
    }

    /// Whether the caller may read all keys of a range.
    ///
    /// Errors: as [`View::somebody`].
    pub fn read(&self, caller: Option<&Caller>, key: &[u8], range_end: &[u8]) -> Verdict {
        self.keys(caller, Access::Read, key, range_end)
    }

    /// Whether the caller may do this to all keys of a range.
    ///
    /// Errors: as [`View::somebody`].
    pub fn keys(
        &self,
        caller: Option<&Caller>,
        access: Access,
        key: &[u8],
        range_end: &[u8],
    ) -> Verdict {
        if !self.enabled {
            return Ok(());
        }
        let user = self.known(caller)?;
        if user.is_root || user.permissions.allow(access, key, range_end) {
            return Ok(());
        }
        Err(WireError::PermissionDenied)
    }

    /// Whether the caller may do this to each of these keys.
    ///
    /// Errors: as [`View::somebody`].
    pub fn each_key<'a>(
        &self,
        caller: Option<&Caller>,
        access: Access,
        keys: impl IntoIterator<Item = &'a Bytes>,
    ) -> Verdict {
        if self.admin(caller).is_ok() {
            return Ok(());
        }
        keys.into_iter()
            .try_for_each(|key| self.keys(caller, access, key, &[]))
    }

    /// Whether the caller may put. With a lease, the caller must be allowed to revoke it, and so
    /// to write all its keys.
    ///
    /// Errors: as [`View::somebody`].
    pub fn put(
        &self,
        caller: Option<&Caller>,
        request: &PutRequest,
        leases: &impl LeaseKeys,
    ) -> Verdict {
        if !self.enabled {
            return Ok(());
        }
        self.keys(caller, Access::Write, &request.key, &[])?;
        if request.lease != 0 {
            self.lease(caller, request.lease, leases)?;
        }
        if request.prev_kv {
            self.read(caller, &request.key, &[])?;
        }
        Ok(())
    }

    /// Whether the caller may revoke or renew a lease, or attach keys to it.
    ///
    /// Errors: as [`View::somebody`].
    pub fn lease(&self, caller: Option<&Caller>, id: i64, leases: &impl LeaseKeys) -> Verdict {
        if !self.enabled || self.admin(caller).is_ok() {
            return Ok(());
        }
        self.each_key(caller, Access::Write, &leases.lease_keys(id))
    }

    /// Whether the caller may delete.
    ///
    /// Errors: as [`View::somebody`].
    pub fn delete_range(&self, caller: Option<&Caller>, request: &DeleteRangeRequest) -> Verdict {
        self.keys(caller, Access::Write, &request.key, &request.range_end)?;
        if request.prev_kv {
            self.read(caller, &request.key, &request.range_end)?;
        }
        Ok(())
    }

    /// Whether the caller may run a transaction: every compare and both branches, also those of
    /// nested transactions, whichever will run.
    ///
    /// Errors: as [`View::somebody`].
    pub fn txn(
        &self,
        caller: Option<&Caller>,
        request: &TxnRequest,
        leases: &impl LeaseKeys,
    ) -> Verdict {
        if !self.enabled {
            return Ok(());
        }
        for compare in &request.compare {
            self.read(caller, &compare.key, &compare.range_end)?;
        }
        let mut ops = request.success.iter().chain(&request.failure);
        ops.try_for_each(|op| self.op(caller, op, leases))
    }

    fn op(&self, caller: Option<&Caller>, op: &RequestOp, leases: &impl LeaseKeys) -> Verdict {
        match &op.request {
            Some(Op::RequestRange(range)) => self.read(caller, &range.key, &range.range_end),
            Some(Op::RequestPut(put)) => self.put(caller, put, leases),
            Some(Op::RequestDeleteRange(delete)) => self.delete_range(caller, delete),
            Some(Op::RequestTxn(txn)) => self.txn(caller, txn, leases),
            None => Ok(()),
        }
    }

    /// The caller's user, if the caller was recognised by what holds now.
    fn known(&self, caller: Option<&Caller>) -> Result<&User, WireError> {
        let caller = caller.ok_or(WireError::UserNameIsEmpty)?;
        self.fresh(Some(caller))?;
        let user = self.users.get(&*caller.user);
        user.map(|user| &**user).ok_or(WireError::PermissionDenied)
    }
}

/// Names come in as text and are stored as bytes.
fn name(bytes: &[u8]) -> Arc<str> {
    String::from_utf8_lossy(bytes).into()
}
