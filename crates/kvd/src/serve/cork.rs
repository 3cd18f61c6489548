//! Collects what the streams of an HTTP/2 connection have to say, then sends it with one system call.
//!
//! Left alone, an event for a thousand watchers on one connection is a thousand system calls, each with
//! a segment of its own, and with TLS a record of its own. There are two reasons, and two remedies:
//!
//! - h2 writes each frame of 256 bytes or more by itself. [`Corked`] takes what it writes and flushes
//!   into a buffer, which [`Uncork`] sends when the connection has been polled. Large writes are not
//!   copied.
//! - Streams that other threads wake take turns with the connection, because the scheduler runs what
//!   woke on its own thread first: one answer, one write. [`Patience`] has the connection polled when
//!   the streams that are ready have had their turn, at most 61 of them
//!   (`event_interval` of tokio's runtime). It costs a lone request a poll of the driver.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker, ready};

use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are held back at most.
const HELD_MAX: usize = 64 * 1024;
/// A write from this size on goes out at once, behind what is held.
const LARGE: usize = 8 * 1024;
/// Capacity that a connection with nothing to send keeps.
const KEPT: usize = 4 * 1024;

/// Both halves belong to one task: the lock is never waited for.
type Shared<S> = Arc<Mutex<State<S>>>;

#[derive(Debug)]
struct State<S> {
    inner: S,
    held: BytesMut,
    /// Whether `inner` may hold something back, too: TLS does.
    unflushed: bool,
    /// Whom the socket wakes: the task itself, which need not be patient then.
    task: Waker,
    /// Why sending failed, for the connection to find with its next write.
    failure: Option<io::Error>,
}

impl<S> State<S> {
    fn know(&mut self, task: &Waker) {
        if !self.task.will_wake(task) {
            self.task = task.clone();
        }
    }
}

impl<S: AsyncWrite + Unpin> State<S> {
    /// Sends what is held.
    fn poll_send(&mut self) -> Poll<io::Result<()>> {
        let context = &mut Context::from_waker(&self.task);
        while !self.held.is_empty() {
            let sent = ready!(Pin::new(&mut self.inner).poll_write(context, &self.held))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.held.advance(sent);
            self.unflushed = true;
        }
        if self.held.capacity() > KEPT {
            self.held = BytesMut::new();
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.inner).poll_flush(context))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Takes as much of `slices` as there is room for.
    fn hold(&mut self, slices: &[io::IoSlice<'_>]) -> usize {
        let before = self.held.len();
        for slice in slices {
            let room = HELD_MAX.saturating_sub(self.held.len());
            let taken = &slice[..slice.len().min(room)];
            self.held.extend_from_slice(taken);
        }
        self.held.len() - before
    }

    fn poll_write(&mut self, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if let Some(failure) = self.failure.take() {
            return Poll::Ready(Err(failure));
        }
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        if total < LARGE && self.held.len() + total <= HELD_MAX {
            return Poll::Ready(Ok(self.hold(slices)));
        }
        match self.poll_send() {
            Poll::Ready(Ok(())) => {
                self.unflushed = true;
                let context = &mut Context::from_waker(&self.task);
                Pin::new(&mut self.inner).poll_write_vectored(context, slices)
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // The connection is woken when more can be sent. Meanwhile it may fill what is left.
            Poll::Pending => match self.hold(slices) {
                0 if total > 0 => Poll::Pending,
                taken => Poll::Ready(Ok(taken)),
            },
        }
    }
}

/// A stream whose writes wait for [`Uncork`].
#[derive(Debug)]
pub(super) struct Corked<S> {
    state: Shared<S>,
}

/// Nothing has woken the connection but its socket, if anything.
const IDLE: u8 = 0;
/// A stream has: the connection is to be polled after the tasks that are ready.
const WOKEN: u8 = 1;
/// That has been arranged.
const DEFERRED: u8 = 2;

/// How streams wake a connection: it is polled when the tasks that are ready have run, rather than
/// between them.
#[derive(Default)]
struct Patience {
    task: Mutex<Option<Waker>>,
    turn: AtomicU8,
}

impl Patience {
    fn know(&self, task: &Waker) {
        let mut known = self.task.lock();
        if !known.as_ref().is_some_and(|known| known.will_wake(task)) {
            *known = Some(task.clone());
        }
    }
}

impl Wake for Patience {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let order = Ordering::SeqCst;
        let first = self.turn.compare_exchange(IDLE, WOKEN, order, order);
        if first.is_ok()
            && let Some(task) = self.task.lock().as_ref()
        {
            task.wake_by_ref();
        }
    }
}

/// Sends what the connection on a [`Corked`] has written.
pub(super) struct Uncork<S, C> {
    state: Shared<S>,
    patience: Arc<Patience>,
    waker: Waker,
    connection: Pin<Box<C>>,
}

/// Makes `connect` a connection on `inner`, and joins the two.
pub(super) fn corked<S, C>(inner: S, connect: impl FnOnce(Corked<S>) -> C) -> Uncork<S, C> {
    let state = Arc::new(Mutex::new(State {
        inner,
        held: BytesMut::new(),
        unflushed: false,
        task: Waker::noop().clone(),
        failure: None,
    }));
    let connection = Box::pin(connect(Corked {
        state: Arc::clone(&state),
    }));
    let patience = Arc::new(Patience::default());
    Uncork {
        state,
        waker: Arc::clone(&patience).into(),
        patience,
        connection,
    }
}

impl<S, C> Uncork<S, C> {
    pub(super) fn connection(&mut self) -> Pin<&mut C> {
        self.connection.as_mut()
    }
}

impl<S, C> Future for Uncork<S, C>
where
    S: AsyncWrite + Unpin,
    C: Future,
{
    type Output = C::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<C::Output> {
        let this = self.get_mut();
        this.patience.know(context.waker());
        let turn = this.patience.turn.load(Ordering::SeqCst);
        if turn == WOKEN {
            this.patience.turn.store(DEFERRED, Ordering::SeqCst);
            // Polled once, `yield_now` has the scheduler wake this task later.
            let yielding = std::pin::pin!(tokio::task::yield_now());
            let _: Poll<()> = yielding.poll(context);
            return Poll::Pending;
        }
        // From here on a stream's wake counts again.
        this.patience.turn.store(IDLE, Ordering::SeqCst);
        this.state.lock().know(context.waker());
        let polled = this
            .connection
            .as_mut()
            .poll(&mut Context::from_waker(&this.waker));
        let mut state = this.state.lock();
        if let Poll::Ready(Err(error)) = state.poll_send() {
            // The connection has to learn of it: it is polled once more.
            state.held.clear();
            state.failure = Some(error);
            context.waker().wake_by_ref();
        }
        polled
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Corked<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let state = &mut *self.state.lock();
        if let Some(failure) = state.failure.take() {
            return Poll::Ready(Err(failure));
        }
        let context = &mut Context::from_waker(&state.task);
        Pin::new(&mut state.inner).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Corked<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let slices = [io::IoSlice::new(bytes)];
        self.state.lock().poll_write(&slices)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.state.lock().poll_write(slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Says that it is done: [`Uncork`] sends what is held.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.state.lock().failure.take() {
            Some(failure) => Poll::Ready(Err(failure)),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let state = &mut *self.state.lock();
        ready!(state.poll_send())?;
        let context = &mut Context::from_waker(&state.task);
        Pin::new(&mut state.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests;
