//! `fields`: one `"Name" : value` a line.

use kvd_client::pb::response_op::Response;
use kvd_client::pb::{
    AlarmResponse, AuthRoleGetResponse, AuthRoleListResponse, DeleteRangeResponse,
    LeaseGrantResponse, LeaseKeepAliveResponse, LeaseLeasesResponse, LeaseRevokeResponse,
    LeaseTimeToLiveResponse, MemberListResponse, PutResponse, ResponseHeader, TxnResponse,
};
use kvd_client::{KeyValue, RangeResponse};

use super::simple::alarm_name;
use super::{
    Done, EndpointHashKv, EndpointHealth, EndpointStatus, Printer, SnapshotStatus, Streams,
    Watched, decode,
};
use crate::failure::Outcome;
use crate::go_text::quote::quote;

pub(super) struct Fields {
    pub(super) hex: bool,
}

impl Fields {
    fn header(&self, to: &mut Streams<'_>, header: Option<&ResponseHeader>) -> Outcome {
        let header = header.copied().unwrap_or_default();
        self.id(to, "ClusterID", header.cluster_id)?;
        self.id(to, "MemberID", header.member_id)?;
        if header.revision > 0 {
            writeln!(to.out, "\"Revision\" : {}", header.revision)?;
        }
        writeln!(to.out, "\"RaftTerm\" : {}", header.raft_term)?;
        Ok(())
    }

    fn id(&self, to: &mut Streams<'_>, name: &str, id: u64) -> Outcome {
        if self.hex {
            writeln!(to.out, "\"{name}\" : {id:x}")?;
        } else {
            writeln!(to.out, "\"{name}\" : {id}")?;
        }
        Ok(())
    }

    fn lease(&self, to: &mut Streams<'_>, id: i64) -> Outcome {
        if self.hex {
            writeln!(to.out, "\"ID\" : {id:016x}")?;
        } else {
            writeln!(to.out, "\"ID\" : {id}")?;
        }
        Ok(())
    }

    fn pair(&self, to: &mut Streams<'_>, prefix: &str, kv: &KeyValue) -> Outcome {
        writeln!(to.out, "\"{prefix}Key\" : {}", quote(&kv.key))?;
        writeln!(
            to.out,
            "\"{prefix}CreateRevision\" : {}",
            kv.create_revision
        )?;
        writeln!(to.out, "\"{prefix}ModRevision\" : {}", kv.mod_revision)?;
        writeln!(to.out, "\"{prefix}Version\" : {}", kv.version)?;
        writeln!(to.out, "\"{prefix}Value\" : {}", quote(&kv.value))?;
        if self.hex {
            writeln!(to.out, "\"{prefix}Lease\" : {:016x}", kv.lease)?;
        } else {
            writeln!(to.out, "\"{prefix}Lease\" : {}", kv.lease)?;
        }
        Ok(())
    }

    fn status(&self, to: &mut Streams<'_>, one: &EndpointStatus) -> Outcome {
        let status = &one.status;
        self.header(to, status.header.as_ref())?;
        let downgrade = status.downgrade_info.clone().unwrap_or_default();
        let text = |value: &str| quote(value.as_bytes());
        for (name, value) in [
            ("Version", text(&status.version)),
            ("StorageVersion", text(&status.storage_version)),
            ("DBSize", status.db_size.to_string()),
            ("DBSizeInUse", status.db_size_in_use.to_string()),
            ("DBSizeQuota", status.db_size_quota.to_string()),
            ("Leader", status.leader.to_string()),
            ("IsLearner", status.is_learner.to_string()),
            ("RaftIndex", status.raft_index.to_string()),
            ("RaftTerm", status.raft_term.to_string()),
            ("RaftAppliedIndex", status.raft_applied_index.to_string()),
            ("Errors", format!("[{}]", status.errors.join(" "))),
            ("Endpoint", text(&one.endpoint)),
            ("DowngradeTargetVersion", text(&downgrade.target_version)),
            ("DowngradeEnabled", downgrade.enabled.to_string()),
        ] {
            writeln!(to.out, "\"{name}\" : {value}")?;
        }
        writeln!(to.out)?;
        Ok(())
    }
}

impl Printer for Fields {
    fn name(&self) -> &'static str {
        "fields"
    }

    fn put(&self, to: &mut Streams<'_>, answer: &PutResponse) -> Outcome {
        self.header(to, answer.header.as_ref())?;
        answer
            .prev_kv
            .iter()
            .try_for_each(|kv| self.pair(to, "Prev", kv))
    }

    fn get(&self, to: &mut Streams<'_>, answer: &RangeResponse) -> Outcome {
        self.header(to, answer.header.as_ref())?;
        decode(answer)?
            .iter()
            .try_for_each(|kv| self.pair(to, "", kv))?;
        writeln!(to.out, "\"More\" : {}", answer.more)?;
        writeln!(to.out, "\"Count\" : {}", answer.count)?;
        Ok(())
    }

    fn del(&self, to: &mut Streams<'_>, answer: &DeleteRangeResponse) -> Outcome {
        self.header(to, answer.header.as_ref())?;
        writeln!(to.out, "\"Deleted\" : {}", answer.deleted)?;
        answer
            .prev_kvs
            .iter()
            .try_for_each(|kv| self.pair(to, "Prev", kv))
    }

    fn txn(&self, to: &mut Streams<'_>, answer: &TxnResponse) -> Outcome {
        self.header(to, answer.header.as_ref())?;
        writeln!(to.out, "\"Succeeded\" : {}", answer.succeeded)?;
        for op in &answer.responses {
            match &op.response {
                Some(Response::ResponseDeleteRange(del)) => self.del(to, del)?,
                Some(Response::ResponsePut(put)) => self.put(to, put)?,
                Some(Response::ResponseRange(get)) => self.get(to, get)?,
                other => {
                    let shown = quote(format!("{other:?}").as_bytes());
                    writeln!(to.out, "\"Unknown\" : {shown}")?;
                }
            }
        }
        Ok(())
    }

    fn watch(&self, to: &mut Streams<'_>, response: &Watched) -> Outcome {
        self.header(to, Some(&response.header))?;
        for event in &response.events {
            writeln!(to.out, "\"Type\" : {}", event.r#type().as_str_name())?;
            event
                .prev_kv
                .iter()
                .try_for_each(|kv| self.pair(to, "Prev", kv))?;
            self.pair(to, "", &event.kv.clone().unwrap_or_default())?;
        }
        Ok(())
    }

    fn alarm(&self, to: &mut Streams<'_>, answer: &AlarmResponse) -> Outcome {
        self.header(to, answer.header.as_ref())?;
        for alarm in &answer.alarms {
            self.id(to, "MemberID", alarm.member_id)?;
            writeln!(to.out, "\"AlarmType\" : {}", alarm_name(alarm.alarm))?;
            writeln!(to.out)?;
        }
        Ok(())
    }

    fn lease_grant(&self, to: &mut Streams<'_>, answer: &LeaseGrantResponse) -> Outcome {
        self.header(to, answer.header.as_ref())?;
        self.lease(to, answer.id)?;
        writeln!(to.out, "\"TTL\" : {}", answer.ttl)?;
        Ok(())
    }

    fn lease_revoke(&self, to: &mut Streams<'_>, _: i64, answer: &LeaseRevokeResponse) -> Outcome {
        self.header(to, answer.header.as_ref())
    }

    fn lease_keep_alive(&self, to: &mut Streams<'_>, answer: &LeaseKeepAliveResponse) -> Outcome {
        self.header(to, answer.header.as_ref())?;
        self.lease(to, answer.id)?;
        writeln!(to.out, "\"TTL\" : {}", answer.ttl)?;
        Ok(())
    }

    fn lease_time_to_live(
        &self,
        to: &mut Streams<'_>,
        answer: &LeaseTimeToLiveResponse,
        _: bool,
    ) -> Outcome {
        self.header(to, answer.header.as_ref())?;
        self.lease(to, answer.id)?;
        writeln!(to.out, "\"TTL\" : {}", answer.ttl)?;
        writeln!(to.out, "\"GrantedTTL\" : {}", answer.granted_ttl)?;
        for key in &answer.keys {
            writeln!(to.out, "\"Key\" : {}", quote(key))?;
        }
        Ok(())
    }

    fn leases(&self, to: &mut Streams<'_>, answer: &LeaseLeasesResponse) -> Outcome {
        self.header(to, answer.header.as_ref())?;
        for lease in &answer.leases {
            self.lease(to, lease.id)?;
        }
        Ok(())
    }

    fn done(&self, to: &mut Streams<'_>, done: &Done) -> Outcome {
        if !done.has_fields {
            return self.refuse();
        }
        self.header(to, done.header.as_ref())
    }

    fn member_list(&self, to: &mut Streams<'_>, answer: &MemberListResponse) -> Outcome {
        self.header(to, answer.header.as_ref())?;
        for member in &answer.members {
            self.id(to, "ID", member.id)?;
            writeln!(to.out, "\"Name\" : {}", quote(member.name.as_bytes()))?;
            for url in &member.peer_ur_ls {
                writeln!(to.out, "\"PeerURL\" : {}", quote(url.as_bytes()))?;
            }
            for url in &member.client_ur_ls {
                writeln!(to.out, "\"ClientURL\" : {}", quote(url.as_bytes()))?;
            }
            writeln!(to.out, "\"IsLearner\" : {}", member.is_learner)?;
            writeln!(to.out)?;
        }
        Ok(())
    }

    fn role_get(&self, to: &mut Streams<'_>, _: &str, answer: &AuthRoleGetResponse) -> Outcome {
        self.header(to, answer.header.as_ref())?;
        for one in &answer.perm {
            let kind = one.perm_type().as_str_name();
            // The second space is etcdctl's.
            writeln!(to.out, "\"PermType\" :  {kind}")?;
            writeln!(to.out, "\"Key\" : {}", quote(&one.key))?;
            writeln!(to.out, "\"RangeEnd\" : {}", quote(&one.range_end))?;
        }
        Ok(())
    }

    fn role_list(&self, to: &mut Streams<'_>, answer: &AuthRoleListResponse) -> Outcome {
        self.header(to, answer.header.as_ref())?;
        let roles = answer.roles.iter();
        let roles: String = roles
            .map(|role| format!(" {}", quote(role.as_bytes())))
            .collect();
        writeln!(to.out, "\"Roles\" :{roles}")?;
        Ok(())
    }

    fn endpoint_health(&self, to: &mut Streams<'_>, all: &[EndpointHealth]) -> Outcome {
        for one in all {
            writeln!(to.out, "\"Endpoint\" : {}", quote(one.endpoint.as_bytes()))?;
            writeln!(to.out, "\"Health\" : {}", one.is_healthy)?;
            writeln!(to.out, "\"Took\" : {}", one.took)?;
            writeln!(to.out, "\"Error\" : {}", one.error)?;
            writeln!(to.out)?;
        }
        Ok(())
    }

    fn endpoint_status(&self, to: &mut Streams<'_>, all: &[EndpointStatus]) -> Outcome {
        all.iter().try_for_each(|one| self.status(to, one))
    }

    fn snapshot_status(&self, to: &mut Streams<'_>, status: &SnapshotStatus) -> Outcome {
        writeln!(to.out, "\"Hash\" : {}", status.hash)?;
        writeln!(to.out, "\"Revision\" : {}", status.revision)?;
        writeln!(to.out, "\"Keys\" : {}", status.keys)?;
        writeln!(to.out, "\"Size\" : {}", status.size)?;
        writeln!(to.out, "\"Version\" : {}", status.version)?;
        Ok(())
    }

    fn endpoint_hashkv(&self, to: &mut Streams<'_>, all: &[EndpointHashKv]) -> Outcome {
        for one in all {
            self.header(to, one.hash.header.as_ref())?;
            writeln!(to.out, "\"Endpoint\" : {}", quote(one.endpoint.as_bytes()))?;
            writeln!(to.out, "\"Hash\" : {}", one.hash.hash)?;
            writeln!(to.out, "\"HashRevision\" : {}", one.hash.hash_revision)?;
            writeln!(to.out)?;
        }
        Ok(())
    }
}
