//! What the gateway asks of the member, answered by the server.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{Stream, StreamExt, stream};
use kvd_api::ETCD_VERSION;
use kvd_api::pb::etcdserverpb::AlarmType;
use kvd_api::pb::kvdcommandpb::{V2Event, V2Reply, V2Request};
use kvd_gateway::{
    Answer, Check, DataHash, Member, MemberInfo, Probe, ProcessStats, Standing, V2, V2Watching,
    Versions,
};
use kvd_mvcc::RangeOptions;
use kvd_server::apply;
use kvd_server::core::Core;
use kvd_server::services::maintenance::STORAGE_VERSION;
use kvd_server::v2::{V2Keys, Watch, Wish};

use crate::auto;

/// etcd's probes read this key; it need not exist.
const PROBED_KEY: &[u8] = b"a";

/// What etcd's members look for in a refused hash (`mvcc.ErrCompacted`).
const COMPACTED: &str = "mvcc: required revision has been compacted";
/// The same for a revision that is still to come (`mvcc.ErrFutureRev`).
const FUTURE: &str = "mvcc: required revision is a future revision";

/// The server behind the HTTP endpoints.
pub struct ServedMember {
    core: Arc<Core>,
    v2: V2Keys,
}

impl ServedMember {
    /// The member that `core` runs.
    pub fn new(core: Arc<Core>) -> ServedMember {
        let v2 = V2Keys::new(Arc::clone(&core));
        ServedMember { core, v2 }
    }

    fn read(&self) -> Result<(), String> {
        let options = RangeOptions {
            limit: 1,
            keys_only: true,
            ..RangeOptions::default()
        };
        match self.core.store().range(PROBED_KEY, &[], &options) {
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Member for ServedMember {
    fn versions(&self) -> Versions {
        Versions {
            server: ETCD_VERSION.to_owned(),
            cluster: apply::cluster_version(self.core.store()),
            storage: Some(STORAGE_VERSION.to_owned()),
        }
    }

    fn alarms(&self) -> Vec<AlarmType> {
        let alarms = self.core.active_alarms();
        alarms
            .iter()
            .filter_map(|alarm| AlarmType::try_from(alarm.alarm).ok())
            .collect()
    }

    fn id(&self) -> u64 {
        self.core.member_id()
    }

    fn leader(&self) -> u64 {
        self.core.leader()
    }

    fn is_learner(&self) -> bool {
        self.core.is_learner()
    }

    fn linearizable_read(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async {
            self.core
                .read_barrier()
                .await
                .map_err(|error| error.to_string())?;
            self.read()
        })
    }

    fn serializable_read(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { self.read() })
    }

    fn metrics_text(&self) -> String {
        self.core.collect_metrics();
        self.core.metrics().render()
    }

    fn count_health(&self, healthy: bool) {
        self.core.metrics().health(healthy);
    }

    fn count_check(&self, probe: Probe, check: Check, ok: bool) {
        self.core
            .metrics()
            .health_check(probe.name(), check.name(), ok);
    }

    fn members(&self) -> Vec<MemberInfo> {
        let members = match apply::members(self.core.store()) {
            Ok(members) => members,
            Err(error) => {
                tracing::error!(%error, "the member records cannot be read");
                return Vec::new();
            }
        };
        members
            .into_iter()
            .map(|member| MemberInfo {
                id: member.id,
                peer_urls: member.peer_ur_ls,
                is_learner: member.is_learner,
                name: member.name,
                client_urls: member.client_ur_ls,
            })
            .collect()
    }

    fn standings(&self) -> BoxFuture<'_, Result<Vec<Standing>, String>> {
        Box::pin(async {
            let standings = self.core.standings().get(&self.core).await.map_err(text)?;
            let one = |standing: &kvd_server::members::MemberStanding| Standing {
                id: standing.member.id,
                name: standing.member.name.clone(),
                is_learner: standing.member.is_learner,
                answer: standing.answer.clone().map(|answer| Answer {
                    status: answer.status,
                    kvd_version: answer.kvd_version,
                }),
            };
            Ok(standings.iter().map(one).collect())
        })
    }

    fn cluster_id(&self) -> u64 {
        self.core.cluster_id()
    }

    fn is_removed(&self, id: u64) -> bool {
        apply::is_removed(self.core.store(), id)
    }

    fn hash_kv(&self, revision: i64) -> BoxFuture<'_, Result<DataHash, String>> {
        let store = self.core.store().clone();
        Box::pin(async move {
            let hashed = tokio::task::spawn_blocking(move || store.hash_kv(revision)).await;
            let hash = match hashed {
                Ok(Ok(hash)) => hash,
                Ok(Err(kvd_mvcc::Error::Compacted { .. })) => return Err(COMPACTED.to_owned()),
                Ok(Err(kvd_mvcc::Error::FutureRevision { .. })) => return Err(FUTURE.to_owned()),
                Ok(Err(error)) => return Err(error.to_string()),
                Err(error) => return Err(error.to_string()),
            };
            Ok(DataHash {
                hash: hash.hash,
                compact_revision: hash.compact_revision,
                revision: hash.revision,
                current_revision: hash.current_revision,
            })
        })
    }

    fn autopilot(&self) -> BoxFuture<'_, String> {
        Box::pin(async {
            let status = auto::report::status(&self.core).await;
            serde_json::to_string(&status).unwrap_or_else(|error| {
                tracing::error!(%error, "the status of autopilot cannot be written");
                "{}".to_owned()
            })
        })
    }

    fn downgrade_enabled(&self) -> BoxFuture<'_, Result<bool, String>> {
        Box::pin(async {
            self.core.read_barrier().await.map_err(text)?;
            let downgrade = apply::downgrade(self.core.store()).map_err(text)?;
            Ok(downgrade.enabled)
        })
    }

    fn auth_enabled(&self) -> bool {
        self.core.auth().is_enabled()
    }

    fn process_stats(&self) -> ProcessStats {
        let stats = self.core.metrics().process_stats();
        ProcessStats {
            fd_limit: stats.max_fds,
            resident_bytes: stats.resident_bytes,
            private_bytes: stats.private_bytes,
        }
    }

    fn request_timeout(&self) -> Duration {
        self.core.request_timeout()
    }
}

impl V2 for ServedMember {
    fn write(&self, request: V2Request, as_root: bool) -> BoxFuture<'_, Result<V2Reply, String>> {
        Box::pin(async move { self.v2.write(request, as_root).await.map_err(text) })
    }

    fn get(
        &self,
        path: Bytes,
        recursive: bool,
        quorum: bool,
    ) -> BoxFuture<'_, Result<V2Reply, String>> {
        Box::pin(async move { self.v2.get(&path, recursive, quorum).await.map_err(text) })
    }

    fn watch(
        &self,
        path: Bytes,
        recursive: bool,
        since: u64,
        as_root: bool,
    ) -> BoxFuture<'_, Result<V2Watching, String>> {
        let wish = Wish {
            path,
            recursive,
            since,
            as_root,
        };
        Box::pin(async move {
            let (started, index) = self.v2.watch(wish).await.map_err(text)?;
            let events = started.map(|watch| events(watch).boxed());
            Ok(V2Watching { index, events })
        })
    }

    fn raft(&self) -> (u64, u64) {
        self.v2.raft()
    }

    fn is_removed(&self, member_id: u64) -> bool {
        apply::is_removed(self.core.store(), member_id)
    }

    fn store_stats(&self) -> String {
        self.v2.store_stats()
    }

    fn self_stats(&self) -> String {
        self.v2.self_stats()
    }

    fn leader_stats(&self) -> Option<String> {
        self.v2.leader_stats()
    }
}

/// The events of a watch, until it ends.
fn events(watch: Watch) -> impl Stream<Item = V2Event> {
    stream::unfold(watch, |mut watch| async {
        match watch.next().await {
            Ok(event) => event.map(|event| (event, watch)),
            Err(error) => {
                tracing::error!(%error, "a watch of the v2 API failed");
                None
            }
        }
    })
}

/// An error in the words that v3's clients get.
fn text(error: kvd_server::Error) -> String {
    tonic::Status::from(error).message().to_owned()
}
