//! `json`: one line, in the shape that Go's `encoding/json` gives etcd's messages.

use kvd_autopilot::status::Status;
use kvd_client::pb::response_op::Response;
use kvd_client::pb::{
    AlarmMember, AlarmResponse, AuthRoleGetResponse, AuthRoleListResponse, AuthStatusResponse,
    AuthUserGetResponse, AuthUserListResponse, DeleteRangeResponse, HashKvResponse,
    LeaseGrantResponse, LeaseKeepAliveResponse, LeaseLeasesResponse, LeaseRevokeResponse,
    LeaseTimeToLiveResponse, Member, MemberAddResponse, MemberListResponse, PutResponse,
    ResponseHeader, ResponseOp, StatusResponse, TxnResponse,
};
use kvd_client::{Event, KeyValue, Permission, RangeResponse};

use super::{
    Done, EndpointHashKv, EndpointHealth, EndpointStatus, Printer, SnapshotStatus, Streams,
    Watched, decode,
};
use crate::failure::{Failure, Outcome};
use crate::go_text::json::{Object, array, base64, string};

pub(super) struct Json {
    /// IDs as hexadecimal strings; etcdctl does so in the answers of member commands only.
    pub(super) hex: bool,
}

impl Json {
    /// The answer of a member command, the only ones with hexadecimal IDs.
    fn members(
        &self,
        of: Option<&ResponseHeader>,
        added: Option<String>,
        members: &[Member],
    ) -> String {
        let members = members.iter().map(|one| member(one, self.hex));
        let text = Object::new();
        if self.hex {
            text.raw("header", &of.map_or("null".to_owned(), header_hex))
                .optional("member", added)
                .raw("members", &array(members))
        } else {
            text.optional("header", header(of))
                .optional("member", added)
                .list("members", members)
        }
        .finish()
    }
}

impl Printer for Json {
    fn name(&self) -> &'static str {
        "json"
    }

    fn put(&self, to: &mut Streams<'_>, answer: &PutResponse) -> Outcome {
        line(to, &put(answer))
    }

    fn get(&self, to: &mut Streams<'_>, answer: &RangeResponse) -> Outcome {
        line(to, &get(answer)?)
    }

    fn del(&self, to: &mut Streams<'_>, answer: &DeleteRangeResponse) -> Outcome {
        line(to, &del(answer))
    }

    fn txn(&self, to: &mut Streams<'_>, answer: &TxnResponse) -> Outcome {
        line(to, &txn(answer)?)
    }

    fn watch(&self, to: &mut Streams<'_>, response: &Watched) -> Outcome {
        let header = header(Some(&response.header)).unwrap_or_default();
        let events = match &response.events[..] {
            [] => "null".to_owned(),
            events => array(events.iter().map(event)),
        };
        let text = Object::new()
            .raw("Header", &header)
            .raw("Events", &events)
            .raw("CompactRevision", &response.compact_revision.to_string())
            .raw("Canceled", &response.is_canceled.to_string())
            .raw("Created", "false")
            .raw("CancelReason", &string(&response.cancel_reason));
        line(to, &text.finish())
    }

    fn alarm(&self, to: &mut Streams<'_>, answer: &AlarmResponse) -> Outcome {
        let alarm = |one: &AlarmMember| {
            Object::new()
                .uint("memberID", one.member_id)
                .int("alarm", one.alarm.into())
                .finish()
        };
        let text = Object::new()
            .optional("header", header(answer.header.as_ref()))
            .list("alarms", answer.alarms.iter().map(alarm));
        line(to, &text.finish())
    }

    fn lease_grant(&self, to: &mut Streams<'_>, answer: &LeaseGrantResponse) -> Outcome {
        let text = flat(answer.header.as_ref())
            .raw("ID", &answer.id.to_string())
            .raw("TTL", &answer.ttl.to_string())
            .raw("Error", &string(&answer.error));
        line(to, &text.finish())
    }

    fn lease_revoke(&self, to: &mut Streams<'_>, _: i64, answer: &LeaseRevokeResponse) -> Outcome {
        let text = Object::new().optional("header", header(answer.header.as_ref()));
        line(to, &text.finish())
    }

    fn lease_keep_alive(&self, to: &mut Streams<'_>, answer: &LeaseKeepAliveResponse) -> Outcome {
        let text = flat(answer.header.as_ref())
            .raw("ID", &answer.id.to_string())
            .raw("TTL", &answer.ttl.to_string());
        line(to, &text.finish())
    }

    fn lease_time_to_live(
        &self,
        to: &mut Streams<'_>,
        answer: &LeaseTimeToLiveResponse,
        _: bool,
    ) -> Outcome {
        let keys = if answer.keys.is_empty() {
            "null".to_owned()
        } else {
            array(answer.keys.iter().map(|key| base64(key)))
        };
        let text = flat(answer.header.as_ref())
            .raw("id", &answer.id.to_string())
            .raw("ttl", &answer.ttl.to_string())
            .raw("granted-ttl", &answer.granted_ttl.to_string())
            .raw("keys", &keys);
        line(to, &text.finish())
    }

    fn leases(&self, to: &mut Streams<'_>, answer: &LeaseLeasesResponse) -> Outcome {
        let leases = answer
            .leases
            .iter()
            .map(|lease| Object::new().raw("id", &lease.id.to_string()).finish());
        let text = flat(answer.header.as_ref()).raw("leases", &array(leases));
        line(to, &text.finish())
    }

    fn done(&self, to: &mut Streams<'_>, done: &Done) -> Outcome {
        let text = Object::new()
            .optional("header", header(done.header.as_ref()))
            .string("version", &done.version);
        line(to, &text.finish())
    }

    fn member_add(&self, to: &mut Streams<'_>, answer: &MemberAddResponse) -> Outcome {
        let added = answer.member.as_ref().map(|one| member(one, self.hex));
        let text = self.members(answer.header.as_ref(), added, &answer.members);
        line(to, &text)
    }

    fn member_change(&self, to: &mut Streams<'_>, _: &str, answer: &MemberListResponse) -> Outcome {
        self.member_list(to, answer)
    }

    fn member_list(&self, to: &mut Streams<'_>, answer: &MemberListResponse) -> Outcome {
        let text = self.members(answer.header.as_ref(), None, &answer.members);
        line(to, &text)
    }

    fn auth_status(&self, to: &mut Streams<'_>, answer: &AuthStatusResponse) -> Outcome {
        let text = Object::new()
            .optional("header", header(answer.header.as_ref()))
            .bool("enabled", answer.enabled)
            .uint("authRevision", answer.auth_revision);
        line(to, &text.finish())
    }

    fn user_get(&self, to: &mut Streams<'_>, _: &str, answer: &AuthUserGetResponse) -> Outcome {
        names(to, answer.header.as_ref(), "roles", &answer.roles)
    }

    fn user_list(&self, to: &mut Streams<'_>, answer: &AuthUserListResponse) -> Outcome {
        names(to, answer.header.as_ref(), "users", &answer.users)
    }

    fn role_get(&self, to: &mut Streams<'_>, _: &str, answer: &AuthRoleGetResponse) -> Outcome {
        let permission = |one: &Permission| {
            Object::new()
                .int("permType", one.perm_type.into())
                .bytes("key", &one.key)
                .bytes("range_end", &one.range_end)
                .finish()
        };
        let text = Object::new()
            .optional("header", header(answer.header.as_ref()))
            .list("perm", answer.perm.iter().map(permission));
        line(to, &text.finish())
    }

    fn role_list(&self, to: &mut Streams<'_>, answer: &AuthRoleListResponse) -> Outcome {
        names(to, answer.header.as_ref(), "roles", &answer.roles)
    }

    fn endpoint_health(&self, to: &mut Streams<'_>, all: &[EndpointHealth]) -> Outcome {
        list(to, all, |one| {
            Object::new()
                .raw("endpoint", &string(&one.endpoint))
                .raw("health", &one.is_healthy.to_string())
                .raw("took", &string(&one.took))
                .string("error", &one.error)
                .finish()
        })
    }

    fn endpoint_status(&self, to: &mut Streams<'_>, all: &[EndpointStatus]) -> Outcome {
        list(to, all, |one| {
            Object::new()
                .raw("Endpoint", &string(&one.endpoint))
                .raw("Status", &status(&one.status))
                .finish()
        })
    }

    fn autopilot(&self, to: &mut Streams<'_>, status: &Status) -> Outcome {
        let text = serde_json::to_string(status)
            .map_err(|error| Failure::error(format!("cannot print: {error}")))?;
        line(to, &text)
    }

    fn snapshot_status(&self, to: &mut Streams<'_>, status: &SnapshotStatus) -> Outcome {
        let text = Object::new()
            .raw("hash", &status.hash.to_string())
            .raw("revision", &status.revision.to_string())
            .raw("totalKey", &status.keys.to_string())
            .raw("totalSize", &status.size.to_string())
            .raw("version", &string(&status.version));
        line(to, &text.finish())
    }

    fn endpoint_hashkv(&self, to: &mut Streams<'_>, all: &[EndpointHashKv]) -> Outcome {
        list(to, all, |one| {
            Object::new()
                .raw("Endpoint", &string(&one.endpoint))
                .raw("HashKV", &hashkv(&one.hash))
                .finish()
        })
    }
}

fn line(to: &mut Streams<'_>, text: &str) -> Outcome {
    writeln!(to.out, "{text}")?;
    Ok(())
}

fn names(
    to: &mut Streams<'_>,
    of: Option<&ResponseHeader>,
    name: &str,
    names: &[String],
) -> Outcome {
    let text = Object::new()
        .optional("header", header(of))
        .list(name, names.iter().map(|name| string(name)));
    line(to, &text.finish())
}

/// A list that is `null` when nothing was ever added, as a nil slice is in Go.
fn list<T>(to: &mut Streams<'_>, all: &[T], each: impl Fn(&T) -> String) -> Outcome {
    let text = if all.is_empty() {
        "null".to_owned()
    } else {
        array(all.iter().map(each))
    };
    line(to, &text)
}

fn header(header: Option<&ResponseHeader>) -> Option<String> {
    header.map(|header| {
        Object::new()
            .uint("cluster_id", header.cluster_id)
            .uint("member_id", header.member_id)
            .int("revision", header.revision)
            .uint("raft_term", header.raft_term)
            .finish()
    })
}

/// The header's fields as fields of the answer itself: how Go writes an embedded message.
fn flat(header: Option<&ResponseHeader>) -> Object {
    let header = header.copied().unwrap_or_default();
    Object::new()
        .uint("cluster_id", header.cluster_id)
        .uint("member_id", header.member_id)
        .int("revision", header.revision)
        .uint("raft_term", header.raft_term)
}

fn header_hex(header: &ResponseHeader) -> String {
    Object::new()
        .raw("cluster_id", &format!("\"{:x}\"", header.cluster_id))
        .raw("member_id", &format!("\"{:x}\"", header.member_id))
        .int("revision", header.revision)
        .uint("raft_term", header.raft_term)
        .finish()
}

fn member(member: &Member, hex: bool) -> String {
    let object = if hex {
        Object::new().raw("ID", &format!("\"{:x}\"", member.id))
    } else {
        Object::new().uint("ID", member.id)
    };
    object
        .string("name", &member.name)
        .list("peerURLs", member.peer_ur_ls.iter().map(|url| string(url)))
        .list(
            "clientURLs",
            member.client_ur_ls.iter().map(|url| string(url)),
        )
        .bool("isLearner", member.is_learner)
        .finish()
}

fn pair(kv: &KeyValue) -> String {
    Object::new()
        .bytes("key", &kv.key)
        .int("create_revision", kv.create_revision)
        .int("mod_revision", kv.mod_revision)
        .int("version", kv.version)
        .bytes("value", &kv.value)
        .int("lease", kv.lease)
        .finish()
}

fn event(event: &Event) -> String {
    Object::new()
        .int("type", event.r#type.into())
        .optional("kv", event.kv.as_ref().map(pair))
        .optional("prev_kv", event.prev_kv.as_ref().map(pair))
        .finish()
}

fn put(answer: &PutResponse) -> String {
    Object::new()
        .optional("header", header(answer.header.as_ref()))
        .optional("prev_kv", answer.prev_kv.as_ref().map(pair))
        .finish()
}

fn get(answer: &RangeResponse) -> Result<String, Failure> {
    let kvs = decode(answer)?;
    Ok(Object::new()
        .optional("header", header(answer.header.as_ref()))
        .list("kvs", kvs.iter().map(pair))
        .bool("more", answer.more)
        .int("count", answer.count)
        .finish())
}

fn del(answer: &DeleteRangeResponse) -> String {
    Object::new()
        .optional("header", header(answer.header.as_ref()))
        .int("deleted", answer.deleted)
        .list("prev_kvs", answer.prev_kvs.iter().map(pair))
        .finish()
}

fn txn(answer: &TxnResponse) -> Result<String, Failure> {
    let responses = answer
        .responses
        .iter()
        .map(op)
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Object::new()
        .optional("header", header(answer.header.as_ref()))
        .bool("succeeded", answer.succeeded)
        .list("responses", responses)
        .finish())
}

/// One answer of a transaction, under the extra `Response` level that etcdctl keeps.
fn op(op: &ResponseOp) -> Result<String, Failure> {
    let inner = Object::new();
    let inner = match &op.response {
        Some(Response::ResponseRange(answer)) => inner.raw("response_range", &get(answer)?),
        Some(Response::ResponsePut(answer)) => inner.raw("response_put", &put(answer)),
        Some(Response::ResponseDeleteRange(answer)) => {
            inner.raw("response_delete_range", &del(answer))
        }
        Some(Response::ResponseTxn(answer)) => inner.raw("response_txn", &txn(answer)?),
        None => inner,
    };
    Ok(Object::new().raw("Response", &inner.finish()).finish())
}

fn status(status: &StatusResponse) -> String {
    let downgrade = status.downgrade_info.as_ref().map(|info| {
        Object::new()
            .bool("enabled", info.enabled)
            .string("targetVersion", &info.target_version)
            .finish()
    });
    Object::new()
        .optional("header", header(status.header.as_ref()))
        .string("version", &status.version)
        .int("dbSize", status.db_size)
        .uint("leader", status.leader)
        .uint("raftIndex", status.raft_index)
        .uint("raftTerm", status.raft_term)
        .uint("raftAppliedIndex", status.raft_applied_index)
        .list("errors", status.errors.iter().map(|text| string(text)))
        .int("dbSizeInUse", status.db_size_in_use)
        .bool("isLearner", status.is_learner)
        .string("storageVersion", &status.storage_version)
        .int("dbSizeQuota", status.db_size_quota)
        .optional("downgradeInfo", downgrade)
        .finish()
}

fn hashkv(hash: &HashKvResponse) -> String {
    Object::new()
        .optional("header", header(hash.header.as_ref()))
        .uint("hash", hash.hash.into())
        .int("compact_revision", hash.compact_revision)
        .int("hash_revision", hash.hash_revision)
        .finish()
}
