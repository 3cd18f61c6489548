//! How many members are wanted: from a file, or from whatever answers at a URL.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::StatusCode;
use kvd_raft::{Dialer, PlainDialer};
use kvd_server::autopilot::DesiredSource;
use serde_json::Value;

use super::exchange::{self, Ask};
use super::kubernetes::StatefulSet;
use crate::settings::DesiredFrom;

/// Most time for an answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The source that the flags name.
pub fn source(from: &DesiredFrom) -> Arc<dyn DesiredSource> {
    match from {
        DesiredFrom::File(path) => Arc::new(NumberFile { path: path.clone() }),
        DesiredFrom::Url { authority, path } => Arc::new(NumberAt {
            authority: authority.clone(),
            path: path.clone(),
        }),
        DesiredFrom::StatefulSet { namespace, name } => {
            Arc::new(StatefulSet::in_cluster(namespace.clone(), name.clone()))
        }
    }
}

/// A file that holds a number, read anew each time: a ConfigMap's, or one that an operator writes.
#[derive(Debug)]
struct NumberFile {
    path: PathBuf,
}

impl DesiredSource for NumberFile {
    fn name(&self) -> String {
        format!("file {}", self.path.display())
    }

    fn read(&self) -> BoxFuture<'_, Result<u32, String>> {
        Box::pin(async {
            let text = tokio::fs::read_to_string(&self.path).await;
            let text = text.map_err(|error| error.to_string())?;
            let number = text.trim();
            number
                .parse()
                .map_err(|_| format!("{number:?} is no number of members"))
        })
    }
}

/// A number, or the description of a service of a swarm as the Docker API gives it.
#[derive(Debug)]
struct NumberAt {
    authority: String,
    path: String,
}

impl DesiredSource for NumberAt {
    fn name(&self) -> String {
        format!("http://{}{}", self.authority, self.path)
    }

    fn read(&self) -> BoxFuture<'_, Result<u32, String>> {
        Box::pin(async {
            let dialing = PlainDialer.dial(0, vec![format!("http://{}", self.authority)]);
            let ask = Ask {
                host: &self.authority,
                path: &self.path,
                ..Ask::default()
            };
            let (status, body) = exchange::within(PATIENCE, dialing, ask).await?;
            match status {
                StatusCode::OK => wanted(&body),
                status => Err(format!("{} answered {status}", self.name())),
            }
        })
    }
}

fn wanted(body: &[u8]) -> Result<u32, String> {
    let value: Value = serde_json::from_slice(body)
        .map_err(|_| "the answer is neither a number nor a service of a swarm".to_owned())?;
    let count = match &value {
        Value::Number(count) => count.as_u64(),
        service if service["Spec"]["Mode"]["Global"].is_object() => {
            return Err(
                "a global service has no number of tasks: give a replicated one".to_owned(),
            );
        }
        service => service["Spec"]["Mode"]["Replicated"]["Replicas"].as_u64(),
    };
    let count = count.and_then(|count| u32::try_from(count).ok());
    count.ok_or_else(|| "the answer is neither a number nor a service of a swarm".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_services_of_a_swarm_are_read() {
        assert_eq!(wanted(b" 5\n"), Ok(5));
        let service =
            br#"{"ID":"x","Spec":{"Name":"kvd_etcd","Mode":{"Replicated":{"Replicas":3}}}}"#;
        assert_eq!(wanted(service), Ok(3));
        for body in [
            &br#"{"Spec":{"Mode":{"Global":{}}}}"#[..],
            br#"{"message":"service kvd_etcd not found"}"#,
            b"-1",
            b"4294967296",
            b"<html>",
            b"",
        ] {
            assert!(wanted(body).is_err(), "{body:?}");
        }
    }
}
