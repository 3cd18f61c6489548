//! How many members are wanted, as somebody outside says.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;

/// Most time that one reading may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// Who says how many members are wanted.
pub trait DesiredSource: Send + Sync + 'static {
    /// What it is, for people: `statefulset kvd/etcd`.
    fn name(&self) -> String;

    /// Reads the number now. The error says what is wrong, for people.
    fn read(&self) -> BoxFuture<'_, Result<u32, String>>;
}

/// What was read last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The last number that could be read.
    pub count: Option<u32>,
    /// Why it cannot be read now.
    pub error: Option<String>,
}

/// The number, with the last that is known.
pub struct Desired {
    source: Option<Arc<dyn DesiredSource>>,
    last: Mutex<Reading>,
}

impl Desired {
    /// Nothing was read yet.
    pub fn new(source: Option<Arc<dyn DesiredSource>>) -> Desired {
        Desired {
            source,
            last: Mutex::default(),
        }
    }

    /// What the source is; empty when there is none.
    pub fn source(&self) -> String {
        self.source
            .as_ref()
            .map_or_else(String::new, |source| source.name())
    }

    /// What was read last.
    pub fn last(&self) -> Reading {
        self.last.lock().clone()
    }

    /// Reads it now. When that is not possible, the last number stays.
    pub async fn refresh(&self) -> Reading {
        let Some(source) = &self.source else {
            return Reading::default();
        };
        let read = match tokio::time::timeout(PATIENCE, source.read()).await {
            Ok(read) => read,
            Err(_) => Err(format!("no answer within {PATIENCE:?}")),
        };
        let mut last = self.last.lock();
        match read {
            Ok(count) => {
                if last.count != Some(count) {
                    tracing::info!(
                        desired_replicas = count,
                        source = source.name(),
                        "this many members are wanted"
                    );
                }
                *last = Reading {
                    count: Some(count),
                    error: None,
                };
            }
            Err(error) => {
                if last.error.as_ref() != Some(&error) {
                    tracing::warn!(
                        source = source.name(),
                        error,
                        last_known = last.count,
                        "it cannot be read how many members are wanted"
                    );
                }
                last.error = Some(error);
            }
        }
        last.clone()
    }
}
