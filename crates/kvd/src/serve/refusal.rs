//! Connections that cannot be served: what their client is told, and what the log says.

use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::greeting::Protocol;
use crate::tls::{Live, Rejected};

/// Time and bytes that a client may still send while it is told why it is refused. Without reading
/// them the answer may be lost: a socket that is closed with unread bytes is reset.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 64 * 1024;

/// Lines about refused connections in a second; more are counted only.
const LINES_MAX: u32 = 10;

/// Keeps whoever is refused again and again from filling the log.
struct Lines {
    since: Instant,
    written: u32,
    left_out: u64,
}

static LINES: LazyLock<Mutex<Lines>> = LazyLock::new(|| {
    Mutex::new(Lines {
        since: Instant::now(),
        written: 0,
        left_out: 0,
    })
});

/// Whether a line may be written now.
fn may_write() -> bool {
    let mut lines = LINES.lock();
    if lines.since.elapsed() >= Duration::from_secs(1) {
        let left_out = std::mem::take(&mut lines.left_out);
        lines.since = Instant::now();
        lines.written = 0;
        if left_out > 0 {
            warn!(
                left_out,
                "more connections were refused than lines were written"
            );
        }
    }
    if lines.written < LINES_MAX {
        lines.written += 1;
        return true;
    }
    lines.left_out += 1;
    false
}

fn text(address: Option<SocketAddr>) -> String {
    address.map_or_else(|| "@".to_owned(), |address| address.to_string())
}

fn count(live: Option<&Live>, reason: &str) {
    if let Some(live) = live {
        live.count_rejected(reason);
    }
}

/// Answers HTTP without TLS on a port that wants TLS.
pub(super) async fn plain_to_tls(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    protocol: Protocol,
    from: Option<SocketAddr>,
    live: &Live,
) {
    count(Some(live), "plaintext");
    if may_write() {
        warn!(
            "remote-addr" = text(from),
            port = live.port().name(),
            "rejected connection: the client speaks plain HTTP to a TLS port; it must use https"
        );
    }
    let answer: &[u8] = match protocol {
        // What Go's servers say, and its clients know.
        Protocol::Http1 => {
            b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\n\r\n\
              Client sent an HTTP request to an HTTPS server.\n"
        }
        Protocol::Http2 => GO_AWAY,
        Protocol::Tls | Protocol::Unknown => &[],
    };
    answer_and_close(stream, answer).await;
}

/// A frame of HTTP/2: GOAWAY with INADEQUATE_SECURITY, whose text clients show. No SETTINGS before
/// it: a Go client would call the connection good then, and come back at once, without end.
const GO_AWAY: &[u8] = b"\x00\x00\x49\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x0c\
    Client sent a plaintext request to a TLS port; use https endpoint";

/// Answers a TLS handshake on a port without TLS: in plain HTTP, which Go's clients recognise, and
/// all others take for a server without TLS, as it is.
pub(super) async fn tls_to_plain(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    from: Option<SocketAddr>,
) {
    if may_write() {
        warn!(
            "remote-addr" = text(from),
            "rejected connection: the client speaks TLS to a port without TLS; it must use http, \
             or the listen URL must be https"
        );
    }
    let answer = b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\n\r\n\
                   Client sent a TLS handshake to a server without TLS.\n";
    answer_and_close(stream, answer).await;
}

/// Notes a handshake that failed, and lets the alert reach the client.
pub(super) async fn handshake(mut rejected: Box<Rejected>, from: Option<SocketAddr>, live: &Live) {
    let message = match live.port() {
        crate::tls::Port::Client => "rejected connection on client endpoint",
        crate::tls::Port::Peer => "rejected connection on peer endpoint",
    };
    count(Some(live), "handshake");
    if rejected.has_ended {
        // As in etcd: probes that only connect are no news.
        debug!(
            "remote-addr" = text(from),
            error = rejected.error,
            "{message}"
        );
    } else if may_write() {
        warn!(
            "remote-addr" = text(from),
            "server-name" = rejected.server_name,
            "ip-addresses" = ?rejected.ip_addresses,
            "dns-names" = ?rejected.dns_names,
            error = rejected.error,
            "{message}"
        );
    }
    if let Some(stream) = &mut rejected.stream {
        answer_and_close(stream, &[]).await;
    }
}

/// Notes a handshake that took too long.
pub(super) fn slow_handshake(from: Option<SocketAddr>, live: &Live, pushed_out: bool) {
    let error = match pushed_out {
        true => "too many handshakes at once; this was the oldest",
        false => "the handshake was not finished in time",
    };
    count(Some(live), "timeout");
    if may_write() {
        let port = live.port().name();
        warn!(
            "remote-addr" = text(from),
            port, error, "rejected connection"
        );
    }
}

/// Sends `answer`, closes the sending side, and reads what the client still sends, within bounds.
async fn answer_and_close(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), answer: &[u8]) {
    let talk = async {
        stream.write_all(answer).await?;
        stream.shutdown().await?;
        let mut left = LINGER_BYTES;
        let mut piece = [0; 1024];
        while left > 0 {
            match stream.read(&mut piece).await? {
                0 => break,
                read => left = left.saturating_sub(read),
            }
        }
        std::io::Result::Ok(())
    };
    match timeout(LINGER, talk).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "a refused connection ended"),
        Err(_) => debug!("a refused client did not hang up"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frame_says_how_long_it_is() {
        assert_eq!(usize::from(GO_AWAY[2]), GO_AWAY.len() - 9);
    }
}
