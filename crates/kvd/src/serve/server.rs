//! Accepting connections and handing them to cores.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Body;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, warn};

use super::connection::{Entry, Options, Serve, Services, Stop, run};
use super::cores::Cores;
use super::limits::Connections;
use super::listener::{Bound, Listener, SocketFile};
use super::pending::Pending;

/// Pause after a failed accept, so that a lack of descriptors does not burn a core.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Go's default for accepted connections.
const TCP_KEEPALIVE: Duration = Duration::from_secs(15);
/// Time that cut connections get to notice.
const CUT: Duration = Duration::from_millis(500);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Listeners that are being served. Dropping it leaves them running until the runtimes end.
pub struct Serving {
    accepting: CancellationToken,
    acceptors: Vec<JoinHandle<()>>,
    stop: Stop,
    connections: TaskTracker,
    addresses: Vec<SocketAddr>,
}

impl Serving {
    /// The TCP addresses that are served, in the listeners' order.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// How many connections are open.
    pub fn open_connections(&self) -> usize {
        self.connections.len()
    }

    /// Closes the listeners; open connections go on.
    pub async fn stop_accepting(&mut self) {
        self.accepting.cancel();
        for acceptor in self.acceptors.drain(..) {
            if let Err(error) = acceptor.await {
                error!(%error, "accepting connections ended badly");
            }
        }
    }

    /// Closes the listeners, lets requests in flight finish for `grace`, then cuts what is left.
    ///
    /// Returns how many connections had to be cut.
    pub async fn stop(mut self, grace: Duration) -> usize {
        self.stop_accepting().await;
        self.stop.drain.cancel();
        self.connections.close();
        if timeout(grace, self.connections.wait()).await.is_ok() {
            return 0;
        }
        let cut = self.connections.len();
        self.stop.cut.cancel();
        if timeout(CUT, self.connections.wait()).await.is_err() {
            warn!(
                connections = self.connections.len(),
                "connections did not end in time"
            );
        }
        cut
    }
}

/// Serves `listeners` with `services`: accepts on the current runtime, serves on `cores`.
///
/// `limit` holds a permit for each connection that may be open, over all listeners that share it;
/// when there is none left, clients wait in the kernel's queue.
///
/// Errors: a listener cannot be registered with the runtime.
pub fn start<G, H, GB, HB>(
    listeners: Vec<Listener>,
    services: &Services<G, H>,
    options: Options,
    cores: &Arc<Cores>,
    limit: &Connections,
) -> io::Result<Serving>
where
    G: tower_service::Service<
            http::Request<hyper::body::Incoming>,
            Response = http::Response<GB>,
            Error = std::convert::Infallible,
            Future: Send,
        > + Clone
        + Send
        + Sync
        + 'static,
    H: tower_service::Service<
            http::Request<hyper::body::Incoming>,
            Response = http::Response<HB>,
            Error = std::convert::Infallible,
            Future: Send,
        > + Clone
        + Send
        + Sync
        + 'static,
    GB: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    HB: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let accepting = CancellationToken::new();
    let stop = Stop::default();
    let connections = TaskTracker::new();
    let options = Arc::new(options);
    let pending = Pending::new(options.pending_max);
    let mut acceptors = Vec::new();
    let mut addresses = Vec::new();
    for listener in listeners {
        addresses.extend(listener.local_address());
        let (plain, tls) = (listener.is_plain(), listener.is_tls());
        let entry = Entry {
            options: Arc::clone(&options),
            plain,
            tls,
            pending: Arc::clone(&pending),
        };
        let acceptor = Acceptor {
            socket: Socket::register(listener.bound)?,
            accepting: accepting.clone(),
            limit: limit.clone(),
            shared: Shared {
                services: services.clone(),
                entry: Arc::new(entry),
                stop: stop.clone(),
                connections: connections.clone(),
                cores: cores.clone(),
            },
        };
        acceptors.push(tokio::spawn(acceptor.run()));
    }
    Ok(Serving {
        accepting,
        acceptors,
        stop,
        connections,
        addresses,
    })
}

/// A listener that the runtime watches.
enum Socket {
    Tcp(TcpListener),
    Unix(
        UnixListener,
        #[expect(dead_code, reason = "removes the file when dropped")] SocketFile,
    ),
}

/// A connection on its way to another runtime.
enum Accepted {
    Tcp(std::net::TcpStream, SocketAddr),
    Unix(std::os::unix::net::UnixStream),
}

impl Socket {
    fn register(bound: Bound) -> io::Result<Socket> {
        Ok(match bound {
            Bound::Tcp(socket) => Socket::Tcp(TcpListener::from_std(socket)?),
            Bound::Unix(socket, file) => Socket::Unix(UnixListener::from_std(socket)?, file),
        })
    }

    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Socket::Tcp(socket) => {
                let (stream, address) = socket.accept().await?;
                Ok(Accepted::Tcp(stream.into_std()?, address))
            }
            Socket::Unix(socket, _) => {
                let (stream, _) = socket.accept().await?;
                Ok(Accepted::Unix(stream.into_std()?))
            }
        }
    }
}

/// What every connection of a listener needs.
#[derive(Clone)]
struct Shared<G, H> {
    services: Services<G, H>,
    entry: Arc<Entry>,
    stop: Stop,
    connections: TaskTracker,
    cores: Arc<Cores>,
}

struct Acceptor<G, H> {
    socket: Socket,
    accepting: CancellationToken,
    limit: Connections,
    shared: Shared<G, H>,
}

impl<G, H> Acceptor<G, H> {
    async fn run<GB, HB>(self)
    where
        G: Serve<GB>,
        H: Serve<HB>,
        GB: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
        HB: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let accepting = self.accepting.clone();
        let mut full = false;
        loop {
            if self.limit.available_permits() == 0 && !full {
                warn!("all connections that the file descriptor limit allows are open");
            }
            full = self.limit.available_permits() == 0;
            let permit = tokio::select! {
                permit = self.limit.clone().acquire_owned() => permit,
                () = accepting.cancelled() => return,
            };
            let Ok(permit) = permit else {
                return;
            };
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                () = accepting.cancelled() => return,
            };
            match accepted {
                Ok(stream) => self.shared.hand_out(stream, permit),
                Err(error) => {
                    warn!(%error, "accepting a connection failed; trying again");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }
}

impl<G, H> Shared<G, H> {
    fn hand_out<GB, HB>(&self, accepted: Accepted, permit: OwnedSemaphorePermit)
    where
        G: Serve<GB>,
        H: Serve<HB>,
        GB: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
        HB: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let (services, entry, stop) = (
            self.services.clone(),
            Arc::clone(&self.entry),
            self.stop.clone(),
        );
        let serve = async move {
            // Streams are registered with the runtime of the core that they are served on.
            let lost = |error: io::Error| debug!(%error, "connection lost before it was served");
            match accepted {
                Accepted::Tcp(stream, address) => {
                    let stream = prepare(stream).and_then(tokio::net::TcpStream::from_std);
                    match stream {
                        Ok(stream) => run(stream, Some(address), services, &entry, &stop).await,
                        Err(error) => lost(error),
                    }
                }
                Accepted::Unix(stream) => match tokio::net::UnixStream::from_std(stream) {
                    Ok(stream) => run(stream, None, services, &entry, &stop).await,
                    Err(error) => lost(error),
                },
            }
            drop(permit);
        };
        self.cores
            .next()
            .spawn(self.connections.track_future(serve));
    }
}

fn prepare(stream: std::net::TcpStream) -> io::Result<std::net::TcpStream> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(TCP_KEEPALIVE)
        .with_interval(TCP_KEEPALIVE);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok(stream)
}
