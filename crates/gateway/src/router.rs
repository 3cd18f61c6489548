//! Which endpoint answers which path, on each kind of port.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::routing::any;
use http::{HeaderValue, Uri};
use tonic::body::Body;
use tower::util::BoxCloneSyncService;

use crate::access::{self, Access};
use crate::member::Member;
use crate::v2::{self, V2};
use crate::v3::{self, Gateway};
use crate::{autopilot, error, info, metrics, peer, pprof, probes, v1};

/// How the client port behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Origins that pages may call from (`--cors`); empty or with `*` means all.
    pub cors: BTreeSet<String>,
    /// Host names that clients may use without TLS (`--host-whitelist`); empty or with `*` means
    /// all.
    pub host_whitelist: BTreeSet<String>,
    /// Whether `/v3/*` answers (`--enable-grpc-gateway`).
    pub gateway_enabled: bool,
    /// Most bytes of a request (`--max-request-bytes`); the gateway takes 512 KiB more, for the
    /// message around it, and twice that of JSON.
    pub max_request_bytes: usize,
    /// Whether the common name of a client's certificate is taken for a user where there is no
    /// gateway in between (`--client-cert-auth`).
    pub client_cert_auth: bool,
    /// Whether `/ui` answers (`--enable-ui`).
    pub ui_enabled: bool,
    /// Whether `/debug/pprof/` answers (`--enable-pprof`).
    pub pprof: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            cors: BTreeSet::new(),
            host_whitelist: BTreeSet::new(),
            gateway_enabled: true,
            max_request_bytes: 3 * 512 * 1024,
            client_cert_auth: false,
            ui_enabled: true,
            pprof: false,
        }
    }
}

/// Everything that the client port answers over plain HTTP.
///
/// `service`: the member's gRPC services, usually [`tonic::service::Routes`], with or without
/// layers around it; called in process, once per request. `v2`: what `/v2` is served from; without
/// it, that is not there.
pub fn client_router<S>(
    service: S,
    member: Arc<dyn Member>,
    v2: Option<Arc<dyn V2>>,
    options: Options,
) -> Router
where
    S: tower::Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
{
    let mut router = Router::new()
        .route("/version", any(info::version))
        .route("/debug/vars", any(info::vars))
        .with_state(member.clone())
        .merge(monitoring(&member));
    let service = BoxCloneSyncService::new(service);
    router = router.merge(v1::router(service.clone(), member.clone()));
    if options.ui_enabled {
        router = router.merge(kvd_ui::router(&kvd_ui::Port {
            gateway: options.gateway_enabled,
            autopilot: true,
        }));
    }
    if let Some(tree) = v2 {
        router = router.merge(v2::router(tree, member.clone(), service.clone()));
    }
    if options.pprof {
        router = router.merge(pprof::router(&member));
    }
    if options.gateway_enabled {
        let gateway = Arc::new(Gateway::new(service, options.max_request_bytes));
        let paths = ["/v3/", "/v3/{*rest}", "/v3beta/", "/v3beta/{*rest}"];
        let routes = paths
            .iter()
            .fold(Router::new(), |r, path| r.route(path, any(v3::serve)));
        router = router.merge(routes.with_state(gateway));
    }
    let access = Access {
        member,
        cors: options.cors,
        hosts: options.host_whitelist,
        client_cert_auth: options.client_cert_auth,
        gateway_enabled: options.gateway_enabled,
    };
    with_not_found(router).layer(axum::middleware::from_fn_with_state(
        Arc::new(access),
        access::control,
    ))
}

/// What a port for monitoring alone answers: `/metrics`, `/health`, `/livez`, `/readyz` and
/// `/v1/autopilot`; and with
/// `ui_enabled` the page at `/ui`, which shows no keys there, and `/v1/members` for it.
///
/// `service`: as for [`client_router`]; it is asked whether a caller may see how the members are.
pub fn metrics_router<S>(service: S, member: Arc<dyn Member>, ui_enabled: bool) -> Router
where
    S: tower::Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
{
    let mut router = monitoring(&member);
    if ui_enabled {
        let port = kvd_ui::Port {
            gateway: false,
            autopilot: true,
        };
        let service = BoxCloneSyncService::new(service);
        router = router
            .merge(v1::router(service, member))
            .merge(kvd_ui::router(&port));
    }
    with_not_found(router)
}

/// What the peer port answers over plain HTTP: `/members`, `/version`.
pub fn peer_router(member: Arc<dyn Member>) -> Router {
    let router = Router::new()
        .route("/members", any(peer::members))
        .route("/members/hashkv", any(peer::hash_kv))
        .route("/downgrade/enabled", any(peer::downgrade_enabled))
        .route("/version", any(info::version))
        .with_state(member);
    with_not_found(router)
}

/// Probes and metrics.
fn monitoring(member: &Arc<dyn Member>) -> Router {
    Router::new()
        .route("/metrics", any(metrics::metrics))
        .route("/v1/autopilot", any(autopilot::status))
        .with_state(member.clone())
        .merge(probes::router(member))
}

/// Answers every other path: by where to ask instead, or with 404 and a line of text.
pub(crate) fn with_not_found(router: Router) -> Router {
    router.fallback(|request: Request| async move {
        match cleaned(request.uri()) {
            Some(location) => error::elsewhere(location),
            None => error::page_not_found(),
        }
    })
}

/// The path of `uri` without elements that are empty, `.` or `..`, with the query; `None` if it has
/// none of them.
///
/// A base URL that ends with a slash makes `//health`, and Go's servers say where that is.
/// Source: Go's `net/http`, `cleanPath`.
pub(crate) fn cleaned(uri: &Uri) -> Option<HeaderValue> {
    let path = uri.path();
    // Of all but a few paths this is all that is looked at.
    let is_odd = path.contains("//") || path.contains("/.");
    if !is_odd || !path.starts_with('/') {
        return None;
    }
    let mut elements = Vec::new();
    for element in path.split('/') {
        match element {
            "" | "." => {}
            ".." => {
                elements.pop();
            }
            element => elements.push(element),
        }
    }
    let mut clean = format!("/{}", elements.join("/"));
    if path.ends_with('/') && !elements.is_empty() {
        clean.push('/');
    }
    if clean == path {
        return None;
    }
    if let Some(query) = uri.query() {
        clean.push('?');
        clean.push_str(query);
    }
    HeaderValue::from_str(&clean).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_as_by_gos_servers() {
        for (path, want) in [
            ("/", None),
            ("/v3/kv/range", None),
            ("/v3/kv/range/", None),
            ("/v3/kv/.range", None),
            ("//", Some("/")),
            (
                "//health?serializable=true",
                Some("/health?serializable=true"),
            ),
            ("/v3//kv/range", Some("/v3/kv/range")),
            ("/v3/kv/range//", Some("/v3/kv/range/")),
            ("/./v3/kv/../kv/range", Some("/v3/kv/range")),
            ("/v3/..", Some("/")),
            ("/../..//evil.example/", Some("/evil.example/")),
        ] {
            let uri: Uri = path.parse().expect("a path");
            let got = cleaned(&uri);
            assert_eq!(
                got.as_ref().map(HeaderValue::as_bytes),
                want.map(str::as_bytes),
                "{path}"
            );
        }
    }
}
