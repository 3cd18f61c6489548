//! Who may use the v2 API while users and roles are in force.
//!
//! v2 has no users of its own here. It would be a way around the permissions of v3's, so that only
//! root passes, with its password as HTTP basic authentication.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, header};
use kvd_api::pb::etcdserverpb::AuthenticateRequest;
use kvd_api::pb::etcdserverpb::auth_client::AuthClient;

use super::Api;

/// Who passed.
pub(super) enum Passed {
    /// Anybody does: users are not in force.
    Anybody,
    /// Root, with a token for the gRPC services.
    Root(String),
}

/// Decides about one request: the only place that does. `None`: it is refused.
pub(super) async fn admit(api: &Api, headers: &HeaderMap) -> Option<Passed> {
    if !api.member.auth_enabled() {
        return Some(Passed::Anybody);
    }
    let (name, password) = credentials(headers)?;
    if name != "root" {
        return None;
    }
    let mut auth = AuthClient::new(api.service.clone());
    match auth
        .authenticate(AuthenticateRequest { name, password })
        .await
    {
        Ok(reply) => Some(Passed::Root(reply.into_inner().token)),
        Err(status) => {
            tracing::warn!(reason = status.message(), "refused a v2 request as root");
            None
        }
    }
}

fn credentials(headers: &HeaderMap) -> Option<(String, String)> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (name, password) = decoded.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}
