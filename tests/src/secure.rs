//! A client with TLS: gRPC channels and plain HTTP over rustls.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::pki::Issued;

/// Who the client trusts and what it shows.
#[derive(Clone)]
pub struct Identity {
    config: Arc<ClientConfig>,
}

impl Identity {
    /// Trusts `roots` (PEM) and shows `shown`, if anything.
    ///
    /// Errors: when either cannot be used.
    pub fn new(roots: &str, shown: Option<&Issued>) -> Result<Identity> {
        Identity::with_protocols(roots, shown, &[b"h2", b"http/1.1"])
    }

    /// The same, offering other protocols inside.
    ///
    /// Errors: when either cannot be used.
    pub fn with_protocols(
        roots: &str,
        shown: Option<&Issued>,
        protocols: &[&[u8]],
    ) -> Result<Identity> {
        let mut store = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(roots.as_bytes()) {
            store.add(root?)?;
        }
        let provider = kvd_tls::provider::shared();
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(store);
        let mut config = match shown {
            None => builder.with_no_client_auth(),
            Some(shown) => {
                let chain: Result<Vec<_>, _> =
                    CertificateDer::pem_slice_iter(shown.cert.as_bytes()).collect();
                let key = PrivateKeyDer::from_pem_slice(shown.key.as_bytes())?;
                builder.with_client_auth_cert(chain?, key)?
            }
        };
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Ok(Identity {
            config: Arc::new(config),
        })
    }

    /// Connects to `address` (`HOST:PORT`) and shakes hands, for this host's loopback address.
    ///
    /// Errors: when either fails.
    pub async fn connect(&self, address: &str) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("127.0.0.1").map_err(io::Error::other)?;
        TlsConnector::from(Arc::clone(&self.config))
            .connect(name, stream)
            .await
    }

    /// A gRPC channel to `address`, connected.
    ///
    /// Errors: when the connection is refused; with TLS 1.3 a server that does not take the
    /// certificate says so only at the first request.
    pub async fn channel(&self, address: &str) -> Result<Channel> {
        // The origin is what requests say; with another scheme etcd does not see the certificate.
        let origin = format!("https://{address}").parse()?;
        let (identity, address) = (self.clone(), address.to_owned());
        let connector = tower::service_fn(move |_: Uri| {
            let (identity, address) = (identity.clone(), address.clone());
            async move { identity.connect(&address).await.map(TokioIo::new) }
        });
        // Never dialled: the connector knows where to go.
        let endpoint = Endpoint::from_static("http://kvd")
            .origin(origin)
            .connect_timeout(Duration::from_secs(10));
        Ok(endpoint.connect_with_connector(connector).await?)
    }

    /// `GET path` by HTTP/1, and everything that comes back.
    ///
    /// Errors: when the connection is refused or broken.
    pub async fn get(&self, address: &str, path: &str) -> Result<String> {
        self.ask(address, &format!("GET {path}"), "", "").await
    }

    /// `POST path` by HTTP/1 with more header lines, each ended by `\r\n`, and everything that comes
    /// back.
    ///
    /// Errors: when the connection is refused or broken.
    pub async fn post(
        &self,
        address: &str,
        path: &str,
        headers: &str,
        body: &str,
    ) -> Result<String> {
        let headers = format!("{headers}Content-Length: {}\r\n", body.len());
        let what = format!("POST {path}");
        self.ask(address, &what, &headers, body).await
    }

    async fn ask(&self, address: &str, what: &str, headers: &str, body: &str) -> Result<String> {
        let mut stream = self.connect(address).await?;
        let request = format!(
            "{what} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream
            .read_to_end(&mut answer)
            .await
            .context("the answer")?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }
}
