//! A network between members of one process whose connections can be cut.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use kvd_raft::{Connection, Dialer, Dialing};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Where each member listens now, and which pairs cannot talk.
#[derive(Default)]
pub(crate) struct Net {
    addresses: Mutex<HashMap<u64, SocketAddr>>,
    cut: Mutex<HashSet<(u64, u64)>>,
    /// Breaks the open connections of a direction.
    open: Mutex<HashMap<(u64, u64), CancellationToken>>,
}

impl Net {
    pub(crate) fn listens(&self, member: u64, address: SocketAddr) {
        self.addresses.lock().insert(member, address);
    }

    pub(crate) fn gone(&self, member: u64) {
        self.addresses.lock().remove(&member);
    }

    /// Cuts a member off from all others, in both directions.
    pub(crate) fn isolate(&self, member: u64, others: &[u64]) {
        for other in others {
            for pair in [(member, *other), (*other, member)] {
                self.cut.lock().insert(pair);
                if let Some(token) = self.open.lock().remove(&pair) {
                    token.cancel();
                }
            }
        }
    }

    pub(crate) fn heal(&self) {
        self.cut.lock().clear();
    }

    /// The way of member `from` to the others.
    pub(crate) fn dialer(self: &Arc<Net>, from: u64) -> Arc<dyn Dialer> {
        Arc::new(TestDialer {
            net: self.clone(),
            from,
        })
    }
}

struct TestDialer {
    net: Arc<Net>,
    from: u64,
}

impl Dialer for TestDialer {
    fn dial(&self, to: u64, _urls: Vec<String>) -> Dialing {
        let (net, pair) = (self.net.clone(), (self.from, to));
        Box::pin(async move {
            let address = net.addresses.lock().get(&to).copied();
            let address = address.ok_or(io::ErrorKind::ConnectionRefused)?;
            if net.cut.lock().contains(&pair) {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let token = net.open.lock().entry(pair).or_default().clone();
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let cut = Box::pin(token.cancelled_owned());
            Ok(Box::new(Cuttable { stream, cut }) as Box<dyn Connection>)
        })
    }
}

/// A connection that breaks when its pair is cut.
struct Cuttable {
    stream: TcpStream,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Cuttable {
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.cut.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionReset.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Cuttable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Cuttable {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
