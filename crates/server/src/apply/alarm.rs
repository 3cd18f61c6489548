//! Alarms: what is wrong with the cluster as a whole, and what it refuses meanwhile.
//!
//! An alarm is a pair of member and kind. It is raised and cleared through the log, stored in
//! [`Table::Alarm`] (key: the encoded `AlarmMember`, no value; as etcd stores it) and in force
//! from the entry on that raised it.
//!
//! | kind | refused while any member has it |
//! |---|---|
//! | NOSPACE | puts, transactions with a put in either branch, new leases |
//! | CORRUPT | puts, deletes, transactions that write, compactions, new and revoked leases |
//!
//! Source: etcd `server/etcdserver/api/v3alarm/alarms.go`,
//! `server/etcdserver/apply/{capped,corrupt}.go`.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use kvd_api::error::WireError;
use kvd_api::pb::etcdserverpb::alarm_request::AlarmAction;
use kvd_api::pb::etcdserverpb::{AlarmMember, AlarmRequest, AlarmResponse, AlarmType};
use kvd_api::pb::kvdcommandpb::command::Request;
use kvd_mvcc::{Store, Table, Writer};
use parking_lot::RwLock;
use prost::Message;

use crate::error::{Error, Result};
use crate::quota;

/// The active alarms. Changed by apply alone, read by everyone.
#[derive(Debug, Default)]
pub struct Alarms {
    /// Kind and member ID, in the order in which they are listed.
    active: RwLock<BTreeSet<(i32, u64)>>,
    /// Bit `n` is set while an alarm of kind `n` is active; every write asks.
    kinds: AtomicU32,
}

impl Alarms {
    /// The alarms that `store` holds.
    ///
    /// Errors: [`Error::Internal`] when a stored alarm cannot be read.
    pub fn restore(store: &Store) -> Result<Alarms> {
        let alarms = Alarms::default();
        alarms.reload(store)?;
        Ok(alarms)
    }

    /// Replaces the alarms by those that `store` holds.
    ///
    /// Errors: [`Error::Internal`] when a stored alarm cannot be read.
    pub(super) fn reload(&self, store: &Store) -> Result<()> {
        let mut active = BTreeSet::new();
        for (key, _) in store.table_scan(Table::Alarm) {
            let alarm = AlarmMember::decode(key)
                .map_err(|error| Error::Internal(format!("a stored alarm is damaged: {error}")))?;
            active.insert((alarm.alarm, alarm.member_id));
        }
        self.change(|current| *current = active);
        Ok(())
    }

    fn change<T>(&self, change: impl FnOnce(&mut BTreeSet<(i32, u64)>) -> T) -> T {
        let mut active = self.active.write();
        let result = change(&mut active);
        let kinds = active.iter().fold(0, |kinds, (kind, _)| kinds | bit(*kind));
        self.kinds.store(kinds, Ordering::Release);
        result
    }

    /// Whether any member has an alarm of this kind.
    pub fn is_active(&self, kind: AlarmType) -> bool {
        self.kinds.load(Ordering::Acquire) & bit(kind as i32) != 0
    }

    /// The active alarms of this kind, of all kinds for [`AlarmType::None`], by kind and member.
    pub fn list(&self, kind: AlarmType) -> Vec<AlarmMember> {
        self.list_number(kind as i32)
    }

    fn list_number(&self, kind: i32) -> Vec<AlarmMember> {
        let active = self.active.read();
        let wanted = active
            .iter()
            .filter(|(alarm, _)| kind == 0 || *alarm == kind);
        wanted
            .map(|&(alarm, member_id)| AlarmMember { member_id, alarm })
            .collect()
    }

    /// Refuses what may not be applied while alarms are active.
    ///
    /// Errors: [`WireError::CorruptCluster`], [`WireError::NoSpace`].
    pub(super) fn admit(&self, request: &Request) -> std::result::Result<(), WireError> {
        if self.kinds.load(Ordering::Acquire) == 0 {
            return Ok(());
        }
        let changes_keys = match request {
            Request::Put(_)
            | Request::DeleteRange(_)
            | Request::Txn(_)
            | Request::Compaction(_)
            | Request::LeaseGrant(_)
            | Request::LeaseRevoke(_)
            | Request::LeaseExpire(_)
            | Request::V2(_) => true,
            Request::Alarm(_)
            | Request::PublishMember(_)
            | Request::SetClusterVersion(_)
            | Request::DowngradeInfoSet(_)
            | Request::LeaseCheckpoint(_)
            | Request::AuthEnable(_)
            | Request::AuthDisable(_)
            | Request::Authenticate(_)
            | Request::AuthUserAdd(_)
            | Request::AuthUserDelete(_)
            | Request::AuthUserChangePassword(_)
            | Request::AuthUserGrantRole(_)
            | Request::AuthUserRevokeRole(_)
            | Request::AuthRoleAdd(_)
            | Request::AuthRoleDelete(_)
            | Request::AuthRoleGrantPermission(_)
            | Request::AuthRoleRevokePermission(_) => false,
        };
        if changes_keys && self.is_active(AlarmType::Corrupt) {
            return Err(WireError::CorruptCluster);
        }
        if quota::cost(request) > 0 && self.is_active(AlarmType::Nospace) {
            return Err(WireError::NoSpace);
        }
        Ok(())
    }

    /// Lists, raises or clears alarms; the response holds those that were found or changed.
    pub(super) fn apply(&self, writer: &mut Writer, request: &AlarmRequest) -> AlarmResponse {
        let alarm = AlarmMember {
            member_id: request.member_id,
            alarm: request.alarm,
        };
        let alarms = match AlarmAction::try_from(request.action) {
            Ok(AlarmAction::Get) => self.list_number(request.alarm),
            Ok(AlarmAction::Activate) if request.alarm == AlarmType::None as i32 => Vec::new(),
            Ok(AlarmAction::Activate) => {
                if self.change(|active| active.insert((alarm.alarm, alarm.member_id))) {
                    writer.table_put(Table::Alarm, alarm.encode_to_vec().into(), Bytes::new());
                }
                vec![alarm]
            }
            Ok(AlarmAction::Deactivate) => {
                if self.change(|active| active.remove(&(alarm.alarm, alarm.member_id))) {
                    writer.table_delete(Table::Alarm, &alarm.encode_to_vec());
                    vec![alarm]
                } else {
                    Vec::new()
                }
            }
            Err(_) => Vec::new(),
        };
        AlarmResponse {
            header: None,
            alarms,
        }
    }
}

/// The bit of a kind of alarm. Kinds that nobody knows yet have none: they are only listed.
fn bit(kind: i32) -> u32 {
    u32::try_from(kind)
        .ok()
        .and_then(|kind| 1_u32.checked_shl(kind))
        .unwrap_or(0)
}
