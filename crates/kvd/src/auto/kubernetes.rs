//! How many members are wanted: from the StatefulSet of the pod, by the Kubernetes API.
//!
//! It wants `get` on that one StatefulSet and nothing more. Token and CA are those that Kubernetes
//! mounts into a pod; the token is read anew for each request, since it is exchanged every hour.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::StatusCode;
use kvd_raft::{Connection, Dialing};
use kvd_server::autopilot::DesiredSource;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::exchange::{self, Ask};

/// Where a pod's token, CA and namespace are.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Most time for an answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// A StatefulSet of the cluster that this process runs in.
#[derive(Debug)]
pub struct StatefulSet {
    namespace: Option<String>,
    name: String,
    account: PathBuf,
}

impl StatefulSet {
    /// The StatefulSet `name`, in the pod's own namespace unless another is given.
    pub fn in_cluster(namespace: Option<String>, name: String) -> StatefulSet {
        StatefulSet {
            namespace,
            name,
            account: PathBuf::from(ACCOUNT),
        }
    }

    async fn ask(&self) -> Result<u32, String> {
        let server = server()?;
        let namespace = match &self.namespace {
            Some(namespace) => namespace.clone(),
            None => read(&self.account.join("namespace")).await?,
        };
        let token = read(&self.account.join("token")).await?;
        let authority = read(&self.account.join("ca.crt")).await?;
        let path = format!(
            "/apis/apps/v1/namespaces/{namespace}/statefulsets/{}",
            self.name
        );
        let ask = Ask {
            host: &server.0,
            path: &path,
            authorization: Some(format!("Bearer {token}")),
            body: None,
        };
        let dialing = dial(server.clone(), authority);
        let (status, body) = exchange::within(PATIENCE, dialing, ask)
            .await
            .map_err(|why| format!("the Kubernetes API does not answer: {why}"))?;
        match status {
            StatusCode::OK => replicas(&body),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(format!(
                "the Kubernetes API refuses to show the StatefulSet ({status}): the service account \
                 needs a Role with get on statefulsets, {}",
                self.name
            )),
            StatusCode::NOT_FOUND => Err(format!(
                "there is no StatefulSet {} in the namespace {namespace}",
                self.name
            )),
            status => Err(format!("the Kubernetes API answered {status}")),
        }
    }
}

impl DesiredSource for StatefulSet {
    fn name(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("statefulset {namespace}/{}", self.name),
            None => format!("statefulset {}", self.name),
        }
    }

    fn read(&self) -> BoxFuture<'_, Result<u32, String>> {
        Box::pin(self.ask())
    }
}

/// Host and port of the API, from the variables that each pod has.
fn server() -> Result<(String, u16), String> {
    let outside = || "this process does not run in a Kubernetes pod".to_owned();
    let host = std::env::var("KUBERNETES_SERVICE_HOST").map_err(|_| outside())?;
    let port = std::env::var("KUBERNETES_SERVICE_PORT").map_err(|_| outside())?;
    let port = port.parse().map_err(|_| outside())?;
    Ok((host, port))
}

async fn read(path: &Path) -> Result<String, String> {
    let text = tokio::fs::read_to_string(path).await;
    let text = text.map_err(|error| {
        format!(
            "{}: {error}; automountServiceAccountToken must be true",
            path.display()
        )
    })?;
    Ok(text.trim().to_owned())
}

fn dial((host, port): (String, u16), authority: String) -> Dialing {
    Box::pin(async move {
        let other = std::io::Error::other::<String>;
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
            let certificate = certificate.map_err(|error| other(format!("its CA: {error}")))?;
            roots
                .add(certificate)
                .map_err(|error| other(format!("its CA: {error}")))?;
        }
        let provider = kvd_tls::provider::shared();
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| other(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(host.clone()).map_err(|error| other(error.to_string()))?;
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        let stream = TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await?;
        Ok(Box::new(stream) as Box<dyn Connection>)
    })
}

/// `spec.replicas`, which is one when it is left out.
fn replicas(body: &[u8]) -> Result<u32, String> {
    let set: Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    if set["metadata"]["deletionTimestamp"].is_string() {
        return Err("the StatefulSet is being deleted: nobody leaves".to_owned());
    }
    match &set["spec"]["replicas"] {
        Value::Null if set["spec"].is_object() => Ok(1),
        count => {
            let count = count.as_u64().and_then(|count| u32::try_from(count).ok());
            count.ok_or_else(|| "the answer of the Kubernetes API is no StatefulSet".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_read_and_a_set_that_goes_is_no_reason_to_leave() {
        assert_eq!(replicas(br#"{"spec":{"replicas":5}}"#), Ok(5));
        assert_eq!(replicas(br#"{"spec":{}}"#), Ok(1));
        for body in [
            &br#"{"spec":{"replicas":5},"metadata":{"deletionTimestamp":"2026-01-01T00:00:00Z"}}"#
                [..],
            br#"{"kind":"Status"}"#,
            br#"{"spec":{"replicas":-1}}"#,
            b"<html>",
        ] {
            assert!(replicas(body).is_err());
        }
    }
}
