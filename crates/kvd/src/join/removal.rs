//! A member that was removed before it ever heard from its cluster: nobody will contact it, and the
//! peers that would tell it are those that it has not been told of. It asks those that were there
//! when it joined, and those that `--initial-cluster` names.
//!
//! Differs from etcd: a member that is started again before anything has come knows no peer there,
//! and waits for ever.

use std::collections::BTreeSet;
use std::time::Duration;

use kvd_raft::Dialer;
use tokio::time::Instant;
use tracing::{info, warn};

use super::remote;

/// Between two rounds of questions.
const PAUSE: Duration = Duration::from_secs(1);
/// How long one answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// How often the wait is explained.
const EXPLAIN: Duration = Duration::from_secs(10);

/// Returns when one of the members at `urls` says that this member was removed. `ids`: of the
/// cluster and of this member. `is_blank`: whether it still has not heard anything.
pub async fn learned(
    dialer: &dyn Dialer,
    urls: &BTreeSet<String>,
    ids: (u64, u64),
    is_blank: impl Fn() -> bool,
) {
    let mut explained = Instant::now();
    while is_blank() && !urls.is_empty() {
        tokio::time::sleep(PAUSE).await;
        let mut failures = Vec::new();
        for url in urls {
            match remote::has_removed(dialer, url, ids, ANSWER_LIMIT).await {
                Ok(true) => {
                    info!(url, "a member says that this one was removed");
                    return;
                }
                Ok(false) => {}
                Err(why) => failures.push(format!("{url}: {why}")),
            }
        }
        if is_blank() && explained.elapsed() >= EXPLAIN {
            explained = Instant::now();
            warn!(
                failures = failures.join("; "),
                "this member has joined, but no leader has sent it anything yet: look whether the \
                 cluster has a leader, and whether it can reach this member's peer URLs"
            );
        }
    }
    std::future::pending().await
}
