//! The first bytes of a connection, and what they say.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};
use tracing::debug;

use super::connection::Stop;
use super::pending::Ticket;

/// What an HTTP/2 client sends first (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The first byte of a TLS record that holds a handshake (RFC 8446, section 5.1), and of its
/// version.
const TLS_HANDSHAKE: [u8; 2] = [0x16, 0x03];

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
    Tls,
    Unknown,
}

/// Reads until it is clear what is spoken; what was read comes back with the answer. `None`: the
/// connection has ended, or must.
pub(super) async fn greet(
    stream: &mut (impl AsyncRead + Unpin),
    limit: Duration,
    stop: &Stop,
    ticket: &Ticket,
) -> Option<(Protocol, Bytes)> {
    let sniffed = tokio::select! {
        sniffed = tokio::time::timeout(limit, sniff(stream)) => sniffed,
        () = stop.drain.cancelled() => return None,
        () = ticket.pushed_out() => {
            debug!("connection closed: it said nothing while too many others came");
            return None;
        }
    };
    match sniffed {
        Ok(Ok(found)) => return Some(found),
        Ok(Err(error)) => debug!(%error, "connection ended before its first request"),
        Err(_) => debug!("connection closed: it said nothing"),
    }
    None
}

async fn sniff(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<(Protocol, Bytes)> {
    let mut read = BytesMut::with_capacity(4096);
    loop {
        if stream.read_buf(&mut read).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(protocol) = protocol_of(&read) {
            return Ok((protocol, read.freeze()));
        }
    }
}

/// What `read` is the start of; `None` while it is not clear.
fn protocol_of(read: &[u8]) -> Option<Protocol> {
    let common = read.len().min(PREFACE.len());
    if read[..common] == PREFACE[..common] {
        return (common == PREFACE.len()).then_some(Protocol::Http2);
    }
    let common = read.len().min(TLS_HANDSHAKE.len());
    if read[..common] == TLS_HANDSHAKE[..common] {
        return (common == TLS_HANDSHAKE.len()).then_some(Protocol::Tls);
    }
    // A method comes first in HTTP/1, in capitals; noise looks otherwise.
    Some(match read[0].is_ascii_uppercase() {
        true => Protocol::Http1,
        false => Protocol::Unknown,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell() {
        for (read, protocol) in [
            (&b"P"[..], None),
            (b"PRI * HTTP/2.0\r\n\r\nSM", None),
            (PREFACE, Some(Protocol::Http2)),
            (b"POST / HTTP/1.1", Some(Protocol::Http1)),
            (b"\x16", None),
            (b"\x16\x03\x01\x02", Some(Protocol::Tls)),
            (b"\x16\x04", Some(Protocol::Unknown)),
            (b"get", Some(Protocol::Unknown)),
            (b"\x00", Some(Protocol::Unknown)),
        ] {
            assert_eq!(protocol_of(read), protocol, "{read:?}");
        }
    }
}
