//! The state of one member, and alarms.
//!
//! Source: etcd `Maintenance` service; `client/v3/maintenance.go`.

use kvd_api::pb::etcdserverpb::alarm_request::AlarmAction;
use kvd_api::pb::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmResponse, HashKvRequest, HashKvResponse, StatusRequest,
    StatusResponse,
};

use crate::client::Client;
use crate::error::Result;
use crate::retry::Rule;

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
}
