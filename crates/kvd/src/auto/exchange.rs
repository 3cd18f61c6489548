//! One HTTP request to another member's peer port.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use kvd_raft::Dialing;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

/// Most bytes of an answer.
const BODY_BYTES_MAX: usize = 4 << 20;

/// A request.
#[derive(Clone, Debug, Default)]
pub struct Ask<'a> {
    /// For the `Host` header.
    pub host: &'a str,
    /// The path.
    pub path: &'a str,
    /// A POST of this JSON, else a GET.
    pub body: Option<String>,
    /// The `Authorization` header.
    pub authorization: Option<String>,
}

/// Asks another member over the connection that `dialing` makes, and reads its JSON, within `limit`.
///
/// Errors: what kept it from answering, or what is wrong with the answer.
pub async fn json<T: DeserializeOwned>(
    dialing: Dialing,
    ask: Ask<'_>,
    limit: Duration,
) -> Result<T, String> {
    let (status, body) = within(limit, dialing, ask).await?;
    match status {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => {
            return Err("it is no member of kvd that knows autopilot (404)".to_owned());
        }
        status => {
            let text = String::from_utf8_lossy(&body);
            return Err(format!("it answered {status}: {}", text.trim()));
        }
    }
    serde_json::from_slice(&body).map_err(|error| format!("its answer cannot be read: {error}"))
}

/// Sends a request and reads the answer, within `limit`.
///
/// Errors: what kept it from answering.
pub async fn within(
    limit: Duration,
    dialing: Dialing,
    ask: Ask<'_>,
) -> Result<(StatusCode, Bytes), String> {
    match timeout(limit, send(dialing, ask)).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {limit:?}")),
    }
}

async fn send(dialing: Dialing, ask: Ask<'_>) -> Result<(StatusCode, Bytes), String> {
    let connection = dialing.await.map_err(|error| error.to_string())?;
    let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(connection))
        .await
        .map_err(|error| error.to_string())?;
    let method = match ask.body {
        Some(_) => http::Method::POST,
        None => http::Method::GET,
    };
    let mut request = http::Request::builder()
        .method(method)
        .uri(ask.path)
        .header(http::header::HOST, ask.host)
        .header(http::header::ACCEPT, "application/json")
        .header(http::header::CONTENT_TYPE, "application/json");
    if let Some(authorization) = ask.authorization {
        request = request.header(http::header::AUTHORIZATION, authorization);
    }
    let request = request
        .body(Full::new(Bytes::from(ask.body.unwrap_or_default())))
        .map_err(|error| error.to_string())?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, BODY_BYTES_MAX).collect().await;
        Ok::<_, hyper::Error>((head, body.map(|body| body.to_bytes())))
    };
    let mut answer = std::pin::pin!(answer);
    let answered = tokio::select! {
        biased;
        answered = &mut answer => answered,
        // Whoever answers once and closes is done before the answer is read.
        driven = driver => match (answer.await, driven) {
            (Err(_), Err(error)) => return Err(error.to_string()),
            (answered, _) => answered,
        },
    };
    let (head, body) = answered.map_err(|error| error.to_string())?;
    let body = body.map_err(|error| error.to_string())?;
    Ok((head.status, body))
}
