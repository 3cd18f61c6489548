//! One HTTP request on a connection and its JSON answer, as far as the APIs here need it.

use anyhow::Result;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Reads the head of a request.
///
/// Errors: the connection ends before it does.
pub async fn head(stream: &mut (impl AsyncRead + Unpin)) -> Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// Answers, and ends the connection.
///
/// Errors: the client is gone.
pub async fn answer(
    stream: &mut (impl AsyncWrite + Unpin),
    status: &str,
    body: &str,
) -> Result<()> {
    let text = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await?;
    Ok(())
}
