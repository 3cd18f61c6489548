//! `json`: one line, in the shape that Go's `encoding/json` gives etcd's messages.

use kvd_client::pb::response_op::Response;
use kvd_client::pb::{
    AlarmMember, AlarmResponse, DeleteRangeResponse, HashKvResponse, LeaseGrantResponse,
    LeaseKeepAliveResponse, LeaseLeasesResponse, LeaseRevokeResponse, LeaseTimeToLiveResponse,
    Member, MemberListResponse, PutResponse, ResponseHeader, ResponseOp, StatusResponse,
    TxnResponse,
};
use kvd_client::{KeyValue, RangeResponse};

use super::{EndpointHashKv, EndpointHealth, EndpointStatus, Printer, Streams, decode};
use crate::failure::{Failure, Outcome};
use crate::go_text::json::{Object, array, base64, string};

pub(super) struct Json {
    /// IDs as hexadecimal strings; etcdctl does so in the answers of member commands only.
    pub(super) hex: bool,
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

    fn member_list(&self, to: &mut Streams<'_>, answer: &MemberListResponse) -> Outcome {
        let members = answer.members.iter().map(|one| member(one, self.hex));
        let text = if self.hex {
            let header = answer.header.as_ref().map_or("null".to_owned(), header_hex);
            Object::new()
                .raw("header", &header)
                .raw("members", &array(members))
        } else {
            Object::new()
                .optional("header", header(answer.header.as_ref()))
                .list("members", members)
        };
        line(to, &text.finish())
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
