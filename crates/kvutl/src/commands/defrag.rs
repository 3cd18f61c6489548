//! defrag: gives the disk space of a stopped member's store back that is not in use.

use std::path::Path;
use std::time::Duration;

use super::store;
use crate::failure::{Failure, Outcome};

pub(crate) fn run(data_dir: &Path, timeout: Duration) -> Outcome {
    let defragment = || -> Outcome {
        let store = store::open(&store::store_dir(data_dir), timeout)?;
        let done = store.defragment();
        store.close();
        let done = done?;
        tracing::info!(before = done.before, after = done.after, "defragmented");
        Ok(())
    };
    defragment().map_err(|failure| {
        Failure::new(format!(
            "Failed to defragment etcd data[{}] ({failure})",
            data_dir.display()
        ))
    })
}
