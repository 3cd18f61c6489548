//! etcd's Auth service: users, roles, permissions, and tokens for passwords.
//!
//! Changes go through the log, with passwords hashed before. What is asked is answered from this
//! member's view behind a read barrier; etcd puts questions into the log as well.
//!
//! Source: etcd `server/etcdserver/api/v3rpc/auth.go`, `server/etcdserver/v3_server.go`.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use kvd_api::error::WireError;
use kvd_api::pb::authpb::Permission;
use kvd_api::pb::authpb::permission::Type;
use kvd_api::pb::etcdserverpb::auth_server::Auth;
use kvd_api::pb::etcdserverpb::{
    AuthDisableRequest, AuthDisableResponse, AuthEnableRequest, AuthEnableResponse,
    AuthRoleAddRequest, AuthRoleAddResponse, AuthRoleDeleteRequest, AuthRoleDeleteResponse,
    AuthRoleGetRequest, AuthRoleGetResponse, AuthRoleGrantPermissionRequest,
    AuthRoleGrantPermissionResponse, AuthRoleListRequest, AuthRoleListResponse,
    AuthRoleRevokePermissionRequest, AuthRoleRevokePermissionResponse, AuthStatusRequest,
    AuthStatusResponse, AuthUserAddRequest, AuthUserAddResponse, AuthUserChangePasswordRequest,
    AuthUserChangePasswordResponse, AuthUserDeleteRequest, AuthUserDeleteResponse,
    AuthUserGetRequest, AuthUserGetResponse, AuthUserGrantRoleRequest, AuthUserGrantRoleResponse,
    AuthUserListRequest, AuthUserListResponse, AuthUserRevokeRoleRequest,
    AuthUserRevokeRoleResponse, AuthenticateRequest, AuthenticateResponse, ResponseHeader,
};
use kvd_api::pb::kvdcommandpb::{Authenticate, command};
use tonic::{Request, Response, Status};

use super::open;
use crate::apply::Applied;
use crate::auth::{Caller, ROOT_ROLE, simple};
use crate::core::Core;
use crate::error::{Error, Result};

/// The service.
#[derive(Clone)]
pub struct AuthService {
    core: Arc<Core>,
}

impl AuthService {
    /// The service of the member `core`.
    pub fn new(core: Arc<Core>) -> AuthService {
        AuthService { core }
    }

    fn header(&self) -> Option<ResponseHeader> {
        let revision = self.core.store().current_revision();
        Some(self.core.header(revision))
    }

    /// Carries out a change on behalf of `caller`; returns the header of the answer.
    async fn change(
        &self,
        caller: Option<Caller>,
        change: command::Request,
    ) -> Result<Option<ResponseHeader>> {
        match self.core.propose_for(caller, change).await? {
            Applied::AuthChanged => Ok(self.header()),
            other => Err(Error::Internal(format!(
                "a change of users and roles was answered with {other:?}"
            ))),
        }
    }

    /// Gives a token for a password.
    ///
    /// Nothing of the answer says whether it is the name or the password that is wrong. Differs
    /// from etcd, which tells a user without a password apart.
    async fn authenticate_inner(&self, request: AuthenticateRequest) -> Result<String> {
        self.core.read_barrier().await?;
        let AuthenticateRequest { name, password } = request;
        let auth = self.core.auth();
        let give_up = Instant::now() + self.core.request_timeout();
        // The hash that the password was found right for.
        let mut checked: Option<Bytes> = None;
        while Instant::now() < give_up {
            let view = auth.view();
            if !view.is_enabled() {
                return Err(WireError::AuthenticationIsNotEnabled.into());
            }
            let replicated = auth.tokens_are_replicated()?;
            let user = view.user(&name).filter(|user| !user.has_no_password());
            let hash = user.map(|user| user.record().password.clone());
            let revision = view.revision();
            drop(view);
            if hash.is_none() || hash != checked {
                if !auth
                    .passwords()
                    .verify(password.clone(), hash.clone())
                    .await?
                {
                    tracing::warn!(user = name, "invalid authentication was requested");
                    return Err(WireError::AuthFailed.into());
                }
                checked = hash;
            }
            if !replicated {
                let token = auth.sign(&name, revision)?;
                if auth.view().revision() == revision {
                    return Ok(token);
                }
                continue;
            }
            let secret = simple::new_secret()?;
            let digest = simple::digest_of(&secret).ok_or(WireError::AuthFailed)?;
            let request = command::Request::Authenticate(Authenticate {
                name: name.clone(),
                token_digest: Bytes::copy_from_slice(&digest),
                auth_revision: revision,
            });
            match self.core.propose(request).await {
                Ok(Applied::TokenAssigned { index }) => return Ok(format!("{secret}.{index}")),
                Ok(other) => {
                    let text = format!("a token was answered with {other:?}");
                    return Err(Error::Internal(text));
                }
                // Users or roles changed since the password was looked at: it is, again.
                Err(Error::Wire(WireError::RevisionOfAuthStoreIsOld)) => {}
                Err(error) => return Err(error),
            }
        }
        Err(WireError::Timeout.into())
    }

    async fn add_user(
        &self,
        caller: Option<Caller>,
        mut request: AuthUserAddRequest,
    ) -> Result<Option<ResponseHeader>> {
        let has_password = !request.options.is_some_and(|options| options.no_password);
        if has_password {
            let password = std::mem::take(&mut request.password);
            request.hashed_password = self.core.auth().passwords().hash(password).await?;
        }
        request.password.clear();
        self.change(caller, command::Request::AuthUserAdd(request))
            .await
    }

    async fn change_password(
        &self,
        caller: Option<Caller>,
        mut request: AuthUserChangePasswordRequest,
    ) -> Result<Option<ResponseHeader>> {
        // As in etcd, a hash may be given instead.
        if !request.password.is_empty() {
            let password = std::mem::take(&mut request.password);
            request.hashed_password = self.core.auth().passwords().hash(password).await?;
        }
        self.change(caller, command::Request::AuthUserChangePassword(request))
            .await
    }

    async fn roles_of_user(&self, caller: Option<Caller>, name: &str) -> Result<Vec<String>> {
        self.core.read_barrier().await?;
        let view = self.core.auth().view();
        view.see_user(caller.as_ref(), name)?;
        let user = view.user(name).ok_or(WireError::UserNameNotFound)?;
        Ok(user.record().roles.clone())
    }

    async fn permissions_of(&self, caller: Option<Caller>, role: &str) -> Result<Vec<Permission>> {
        self.core.read_barrier().await?;
        let view = self.core.auth().view();
        view.see_role(caller.as_ref(), role)?;
        let record = view.role(role).ok_or(WireError::RoleNameNotFound)?;
        if role == ROOT_ROLE {
            return Ok(vec![Permission {
                perm_type: Type::Readwrite as i32,
                key: Bytes::new(),
                range_end: Bytes::from_static(b"\0"),
            }]);
        }
        Ok(record.key_permission.clone())
    }
}

#[tonic::async_trait]
impl Auth for AuthService {
    async fn auth_enable(
        &self,
        request: Request<AuthEnableRequest>,
    ) -> Result<Response<AuthEnableResponse>, Status> {
        let (caller, request) = open(request);
        let header = self
            .change(caller, command::Request::AuthEnable(request))
            .await?;
        Ok(Response::new(AuthEnableResponse { header }))
    }

    async fn auth_disable(
        &self,
        request: Request<AuthDisableRequest>,
    ) -> Result<Response<AuthDisableResponse>, Status> {
        let (caller, request) = open(request);
        let header = self
            .change(caller, command::Request::AuthDisable(request))
            .await?;
        Ok(Response::new(AuthDisableResponse { header }))
    }

    async fn user_delete(
        &self,
        request: Request<AuthUserDeleteRequest>,
    ) -> Result<Response<AuthUserDeleteResponse>, Status> {
        let (caller, request) = open(request);
        let header = self
            .change(caller, command::Request::AuthUserDelete(request))
            .await?;
        Ok(Response::new(AuthUserDeleteResponse { header }))
    }

    async fn user_grant_role(
        &self,
        request: Request<AuthUserGrantRoleRequest>,
    ) -> Result<Response<AuthUserGrantRoleResponse>, Status> {
        let (caller, request) = open(request);
        let header = self
            .change(caller, command::Request::AuthUserGrantRole(request))
            .await?;
        Ok(Response::new(AuthUserGrantRoleResponse { header }))
    }

    async fn user_revoke_role(
        &self,
        request: Request<AuthUserRevokeRoleRequest>,
    ) -> Result<Response<AuthUserRevokeRoleResponse>, Status> {
        let (caller, request) = open(request);
        let header = self
            .change(caller, command::Request::AuthUserRevokeRole(request))
            .await?;
        Ok(Response::new(AuthUserRevokeRoleResponse { header }))
    }

    async fn role_add(
        &self,
        request: Request<AuthRoleAddRequest>,
    ) -> Result<Response<AuthRoleAddResponse>, Status> {
        let (caller, request) = open(request);
        let header = self
            .change(caller, command::Request::AuthRoleAdd(request))
            .await?;
        Ok(Response::new(AuthRoleAddResponse { header }))
    }

    async fn role_delete(
        &self,
        request: Request<AuthRoleDeleteRequest>,
    ) -> Result<Response<AuthRoleDeleteResponse>, Status> {
        let (caller, request) = open(request);
        let header = self
            .change(caller, command::Request::AuthRoleDelete(request))
            .await?;
        Ok(Response::new(AuthRoleDeleteResponse { header }))
    }

    async fn role_grant_permission(
        &self,
        request: Request<AuthRoleGrantPermissionRequest>,
    ) -> Result<Response<AuthRoleGrantPermissionResponse>, Status> {
        let (caller, request) = open(request);
        let header = self
            .change(caller, command::Request::AuthRoleGrantPermission(request))
            .await?;
        Ok(Response::new(AuthRoleGrantPermissionResponse { header }))
    }

    async fn role_revoke_permission(
        &self,
        request: Request<AuthRoleRevokePermissionRequest>,
    ) -> Result<Response<AuthRoleRevokePermissionResponse>, Status> {
        let (caller, request) = open(request);
        let header = self
            .change(caller, command::Request::AuthRoleRevokePermission(request))
            .await?;
        Ok(Response::new(AuthRoleRevokePermissionResponse { header }))
    }

    async fn user_add(
        &self,
        request: Request<AuthUserAddRequest>,
    ) -> Result<Response<AuthUserAddResponse>, Status> {
        let (caller, request) = open(request);
        let header = self.add_user(caller, request).await?;
        Ok(Response::new(AuthUserAddResponse { header }))
    }

    async fn user_change_password(
        &self,
        request: Request<AuthUserChangePasswordRequest>,
    ) -> Result<Response<AuthUserChangePasswordResponse>, Status> {
        let (caller, request) = open(request);
        let header = self.change_password(caller, request).await?;
        Ok(Response::new(AuthUserChangePasswordResponse { header }))
    }

    async fn authenticate(
        &self,
        request: Request<AuthenticateRequest>,
    ) -> Result<Response<AuthenticateResponse>, Status> {
        let token = self.authenticate_inner(open(request).1).await?;
        Ok(Response::new(AuthenticateResponse {
            header: self.header(),
            token,
        }))
    }

    async fn auth_status(
        &self,
        _: Request<AuthStatusRequest>,
    ) -> Result<Response<AuthStatusResponse>, Status> {
        self.core.read_barrier().await?;
        let view = self.core.auth().view();
        Ok(Response::new(AuthStatusResponse {
            header: self.header(),
            enabled: view.is_enabled(),
            auth_revision: view.revision(),
        }))
    }

    async fn user_get(
        &self,
        request: Request<AuthUserGetRequest>,
    ) -> Result<Response<AuthUserGetResponse>, Status> {
        let (caller, request) = open(request);
        let roles = self.roles_of_user(caller, &request.name).await?;
        Ok(Response::new(AuthUserGetResponse {
            header: self.header(),
            roles,
        }))
    }

    async fn user_list(
        &self,
        request: Request<AuthUserListRequest>,
    ) -> Result<Response<AuthUserListResponse>, Status> {
        self.core.read_barrier().await?;
        let view = self.core.auth().view();
        let caller = Caller::of(request.extensions());
        view.admin(caller.as_ref())?;
        Ok(Response::new(AuthUserListResponse {
            header: self.header(),
            users: view.user_names(),
        }))
    }

    async fn role_get(
        &self,
        request: Request<AuthRoleGetRequest>,
    ) -> Result<Response<AuthRoleGetResponse>, Status> {
        let (caller, request) = open(request);
        let perm = self.permissions_of(caller, &request.role).await?;
        Ok(Response::new(AuthRoleGetResponse {
            header: self.header(),
            perm,
        }))
    }

    async fn role_list(
        &self,
        request: Request<AuthRoleListRequest>,
    ) -> Result<Response<AuthRoleListResponse>, Status> {
        self.core.read_barrier().await?;
        let view = self.core.auth().view();
        let caller = Caller::of(request.extensions());
        view.admin(caller.as_ref())?;
        Ok(Response::new(AuthRoleListResponse {
            header: self.header(),
            roles: view.role_names(),
        }))
    }
}
