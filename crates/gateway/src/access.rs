//! Who may call over HTTP, from which page: host names, CORS, certificates with a common name.
//!
//! Source: etcd `embed/serve.go`, `accessController`; `pkg/httputil`.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderValue, Method, header};
use kvd_server::peer_info::PeerInfo;

use crate::error;
use crate::member::Member;

/// What a request must meet before any endpoint sees it.
pub(crate) struct Access {
    pub(crate) member: Arc<dyn Member>,
    /// Origins that pages may call from; empty or with `*` means all.
    pub(crate) cors: BTreeSet<String>,
    /// Names under which clients may call over plain HTTP; empty or with `*` means all.
    pub(crate) hosts: BTreeSet<String>,
    /// Whether the common name of a client's certificate is taken for a user.
    pub(crate) client_cert_auth: bool,
    pub(crate) gateway_enabled: bool,
}

impl Access {
    fn allows_host(&self, request: &Request, host: &str) -> bool {
        let secure = request.extensions().get::<PeerInfo>();
        secure.is_some_and(|peer| peer.tls) || allows(&self.hosts, host)
    }

    /// The value of `Access-Control-Allow-Origin`, if the caller's page may read the answer.
    fn allowed_origin(&self, request: &Request) -> Option<HeaderValue> {
        if allows(&self.cors, "*") {
            return Some(HeaderValue::from_static("*"));
        }
        let origin = request.headers().get(header::ORIGIN)?;
        allows(&self.cors, origin.to_str().ok()?).then(|| origin.clone())
    }

    /// Whether a certificate's common name would be taken for a user that the gateway ignores.
    fn ignores_cert_name(&self, request: &Request) -> bool {
        let path = request.uri().path();
        self.client_cert_auth
            && self.gateway_enabled
            && (path.starts_with("/v3/") || path.starts_with("/v3beta/"))
            && request
                .extensions()
                .get::<PeerInfo>()
                .and_then(|peer| peer.common_name.as_ref())
                .is_some_and(|name| !name.is_empty())
            && self.member.auth_enabled()
    }
}

fn allows(list: &BTreeSet<String>, name: &str) -> bool {
    list.is_empty() || list.contains("*") || list.contains(name)
}

/// Lets a request through to `next`, or answers it.
pub(crate) async fn control(
    State(access): State<Arc<Access>>,
    request: Request,
    next: Next,
) -> Response {
    let host = host_name(&request);
    if !access.allows_host(&request, &host) {
        tracing::warn!(
            host,
            "refused an HTTP request: its Host is not on the whitelist"
        );
        return error::misdirected(&explain_host(&host));
    }
    if access.ignores_cert_name(&request) {
        return error::refused(
            "CommonName of client sending a request against gateway will be ignored and not used \
             as expected",
        );
    }
    let origin = access.allowed_origin(&request);
    let mut response = if request.method() == Method::OPTIONS {
        Response::new(Body::empty())
    } else {
        next.run(request).await
    };
    if let Some(origin) = origin {
        let headers = response.headers_mut();
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_METHODS,
            HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE"),
        );
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            HeaderValue::from_static("accept, content-type, authorization"),
        );
    }
    response
}

/// The name that the client called, without port and brackets.
fn host_name(request: &Request) -> String {
    let header = request
        .headers()
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let host = header
        .or_else(|| request.uri().authority().map(|a| a.as_str()))
        .unwrap_or("");
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            let bracketed = name
                .strip_prefix('[')
                .and_then(|name| name.strip_suffix(']'));
            match bracketed {
                Some(name) => name.to_string(),
                // An address of IPv6 without brackets has no port to take off.
                None if name.contains(':') => host.to_string(),
                None => name.to_string(),
            }
        }
        _ => host.to_string(),
    }
}

/// The text that tells a user how to allow a host.
fn explain_host(host: &str) -> String {
    format!(
        "
kvd received your request, but the Host header was unrecognized.

To fix this, choose one of the following options:
- Enable TLS, then any HTTPS request will be allowed.
- Add the hostname you want to use to the whitelist in settings.
  - e.g. kvd --host-whitelist {host:?}

This requirement has been added to help prevent \"DNS Rebinding\" attacks (CVE-2018-5702).
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_port_off_the_host() {
        for (host, want) in [
            ("example.com:2379", "example.com"),
            ("example.com", "example.com"),
            ("[::1]:2379", "::1"),
            ("[::1]", "[::1]"),
            ("::1", "::1"),
            ("127.0.0.1:1", "127.0.0.1"),
        ] {
            let request = Request::builder().header("host", host).body(Body::empty());
            assert_eq!(host_name(&request.expect("a request")), want, "{host}");
        }
    }
}
