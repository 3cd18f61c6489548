//! `simple`: what a person reads; keys and values on lines of their own.

use kvd_autopilot::status::Status;
use kvd_client::pb::response_op::Response;
use kvd_client::pb::{
    AlarmResponse, AlarmType, AuthRoleGetResponse, AuthRoleListResponse, AuthStatusResponse,
    AuthUserGetResponse, AuthUserListResponse, DeleteRangeResponse, LeaseGrantResponse,
    LeaseKeepAliveResponse, LeaseLeasesResponse, LeaseRevokeResponse, LeaseTimeToLiveResponse,
    MemberAddResponse, MemberListResponse, PutResponse, TxnResponse,
};
use kvd_client::{KeyValue, Permission, PermissionType, RangeResponse, prefix_end};

use super::{
    Done, EndpointHashKv, EndpointHealth, EndpointStatus, Printer, SnapshotStatus, Streams,
    Watched, autopilot, decode, table,
};
use crate::failure::Outcome;

pub(super) struct Simple {
    hex: bool,
    values_only: bool,
}

impl Simple {
    pub(super) fn new(hex: bool) -> Self {
        Simple {
            hex,
            values_only: false,
        }
    }

    fn pair(&self, to: &mut Streams<'_>, kv: &KeyValue) -> Outcome {
        if !self.values_only {
            self.line(to, &kv.key)?;
        }
        self.line(to, &kv.value)
    }

    fn line(&self, to: &mut Streams<'_>, bytes: &[u8]) -> Outcome {
        if self.hex {
            for byte in bytes {
                write!(to.out, "\\x{byte:02x}")?;
            }
        } else {
            to.out.write_all(bytes)?;
        }
        to.out.write_all(b"\n")?;
        Ok(())
    }
}

fn rows(to: &mut Streams<'_>, rows: Vec<Vec<String>>) -> Outcome {
    for row in rows {
        writeln!(to.out, "{}", row.join(", "))?;
    }
    Ok(())
}

fn lines(to: &mut Streams<'_>, names: &[String]) -> Outcome {
    for name in names {
        writeln!(to.out, "{name}")?;
    }
    Ok(())
}

fn permission(to: &mut Streams<'_>, one: &Permission) -> Outcome {
    let Permission { key, range_end, .. } = one;
    let open = range_end[..] == b"\0"[..];
    let (left, middle, right) = match &range_end[..] {
        b"" => ("\t", "", ""),
        b"\0" => ("\t[", ", <open ended>", ""),
        _ => ("\t[", ", ", ")"),
    };
    to.out.write_all(left.as_bytes())?;
    to.out.write_all(key)?;
    to.out.write_all(middle.as_bytes())?;
    if !open {
        to.out.write_all(range_end)?;
    }
    to.out.write_all(right.as_bytes())?;
    let is_prefix = !range_end.is_empty() && !key.is_empty() && prefix_end(key) == range_end;
    if is_prefix {
        to.out.write_all(b" (prefix ")?;
        to.out.write_all(key)?;
        to.out.write_all(b")")?;
    }
    to.out.write_all(b"\n")?;
    Ok(())
}

impl Printer for Simple {
    fn name(&self) -> &'static str {
        "simple"
    }

    fn print_values_only(&mut self) -> bool {
        self.values_only = true;
        true
    }

    fn put(&self, to: &mut Streams<'_>, answer: &PutResponse) -> Outcome {
        writeln!(to.out, "OK")?;
        answer.prev_kv.iter().try_for_each(|kv| self.pair(to, kv))
    }

    fn get(&self, to: &mut Streams<'_>, answer: &RangeResponse) -> Outcome {
        decode(answer)?.iter().try_for_each(|kv| self.pair(to, kv))
    }

    fn del(&self, to: &mut Streams<'_>, answer: &DeleteRangeResponse) -> Outcome {
        writeln!(to.out, "{}", answer.deleted)?;
        answer.prev_kvs.iter().try_for_each(|kv| self.pair(to, kv))
    }

    fn txn(&self, to: &mut Streams<'_>, answer: &TxnResponse) -> Outcome {
        writeln!(
            to.out,
            "{}",
            if answer.succeeded {
                "SUCCESS"
            } else {
                "FAILURE"
            }
        )?;
        for op in &answer.responses {
            writeln!(to.out)?;
            match &op.response {
                Some(Response::ResponseDeleteRange(del)) => self.del(to, del)?,
                Some(Response::ResponsePut(put)) => self.put(to, put)?,
                Some(Response::ResponseRange(get)) => self.get(to, get)?,
                other => writeln!(to.out, "unexpected response {other:?}")?,
            }
        }
        Ok(())
    }

    fn watch(&self, to: &mut Streams<'_>, response: &Watched) -> Outcome {
        for event in &response.events {
            writeln!(to.out, "{}", event.r#type().as_str_name())?;
            event.prev_kv.iter().try_for_each(|kv| self.pair(to, kv))?;
            self.pair(to, &event.kv.clone().unwrap_or_default())?;
        }
        Ok(())
    }

    fn alarm(&self, to: &mut Streams<'_>, answer: &AlarmResponse) -> Outcome {
        for alarm in &answer.alarms {
            // The text form of the message, in which zero fields do not appear.
            let mut parts = Vec::new();
            if alarm.member_id != 0 {
                parts.push(format!("memberID:{}", alarm.member_id));
            }
            if alarm.alarm != 0 {
                parts.push(format!("alarm:{}", alarm_name(alarm.alarm)));
            }
            writeln!(to.out, "{}", parts.join(" "))?;
        }
        Ok(())
    }

    fn lease_grant(&self, to: &mut Streams<'_>, answer: &LeaseGrantResponse) -> Outcome {
        let LeaseGrantResponse { id, ttl, .. } = answer;
        writeln!(to.out, "lease {id:016x} granted with TTL({ttl}s)")?;
        Ok(())
    }

    fn lease_revoke(&self, to: &mut Streams<'_>, id: i64, _: &LeaseRevokeResponse) -> Outcome {
        writeln!(to.out, "lease {id:016x} revoked")?;
        Ok(())
    }

    fn lease_keep_alive(&self, to: &mut Streams<'_>, answer: &LeaseKeepAliveResponse) -> Outcome {
        let LeaseKeepAliveResponse { id, ttl, .. } = answer;
        writeln!(to.out, "lease {id:016x} keepalived with TTL({ttl})")?;
        Ok(())
    }

    fn lease_time_to_live(
        &self,
        to: &mut Streams<'_>,
        answer: &LeaseTimeToLiveResponse,
        keys: bool,
    ) -> Outcome {
        let LeaseTimeToLiveResponse {
            id,
            ttl,
            granted_ttl,
            ..
        } = answer;
        if *granted_ttl == 0 && *ttl == -1 {
            writeln!(to.out, "lease {id:016x} already expired")?;
            return Ok(());
        }
        write!(
            to.out,
            "lease {id:016x} granted with TTL({granted_ttl}s), remaining({ttl}s)"
        )?;
        if keys {
            to.out.write_all(b", attached keys([")?;
            to.out.write_all(&answer.keys.join(&b' '))?;
            to.out.write_all(b"])")?;
        }
        to.out.write_all(b"\n")?;
        Ok(())
    }

    fn leases(&self, to: &mut Streams<'_>, answer: &LeaseLeasesResponse) -> Outcome {
        writeln!(to.out, "found {} leases", answer.leases.len())?;
        for lease in &answer.leases {
            writeln!(to.out, "{:016x}", lease.id)?;
        }
        Ok(())
    }

    fn done(&self, to: &mut Streams<'_>, done: &Done) -> Outcome {
        writeln!(to.out, "{}", done.line)?;
        Ok(())
    }

    fn member_add(&self, to: &mut Streams<'_>, answer: &MemberAddResponse) -> Outcome {
        let member = answer.member.clone().unwrap_or_default();
        let role = if member.is_learner { " as learner" } else { "" };
        let cluster = answer.header.map_or(0, |header| header.cluster_id);
        let id = member.id;
        writeln!(
            to.out,
            "Member {id:16x} added{role} to cluster {cluster:16x}"
        )?;
        Ok(())
    }

    fn member_change(&self, to: &mut Streams<'_>, line: &str, _: &MemberListResponse) -> Outcome {
        writeln!(to.out, "{line}")?;
        Ok(())
    }

    fn member_list(&self, to: &mut Streams<'_>, answer: &MemberListResponse) -> Outcome {
        rows(to, table::member_rows(answer))
    }

    fn auth_status(&self, to: &mut Streams<'_>, answer: &AuthStatusResponse) -> Outcome {
        writeln!(to.out, "Authentication Status: {}", answer.enabled)?;
        writeln!(to.out, "AuthRevision: {}", answer.auth_revision)?;
        Ok(())
    }

    fn user_get(&self, to: &mut Streams<'_>, name: &str, answer: &AuthUserGetResponse) -> Outcome {
        writeln!(to.out, "User: {name}")?;
        let roles: String = answer.roles.iter().map(|role| format!(" {role}")).collect();
        writeln!(to.out, "Roles:{roles}")?;
        Ok(())
    }

    fn user_list(&self, to: &mut Streams<'_>, answer: &AuthUserListResponse) -> Outcome {
        lines(to, &answer.users)
    }

    fn role_get(&self, to: &mut Streams<'_>, name: &str, answer: &AuthRoleGetResponse) -> Outcome {
        writeln!(to.out, "Role {name}")?;
        for (title, other) in [
            ("KV Read:", PermissionType::Read),
            ("KV Write:", PermissionType::Write),
        ] {
            writeln!(to.out, "{title}")?;
            if name == "root" && answer.perm.is_empty() {
                writeln!(to.out, "\t[, <open ended>")?;
            }
            for one in &answer.perm {
                let kind = one.perm_type();
                if kind == other || kind == PermissionType::Readwrite {
                    permission(to, one)?;
                }
            }
        }
        Ok(())
    }

    fn role_list(&self, to: &mut Streams<'_>, answer: &AuthRoleListResponse) -> Outcome {
        lines(to, &answer.roles)
    }

    fn endpoint_health(&self, to: &mut Streams<'_>, all: &[EndpointHealth]) -> Outcome {
        for EndpointHealth {
            endpoint,
            took,
            error,
            ..
        } in all
        {
            if error.is_empty() {
                writeln!(
                    to.out,
                    "{endpoint} is healthy: successfully committed proposal: took = {took}"
                )?;
            } else {
                writeln!(
                    to.err,
                    "{endpoint} is unhealthy: failed to commit proposal: {error}"
                )?;
            }
        }
        Ok(())
    }

    fn endpoint_status(&self, to: &mut Streams<'_>, all: &[EndpointStatus]) -> Outcome {
        rows(to, table::status_rows(all))
    }

    fn autopilot(&self, to: &mut Streams<'_>, status: &Status) -> Outcome {
        autopilot::lines(to, status)?;
        rows(to, autopilot::rows(status))
    }

    fn snapshot_status(&self, to: &mut Streams<'_>, status: &SnapshotStatus) -> Outcome {
        rows(to, vec![table::snapshot_row(status)])
    }

    fn endpoint_hashkv(&self, to: &mut Streams<'_>, all: &[EndpointHashKv]) -> Outcome {
        rows(to, table::hashkv_rows(all))
    }
}

/// The name of an alarm, or its number when it has none.
pub(super) fn alarm_name(alarm: i32) -> String {
    match AlarmType::try_from(alarm) {
        Ok(known) => known.as_str_name().to_owned(),
        Err(_) => alarm.to_string(),
    }
}
