//! A line to a peer: the connection of one purpose, made when first used and made again when it
//! breaks.
//!
//! A peer that goes away without a word, as a pod does whose address is taken from it, leaves
//! connections behind on which nothing is refused and nothing is answered. Each line finds that out
//! by itself, by HTTP/2 pings; but a ping waits behind what was sent before it, so only the control
//! line, which carries nothing large, may be impatient. When the probes on it find that the peer is
//! another process than before, all lines [hang up](Line::hang_up).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use kvd_api::pb::kvdpeerpb as pb;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::{Channel, Endpoint, Uri};

use super::MESSAGE_BYTES_MAX;
use super::resolve::{Connection, Dialer};

pub(crate) type Client = pb::peer_client::PeerClient<Channel>;

/// Bytes that may be under way on one connection before the receiver must have read some.
const WINDOW_BYTES: u32 = 8 << 20;

/// What a line is for; each purpose has its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Entries.
    Append,
    /// Heartbeats, votes, leadership transfer, probes.
    Control,
    /// Whole snapshots.
    Snapshot,
    /// Proposals and read indexes on their way to the leader.
    Forward,
}

impl Purpose {
    /// After how much silence a connection is probed, and how long the answer may take.
    fn patience(self) -> (Duration, Duration) {
        match self {
            Purpose::Control => (Duration::from_millis(300), Duration::from_millis(1_000)),
            Purpose::Append | Purpose::Forward => {
                (Duration::from_millis(500), Duration::from_millis(2_500))
            }
            // On a slow network a ping waits until megabytes before it have been taken.
            Purpose::Snapshot => (Duration::from_secs(2), Duration::from_secs(20)),
        }
    }
}

/// Where a line leads: the peer's URLs change with the membership.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) id: u64,
    /// Read for every new connection.
    pub(crate) urls: Arc<Mutex<Vec<String>>>,
    pub(crate) dialer: Arc<dyn Dialer>,
}

/// The connection of one purpose.
pub(crate) struct Line {
    channel: Channel,
    client: Client,
    /// Cancelled when what is connected must not be used any more.
    current: Arc<Mutex<CancellationToken>>,
}

impl Line {
    /// A line that is not connected yet. Its task lives on the current runtime.
    pub(crate) fn new(purpose: Purpose, target: &Target) -> Line {
        let current = Arc::new(Mutex::new(CancellationToken::new()));
        let (target, tokens) = (target.clone(), current.clone());
        let connector = tower::service_fn(move |_: Uri| {
            // Taken before the name is resolved: who hangs up meanwhile means this one, too.
            let token = tokens.lock().clone();
            let dialing = target.dialer.dial(target.id, target.urls.lock().clone());
            async move {
                let connection = dialing.await.map_err(NotConnected)?;
                Ok::<_, NotConnected>(TokioIo::new(Cuttable {
                    connection,
                    cut: Box::pin(token.cancelled_owned()),
                }))
            }
        });
        let (interval, timeout) = purpose.patience();
        // The URI is never dialled: the connector knows where to go.
        let channel = Endpoint::from_static("http://peer.kvd")
            .http2_keep_alive_interval(interval)
            .keep_alive_timeout(timeout)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES * 2)
            .connect_with_connector_lazy(connector);
        let client = Client::new(channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Line {
            channel,
            client,
            current,
        }
    }

    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Closes what is connected, and what is about to be. The next use connects anew.
    pub(crate) fn hang_up(&self) {
        let old = std::mem::take(&mut *self.current.lock());
        old.cancel();
    }
}

/// Marks failures that happened before anything was sent.
#[derive(Debug, thiserror::Error)]
#[error("cannot connect: {0}")]
pub(crate) struct NotConnected(io::Error);

/// A connection that [`Line::hang_up`] ends.
struct Cuttable {
    connection: Box<dyn Connection>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Cuttable {
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.cut.as_mut().poll(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(()) => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the peer is somewhere else by now",
            )),
        }
    }
}

impl AsyncRead for Cuttable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.connection).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Cuttable {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write_vectored(cx, slices)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;
    use crate::PlainDialer;

    #[tokio::test]
    async fn a_line_that_hangs_up_closes_its_connection_and_makes_another() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let target = Target {
            id: 1,
            urls: Arc::new(Mutex::new(vec![url])),
            dialer: Arc::new(PlainDialer),
        };
        let line = Line::new(Purpose::Control, &target);
        for _ in 0..2 {
            let mut client = line.client();
            let call = tokio::spawn(async move { client.probe(pb::ProbeRequest::default()).await });
            // Nothing is answered, as by a peer that is gone.
            let (mut there, _) = listener.accept().await.expect("a connection");
            let mut preface = [0; 14];
            there.read_exact(&mut preface).await.expect("HTTP/2 begins");
            line.hang_up();
            let failed = call.await.expect("no panic").expect_err("cut");
            assert!(crate::transport::client::innermost(&failed).contains("somewhere else"));
            let mut rest = Vec::new();
            there.read_to_end(&mut rest).await.expect("it was closed");
        }
    }
}
