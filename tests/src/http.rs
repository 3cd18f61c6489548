//! Just enough HTTP/1.1 to see the bytes that a server sends.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result};

/// What the server answered.
#[derive(Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The header lines as sent.
    pub headers: String,
    /// The body, with chunking undone.
    pub body: String,
}

impl Reply {
    /// The body as JSON.
    ///
    /// Errors: when it is none.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.body).with_context(|| format!("not JSON: {:?}", self.body))
    }
}

/// Sends one request and reads the whole answer. `address` is `HOST:PORT`.
///
/// Errors: when nothing listens, or no answer comes within ten seconds.
pub fn request(address: &str, method: &str, path: &str, body: &str) -> Result<Reply> {
    request_with(address, method, path, "", body)
}

/// As [`request`], with the body as a form.
///
/// Errors: as [`request`].
pub fn form(address: &str, method: &str, path: &str, body: &str) -> Result<Reply> {
    let kind = "Content-Type: application/x-www-form-urlencoded\r\n";
    request_with(address, method, path, kind, body)
}

/// As [`request`], with more header lines, each ended by `\r\n`.
///
/// Errors: as [`request`].
pub fn request_with(
    address: &str,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> Result<Reply> {
    request_within(
        Duration::from_secs(10),
        address,
        method,
        path,
        headers,
        body,
    )
}

/// As [`request_with`], where no part of the answer may take longer than `patience`.
///
/// Errors: as [`request`].
pub fn request_within(
    patience: Duration,
    address: &str,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> Result<Reply> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(patience))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
         {headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 * 1024];
    // Not every server closes when it is asked to.
    while !is_whole(&bytes) {
        match stream.read(&mut buffer)? {
            0 => break,
            read => bytes.extend_from_slice(&buffer[..read]),
        }
    }
    parse(&String::from_utf8_lossy(&bytes))
}

/// A GET.
///
/// Errors: as [`request`].
pub fn get(address: &str, path: &str) -> Result<Reply> {
    request(address, "GET", path, "")
}

/// A POST.
///
/// Errors: as [`request`].
pub fn post(address: &str, path: &str, body: &str) -> Result<Reply> {
    request(address, "POST", path, body)
}

/// Whether an answer that says its length is there to the end.
fn is_whole(bytes: &[u8]) -> bool {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return false;
    };
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"));
    let length = length.and_then(|length| length.trim().parse::<usize>().ok());
    length.is_some_and(|length| bytes.len() >= end + 4 + length)
}

fn parse(text: &str) -> Result<Reply> {
    let (headers, body) = text
        .split_once("\r\n\r\n")
        .context("no end of the headers")?;
    let status = headers.split(' ').nth(1).context("no status")?.parse()?;
    let chunked = headers
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked");
    let body = if chunked {
        unchunk(body)?
    } else {
        body.to_owned()
    };
    Ok(Reply {
        status,
        headers: headers.to_owned(),
        body,
    })
}

fn unchunk(mut rest: &str) -> Result<String> {
    let mut body = String::new();
    loop {
        let (size, after) = rest.split_once("\r\n").context("a chunk without a size")?;
        let size = usize::from_str_radix(size.trim(), 16)?;
        if size == 0 {
            return Ok(body);
        }
        body.push_str(after.get(..size).context("a short chunk")?);
        rest = after.get(size + 2..).context("a chunk without an end")?;
    }
}
