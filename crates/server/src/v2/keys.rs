//! Writes and reads of the v2 tree.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use kvd_api::error::WireError;
use kvd_api::pb::kvdcommandpb::v2_reply::Outcome;
use kvd_api::pb::kvdcommandpb::{V2Error, V2Reply, V2Request, command};
use kvd_mvcc::Store;

use super::watch::{self, Watch, Wish};
use crate::apply::v2::{self, Refusal};
use crate::apply::{Applied, Pinned};
use crate::auth::Caller;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::quota;
use crate::services::off_thread;

/// How often a read takes a newer revision because a compaction overtook it.
const PINS_MAX: usize = 8;
/// The user that may do everything.
const ROOT: &str = "root";
/// The code of a request whose field is wrong.
const INVALID_FIELD: u32 = 209;

/// The v2 tree of a member.
#[derive(Clone)]
pub struct V2Keys {
    core: Arc<Core>,
}

impl V2Keys {
    /// The tree of the member `core`.
    pub fn new(core: Arc<Core>) -> V2Keys {
        V2Keys { core }
    }

    /// Replicates a change and says what came of it, refusals included. The request's wall time and
    /// lease are chosen here. `as_root`: the client has shown that it is root, as it must while
    /// users are in force; apply looks again.
    ///
    /// Errors: those of [`Core::propose_for`] and [`Core::check_quota`].
    pub async fn write(&self, mut request: V2Request, as_root: bool) -> Result<V2Reply> {
        let caller = as_root.then(|| Caller {
            user: ROOT.into(),
            revision: self.core.auth().view().revision(),
        });
        request.path = v2::clean(&request.path);
        if v2::depth(&request.path) > v2::DEPTH_MAX {
            return Ok(self.too_deep());
        }
        let cost = quota::v2_cost(&request);
        self.core.check_quota(cost).await?;
        self.core.check_alarms(cost)?;
        request.now = now();
        if let Some(ttl) = &mut request.ttl {
            // What ends later than nanoseconds can say ends then.
            let most = (i64::MAX - request.now) / 1_000_000_000;
            *ttl = (*ttl).clamp(0, most);
        }
        loop {
            if request.ttl.is_some() {
                request.lease = self.core.new_lease_id();
            }
            match self
                .core
                .propose_for(caller.clone(), command::Request::V2(request.clone()))
                .await
            {
                Ok(Applied::V2(reply)) => return Ok(reply),
                Ok(other) => {
                    return Err(Error::Internal(format!(
                        "a v2 request was answered with {other:?}"
                    )));
                }
                Err(Error::Wire(WireError::LeaseAlreadyExists)) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn too_deep(&self) -> V2Reply {
        let most = v2::DEPTH_MAX;
        V2Reply {
            outcome: Some(Outcome::Error(V2Error {
                code: INVALID_FIELD,
                cause: format!("kvd: a path may have {most} elements at most").into(),
            })),
            index: 0,
        }
    }

    /// Reads a node. `quorum`: the read is linearizable, else of this member's state.
    ///
    /// Errors: those of [`Core::read_barrier`]; faults of the store.
    pub async fn get(&self, path: &[u8], recursive: bool, quorum: bool) -> Result<V2Reply> {
        let path = v2::clean(path);
        if quorum {
            if self.core.is_learner() {
                return Err(WireError::NotSupportedForLearner.into());
            }
            self.core.read_barrier().await?;
        }
        // A directory may hold very many.
        let read = move |store: &Store| read(store, &path, recursive);
        let reply = off_thread(self.core.store(), read).await?;
        let is_found = matches!(reply.outcome, Some(Outcome::Event(_)));
        self.core.metrics().v2.count(super::Kind::Get, is_found);
        Ok(reply)
    }

    /// Starts a watch; the index is that of its beginning. Refused when what it wants is gone.
    ///
    /// Errors: faults of the store.
    pub async fn watch(&self, wish: Wish) -> Result<(Result<Watch, V2Error>, u64)> {
        watch::start(Arc::clone(&self.core), wish).await
    }

    /// The committed log index and the term, for the headers of a reply.
    pub fn raft(&self) -> (u64, u64) {
        let status = self.core.status();
        (status.commit_index, status.term)
    }

    /// `/v2/stats/store`.
    pub fn store_stats(&self) -> String {
        self.core.metrics().v2.store_json()
    }

    /// `/v2/stats/self`.
    pub fn self_stats(&self) -> String {
        let core = &self.core;
        core.metrics()
            .v2
            .self_json(core.member_id(), &core.config().name, &core.status())
    }

    /// `/v2/stats/leader`; none unless this member leads.
    pub fn leader_stats(&self) -> Option<String> {
        let counters = &self.core.metrics().v2;
        let id = self.core.member_id();
        self.core.is_leader().then(|| counters.leader_json(id))
    }
}

fn read(store: &Store, path: &Bytes, recursive: bool) -> Result<V2Reply> {
    let mut pins = 1;
    loop {
        let pinned = Pinned::new(store);
        let outcome = match v2::get(&pinned, path, recursive, now()) {
            Ok(event) => Outcome::Event(event),
            Err(Refusal::Refused(error)) => Outcome::Error(error),
            Err(Refusal::Store(kvd_mvcc::Error::Compacted { .. })) if pins < PINS_MAX => {
                pins += 1;
                continue;
            }
            Err(Refusal::Store(error)) => return Err(error.into()),
        };
        return Ok(V2Reply {
            outcome: Some(outcome),
            index: u64::try_from(pinned.revision()).unwrap_or(0),
        });
    }
}

/// Wall time in nanoseconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    })
}
