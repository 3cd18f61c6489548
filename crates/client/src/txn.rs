//! Transactions: compare, then one of two lists of operations, as one revision.
//!
//! Source: etcd `KV.Txn`; `client/v3/txn.go`, `compare.go`.

use bytes::Bytes;
use kvd_api::pb::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use kvd_api::pb::etcdserverpb::request_op::Request;
use kvd_api::pb::etcdserverpb::{Compare as PbCompare, RequestOp, TxnRequest, TxnResponse};

use crate::client::Client;
use crate::error::Result;
use crate::kv::{DeleteOptions, GetOptions, PutOptions};
use crate::retry::Rule;

/// A condition on one key or, with [`Compare::range_end`], on every key of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    compare: PbCompare,
}

/// A [`Compare`] that still lacks its right-hand side.
#[derive(Clone, Debug)]
pub struct CompareBuilder<T> {
    key: Bytes,
    target: CompareTarget,
    union: fn(T) -> TargetUnion,
}

impl Compare {
    /// On the number of changes since the key was created; 0 while it does not exist.
    pub fn version(key: impl Into<Bytes>) -> CompareBuilder<i64> {
        Self::on(key, CompareTarget::Version, TargetUnion::Version)
    }

    /// On the revision that created the key; 0 while it does not exist.
    pub fn create_revision(key: impl Into<Bytes>) -> CompareBuilder<i64> {
        Self::on(key, CompareTarget::Create, TargetUnion::CreateRevision)
    }

    /// On the revision that last changed the key; 0 while it does not exist.
    pub fn mod_revision(key: impl Into<Bytes>) -> CompareBuilder<i64> {
        Self::on(key, CompareTarget::Mod, TargetUnion::ModRevision)
    }

    /// On the value, byte by byte; never true while the key does not exist.
    pub fn value(key: impl Into<Bytes>) -> CompareBuilder<Bytes> {
        Self::on(key, CompareTarget::Value, TargetUnion::Value)
    }

    /// On the lease ID; 0 without a lease.
    pub fn lease(key: impl Into<Bytes>) -> CompareBuilder<i64> {
        Self::on(key, CompareTarget::Lease, TargetUnion::Lease)
    }

    fn on<T>(
        key: impl Into<Bytes>,
        target: CompareTarget,
        union: fn(T) -> TargetUnion,
    ) -> CompareBuilder<T> {
        CompareBuilder {
            key: key.into(),
            target,
            union,
        }
    }

    /// Holds only when it holds for every key in `[key, end)`.
    pub fn range_end(mut self, end: impl Into<Bytes>) -> Self {
        self.compare.range_end = end.into();
        self
    }
}

impl<T> CompareBuilder<T> {
    /// Holds when the key's is equal to `right`.
    pub fn equal(self, right: impl Into<T>) -> Compare {
        self.with(CompareResult::Equal, right)
    }

    /// Holds when the key's differs from `right`.
    pub fn not_equal(self, right: impl Into<T>) -> Compare {
        self.with(CompareResult::NotEqual, right)
    }

    /// Holds when the key's is greater than `right`.
    pub fn greater(self, right: impl Into<T>) -> Compare {
        self.with(CompareResult::Greater, right)
    }

    /// Holds when the key's is less than `right`.
    pub fn less(self, right: impl Into<T>) -> Compare {
        self.with(CompareResult::Less, right)
    }

    /// Holds when the key's stands in relation `result` to `right`.
    pub fn with(self, result: CompareResult, right: impl Into<T>) -> Compare {
        Compare {
            compare: PbCompare {
                result: result.into(),
                target: self.target.into(),
                key: self.key,
                range_end: Bytes::new(),
                target_union: Some((self.union)(right.into())),
            },
        }
    }
}

/// One operation of a transaction.
#[derive(Clone, Debug, PartialEq)]
pub struct Op {
    request: Request,
}

impl Op {
    /// A get.
    pub fn get(key: impl Into<Bytes>, options: GetOptions) -> Self {
        Op {
            request: Request::RequestRange(options.into_request(key)),
        }
    }

    /// A put.
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>, options: PutOptions) -> Self {
        Op {
            request: Request::RequestPut(options.into_request(key, value)),
        }
    }

    /// A delete.
    pub fn delete(key: impl Into<Bytes>, options: DeleteOptions) -> Self {
        Op {
            request: Request::RequestDeleteRange(options.into_request(key)),
        }
    }

    /// A nested transaction.
    pub fn txn(txn: Txn) -> Self {
        Op {
            request: Request::RequestTxn(txn.into_request()),
        }
    }
}

/// A transaction: when all conditions hold the first list of operations runs, else the second.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Txn {
    when: Vec<Compare>,
    then: Vec<Op>,
    otherwise: Vec<Op>,
}

impl Txn {
    /// No conditions, which counts as success, and no operations.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds conditions.
    pub fn when(mut self, conditions: impl IntoIterator<Item = Compare>) -> Self {
        self.when.extend(conditions);
        self
    }

    /// Adds operations to run when all conditions hold.
    pub fn and_then(mut self, ops: impl IntoIterator<Item = Op>) -> Self {
        self.then.extend(ops);
        self
    }

    /// Adds operations to run when a condition does not hold.
    pub fn or_else(mut self, ops: impl IntoIterator<Item = Op>) -> Self {
        self.otherwise.extend(ops);
        self
    }

    /// etcd's message.
    pub fn into_request(self) -> TxnRequest {
        let ops = |list: Vec<Op>| {
            list.into_iter()
                .map(|op| RequestOp {
                    request: Some(op.request),
                })
                .collect()
        };
        TxnRequest {
            compare: self.when.into_iter().map(|one| one.compare).collect(),
            success: ops(self.then),
            failure: ops(self.otherwise),
        }
    }

    /// A transaction that can change nothing may be sent twice.
    fn rule(&self) -> Rule {
        let reads = |op: &Op| matches!(op.request, Request::RequestRange(_));
        if self.then.iter().chain(&self.otherwise).all(reads) {
            Rule::Repeatable
        } else {
            Rule::AtMostOnce
        }
    }
}

impl Client {
    /// Runs a transaction; what it wrote is durable on a majority when it returns.
    ///
    /// Source: etcd `KV.Txn`.
    pub async fn txn(&self, txn: Txn) -> Result<TxnResponse> {
        let rule = txn.rule();
        self.unary(rule, txn.into_request(), |channel, request| {
            let mut stub = self.kv_stub(channel);
            async move { stub.txn(request).await }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_transaction_without_writes_may_be_repeated() {
        let get = || Op::get("a", GetOptions::new());
        let put = || Op::put("a", "1", PutOptions::new());
        assert_eq!(
            Txn::new().and_then([get()]).or_else([get()]).rule(),
            Rule::Repeatable
        );
        assert_eq!(
            Txn::new().and_then([get()]).or_else([put()]).rule(),
            Rule::AtMostOnce
        );
        let nested = Op::txn(Txn::new().and_then([put()]));
        assert_eq!(Txn::new().and_then([nested]).rule(), Rule::AtMostOnce);
    }

    #[test]
    fn compares_become_etcds_message() {
        let request = Txn::new()
            .when([
                Compare::value("a").not_equal("x"),
                Compare::lease("b").less(7).range_end("c"),
            ])
            .into_request();
        let value = &request.compare[0];
        assert_eq!(value.result(), CompareResult::NotEqual);
        assert_eq!(value.target(), CompareTarget::Value);
        assert_eq!(value.target_union, Some(TargetUnion::Value("x".into())));
        let lease = &request.compare[1];
        assert_eq!(lease.target_union, Some(TargetUnion::Lease(7)));
        assert_eq!(&lease.range_end[..], b"c");
    }
}
