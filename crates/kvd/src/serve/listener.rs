//! A socket that listens on a URL.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;

use crate::urls::Url;

/// Connections that may wait to be accepted; the kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// A listen URL cannot be bound.
#[derive(Debug, Error)]
#[error("cannot listen on {url} (--{flag}): {source}{}", advice(source))]
pub struct BindError {
    url: Url,
    flag: &'static str,
    source: io::Error,
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; another process listens there (kvd or etcd already running?): stop it or choose \
             another port"
        }
        io::ErrorKind::AddrNotAvailable => {
            "; no interface of this host has that address: use one that it has, or 0.0.0.0"
        }
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 and foreign directories need privileges: choose another"
        }
        io::ErrorKind::NotFound => "; the socket's directory does not exist: create it",
        _ => "",
    }
}

/// The socket itself.
#[derive(Debug)]
pub(super) enum Bound {
    Tcp(std::net::TcpListener),
    Unix(UnixListener, SocketFile),
}

/// The file of a unix socket, removed when the listener closes.
#[derive(Debug)]
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Someone else may have removed it; the next start clears it away in any case.
        let _gone = std::fs::remove_file(&self.0);
    }
}

/// A listening socket. Clients may connect at once; they are served after [`super::start`].
#[derive(Debug)]
pub struct Listener {
    url: Url,
    /// Whether there is a URL without TLS, and one with it, for this socket.
    plain: bool,
    tls: bool,
    pub(super) bound: Bound,
}

impl Listener {
    /// Listens on `url`, which `flag` gave.
    ///
    /// `reuse_port` sets `SO_REUSEPORT`. `SO_REUSEADDR` is always set, so that a restart need not
    /// wait for old connections to time out. A socket file without a listener is replaced.
    ///
    /// Errors: [`BindError`] names the URL and what to do.
    pub fn bind(url: &Url, flag: &'static str, reuse_port: bool) -> Result<Listener, BindError> {
        let bound = if url.scheme().is_unix() {
            bind_unix(Path::new(&url.socket_path()))
        } else {
            bind_tcp(url, reuse_port)
        };
        match bound {
            Ok(bound) => Ok(Listener {
                url: url.clone(),
                plain: !url.scheme().is_tls(),
                tls: url.scheme().is_tls(),
                bound,
            }),
            Err(source) => Err(BindError {
                url: url.clone(),
                flag,
                source,
            }),
        }
    }

    /// Another hold on the same socket, to be served until the first is; `None` for unix sockets,
    /// whose file goes with its only holder.
    ///
    /// Errors: there are no more descriptors.
    pub fn try_clone(&self) -> io::Result<Option<Listener>> {
        let Bound::Tcp(socket) = &self.bound else {
            return Ok(None);
        };
        Ok(Some(Listener {
            url: self.url.clone(),
            plain: self.plain,
            tls: self.tls,
            bound: Bound::Tcp(socket.try_clone()?),
        }))
    }

    /// Serves `url` on this socket, too, if it names the same one: with and without TLS on one
    /// address is told apart by the first byte.
    ///
    /// Returns whether it does.
    pub fn also(&mut self, url: &Url) -> bool {
        let same = url.is_same_place(&self.url);
        if same {
            self.plain |= !url.scheme().is_tls();
            self.tls |= url.scheme().is_tls();
        }
        same
    }

    /// Whether it takes connections without TLS.
    pub fn is_plain(&self) -> bool {
        self.plain
    }

    /// Whether it takes connections with TLS.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// The URL it listens on.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The address it listens on, with the port that the kernel chose for port 0; `None` for unix
    /// sockets.
    pub fn local_address(&self) -> Option<SocketAddr> {
        match &self.bound {
            Bound::Tcp(socket) => socket.local_addr().ok(),
            Bound::Unix(..) => None,
        }
    }
}

fn bind_tcp(url: &Url, reuse_port: bool) -> io::Result<Bound> {
    let address = address_of(url)?;
    let domain = if address.is_ipv4() {
        Domain::IPV4
    } else {
        Domain::IPV6
    };
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if reuse_port {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() && address.ip().is_unspecified() {
        // `[::]` means IPv4 too, as in Go.
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(Bound::Tcp(socket.into()))
}

/// `localhost` may have two addresses; like Go, IPv4 is preferred.
fn address_of(url: &Url) -> io::Result<SocketAddr> {
    let (host, port) = url
        .host_and_port()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no host and port"))?;
    let port: u16 = if port.is_empty() { Ok(0) } else { port.parse() }
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "ports end at 65535"))?;
    let host = if host.is_empty() { "::" } else { host };
    let found: Vec<SocketAddr> = (host, port).to_socket_addrs()?.collect();
    let best = found
        .iter()
        .find(|address| address.is_ipv4())
        .or(found.first());
    best.copied()
        .ok_or_else(|| io::Error::new(io::ErrorKind::AddrNotAvailable, "name has no address"))
}

fn bind_unix(path: &Path) -> io::Result<Bound> {
    let stale = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if stale {
        if UnixStream::connect(path).is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(Bound::Unix(listener, SocketFile(path.to_owned())))
}
