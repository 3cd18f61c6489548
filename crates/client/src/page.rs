//! What a member says over plain HTTP, on the connection that requests use.

use http_body_util::{BodyExt, Limited};
use tokio::time::{Instant, timeout_at};
use tonic::body::Body;
use tonic::codegen::http::{Request, StatusCode};
use tower::{Service, ServiceExt};

use crate::client::Client;
use crate::error::{Error, Result};

/// Most bytes of an answer.
const BYTES_MAX: usize = 16 << 20;

impl Client {
    /// The status and body of a GET of `path`, such as `/v1/autopilot`, from the member behind
    /// `endpoint`. Sent over HTTP/2 and, like a probe, without a token.
    ///
    /// Errors: [`Error::NoConnection`], [`Error::ConnectionLost`], [`Error::DeadlineExceeded`].
    pub async fn page(&self, endpoint: &str, path: &str) -> Result<(StatusCode, Vec<u8>)> {
        let one = self.only(endpoint)?;
        let deadline = Instant::now() + one.request_timeout();
        let connection = one.balancer().connect(deadline).await?;
        let lost = |reason: String| Error::ConnectionLost {
            endpoint: endpoint.to_owned(),
            reason,
        };
        let request = Request::get(path).body(Body::empty());
        let request = request.map_err(|error| lost(error.to_string()))?;
        let asking = async {
            let mut channel = connection.channel.clone();
            let ready = channel.ready().await;
            let ready = ready.map_err(|error| lost(root(&error)))?;
            let answer = ready
                .call(request)
                .await
                .map_err(|error| lost(root(&error)))?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, BYTES_MAX).collect().await;
            let body = body.map_err(|error| lost(error.to_string()))?;
            Ok((head.status, body.to_bytes().to_vec()))
        };
        match timeout_at(deadline, asking).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::DeadlineExceeded),
        }
    }
}

fn root(error: &tonic::transport::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
