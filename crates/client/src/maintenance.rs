//! The state of one member, alarms, defragmentation, leadership, downgrades and snapshots.
//!
//! Source: etcd `Maintenance` service; `client/v3/maintenance.go`.

use bytes::Bytes;
use kvd_api::pb::etcdserverpb::alarm_request::AlarmAction;
use kvd_api::pb::etcdserverpb::downgrade_request::DowngradeAction;
use kvd_api::pb::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmResponse, DefragmentRequest, DefragmentResponse,
    DowngradeRequest, DowngradeResponse, HashKvRequest, HashKvResponse, MoveLeaderRequest,
    MoveLeaderResponse, SnapshotRequest, SnapshotResponse, StatusRequest, StatusResponse,
};
use tonic::Streaming;

use crate::client::Client;
use crate::error::Result;
use crate::retry::{Rule, stream_failed};

impl Client {
    /// The state of the member behind `endpoint`, which need not be one of this client's.
    pub async fn status(&self, endpoint: &str) -> Result<StatusResponse> {
        let one = self.only(endpoint)?;
        one.unary(Rule::Repeatable, StatusRequest {}, |channel, request| {
            let mut stub = one.maintenance_stub(channel);
            async move { stub.status(request).await }
        })
        .await
    }

    /// The hash of the history up to `revision` (zero: the current one) at the member behind
    /// `endpoint`. Members with the same history have the same hash.
    pub async fn hash_kv(&self, endpoint: &str, revision: i64) -> Result<HashKvResponse> {
        let one = self.only(endpoint)?;
        one.unary(
            Rule::Repeatable,
            HashKvRequest { revision },
            |channel, request| {
                let mut stub = one.maintenance_stub(channel);
                async move { stub.hash_kv(request).await }
            },
        )
        .await
    }

    /// The alarms that are raised.
    pub async fn alarm_list(&self) -> Result<AlarmResponse> {
        let request = AlarmRequest {
            action: AlarmAction::Get.into(),
            ..Default::default()
        };
        self.alarm(Rule::Repeatable, request).await
    }

    /// Clears one alarm.
    pub async fn alarm_disarm(&self, alarm: &AlarmMember) -> Result<AlarmResponse> {
        let request = AlarmRequest {
            action: AlarmAction::Deactivate.into(),
            member_id: alarm.member_id,
            alarm: alarm.alarm,
        };
        self.alarm(Rule::AtMostOnce, request).await
    }

    /// Clears every alarm; the answer holds those that were cleared and, as in etcd's client, no
    /// header.
    pub async fn alarm_disarm_all(&self) -> Result<AlarmResponse> {
        let mut cleared = AlarmResponse::default();
        for alarm in self.alarm_list().await?.alarms {
            cleared
                .alarms
                .extend(self.alarm_disarm(&alarm).await?.alarms);
        }
        Ok(cleared)
    }

    async fn alarm(&self, rule: Rule, request: AlarmRequest) -> Result<AlarmResponse> {
        self.unary(rule, request, |channel, request| {
            let mut stub = self.maintenance_stub(channel);
            async move { stub.alarm(request).await }
        })
        .await
    }

    /// Lets the member behind `endpoint` give free space back to its file system.
    pub async fn defragment(&self, endpoint: &str) -> Result<DefragmentResponse> {
        let one = self.only(endpoint)?;
        one.unary(
            Rule::AtMostOnce,
            DefragmentRequest {},
            |channel, request| {
                let mut stub = one.maintenance_stub(channel);
                async move { stub.defragment(request).await }
            },
        )
        .await
    }

    /// Hands leadership to the member `target_id`. Only the leader does so: see [`Client::only`].
    pub async fn move_leader(&self, target_id: u64) -> Result<MoveLeaderResponse> {
        let request = MoveLeaderRequest { target_id };
        self.unary(Rule::AtMostOnce, request, |channel, request| {
            let mut stub = self.maintenance_stub(channel);
            async move { stub.move_leader(request).await }
        })
        .await
    }

    /// Checks, begins or ends a downgrade to `version`, which is `X.Y`.
    pub async fn downgrade(
        &self,
        action: DowngradeAction,
        version: &str,
    ) -> Result<DowngradeResponse> {
        let request = DowngradeRequest {
            action: action.into(),
            version: version.to_owned(),
        };
        let rule = match action {
            DowngradeAction::Validate => Rule::Repeatable,
            DowngradeAction::Enable | DowngradeAction::Cancel => Rule::AtMostOnce,
        };
        self.unary(rule, request, |channel, request| {
            let mut stub = self.maintenance_stub(channel);
            async move { stub.downgrade(request).await }
        })
        .await
    }

    /// The metrics of the member behind `endpoint`, as Prometheus reads them.
    pub async fn metrics(&self, endpoint: &str) -> Result<String> {
        self.only(endpoint)?.fetch("/metrics").await
    }

    /// Begins to fetch the content of a member. Only connecting is bounded in time.
    pub async fn snapshot(&self) -> Result<Snapshot> {
        let mut stream = self
            .streaming(SnapshotRequest {}, |channel, request| {
                let mut stub = self.maintenance_stub(channel);
                async move { stub.snapshot(request).await }
            })
            .await?;
        let failed = |status| stream_failed(&status, &self.endpoint_list());
        let first = stream.message().await.map_err(failed)?;
        Ok(Snapshot {
            client: self.clone(),
            stream,
            version: first
                .as_ref()
                .map(|one| one.version.clone())
                .unwrap_or_default(),
            size: first.as_ref().map_or(0, size),
            first,
        })
    }
}

fn size(response: &SnapshotResponse) -> u64 {
    response
        .remaining_bytes
        .saturating_add(response.blob.len() as u64)
}

/// A snapshot under way: etcd's file format, with the SHA-256 of everything before at its end.
#[derive(Debug)]
pub struct Snapshot {
    client: Client,
    stream: Streaming<SnapshotResponse>,
    first: Option<SnapshotResponse>,
    version: String,
    size: u64,
}

impl Snapshot {
    /// The version of the server's storage; empty when it does not say.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// How large the server says that the snapshot is, in bytes; the hash may come on top.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The next piece; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first.blob));
        }
        let next = self.stream.message().await;
        let next = next.map_err(|status| stream_failed(&status, &self.client.endpoint_list()))?;
        Ok(next.map(|piece| piece.blob))
    }
}
