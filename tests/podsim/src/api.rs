//! The Kubernetes API, as far as a pod asks it: its own StatefulSet, over TLS, with the token that is
//! mounted into it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result};
use kvd_tests::pki::{Authority, Leaf};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::exchange;
use crate::node::Node;

/// Where every pod is told that it is.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// Where pods find their token.
pub const MOUNTED: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// How it behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Api {
    /// It answers.
    #[default]
    Well,
    /// It closes every connection.
    Down,
    /// It refuses whatever is asked.
    Forbids,
}

/// How it behaves now.
#[derive(Debug, Default)]
pub struct Mood {
    now: AtomicU8,
    token: OnceLock<String>,
}

impl Mood {
    /// Sets how it behaves from now on.
    pub fn set(&self, api: Api) {
        self.now.store(api as u8, Ordering::Relaxed);
    }

    fn is(&self, api: Api) -> bool {
        self.now.load(Ordering::Relaxed) == api as u8
    }
}

/// Serves `node`'s StatefulSets on [`ADDRESS`], which must be this machine's, and writes what is
/// mounted into pods to `account`.
///
/// Errors: the address cannot be listened on, or a file not be written.
pub async fn serve(node: Arc<Node>, account: &Path, namespace: &str) -> Result<()> {
    let authority = Authority::new("podsim")?;
    let mut leaf = Leaf::new("kubernetes", 1);
    leaf.names = vec![ADDRESS.to_string(), "kubernetes.default.svc".to_owned()];
    let issued = authority.issue(&leaf)?;
    let token = format!("token-{:x}", rand::random::<u64>());
    std::fs::create_dir_all(account)?;
    std::fs::write(account.join("ca.crt"), authority.pem())?;
    std::fs::write(account.join("token"), &token)?;
    std::fs::write(account.join("namespace"), namespace)?;
    // There is one server for one node.
    let _first = node.api.token.set(format!("Bearer {token}"));

    let certificates = CertificateDer::pem_slice_iter(issued.cert.as_bytes());
    let certificates: Vec<CertificateDer<'static>> = certificates.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes())?;
    let provider = kvd_tls::provider::shared();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certificates, key)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let address = SocketAddr::from((ADDRESS, 443));
    let listener = TcpListener::bind(address).await.context("the API")?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if !node.api.is(Api::Down) {
                // A pod that is gone needs no answer.
                tokio::spawn(answer(Arc::clone(&node), acceptor.clone(), stream));
            }
        }
    });
    Ok(())
}

async fn answer(node: Arc<Node>, acceptor: TlsAcceptor, stream: TcpStream) -> Result<()> {
    let mut stream = acceptor.accept(stream).await?;
    let head = exchange::head(&mut stream).await?;
    let (status, body) = reply(&node, &head);
    exchange::answer(&mut stream, status, &body).await
}

fn reply(node: &Node, head: &str) -> (&'static str, String) {
    let mut lines = head.lines();
    let first = lines.next().unwrap_or_default();
    let bearer = lines.find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("authorization").then_some(value)
    });
    if bearer.is_none() || bearer != node.api.token.get().map(String::as_str) {
        return ("401 Unauthorized", String::new());
    }
    if node.api.is(Api::Forbids) {
        return (
            "403 Forbidden",
            r#"{"kind":"Status","code":403}"#.to_owned(),
        );
    }
    let state = node.state();
    for (name, (set, _)) in &state.sets {
        let namespace = &state.namespace;
        let path = format!("/apis/apps/v1/namespaces/{namespace}/statefulsets/{name}");
        if first.starts_with(&format!("GET {path} ")) {
            let body = format!(
                r#"{{"kind":"StatefulSet","metadata":{{"name":"{name}"}},"spec":{{"replicas":{}}}}}"#,
                set.replicas
            );
            return ("200 OK", body);
        }
    }
    (
        "404 Not Found",
        r#"{"kind":"Status","code":404}"#.to_owned(),
    )
}
