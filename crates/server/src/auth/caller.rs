//! Who calls: what a request carries, and whom that makes its caller.
//!
//! Source: etcd `server/auth/store.go`, `AuthInfoFromCtx`, `AuthInfoFromTLS`.

use std::fmt;
use std::sync::Arc;

use http::{Extensions, HeaderMap};

use crate::peer_info::PeerInfo;

/// Where gRPC clients put their token.
const TOKEN: &str = "token";
/// Where HTTP clients put it; gRPC clients may, too.
const AUTHORIZATION: &str = "authorization";

/// A user, recognised at an auth revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The user's name. There need not be such a user any more.
    pub user: Arc<str>,
    /// Any change of auth after this one makes the caller old.
    pub revision: u64,
}

/// What a request shows of who sends it.
#[derive(Clone, Default)]
pub struct Credentials {
    /// The token, if the request has one.
    pub token: Option<Arc<str>>,
    /// The common name of a verified client certificate, where it may stand for a user.
    pub common_name: Option<Arc<str>>,
}

impl Credentials {
    /// What the request with these headers and extensions shows.
    ///
    /// A certificate's name counts with `--client-cert-auth` alone, and never through the gateway:
    /// there it may be that of a proxy.
    pub fn of(headers: &HeaderMap, extensions: &Extensions, by_certificate: bool) -> Credentials {
        let header = headers.get(TOKEN).or_else(|| headers.get(AUTHORIZATION));
        let token = header.map(|value| {
            // What is no text is no token that was ever given out.
            let text = value.to_str().unwrap_or_default();
            Arc::from(text.strip_prefix("Bearer ").unwrap_or(text))
        });
        let peer = extensions.get::<PeerInfo>();
        let peer = peer.filter(|peer| by_certificate && !peer.gateway);
        let common_name = peer.and_then(|peer| peer.common_name.clone());
        Credentials {
            token,
            common_name: common_name.filter(|name| !name.is_empty()),
        }
    }
}

/// Tokens are secrets.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("common_name", &self.common_name)
            .finish()
    }
}

impl Caller {
    /// The caller of the request with these extensions, as admission found it.
    pub fn of(extensions: &Extensions) -> Option<Caller> {
        extensions.get::<Caller>().cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(headers: &[(&'static str, &str)], peer: PeerInfo) -> Credentials {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().expect("a header value"));
        }
        let mut extensions = Extensions::new();
        extensions.insert(peer);
        Credentials::of(&map, &extensions, true)
    }

    #[test]
    fn the_token_is_found_as_in_etcd() {
        let token = |headers: &[(&'static str, &str)]| {
            credentials(headers, PeerInfo::default())
                .token
                .as_deref()
                .map(str::to_owned)
        };
        assert_eq!(token(&[]), None);
        assert_eq!(token(&[("token", "a.1")]).as_deref(), Some("a.1"));
        assert_eq!(token(&[("token", "Bearer a.1")]).as_deref(), Some("a.1"));
        assert_eq!(
            token(&[("authorization", "Bearer a.1")]).as_deref(),
            Some("a.1")
        );
        let both = [("authorization", "b.1"), ("token", "a.1")];
        assert_eq!(token(&both).as_deref(), Some("a.1"));
        assert_eq!(token(&[("token", "\u{e4}.1")]).as_deref(), Some(""));
    }

    #[test]
    fn a_certificate_is_no_user_at_the_gateway() {
        let mut peer = PeerInfo {
            common_name: Some("alice".into()),
            ..PeerInfo::default()
        };
        let name = credentials(&[], peer.clone()).common_name;
        assert_eq!(name.as_deref(), Some("alice"));
        peer.gateway = true;
        assert_eq!(credentials(&[], peer).common_name, None);
    }

    #[test]
    fn tokens_are_not_printed() {
        let shown = credentials(&[("token", "secret.1")], PeerInfo::default());
        assert!(!format!("{shown:?}").contains("secret"));
    }
}
