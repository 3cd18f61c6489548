//! Calls of the member's own services that a service makes for its caller.
//!
//! Locks and elections are made of keys, leases and watches: their services are clients within the
//! process. [`OnBehalf::request`] is where every such call is given the identity of whoever called;
//! what that caller may do is checked where the call arrives, as for any other.
//!
//! Source: etcd `server/etcdserver/api/v3client/v3client.go`.

use std::sync::Arc;
use std::time::Duration;

use kvd_api::error::{deadline_exceeded, internal, unknown};
use kvd_api::pb::etcdserverpb::kv_server::Kv;
use kvd_api::pb::etcdserverpb::lease_server::Lease;
use kvd_api::pb::etcdserverpb::request_op::Request as Op;
use kvd_api::pb::etcdserverpb::response_op::Response as OpResponse;
use kvd_api::pb::etcdserverpb::{
    DeleteRangeRequest, DeleteRangeResponse, LeaseGrantRequest, RangeRequest, RequestOp,
    ResponseHeader, TxnRequest, TxnResponse,
};
use kvd_api::pb::mvccpb::KeyValue;
use kvd_api::wire::RangeResponse;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::{Code, Extensions, Request, Status};

use super::kv::KvService;
use super::lease::LeaseService;
use crate::audit::{Describe, Entry};
use crate::auth::{Caller, Held};
use crate::core::Core;

/// TTL of a lease that the server grants because the caller brought none, in seconds. Source: etcd
/// `client/v3/concurrency/session.go`, `defaultSessionTTL`.
const SESSION_TTL_SECONDS: i64 = 60;

/// The services that others are made of.
#[derive(Clone)]
pub(super) struct Inner {
    core: Arc<Core>,
    kv: KvService,
    leases: LeaseService,
}

impl Inner {
    /// The services of the member `core`.
    pub(super) fn new(core: Arc<Core>) -> Inner {
        Inner {
            kv: KvService::new(Arc::clone(&core)),
            leases: LeaseService::new(Arc::clone(&core)),
            core,
        }
    }
}

/// One caller, for whom calls are made.
#[derive(Clone)]
pub(super) struct OnBehalf {
    inner: Inner,
    metadata: MetadataMap,
    extensions: Extensions,
    deadline: Option<Instant>,
    held: Held,
}

impl OnBehalf {
    /// The caller of `request`, and what was asked.
    pub(super) fn of<T: Describe>(inner: &Inner, request: Request<T>) -> (OnBehalf, T) {
        Entry::note(request.extensions(), request.get_ref());
        let (metadata, extensions, message) = request.into_parts();
        let caller = OnBehalf {
            inner: inner.clone(),
            deadline: deadline(&metadata),
            held: Held::new(inner.core.auth(), Caller::of(&extensions)),
            metadata,
            extensions,
        };
        (caller, message)
    }

    /// Whether the caller is still whom it was and may read a range; for what is told of watches.
    ///
    /// Errors: those of [`Held::check`].
    pub(super) fn still_reads(&self, key: &[u8], range_end: &[u8]) -> Result<(), Status> {
        Ok(self.held.check(self.inner.core.auth(), key, range_end)?)
    }

    /// The member.
    pub(super) fn core(&self) -> &Arc<Core> {
        &self.inner.core
    }

    /// What the caller sent along.
    pub(super) fn metadata(&self) -> &MetadataMap {
        &self.metadata
    }

    /// `message` as if the caller itself had sent it: with its metadata, token included, and with
    /// what is known of its connection. Every inner call is made of this. As much time may have
    /// passed since the last one, the caller is identified anew.
    ///
    /// Errors: those of [`Core::identify`].
    async fn request<T>(&self, message: T) -> Result<Request<T>, Status> {
        let mut request =
            Request::from_parts(self.metadata.clone(), self.extensions.clone(), message);
        let credentials = self.inner.core.credentials(&request);
        let caller = self.inner.core.identify(&credentials).await?;
        request.extensions_mut().remove::<Caller>();
        // The audit log has the call itself.
        request.extensions_mut().remove::<Arc<Entry>>();
        if let Some(caller) = caller {
            request.extensions_mut().insert(caller);
        }
        Ok(request)
    }

    /// Runs `work` until the caller's own deadline. At the deadline it is dropped, as it is when
    /// the caller goes away.
    ///
    /// Errors: DEADLINE_EXCEEDED; those of `work`.
    pub(super) async fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        match self.deadline {
            Some(deadline) => match tokio::time::timeout_at(deadline, work).await {
                Ok(done) => done,
                Err(_) => Err(deadline_exceeded()),
            },
            None => work.await,
        }
    }

    /// `lease`, or one that is granted now if it is zero. Nobody keeps that alive but the caller.
    ///
    /// Errors: those of LeaseGrant.
    pub(super) async fn session(&self, lease: i64) -> Result<i64, Status> {
        if lease != 0 {
            return Ok(lease);
        }
        let grant = LeaseGrantRequest {
            ttl: SESSION_TTL_SECONDS,
            id: 0,
        };
        let granted = self
            .inner
            .leases
            .lease_grant(self.request(grant).await?)
            .await;
        Ok(granted.map_err(as_of_a_client)?.into_inner().id)
    }

    /// A transaction.
    ///
    /// Errors: those of Txn.
    pub(super) async fn txn(&self, txn: TxnRequest) -> Result<TxnResponse, Status> {
        let answer = self.inner.kv.txn(self.request(txn).await?).await;
        Ok(answer.map_err(as_of_a_client)?.into_inner())
    }

    /// A deletion.
    ///
    /// Errors: those of DeleteRange.
    pub(super) async fn delete(
        &self,
        delete: DeleteRangeRequest,
    ) -> Result<DeleteRangeResponse, Status> {
        let answer = self
            .inner
            .kv
            .delete_range(self.request(delete).await?)
            .await;
        Ok(answer.map_err(as_of_a_client)?.into_inner())
    }

    /// A linearizable range: the revision it was read at, and the pairs.
    ///
    /// Errors: those of Range.
    pub(super) async fn range(
        &self,
        range: RangeRequest,
    ) -> Result<(ResponseHeader, Vec<KeyValue>), Status> {
        let answer = self.inner.kv.range(self.request(range).await?).await;
        let answer = answer.map_err(as_of_a_client)?.into_inner();
        Ok((answer.header.unwrap_or_default(), pairs(&answer)?))
    }
}

/// An error as it comes through etcd's inner client: text without code, unless it says that the
/// caller gave up.
fn as_of_a_client(status: Status) -> Status {
    match status.code() {
        Code::Cancelled | Code::DeadlineExceeded => status,
        _ => unknown(status.message()),
    }
}

fn pairs(range: &RangeResponse) -> Result<Vec<KeyValue>, Status> {
    range
        .decode_kvs()
        .map_err(|error| internal(format!("a stored pair cannot be decoded: {error}")))
}

/// The pairs of the range that was operation `index` of a transaction.
pub(super) fn pairs_of(txn: &TxnResponse, index: usize) -> Result<Vec<KeyValue>, Status> {
    match txn.responses.get(index).map(|answer| &answer.response) {
        Some(Some(OpResponse::ResponseRange(range))) => pairs(range),
        other => Err(internal(format!("a range was answered with {other:?}"))),
    }
}

/// One operation of a transaction.
pub(super) fn op(request: Op) -> RequestOp {
    RequestOp {
        request: Some(request),
    }
}

/// When the caller gives up, by its `grpc-timeout`: up to eight digits and a unit. One that cannot
/// be read counts for none: the caller goes away in its own time.
fn deadline(metadata: &MetadataMap) -> Option<Instant> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let unit = text.chars().last()?;
    let digits = text.strip_suffix(unit)?;
    let number: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    let timeout = match unit {
        'H' => Duration::from_secs(number * 3600),
        'M' => Duration::from_secs(number * 60),
        'S' => Duration::from_secs(number),
        'm' => Duration::from_millis(number),
        'u' => Duration::from_micros(number),
        'n' => Duration::from_nanos(number),
        _ => return None,
    };
    Instant::now().checked_add(timeout)
}
