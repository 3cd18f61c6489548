//! How many members are wanted: from a file.

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use kvd_server::autopilot::DesiredSource;

use super::kubernetes::StatefulSet;
use crate::settings::DesiredFrom;

/// The source that the flags name.
pub fn source(from: &DesiredFrom) -> Arc<dyn DesiredSource> {
    match from {
        DesiredFrom::File(path) => Arc::new(NumberFile { path: path.clone() }),
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
