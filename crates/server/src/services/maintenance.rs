//! etcd's Maintenance service. What takes longer stands apart: `services/snapshot`,
//! `services/downgrade`.

use std::sync::Arc;
use std::time::Instant;

use kvd_api::ETCD_VERSION;
use kvd_api::error::WireError;
use kvd_api::pb::etcdserverpb::alarm_request::AlarmAction;
use kvd_api::pb::etcdserverpb::maintenance_server::Maintenance;
use kvd_api::pb::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmResponse, AlarmType, DefragmentRequest, DefragmentResponse,
    DowngradeInfo, DowngradeRequest, DowngradeResponse, HashKvRequest, HashKvResponse, HashRequest,
    HashResponse, MoveLeaderRequest, MoveLeaderResponse, SnapshotRequest, StatusRequest,
    StatusResponse,
};
use kvd_api::pb::kvdcommandpb::command;
use kvd_mvcc::Store;
use tonic::{Request, Response, Status};

use super::open;
use crate::apply::{self, Applied};
use crate::auth::{Caller, View};
use crate::core::Core;
use crate::error::{Error, Result};
use crate::services::kv::off_thread;
use crate::services::{downgrade, snapshot};

/// The version of the stored content that etcd would report for what we hold.
pub const STORAGE_VERSION: &str = "3.7.0";

/// The service.
#[derive(Clone)]
pub struct MaintenanceService {
    core: Arc<Core>,
}

impl MaintenanceService {
    /// The service of the member `core`.
    pub fn new(core: Arc<Core>) -> MaintenanceService {
        MaintenanceService { core }
    }

    async fn change_alarm(
        &self,
        caller: Option<Caller>,
        request: AlarmRequest,
    ) -> Result<AlarmResponse> {
        let request = command::Request::Alarm(request);
        match self.core.propose_for(caller, request).await? {
            Applied::Alarm(response) => Ok(response),
            other => Err(Error::Internal(format!(
                "an alarm was answered with {other:?}"
            ))),
        }
    }

    async fn move_leader(&self, target: u64) -> Result<()> {
        let status = self.core.status();
        if !self.core.is_leader() {
            return Err(WireError::NotLeader.into());
        }
        if !status.voters.contains(&target) {
            return Err(WireError::BadLeaderTransferee.into());
        }
        if target == self.core.member_id() {
            return Ok(());
        }
        let transfer = self.core.node().transfer_leadership(Some(target));
        match tokio::time::timeout(self.core.request_timeout(), transfer).await {
            Ok(Ok(leader)) if leader == target => Ok(()),
            // Another member was quicker than the target, which may not run at all.
            Ok(Ok(_) | Err(kvd_raft::Error::Timeout)) | Err(_) => {
                Err(WireError::TimeoutLeaderTransfer.into())
            }
            Ok(Err(error)) => Err(error.into()),
        }
    }
}

/// The version of the stored content that etcd would report: that of the cluster, as far as it was
/// decided.
pub(crate) fn storage_version(store: &Store) -> String {
    apply::cluster_version(store).unwrap_or_else(|| STORAGE_VERSION.to_owned())
}

/// How this member is: what Status answers.
///
/// Errors: when the store cannot be read.
pub(crate) fn status(core: &Core) -> Result<StatusResponse> {
    let status = core.status();
    let store = core.store();
    let downgrade = apply::downgrade(store)?;
    let mut errors = Vec::new();
    if status.leader.is_none() {
        errors.push(WireError::NoLeader.message().to_owned());
    }
    for alarm in core.active_alarms() {
        errors.push(alarm_text(&alarm));
    }
    // An empty store of etcd's takes some pages; etcdctl divides by this.
    let size = store.size().max(1);
    Ok(StatusResponse {
        header: Some(core.header(store.current_revision())),
        version: ETCD_VERSION.to_owned(),
        db_size: i64::try_from(size).unwrap_or(i64::MAX),
        leader: status.leader.unwrap_or(0),
        raft_index: status.commit_index,
        raft_term: status.term,
        raft_applied_index: core.applied_index(),
        errors,
        db_size_in_use: i64::try_from(store.size_in_use()).unwrap_or(i64::MAX),
        is_learner: core.is_learner(),
        storage_version: storage_version(store),
        db_size_quota: core.config().quota(),
        downgrade_info: Some(DowngradeInfo {
            enabled: downgrade.enabled,
            target_version: downgrade.target_version,
        }),
    })
}

/// Gives the disk space of this member's store back that is not in use.
pub(crate) async fn defragment(core: &Core) -> Result<()> {
    let metrics = core.metrics();
    let (inflight, times) = (
        metrics.defrag_inflight.clone(),
        metrics.backend_defrag.clone(),
    );
    // All of it there: it goes on when the caller gives up.
    off_thread(core.store(), move |store| {
        tracing::info!("starting defragment");
        let started = Instant::now();
        inflight.inc();
        let done = store.defragment();
        inflight.dec();
        let took = started.elapsed();
        times.observe(took.as_secs_f64());
        match done {
            Ok(done) => {
                let (before, after) = (done.before, done.after);
                tracing::info!(before, after, ?took, "finished defragment");
                Ok(())
            }
            Err(error) => {
                tracing::warn!(%error, "failed to defragment");
                Err(error.into())
            }
        }
    })
    .await
}

/// An alarm as protobuf for Go prints it: zero fields are left out, unknown kinds are numbers.
fn alarm_text(alarm: &AlarmMember) -> String {
    let kind = match AlarmType::try_from(alarm.alarm) {
        Ok(kind) => kind.as_str_name().to_owned(),
        Err(_) => alarm.alarm.to_string(),
    };
    match alarm.member_id {
        0 => format!("alarm:{kind}"),
        id => format!("memberID:{id} alarm:{kind}"),
    }
}

#[tonic::async_trait]
impl Maintenance for MaintenanceService {
    async fn alarm(
        &self,
        request: Request<AlarmRequest>,
    ) -> Result<Response<AlarmResponse>, Status> {
        let (caller, request) = open(request);
        if request.action != AlarmAction::Get as i32 {
            let check = |view: &View| {
                view.admin(caller.as_ref())?;
                view.fresh(caller.as_ref())
            };
            self.core.authorize(check).await?;
        }
        let mut response = match AlarmAction::try_from(request.action) {
            // Replicated like a write, as in etcd: the answer is linearizable.
            Ok(_) => self.change_alarm(caller, request).await?,
            Err(_) => AlarmResponse::default(),
        };
        response.header = Some(self.core.header(self.core.store().current_revision()));
        Ok(Response::new(response))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Ok(Response::new(status(&self.core)?))
    }

    async fn hash(&self, _: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        let started = Instant::now();
        let hash = off_thread(self.core.store(), |store| Ok(store.hash()?)).await?;
        let metric = &self.core.metrics().mvcc_hash;
        metric.observe(started.elapsed().as_secs_f64());
        let header = self.core.header(self.core.store().current_revision());
        Ok(Response::new(HashResponse {
            header: Some(header),
            hash,
        }))
    }

    async fn hash_kv(
        &self,
        request: Request<HashKvRequest>,
    ) -> Result<Response<HashKvResponse>, Status> {
        let revision = request.into_inner().revision;
        let started = Instant::now();
        let hashed =
            off_thread(self.core.store(), move |store| Ok(store.hash_kv(revision)?)).await?;
        let metric = &self.core.metrics().mvcc_hash_rev;
        metric.observe(started.elapsed().as_secs_f64());
        Ok(Response::new(HashKvResponse {
            header: Some(self.core.header(hashed.current_revision)),
            hash: hashed.hash,
            compact_revision: hashed.compact_revision,
            hash_revision: hashed.revision,
        }))
    }

    async fn move_leader(
        &self,
        request: Request<MoveLeaderRequest>,
    ) -> Result<Response<MoveLeaderResponse>, Status> {
        MaintenanceService::move_leader(self, request.into_inner().target_id).await?;
        // etcd answers without a header.
        Ok(Response::new(MoveLeaderResponse::default()))
    }

    async fn defragment(
        &self,
        _: Request<DefragmentRequest>,
    ) -> Result<Response<DefragmentResponse>, Status> {
        defragment(&self.core).await?;
        Ok(Response::new(DefragmentResponse::default()))
    }

    type SnapshotStream = snapshot::SnapshotStream;

    async fn snapshot(
        &self,
        _: Request<SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        Ok(Response::new(snapshot::stream(&self.core).await?))
    }

    async fn downgrade(
        &self,
        request: Request<DowngradeRequest>,
    ) -> Result<Response<DowngradeResponse>, Status> {
        let response = downgrade::downgrade(&self.core, request.into_inner()).await?;
        Ok(Response::new(response))
    }
}
