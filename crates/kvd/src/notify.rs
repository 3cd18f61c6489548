//! Telling systemd that the member serves.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Sends `READY=1` to the socket that `NOTIFY_SOCKET` names; `false` without one.
///
/// Errors: the socket cannot be reached.
/// Source: `sd_notify(3)`; etcd `etcdmain/main.go`, `notifySystemd`.
pub fn ready() -> io::Result<bool> {
    let Ok(name) = std::env::var("NOTIFY_SOCKET") else {
        return Ok(false);
    };
    let address = match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&name)?,
    };
    UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address)?;
    Ok(true)
}
