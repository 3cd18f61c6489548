//! What a request costs against the space quota.
//!
//! The cost is an estimate made before the request is proposed: only requests that can make the
//! store grow cost anything. Requests that cost nothing always pass, so a full store can still be
//! read, deleted from and compacted.
//!
//! Source: etcd `server/storage/quota.go`.

use kvd_api::pb::etcdserverpb::{PutRequest, RequestOp, TxnRequest, request_op};
use kvd_api::pb::kvdcommandpb::V2Request;
use kvd_api::pb::kvdcommandpb::command::Request;
use kvd_api::pb::kvdcommandpb::v2_request::Method;

/// Bytes counted for the metadata of one pair.
const KV_OVERHEAD: u64 = 256;
/// Bytes counted for a lease.
pub const LEASE_COST: u64 = 64;

/// Returns the bytes that `request` may add to the store; zero when it cannot make it grow.
pub fn cost(request: &Request) -> u64 {
    match request {
        Request::Put(put) => put_cost(put),
        Request::Txn(txn) => txn_cost(txn),
        Request::LeaseGrant(_) => LEASE_COST,
        Request::V2(request) => v2_cost(request),
        Request::DeleteRange(_)
        | Request::LeaseRevoke(_)
        | Request::LeaseExpire(_)
        | Request::LeaseCheckpoint(_)
        | Request::Compaction(_)
        | Request::Alarm(_)
        | Request::PublishMember(_)
        | Request::SetClusterVersion(_)
        | Request::DowngradeInfoSet(_)
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
        | Request::AuthRoleRevokePermission(_) => 0,
    }
}

/// Returns the cost of a request to the v2 tree: node and event both hold path and value.
pub fn v2_cost(request: &V2Request) -> u64 {
    if request.method == Method::Delete as i32 {
        return 0;
    }
    let lease = if request.ttl.is_some() { LEASE_COST } else { 0 };
    2 * (KV_OVERHEAD + request.path.len() as u64 + request.value.len() as u64) + lease
}

/// Returns the cost of a put: its key, its value and the pair's metadata.
pub fn put_cost(put: &PutRequest) -> u64 {
    KV_OVERHEAD + put.key.len() as u64 + put.value.len() as u64
}

/// Returns the cost of a transaction: that of its dearer branch, nested transactions included.
pub fn txn_cost(txn: &TxnRequest) -> u64 {
    branch_cost(&txn.success).max(branch_cost(&txn.failure))
}

fn branch_cost(ops: &[RequestOp]) -> u64 {
    ops.iter()
        .map(|op| match &op.request {
            Some(request_op::Request::RequestPut(put)) => put_cost(put),
            Some(request_op::Request::RequestTxn(txn)) => txn_cost(txn),
            Some(
                request_op::Request::RequestRange(_) | request_op::Request::RequestDeleteRange(_),
            )
            | None => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use kvd_api::pb::etcdserverpb::{DeleteRangeRequest, RangeRequest};

    use super::*;

    fn put(key: &'static str, value: &'static str) -> PutRequest {
        PutRequest {
            key: key.into(),
            value: value.into(),
            ..Default::default()
        }
    }

    fn op(request: request_op::Request) -> RequestOp {
        RequestOp {
            request: Some(request),
        }
    }

    #[test]
    fn put_costs_its_bytes_and_the_overhead() {
        assert_eq!(cost(&Request::Put(put("key", "value"))), 256 + 3 + 5);
    }

    #[test]
    fn txn_costs_its_dearer_branch_with_nested_txns() {
        let nested = TxnRequest {
            success: vec![op(request_op::Request::RequestPut(put("a", "")))],
            failure: vec![op(request_op::Request::RequestPut(put("a", "bc")))],
            ..Default::default()
        };
        let txn = TxnRequest {
            success: vec![
                op(request_op::Request::RequestTxn(nested)),
                op(request_op::Request::RequestPut(put("b", "1"))),
                op(request_op::Request::RequestRange(RangeRequest::default())),
            ],
            failure: vec![op(request_op::Request::RequestPut(put("c", "")))],
            ..Default::default()
        };
        assert_eq!(cost(&Request::Txn(txn)), (256 + 3) + (256 + 2));
    }

    #[test]
    fn requests_that_cannot_grow_the_store_cost_nothing() {
        let delete = DeleteRangeRequest {
            key: "a".into(),
            ..Default::default()
        };
        assert_eq!(cost(&Request::DeleteRange(delete.clone())), 0);
        let txn = TxnRequest {
            success: vec![
                op(request_op::Request::RequestDeleteRange(delete)),
                RequestOp::default(),
            ],
            ..Default::default()
        };
        assert_eq!(cost(&Request::Txn(txn)), 0);
    }
}
