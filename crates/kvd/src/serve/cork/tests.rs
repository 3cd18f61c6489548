use std::collections::VecDeque;

use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// Remembers what was written with each call.
#[derive(Debug, Default)]
struct Calls {
    written: Vec<Vec<u8>>,
    flushes: usize,
    broken: bool,
}

impl AsyncRead for Calls {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Calls {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.broken {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        self.written.push(bytes.to_vec());
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.flushes += 1;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn what_is_written_in_one_poll_goes_out_with_one_call() {
    let writer = |mut stream: Corked<Calls>| async move {
        for number in 0..100u8 {
            stream.write_all(&[number; 300]).await?;
            stream.flush().await?;
        }
        std::future::pending::<io::Result<()>>().await
    };
    let mut uncork = corked(Calls::default(), writer);
    let polled = std::future::poll_fn(|context| Poll::Ready(Pin::new(&mut uncork).poll(context)));
    assert!(polled.await.is_pending());
    let state = uncork.state.lock();
    let expected: Vec<u8> = (0..100u8).flat_map(|number| [number; 300]).collect();
    assert_eq!(state.inner.written, [expected]);
    assert_eq!(state.inner.flushes, 1, "TLS may hold something back");
    assert!(state.held.is_empty());
    assert_eq!(
        state.held.capacity(),
        0,
        "an idle connection keeps no buffer"
    );
}

#[tokio::test]
async fn a_large_write_goes_out_behind_what_is_held() {
    let writer = |mut stream: Corked<Calls>| async move {
        stream.write_all(b"small").await?;
        stream.write_all(&[7; LARGE]).await?;
        io::Result::Ok(())
    };
    let mut uncork = corked(Calls::default(), writer);
    (&mut uncork).await.expect("nothing fails");
    let state = uncork.state.lock();
    assert_eq!(state.inner.written, [b"small".to_vec(), vec![7; LARGE]]);
}

#[tokio::test]
async fn the_connection_learns_that_nothing_can_be_sent() {
    let broken = Calls {
        broken: true,
        ..Calls::default()
    };
    let writer = |mut stream: Corked<Calls>| async move {
        stream.write_all(b"lost").await?;
        tokio::task::yield_now().await;
        stream.write_all(b"refused").await
    };
    let error = corked(broken, writer).await.expect_err("it is broken");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

/// Through a pipe much narrower than what is written, everything arrives, in order.
#[tokio::test]
async fn a_slow_reader_gets_everything_in_order() {
    for seed in 0..20 {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut pieces: VecDeque<Vec<u8>> = VecDeque::new();
        for _ in 0..60 {
            let longest = [10, 300, 2 * LARGE, 3 * HELD_MAX][random.random_range(0..4)];
            let mut piece = vec![0; random.random_range(1..longest)];
            random.fill_bytes(&mut piece);
            pieces.push_back(piece);
        }
        let expected: Vec<u8> = pieces.iter().flatten().copied().collect();
        let (near, mut far) = tokio::io::duplex(random.random_range(1..100_000));
        let writer = |mut stream: Corked<tokio::io::DuplexStream>| async move {
            for piece in pieces {
                stream.write_all(&piece).await?;
                if piece.len() % 3 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            stream.shutdown().await
        };
        let reader = async {
            let mut read = Vec::new();
            far.read_to_end(&mut read).await.map(|_| read)
        };
        let (written, read) = tokio::join!(corked(near, writer), reader);
        written.expect("written");
        assert!(read.expect("read") == expected, "seed {seed}");
    }
}

/// Like h2: streams leave what they have to say and wake the connection, which writes it.
#[derive(Default)]
struct Outbox {
    left: VecDeque<u8>,
    connection: Option<Waker>,
}

/// Streams woken by another thread have all had their turn before the connection writes.
#[test]
fn streams_that_another_thread_wakes_share_a_write() {
    const STREAMS: u8 = 50;
    let outbox = Arc::new(Mutex::new(Outbox::default()));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let written = runtime.block_on(async {
        let mut wakers = Vec::new();
        for number in 0..STREAMS {
            let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
            let outbox = Arc::clone(&outbox);
            tokio::spawn(async move {
                receiver.await.expect("it is woken");
                let mut outbox = outbox.lock();
                outbox.left.push_back(number);
                if let Some(connection) = outbox.connection.take() {
                    connection.wake();
                }
            });
            wakers.push(sender);
        }
        // Every stream waits now.
        tokio::task::yield_now().await;
        let connection = |mut stream: Corked<Calls>| async move {
            let mut said = 0;
            while said < STREAMS {
                let next = std::future::poll_fn(|context| {
                    let mut outbox = outbox.lock();
                    outbox.connection = Some(context.waker().clone());
                    match outbox.left.pop_front() {
                        Some(next) => Poll::Ready(next),
                        None => Poll::Pending,
                    }
                })
                .await;
                stream.write_all(&[next]).await.expect("written");
                said += 1;
            }
        };
        let uncork = corked(Calls::default(), connection);
        let state = Arc::clone(&uncork.state);
        let served = tokio::spawn(uncork);
        tokio::task::yield_now().await;
        let other = std::thread::spawn(move || {
            for waker in wakers {
                waker.send(()).expect("it waits");
            }
        });
        other.join().expect("the other thread");
        served.await.expect("served");
        let state = state.lock();
        state.inner.written.clone()
    });
    assert_eq!(written.concat().len(), usize::from(STREAMS));
    assert!(written.len() <= 5, "{} writes", written.len());
}
