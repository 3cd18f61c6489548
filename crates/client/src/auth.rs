//! Users, roles, and who this client is.
//!
//! A client with a name and a password authenticates once, before its first request, and attaches
//! the token it got to everything. A server that does not know the token, or whose users changed
//! since, refuses the request before it has any effect: the client then authenticates again and
//! repeats the request, also a write.
//!
//! Source: etcd `Auth` service; `client/v3/auth.go`, `client/v3/retry_interceptor.go`.

use std::fmt;

use bytes::Bytes;
use kvd_api::error::WireError;
use kvd_api::pb::authpb::permission::Type;
use kvd_api::pb::authpb::{Permission, UserAddOptions};
use kvd_api::pb::etcdserverpb::auth_client::AuthClient;
use kvd_api::pb::etcdserverpb::*;
use tokio::sync::Mutex;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;

use crate::client::Client;
use crate::error::{Error, Result};
use crate::retry::Rule;

/// What a request carries to say who sends it.
pub(crate) type Token = MetadataValue<Ascii>;

/// Who a client is.
#[derive(Clone)]
pub(crate) enum Credentials {
    Password { name: String, password: String },
    Token(String),
}

impl fmt::Debug for Credentials {
    /// Without password and token.
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Credentials::Password { name, .. } => write!(to, "Password({name:?})"),
            Credentials::Token(_) => to.write_str("Token"),
        }
    }
}

/// What is known of the token that the password gives.
#[derive(Default)]
enum State {
    #[default]
    Unknown,
    /// The server knows no users.
    NotEnabled,
    Known(Token),
}

/// The token of a client and all its clones.
#[derive(Default)]
pub(crate) struct Authenticator {
    state: Mutex<State>,
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("Authenticator")
    }
}

impl Authenticator {
    /// The token to attach, if any; asks for one when there was none yet.
    ///
    /// Errors: [`Error::Login`].
    pub(crate) async fn token(
        &self,
        client: &Client,
        credentials: Option<&Credentials>,
    ) -> Result<Option<Token>> {
        let (name, password) = match credentials {
            None => return Ok(None),
            Some(Credentials::Token(token)) => return ascii(token).map(Some),
            Some(Credentials::Password { name, password }) => (name, password),
        };
        let mut state = self.state.lock().await;
        if let State::Unknown = *state {
            *state = log_in(client, name, password).await?;
        }
        Ok(match &*state {
            State::Known(token) => Some(token.clone()),
            State::Unknown | State::NotEnabled => None,
        })
    }

    /// Whether `error` is cured by another token than the one that was attached; the next call of
    /// [`Authenticator::token`] asks for it.
    pub(crate) async fn outdated(
        &self,
        error: &Error,
        attached: Option<&Token>,
        credentials: Option<&Credentials>,
    ) -> bool {
        let Some(Credentials::Password { .. }) = credentials else {
            return false;
        };
        let refused = match error.wire() {
            Some(WireError::InvalidAuthToken | WireError::RevisionOfAuthStoreIsOld) => true,
            // Users were enabled since this client learned that there are none.
            Some(WireError::UserNameIsEmpty) => attached.is_none(),
            _ => false,
        };
        if refused {
            let mut state = self.state.lock().await;
            let current = match &*state {
                State::Known(token) => Some(token),
                State::Unknown | State::NotEnabled => None,
            };
            // Another request may have got a new one meanwhile.
            if current == attached {
                *state = State::Unknown;
            }
        }
        refused
    }
}

fn ascii(token: &str) -> Result<Token> {
    MetadataValue::try_from(token).map_err(|_| Error::BadToken)
}

async fn log_in(client: &Client, name: &str, password: &str) -> Result<State> {
    let request = AuthenticateRequest {
        name: name.to_owned(),
        password: password.to_owned(),
    };
    let answer = client
        .unary_as_nobody(Rule::Repeatable, request, |channel, request| {
            let mut stub = stub(channel);
            async move { stub.authenticate(request).await }
        })
        .await;
    match answer {
        Ok(answer) => ascii(&answer.token).map(State::Known),
        Err(error) if error.wire() == Some(WireError::AuthenticationIsNotEnabled) => {
            Ok(State::NotEnabled)
        }
        Err(error) => Err(Error::Login(Box::new(error))),
    }
}

fn stub(channel: Channel) -> AuthClient<Channel> {
    AuthClient::new(channel)
}

/// Writes a method of [`Client`] for each RPC: its document, name, rule, request and answer.
macro_rules! rpcs {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $kind:ty),*) -> $answer:ty
        = $rpc:ident, $rule:ident, $request:expr;)*) => {
        impl Client {
            $($(#[$doc])*
            pub async fn $name(&self, $($arg: $kind),*) -> Result<$answer> {
                self.unary(Rule::$rule, $request, |channel, request| {
                    let mut stub = stub(channel);
                    async move { stub.$rpc(request).await }
                })
                .await
            })*
        }
    };
}

rpcs! {
    /// Turns authentication on; wants a user `root` with the role `root`.
    auth_enable() -> AuthEnableResponse
        = auth_enable, AtMostOnce, AuthEnableRequest {};
    /// Turns authentication off.
    auth_disable() -> AuthDisableResponse
        = auth_disable, AtMostOnce, AuthDisableRequest {};
    /// Whether authentication is on, and how often users and roles were changed.
    auth_status() -> AuthStatusResponse
        = auth_status, Repeatable, AuthStatusRequest {};
    /// Adds a user with a password.
    user_add(name: &str, password: &str) -> AuthUserAddResponse
        = user_add, AtMostOnce, AuthUserAddRequest {
            name: name.to_owned(),
            password: password.to_owned(),
            options: Some(UserAddOptions { no_password: false }),
            ..Default::default()
        };
    /// Adds a user who is known by a certificate only.
    user_add_without_password(name: &str) -> AuthUserAddResponse
        = user_add, AtMostOnce, AuthUserAddRequest {
            name: name.to_owned(),
            options: Some(UserAddOptions { no_password: true }),
            ..Default::default()
        };
    /// Deletes a user.
    user_delete(name: &str) -> AuthUserDeleteResponse
        = user_delete, AtMostOnce, AuthUserDeleteRequest { name: name.to_owned() };
    /// The roles of a user.
    user_get(name: &str) -> AuthUserGetResponse
        = user_get, Repeatable, AuthUserGetRequest { name: name.to_owned() };
    /// The names of all users.
    user_list() -> AuthUserListResponse
        = user_list, Repeatable, AuthUserListRequest {};
    /// Gives a user another password.
    user_change_password(name: &str, password: &str) -> AuthUserChangePasswordResponse
        = user_change_password, AtMostOnce, AuthUserChangePasswordRequest {
            name: name.to_owned(),
            password: password.to_owned(),
            ..Default::default()
        };
    /// Gives a user a role.
    user_grant_role(user: &str, role: &str) -> AuthUserGrantRoleResponse
        = user_grant_role, AtMostOnce, AuthUserGrantRoleRequest {
            user: user.to_owned(),
            role: role.to_owned(),
        };
    /// Takes a role from a user.
    user_revoke_role(user: &str, role: &str) -> AuthUserRevokeRoleResponse
        = user_revoke_role, AtMostOnce, AuthUserRevokeRoleRequest {
            name: user.to_owned(),
            role: role.to_owned(),
        };
    /// Adds a role.
    role_add(name: &str) -> AuthRoleAddResponse
        = role_add, AtMostOnce, AuthRoleAddRequest { name: name.to_owned() };
    /// Deletes a role, and takes it from every user.
    role_delete(name: &str) -> AuthRoleDeleteResponse
        = role_delete, AtMostOnce, AuthRoleDeleteRequest { role: name.to_owned() };
    /// The permissions of a role.
    role_get(name: &str) -> AuthRoleGetResponse
        = role_get, Repeatable, AuthRoleGetRequest { role: name.to_owned() };
    /// The names of all roles.
    role_list() -> AuthRoleListResponse
        = role_list, Repeatable, AuthRoleListRequest {};
    /// Gives a role a permission on a key, or with a `range_end` on a range of keys.
    role_grant_permission(name: &str, kind: Type, key: Bytes, range_end: Bytes)
        -> AuthRoleGrantPermissionResponse
        = role_grant_permission, AtMostOnce, AuthRoleGrantPermissionRequest {
            name: name.to_owned(),
            perm: Some(Permission { perm_type: kind.into(), key: key.clone(), range_end: range_end.clone() }),
        };
    /// Takes a permission from a role, of exactly that key or range.
    role_revoke_permission(name: &str, key: Bytes, range_end: Bytes)
        -> AuthRoleRevokePermissionResponse
        = role_revoke_permission, AtMostOnce, AuthRoleRevokePermissionRequest {
            role: name.to_owned(),
            key: key.clone(),
            range_end: range_end.clone(),
        };
}
