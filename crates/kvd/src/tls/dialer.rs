//! Connecting to other members, with TLS where their URLs say so.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use kvd_raft::{Connection, Dialer, Dialing, PlainDialer};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::live::Live;
use super::registry::{Closing, End, Open, Registration};
use super::verify::explain;
use crate::urls::Url;

/// Time for a handshake with another member.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// An address, and the URL whose host must be in the certificate that is shown there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The address.
    pub address: SocketAddr,
    /// The URL, with the name that the address was found under.
    pub url: String,
}

/// Knows where a member is that has a peer URL.
pub trait Find: fmt::Debug + Send + Sync {
    /// Where the member with the peer URL `url` is now.
    fn find(&self, url: String) -> BoxFuture<'_, io::Result<Place>>;
}

/// Connects to members. The URL's host must be in the certificate that the member shows.
#[derive(Clone, Debug)]
pub struct PeerDialer {
    live: Arc<Live>,
    finder: Option<Arc<dyn Find>>,
}

impl PeerDialer {
    /// Connects with what is in force on the peer port, whose `live` this is.
    pub fn new(live: Arc<Live>) -> PeerDialer {
        PeerDialer { live, finder: None }
    }

    /// Asks `finder` where members are, instead of looking up the hosts of their URLs.
    pub fn finding(self, finder: Option<Arc<dyn Find>>) -> PeerDialer {
        PeerDialer { finder, ..self }
    }

    /// Connects to a place.
    pub fn dial_at(&self, place: &Place) -> Dialing {
        let (dialer, place) = (self.clone(), place.clone());
        Box::pin(async move {
            let connecting = dialer.connect(0, &place.url, Some(place.address));
            connecting.await.map_err(|error| named(&place.url, &error))
        })
    }

    /// Connects to the member `to` with the peer URL `url`.
    async fn reach(&self, to: u64, url: &str) -> io::Result<Box<dyn Connection>> {
        let Some(finder) = &self.finder else {
            return self.connect(to, url, None).await;
        };
        let place = finder.find(url.to_owned()).await?;
        self.connect(to, &place.url, Some(place.address)).await
    }

    async fn connect(
        &self,
        to: u64,
        url: &str,
        at: Option<SocketAddr>,
    ) -> io::Result<Box<dyn Connection>> {
        let parsed = Url::parse(url)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error.to_string()))?;
        let at = at.map(|address| format!("http://{address}"));
        if !parsed.scheme().is_tls() {
            let plain = at.unwrap_or_else(|| url.to_owned());
            return PlainDialer.dial(to, vec![plain]).await;
        }
        let (plain, host) = match parsed.host_and_port() {
            Some((host, _)) => (format!("http://{}", parsed.authority()), host),
            // A socket has no name; who may open it is this host.
            None => (format!("unix://{}", parsed.socket_path()), "localhost"),
        };
        let plain = at.unwrap_or(plain);
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let live = Arc::clone(&self.live);
        let generation = live.generation();
        let material = live.material();
        let dialling = match material.dialling_in_use() {
            Some(dialling) => Ok(dialling.clone()),
            None => tokio::task::spawn_blocking(move || material.dialling()).await?,
        };
        let dialling = dialling.map_err(io::Error::other)?;
        let stream = PlainDialer.dial(to, vec![plain]).await?;
        let connecting = TlsConnector::from(dialling.config).connect(name.clone(), stream);
        let stream = match timeout(HANDSHAKE, connecting).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(explained(error)),
            Err(_) => {
                let why = "the member did not finish the TLS handshake in time";
                return Err(io::Error::new(io::ErrorKind::TimedOut, why));
            }
        };
        let closing = Closing::default();
        let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let open = Open::new(
            shown,
            End::Member(name.clone()),
            url.to_owned(),
            closing.clone(),
        );
        let registration = live.registry.add(open);
        if live.generation() != generation {
            // The files have changed meanwhile, before the connection was known.
            let verifier = live
                .material()
                .dialling()
                .map_err(io::Error::other)?
                .verifier;
            verifier
                .verify_again(shown, &name)
                .map_err(io::Error::other)?;
        }
        Ok(Box::new(Watched {
            stream,
            closed: Box::pin(closing.cut.cancelled_owned()),
            _registration: registration,
        }))
    }
}

/// A member that answers a handshake with something else is most likely one without TLS.
fn explained(error: io::Error) -> io::Error {
    let inner = error
        .get_ref()
        .and_then(|e| e.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)) => {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "the member does not speak TLS there: its peer URL says https, its listener \
                 speaks plain HTTP",
            )
        }
        Some(inner) => io::Error::new(error.kind(), explain(inner)),
        None => error,
    }
}

impl Dialer for PeerDialer {
    fn dial(&self, to: u64, urls: Vec<String>) -> Dialing {
        let dialer = self.clone();
        Box::pin(async move {
            let mut last = io::Error::new(io::ErrorKind::InvalidInput, "the member has no URL");
            for url in &urls {
                match dialer.reach(to, url).await {
                    Ok(connection) => return Ok(connection),
                    Err(error) => last = named(url, &error),
                }
            }
            Err(last)
        })
    }

    fn generation(&self) -> u64 {
        self.live.generation()
    }
}

/// Puts the URL in front, unless it stands there already.
fn named(url: &str, error: &io::Error) -> io::Error {
    let text = error.to_string();
    let text = match text.starts_with(url) {
        true => text,
        false => format!("{url}: {text}"),
    };
    io::Error::new(error.kind(), text)
}

/// A connection that ends when the certificate of the other end is not accepted any more.
struct Watched {
    stream: TlsStream<Box<dyn Connection>>,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    _registration: Registration,
}

impl Watched {
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.closed.as_mut().poll(context) {
            Poll::Pending => Ok(()),
            Poll::Ready(()) => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the member's certificate is not accepted any more",
            )),
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }
}
