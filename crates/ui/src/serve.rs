//! How the files are served.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use axum::routing::get;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use sha2::{Digest, Sha256};

use crate::assets::{ASSETS, Asset};

/// The value of `Content-Security-Policy`: nothing from elsewhere, nothing inline, no frames, and no
/// text that becomes markup.
pub const CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

const CORP: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// What else the port answers on which the page is served.
#[derive(Clone, Debug, Default)]
pub struct Port {
    /// Whether `/v3/*` is there: keys, watches, leases, users.
    pub gateway: bool,
    /// Whether `/v1/autopilot` is there.
    pub autopilot: bool,
}

/// A file with what is sent along.
struct Served {
    kind: HeaderValue,
    /// The `ETag`, strong: it changes with every byte.
    tag: HeaderValue,
    content: Content,
}

enum Content {
    Embedded(&'static [u8]),
    Made(String),
}

impl Served {
    fn new(kind: &'static str, content: Content) -> Served {
        let bytes = match &content {
            Content::Embedded(bytes) => *bytes,
            Content::Made(text) => text.as_bytes(),
        };
        let digest: String = Sha256::digest(bytes)[..16]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Served {
            kind: HeaderValue::from_static(kind),
            tag: HeaderValue::from_str(&format!("\"{digest}\""))
                .expect("quotes and hexadecimal digits are a header value"),
            content,
        }
    }

    fn answer(&self, request: &HeaderMap) -> Response {
        let known = holds(request, self.tag.as_bytes());
        let body = match &self.content {
            _ if known => Body::empty(),
            Content::Embedded(bytes) => Body::from(*bytes),
            Content::Made(text) => Body::from(text.clone()),
        };
        let mut response = Response::new(body);
        if known {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        }
        let headers = response.headers_mut();
        if !known {
            headers.insert(header::CONTENT_TYPE, self.kind.clone());
        }
        headers.insert(header::ETAG, self.tag.clone());
        // Kept, and asked for again each time: an upgrade of the member is an upgrade of its page.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        protect(headers);
        response
    }
}

fn protect(headers: &mut HeaderMap) {
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CSP),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (CORP, "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// Whether `If-None-Match` names `tag`. Weak ones count, as RFC 9110 has it.
fn holds(request: &HeaderMap, tag: &[u8]) -> bool {
    let values = request.get_all(header::IF_NONE_MATCH).into_iter();
    values
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .any(|given| given == b"*" || given.strip_prefix(b"W/").unwrap_or(given) == tag)
}

/// The page and its files, at `/ui`. Every other path under it is left to the caller's fallback.
pub fn router(port: &Port) -> Router {
    let described = serde_json::json!({
        "gateway": port.gateway,
        "autopilot": port.autopilot,
        "version": env!("CARGO_PKG_VERSION"),
    });
    let described = Content::Made(described.to_string());
    let mut router = Router::new().route("/ui", get(to_the_page));
    router = add(
        router,
        "port.json",
        Served::new("application/json", described),
    );
    for Asset {
        name,
        kind,
        content,
    } in ASSETS
    {
        router = add(router, name, Served::new(kind, Content::Embedded(content)));
    }
    router
}

fn add(router: Router, name: &str, served: Served) -> Router {
    let served = Arc::new(served);
    let answer = move |headers: HeaderMap| std::future::ready(served.answer(&headers));
    router.route(&format!("/ui/{name}"), get(answer))
}

/// Relative, so that it also leads there from behind a proxy that puts something before the path.
async fn to_the_page() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, HeaderValue::from_static("ui/"));
    protect(headers);
    response
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use axum::extract::Request;
    use http::Method;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;

    async fn ask(method: Method, path: &str, tag: Option<&str>) -> (u16, HeaderMap, Vec<u8>) {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(tag) = tag {
            request = request.header(header::IF_NONE_MATCH, tag);
        }
        let request = request.body(Body::empty()).expect("a request");
        let port = Port {
            gateway: true,
            ..Port::default()
        };
        let response = router(&port).oneshot(request).await.expect("infallible");
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        (parts.status.as_u16(), parts.headers, body.to_vec())
    }

    #[tokio::test]
    async fn every_file_is_there_once_with_its_protection() {
        for asset in ASSETS {
            let path = format!("/ui/{}", asset.name);
            let (status, headers, body) = ask(Method::GET, &path, None).await;
            assert_eq!((status, body.as_slice()), (200, asset.content), "{path}");
            assert_eq!(headers["content-type"], asset.kind, "{path}");
            assert_eq!(headers["content-security-policy"], CSP, "{path}");
            assert_eq!(headers["x-content-type-options"], "nosniff", "{path}");
            assert_eq!(headers["referrer-policy"], "no-referrer", "{path}");
            assert_eq!(headers["cache-control"], "no-cache", "{path}");
        }
        assert!(CSP.starts_with("default-src 'none'; script-src 'self'; style-src 'self'; "));
        assert!(!CSP.contains("unsafe"));
    }

    #[tokio::test]
    async fn a_file_that_is_known_is_not_sent_again() {
        let (_, headers, _) = ask(Method::GET, "/ui/app.js", None).await;
        let tag = headers["etag"].to_str().expect("text").to_owned();
        assert!(tag.starts_with('"'), "strong: {tag}");
        let weak = format!("W/{tag}");
        let several = format!("\"other\", {tag}");
        for known in [tag.as_str(), &weak, &several, "*"] {
            let (status, headers, body) = ask(Method::GET, "/ui/app.js", Some(known)).await;
            assert_eq!((status, body.len()), (304, 0), "{known}");
            assert_eq!(headers["etag"], tag.as_str());
            assert_eq!(headers["content-security-policy"], CSP);
        }
        for unknown in ["\"other\"", "", "other"] {
            let (status, _, body) = ask(Method::GET, "/ui/app.js", Some(unknown)).await;
            assert_eq!(status, 200, "{unknown}");
            assert!(!body.is_empty());
        }
        let tags: BTreeSet<_> = ASSETS
            .iter()
            .map(|asset| Served::new(asset.kind, Content::Embedded(asset.content)).tag)
            .map(|tag| tag.as_bytes().to_vec())
            .collect();
        assert_eq!(tags.len(), ASSETS.len(), "each file has a tag of its own");
    }

    #[tokio::test]
    async fn methods_and_paths() {
        let (status, headers, _) = ask(Method::GET, "/ui", None).await;
        assert_eq!(status, 308);
        assert_eq!(headers["location"], "ui/");
        let (status, headers, body) = ask(Method::HEAD, "/ui/", None).await;
        assert_eq!((status, body.len()), (200, 0));
        assert!(headers.contains_key("etag"));
        assert_eq!(ask(Method::POST, "/ui/", None).await.0, 405);
        for path in ["/ui/nothing.js", "/ui/index.html", "/ui/../app.js", "/ui//"] {
            assert_eq!(ask(Method::GET, path, None).await.0, 404, "{path}");
        }
        let (status, headers, body) = ask(Method::GET, "/ui/port.json", None).await;
        assert_eq!(status, 200);
        assert_eq!(headers["content-type"], "application/json");
        let port: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(port["gateway"], true);
        assert_eq!(port["autopilot"], false);
    }

    #[test]
    fn the_list_is_the_folder_and_small() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/assets");
        let there: BTreeSet<String> = std::fs::read_dir(folder)
            .expect("the folder")
            .map(|entry| entry.expect("an entry").file_name())
            .map(|name| name.to_string_lossy().into_owned())
            .collect();
        let name = |asset: &Asset| match asset.name {
            "" => "index.html".to_owned(),
            name => name.to_owned(),
        };
        assert_eq!(there, ASSETS.iter().map(name).collect());
        let bytes: usize = ASSETS.iter().map(|asset| asset.content.len()).sum();
        assert!(bytes <= 300 * 1024, "the page has {bytes} bytes");
    }

    #[test]
    fn nothing_comes_from_elsewhere_and_nothing_is_inline() {
        for asset in ASSETS {
            let text = String::from_utf8_lossy(asset.content);
            let elsewhere = ["https://", "http://", "@import", "url("];
            let inline = [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "eval(",
                "style=\"",
            ];
            for word in elsewhere.iter().chain(&inline) {
                let namespace = text.replace("http://www.w3.org/", "");
                assert!(!namespace.contains(word), "{}: {word}", asset.name);
            }
            assert!(!text.contains("<script>"), "{}", asset.name);
            assert!(
                !text.contains("localStorage.setItem(\"token"),
                "{}",
                asset.name
            );
        }
    }
}
