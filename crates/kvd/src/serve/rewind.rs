//! A stream whose first bytes were read already, and may have to be mended.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::authority::Start;

/// Most bytes read at once while the start of a connection is looked at.
const PIECE: usize = 2048;

/// Gives `prefix` first, then what `inner` gives. Writes pass through.
#[derive(Debug)]
pub(super) struct Rewind<S> {
    prefix: Bytes,
    /// Until the first request of an HTTP/2 connection has come.
    start: Option<Start>,
    inner: S,
}

impl<S> Rewind<S> {
    pub(super) fn new(prefix: Bytes, inner: S) -> Self {
        if !Start::is_http2(&prefix) {
            return Rewind {
                prefix,
                start: None,
                inner,
            };
        }
        let mut start = Start::default();
        Rewind {
            prefix: start.take(&prefix),
            start: Some(start).filter(|start| !start.is_over()),
            inner,
        }
    }

    /// Reads a piece of the start of the connection into the prefix.
    fn poll_start(&mut self, start: &mut Start, context: &mut Context<'_>) -> Poll<io::Result<()>>
    where
        S: AsyncRead + Unpin,
    {
        let mut piece = [0; PIECE];
        let mut piece = ReadBuf::new(&mut piece);
        ready!(Pin::new(&mut self.inner).poll_read(context, &mut piece))?;
        self.prefix = if piece.filled().is_empty() {
            start.rest()
        } else {
            start.take(piece.filled())
        };
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewind<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.prefix.is_empty() {
            let Some(mut start) = self.start.take() else {
                return Pin::new(&mut self.inner).poll_read(context, buffer);
            };
            let read = self.poll_start(&mut start, context);
            if !start.is_over() {
                self.start = Some(start);
            }
            ready!(read)?;
        }
        let count = self.prefix.len().min(buffer.remaining());
        buffer.put_slice(&self.prefix[..count]);
        self.prefix.advance(count);
        if self.prefix.is_empty() {
            // Frees the buffer.
            self.prefix = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewind<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, slices)
    }
}
