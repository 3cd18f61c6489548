//! What the parts of a node share.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::apply::{Applier, Progress};
use crate::error::Error;
use crate::log_store::LogStore;
use crate::options::{Options, ProposeFailure};
use crate::read_index::Confirmation;
use crate::rounds::Rounds;
use crate::status::Status;
use crate::transport::client::{Peer, Peers};
use crate::transport::contact::Contact;
use crate::transport::identity::LogLimit;
use crate::type_config::TypeConfig;

pub(crate) type Raft = openraft::Raft<TypeConfig, Applier>;

/// etcd's time for a request besides two election timeouts.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// The running node: made once it has started, shared by its handles and tasks.
pub(crate) struct Core {
    pub(crate) options: Options,
    pub(crate) raft: Raft,
    /// Written by the apply task (what is applied, faults) and by the watcher (everything else).
    pub(crate) status: Arc<watch::Sender<Status>>,
    /// Written by the apply task.
    pub(crate) progress: Arc<Progress>,
    pub(crate) peers: Arc<Peers>,
    /// When the leader was last heard of; written by the peer service.
    pub(crate) contact: Arc<Contact>,
    /// Whether the disk under the log stalls; written by the log's watchdog.
    pub(crate) stalled: watch::Receiver<bool>,
    /// Which refused peers were logged about.
    pub(crate) refusals: LogLimit,
    pub(crate) log: LogStore,
    /// Questions to a quorum whether this member leads.
    pub(crate) confirmations: Rounds<Confirmation>,
    /// What tells this start of the member from others.
    pub(crate) process: u64,
    /// Where the node lives, whatever runtime its callers are on.
    pub(crate) runtime: Handle,
}

impl Core {
    pub(crate) fn raft(&self) -> &Raft {
        &self.raft
    }

    /// The member `id`, if the membership knows it.
    pub(crate) fn peer(&self, id: u64) -> Option<Arc<Peer>> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let node = metrics.membership_config.membership().get_node(&id)?;
        Some(self.peers.get(id, node))
    }

    /// How long a read index may take.
    pub(crate) fn read_timeout(&self) -> Duration {
        REQUEST_TIMEOUT + 2 * self.options.election
    }

    /// Whether a write to the log takes too long at this moment. The disk counts as stalled for a
    /// while longer.
    pub(crate) fn is_stuck(&self) -> bool {
        let limit = self.options.stall.after;
        !limit.is_zero() && self.log.busy_for() > limit
    }

    pub(crate) fn proposals_failed(&self, request_ids: &[u64], failure: ProposeFailure) {
        if request_ids.is_empty() {
            return;
        }
        self.options
            .events
            .proposals_failed(request_ids.len() as u64);
        (self.options.on_failed)(request_ids, failure);
    }

    /// Why nothing can be done any more.
    pub(crate) fn stopped(&self) -> Error {
        Error::Stopped {
            fault: self.status.borrow().fault.clone(),
        }
    }
}
