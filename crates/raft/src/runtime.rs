//! openraft on tokio, without sleeps that are too short to sleep.
//!
//! When the log reports two syncs within a microsecond, openraft sleeps until that microsecond has
//! passed, to take both at once. tokio's clock ticks in milliseconds: the sleep would hold up
//! every entry under way for one or two of them. So a sleep below a tick ends at once; it gives
//! way to other tasks, which is what it was meant for.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use openraft::{AsyncRuntime, Instant};

#[allow(deprecated)] // The replacement would be a dependency on a part of openraft.
type Tokio = openraft::impls::TokioRuntime;
type TokioInstant = <Tokio as AsyncRuntime>::Instant;

/// Shorter sleeps are not worth a timer.
const SHORTEST: Duration = Duration::from_micros(50);

/// The runtime that openraft is told to use.
pub(crate) struct Runtime(Tokio);

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Runtime")
    }
}

/// A timer, or giving way once.
pub(crate) enum Sleep {
    Timer(Pin<Box<<Tokio as AsyncRuntime>::Sleep>>),
    GiveWay { done: bool },
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match &mut *self {
            Sleep::Timer(timer) => timer.as_mut().poll(cx),
            Sleep::GiveWay { done: true } => Poll::Ready(()),
            Sleep::GiveWay { done } => {
                *done = true;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}

impl AsyncRuntime for Runtime {
    type JoinError = <Tokio as AsyncRuntime>::JoinError;
    type JoinHandle<T: Send + 'static> = <Tokio as AsyncRuntime>::JoinHandle<T>;
    type Sleep = Sleep;
    type Instant = TokioInstant;
    type TimeoutError = <Tokio as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + Send> = <Tokio as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = <Tokio as AsyncRuntime>::ThreadLocalRng;
    type Mpsc = <Tokio as AsyncRuntime>::Mpsc;
    type Watch = <Tokio as AsyncRuntime>::Watch;
    type Oneshot = <Tokio as AsyncRuntime>::Oneshot;
    type Mutex<T: Send + 'static> = <Tokio as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        Tokio::spawn(future)
    }

    fn sleep(duration: Duration) -> Sleep {
        match duration < SHORTEST {
            true => Sleep::GiveWay { done: false },
            false => Sleep::Timer(Box::pin(Tokio::sleep(duration))),
        }
    }

    fn sleep_until(deadline: TokioInstant) -> Sleep {
        match deadline < TokioInstant::now() + SHORTEST {
            true => Sleep::GiveWay { done: false },
            false => Sleep::Timer(Box::pin(Tokio::sleep_until(deadline))),
        }
    }

    fn timeout<R, F: Future<Output = R> + Send>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        Tokio::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + Send>(
        deadline: TokioInstant,
        future: F,
    ) -> Self::Timeout<R, F> {
        Tokio::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        Tokio::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        Tokio::thread_rng()
    }

    fn new(threads: usize) -> Runtime {
        Runtime(Tokio::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}
