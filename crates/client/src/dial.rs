//! Opening a connection to an endpoint: TCP or a socket file, with or without TLS.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::client::Client;
use crate::endpoint::{Address, Endpoint, Security};
use crate::error::{Error, Result};
use crate::tls::TlsOptions;

/// HTTP/2, which gRPC is spoken over.
pub(crate) const H2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";
/// Largest answer to a plain HTTP request.
const FETCHED_BYTES_MAX: u64 = 64 << 20;

/// Bytes both ways.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Connects, and shakes hands when `tls` says so.
pub(crate) async fn open(
    endpoint: &Endpoint,
    tls: Option<&TlsOptions>,
    protocol: &'static [u8],
) -> io::Result<Box<dyn Duplex>> {
    let plain: Box<dyn Duplex> = match endpoint.address() {
        Address::Tcp { host, port } => {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let stream = TcpStream::connect((host, *port)).await?;
            stream.set_nodelay(true)?;
            Box::new(stream)
        }
        Address::Unix { path } => Box::new(UnixStream::connect(path).await?),
    };
    let Some(tls) = tls else {
        return Ok(plain);
    };
    let name = tls
        .expected_name(endpoint.host())
        .map_err(io::Error::other)?;
    let options = tls.clone();
    // Files are read, which may block.
    let config = tokio::task::spawn_blocking(move || options.config(protocol)).await;
    let config = config
        .map_err(io::Error::other)?
        .map_err(io::Error::other)?;
    let connector = TlsConnector::from(Arc::new(config));
    let secured = connector.connect(name, plain).await.map_err(explained)?;
    Ok(Box::new(secured))
}

/// Connects to an endpoint for plain HTTP/1.1, with TLS where the endpoint says so: for what a
/// server answers besides gRPC. Certificates are read anew with each call. It bounds no time.
///
/// Errors: the endpoint cannot be reached, or the handshake fails; the text says why.
pub async fn connect_http1(
    endpoint: &Endpoint,
    tls: &TlsOptions,
) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
    let tls = Some(tls).filter(|_| endpoint.security() == Security::Always);
    open(endpoint, tls, HTTP1).await
}

/// Says what an answer that is no TLS means.
fn explained(err: io::Error) -> io::Error {
    let inner = err
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidMessage(_)) => {
            io::Error::other("the server does not speak TLS on this port")
        }
        _ if err.kind() == io::ErrorKind::UnexpectedEof => {
            io::Error::other("the server ended the TLS handshake; does it speak TLS on this port?")
        }
        _ => err,
    }
}

impl Client {
    /// Fetches a page from the endpoint, over HTTP/1.
    pub(crate) async fn fetch(&self, path: &str) -> Result<String> {
        let endpoint = self.balancer().first();
        let lost = |reason: String| Error::ConnectionLost {
            endpoint: endpoint.as_str().to_owned(),
            reason,
        };
        let asked = ask(
            endpoint,
            self.balancer().first_tls(),
            path,
            self.dial_timeout(),
        );
        let answer = timeout(self.request_timeout(), asked).await;
        let answer = answer.map_err(|_| Error::DeadlineExceeded)?;
        let answer = answer.map_err(|err| lost(err.to_string()))?;
        let (head, body) = answer
            .split_once("\r\n\r\n")
            .ok_or_else(|| lost("no HTTP answer".to_owned()))?;
        let status = head.lines().next().unwrap_or_default();
        if status.split(' ').nth(1) != Some("200") {
            return Err(lost(format!("{path}: {status}")));
        }
        Ok(body.to_owned())
    }
}

async fn ask(
    endpoint: &Endpoint,
    tls: Option<&TlsOptions>,
    path: &str,
    dial_timeout: Duration,
) -> io::Result<String> {
    let opened = timeout(dial_timeout, open(endpoint, tls, HTTP1)).await;
    let mut stream = opened.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let host = endpoint.authority();
    // In HTTP/1.0 the answer ends with the connection and comes in one piece.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    let read = stream
        .take(FETCHED_BYTES_MAX)
        .read_to_end(&mut answer)
        .await;
    match read {
        // A server that ends TLS without saying so has said everything before.
        Err(err) if err.kind() == io::ErrorKind::UnexpectedEof && !answer.is_empty() => {}
        Err(err) => return Err(err),
        Ok(_) => {}
    }
    String::from_utf8(answer).map_err(io::Error::other)
}
