//! How a peer URL becomes a connection.
//!
//! A peer is known by the text of its URLs, never by its address: in Kubernetes a member comes
//! back under the same name with another address. So names are resolved at every attempt and the
//! result is not kept.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::error::{Error, Result};

/// How long one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long an address is waited for before the next one is tried as well.
const HEAD_START: Duration = Duration::from_millis(150);

/// Bytes in both directions.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Connection for T {}

/// The future of [`Dialer::dial`].
pub type Dialing = Pin<Box<dyn Future<Output = io::Result<Box<dyn Connection>>> + Send>>;

/// Connects to peers. The server gives one that speaks TLS; tests give one that can be cut.
pub trait Dialer: Send + Sync + 'static {
    /// Connects to member `to`, trying its URLs in order. Called anew for every connection.
    fn dial(&self, to: u64, urls: Vec<String>) -> Dialing;

    /// Grows when requests should go over new connections: the open ones may be closed soon, for
    /// instance because a certificate was exchanged. What is under way on them goes on meanwhile.
    fn generation(&self) -> u64 {
        0
    }
}

impl fmt::Debug for dyn Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer").finish_non_exhaustive()
    }
}

/// Connects without TLS: `http://host:port` or `unix://path`.
#[derive(Debug, Clone, Copy, Default)]
pub struct PlainDialer;

impl Dialer for PlainDialer {
    fn dial(&self, _to: u64, urls: Vec<String>) -> Dialing {
        Box::pin(async move {
            let mut last = io::Error::new(io::ErrorKind::InvalidInput, "the member has no URL");
            for url in &urls {
                match connect(url).await {
                    Ok(connection) => return Ok(connection),
                    Err(error) => last = io::Error::new(error.kind(), format!("{url}: {error}")),
                }
            }
            Err(last)
        })
    }
}

async fn connect(url: &str) -> io::Result<Box<dyn Connection>> {
    let target = parse(url).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    match target {
        Target::Tcp(host_and_port) => Ok(Box::new(connect_tcp(host_and_port).await?)),
        #[cfg(unix)]
        Target::Unix(path) => {
            let connecting = tokio::net::UnixStream::connect(path);
            Ok(Box::new(timeout(CONNECT_TIMEOUT, connecting).await??))
        }
        #[cfg(not(unix))]
        Target::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Connects to `host:port`, resolving the name now and trying all of its addresses, one after the
/// other but without waiting long for any: a name may still have the address of a pod that is gone,
/// which does not answer at all. Without delay of small messages.
pub(crate) async fn connect_tcp(host_and_port: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let addresses = timeout(CONNECT_TIMEOUT, tokio::net::lookup_host(host_and_port)).await??;
    let mut addresses: VecDeque<SocketAddr> = addresses.collect();
    let mut attempts = FuturesUnordered::new();
    loop {
        if let Some(address) = addresses.pop_front() {
            attempts.push(timeout(CONNECT_TIMEOUT, TcpStream::connect(address)));
        }
        tokio::select! {
            ended = attempts.next(), if !attempts.is_empty() => match ended {
                Some(Ok(Ok(stream))) => {
                    stream.set_nodelay(true)?;
                    return Ok(stream);
                }
                Some(Ok(Err(error))) => last = error,
                Some(Err(elapsed)) => last = elapsed.into(),
                None => {}
            },
            () = tokio::time::sleep(HEAD_START), if !addresses.is_empty() => {}
            else => return Err(last),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Target<'a> {
    Tcp(&'a str),
    Unix(&'a str),
}

fn parse(url: &str) -> Result<Target<'_>> {
    let refuse = |why| {
        Err(Error::PeerUrl {
            url: url.to_owned(),
            why,
        })
    };
    let Some((scheme, rest)) = url.split_once("://") else {
        return refuse("it has no scheme");
    };
    match scheme {
        "http" => {
            let authority = rest.trim_end_matches('/');
            match authority.rsplit_once(':') {
                Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                    Ok(Target::Tcp(authority))
                }
                _ => refuse("it needs a host and a port"),
            }
        }
        "unix" if rest.is_empty() => refuse("it has no path"),
        "unix" => Ok(Target::Unix(rest)),
        "https" => refuse("this dialer does not speak TLS"),
        _ => refuse("its scheme is not http or unix"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_tcp_or_a_unix_socket() {
        assert_eq!(parse("http://a.b:2380").unwrap(), Target::Tcp("a.b:2380"));
        assert_eq!(
            parse("http://[::1]:2380/").unwrap(),
            Target::Tcp("[::1]:2380")
        );
        assert_eq!(parse("unix:///run/kvd").unwrap(), Target::Unix("/run/kvd"));
        for wrong in [
            "a:1",
            "http://a",
            "http://:1",
            "http://a:b",
            "unix://",
            "https://a:1",
            "x://a:1",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_closed_port_is_refused_at_once_and_names_the_url() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("bind");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        assert!(PlainDialer.dial(1, vec![url.clone()]).await.is_ok());
        drop(listener);
        let error = PlainDialer
            .dial(1, vec![url.clone()])
            .await
            .err()
            .expect("refused");
        assert!(error.to_string().contains(&url), "{error}");
    }
}
