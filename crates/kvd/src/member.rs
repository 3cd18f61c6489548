//! What the gateway asks of the member, answered by the server.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use kvd_api::ETCD_VERSION;
use kvd_api::pb::etcdserverpb::AlarmType;
use kvd_gateway::{Check, Member, MemberInfo, Probe, ProcessStats, Versions};
use kvd_mvcc::RangeOptions;
use kvd_server::apply;
use kvd_server::core::Core;
use kvd_server::services::maintenance::STORAGE_VERSION;

/// etcd's probes read this key; it need not exist.
const PROBED_KEY: &[u8] = b"a";

/// The server behind the HTTP endpoints.
pub struct ServedMember {
    core: Arc<Core>,
}

impl ServedMember {
    /// The member that `core` runs.
    pub fn new(core: Arc<Core>) -> ServedMember {
        ServedMember { core }
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

    fn cluster_id(&self) -> u64 {
        self.core.cluster_id()
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
