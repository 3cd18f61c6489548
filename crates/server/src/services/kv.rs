//! etcd's KV service.
//!
//! Writes go through the log and are answered with what apply made of them. Reads wait for the
//! read barrier, unless they are serializable, and run on the store as it stands here.
//!
//! A read that may touch many keys leaves the thread that took the call, so that the other calls
//! of that thread do not wait for it.
//!
//! Source: etcd `server/etcdserver/api/v3rpc/{key,quota}.go`, `server/etcdserver/v3_server.go`.

use std::sync::Arc;
use std::time::Instant;

use kvd_api::error::WireError;
use kvd_api::pb::etcdserverpb::kv_server::Kv;
use kvd_api::pb::etcdserverpb::request_op;
use kvd_api::pb::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest,
    PutResponse, RangeRequest, TxnRequest, TxnResponse,
};
use kvd_api::pb::kvdcommandpb::command;
use kvd_api::wire::RangeResponse;
use kvd_mvcc::{RangeOptions, Store};
use tonic::{Request, Response, Status};

use super::open;
use super::range_stream::{self, ResponseStream};
use super::{header, validate};
use crate::apply::{self, Applied, v2};
use crate::auth::{Caller, View};
use crate::core::Core;
use crate::error::{Error, Result};
use crate::metrics::Outcomes;
use crate::{limits, quota};

/// The service.
#[derive(Clone)]
pub struct KvService {
    core: Arc<Core>,
    durations: Arc<Durations>,
}

/// How long reads take. Writes are measured where they are proposed and applied.
struct Durations {
    /// From the store alone.
    range: Outcomes,
    range_request: Outcomes,
    read_only_txn_request: Outcomes,
}

impl KvService {
    /// The service of the member `core`.
    pub fn new(core: Arc<Core>) -> KvService {
        let metrics = core.metrics();
        let durations = Arc::new(Durations {
            range: metrics.range_outcomes(),
            range_request: metrics.request_outcomes("Range"),
            read_only_txn_request: metrics.request_outcomes("ReadonlyTxn"),
        });
        KvService { core, durations }
    }

    async fn range_inner(
        &self,
        caller: Option<Caller>,
        request: RangeRequest,
    ) -> Result<RangeResponse> {
        validate::range(&request)?;
        let started = Instant::now();
        let result = self.read_range(caller, request).await;
        self.durations
            .range_request
            .observe(result.is_ok(), started.elapsed());
        result
    }

    async fn read_range(
        &self,
        caller: Option<Caller>,
        request: RangeRequest,
    ) -> Result<RangeResponse> {
        if !request.serializable {
            self.linearize().await?;
        }
        let reading = self.core.auth().reading(caller, |view, caller| {
            view.read(caller, &request.key, &request.range_end)
        })?;
        let started = Instant::now();
        let result = self.local_range(request).await;
        self.durations
            .range
            .observe(result.is_ok(), started.elapsed());
        reading.finish(self.core.auth())?;
        result
    }

    async fn local_range(&self, mut request: RangeRequest) -> Result<RangeResponse> {
        self.hide_v2(&mut request);
        self.core.metrics().mvcc_range.inc();
        let store = self.core.store();
        let mut response = if is_small(store, &request) {
            apply::range(store, &request)?
        } else {
            off_thread(store, move |store| Ok(apply::range(store, &request)?)).await?
        };
        header::fill(&mut response.header, &self.core);
        Ok(response)
    }

    async fn range_stream_inner(
        &self,
        caller: Option<Caller>,
        mut request: RangeRequest,
    ) -> Result<ResponseStream> {
        validate::range_stream(&request)?;
        if !request.serializable {
            self.linearize().await?;
        }
        // Each chunk is checked; this is for the status of the call itself.
        let reading = self.core.auth().reading(caller.clone(), |view, caller| {
            view.read(caller, &request.key, &request.range_end)
        })?;
        reading.finish(self.core.auth())?;
        self.hide_v2(&mut request);
        Ok(range_stream::stream(
            Arc::clone(&self.core),
            caller,
            request,
        ))
    }

    async fn put_inner(&self, caller: Option<Caller>, request: PutRequest) -> Result<PutResponse> {
        let check = |view: &View| view.put(caller.as_ref(), &request, self.core.leases());
        let permitted = self.core.authorize(check).await;
        if permitted.is_err() {
            // What is malformed is told so first, as in etcd.
            validate::put(&request)?;
        }
        // Before the quota: who may not write must not raise its alarm.
        permitted?;
        let cost = quota::put_cost(&request);
        self.core.check_quota(cost).await?;
        validate::put(&request)?;
        self.core.check_alarms(cost)?;
        let request = command::Request::Put(request);
        match self.core.propose_for(caller, request).await? {
            Applied::Put(mut response) => {
                header::fill(&mut response.header, &self.core);
                Ok(response)
            }
            other => Err(mismatch("put", &other)),
        }
    }

    async fn delete_range_inner(
        &self,
        caller: Option<Caller>,
        request: DeleteRangeRequest,
    ) -> Result<DeleteRangeResponse> {
        validate::delete_range(&request)?;
        let check = |view: &View| view.delete_range(caller.as_ref(), &request);
        self.core.authorize(check).await?;
        let request = command::Request::DeleteRange(request);
        match self.core.propose_for(caller, request).await? {
            Applied::DeleteRange(mut response) => {
                header::fill(&mut response.header, &self.core);
                Ok(response)
            }
            other => Err(mismatch("delete", &other)),
        }
    }

    async fn txn_inner(&self, caller: Option<Caller>, request: TxnRequest) -> Result<TxnResponse> {
        let check = |view: &View| view.txn(caller.as_ref(), &request, self.core.leases());
        let permitted = self.core.authorize(check).await;
        if permitted.is_err() {
            validate::txn(&request, self.core.config().txn_ops_max)?;
        }
        permitted?;
        let cost = quota::txn_cost(&request);
        self.core.check_quota(cost).await?;
        validate::txn(&request, self.core.config().txn_ops_max)?;
        self.core.check_alarms(cost)?;
        let mut response = if apply::is_read_only(&request) {
            let started = Instant::now();
            let result = self.read_only_txn(caller, request).await;
            self.durations
                .read_only_txn_request
                .observe(result.is_ok(), started.elapsed());
            result?
        } else {
            let request = command::Request::Txn(request);
            match self.core.propose_for(caller, request).await? {
                Applied::Txn(response) => response,
                other => return Err(mismatch("transaction", &other)),
            }
        };
        header::fill(&mut response.header, &self.core);
        Ok(response)
    }

    async fn read_only_txn(
        &self,
        caller: Option<Caller>,
        request: TxnRequest,
    ) -> Result<TxnResponse> {
        if !apply::is_serializable(&request) {
            self.linearize().await?;
        }
        let reading = self.core.auth().reading(caller, |view, caller| {
            view.txn(caller, &request, self.core.leases())
        })?;
        let store = self.core.store();
        let response = if is_small_txn(store, &request) {
            apply::read_only_txn(store, &request)?
        } else {
            off_thread(store, move |store| {
                Ok(apply::read_only_txn(store, &request)?)
            })
            .await?
        };
        let ranges = &self.core.metrics().mvcc_range;
        ranges.inc_by(response.responses.len() as u64);
        reading.finish(self.core.auth())?;
        Ok(response)
    }

    async fn compact_inner(
        &self,
        caller: Option<Caller>,
        request: CompactionRequest,
    ) -> Result<CompactionResponse> {
        let CompactionRequest { revision, physical } = request;
        let request = command::Request::Compaction(request);
        let result = self.core.propose_for(caller, request).await;
        // As in etcd, who asks again for a compaction that is under way waits for it, too, before
        // being told that the revision is compacted.
        let scrubbed = match &result {
            Ok(_) => Some(revision),
            Err(Error::Store(kvd_mvcc::Error::Compacted { compacted, .. })) => Some(*compacted),
            Err(_) => None,
        };
        if let Some(revision) = scrubbed.filter(|_| physical) {
            off_thread(self.core.store(), move |store| {
                store.wait_compacted(revision);
                // After a crash the compaction must not run again: its hash was reported.
                Ok(store.flush()?)
            })
            .await?;
        }
        match result? {
            Applied::Compacted { .. } => {
                let revision = self.core.store().current_revision();
                Ok(CompactionResponse {
                    header: Some(self.core.header(revision)),
                })
            }
            other => Err(mismatch("compaction", &other)),
        }
    }

    /// Cuts the v2 tree off a range, unless a flag shows it.
    fn hide_v2(&self, request: &mut RangeRequest) {
        if !self.core.config().v2_keys_visible {
            v2::hide(&request.key, &mut request.range_end);
        }
    }

    /// Waits until the local state holds everything that was acknowledged before the call.
    ///
    /// Errors: those of [`Core::read_barrier`]; [`WireError::NotSupportedForLearner`] on a learner.
    async fn linearize(&self) -> Result<()> {
        if self.core.is_learner() {
            return Err(WireError::NotSupportedForLearner.into());
        }
        self.core.read_barrier().await
    }
}

/// Runs a long read where it may block.
pub(crate) async fn off_thread<T: Send + 'static>(
    store: &Store,
    read: impl FnOnce(&Store) -> Result<T> + Send + 'static,
) -> Result<T> {
    let store = store.clone();
    match tokio::task::spawn_blocking(move || read(&store)).await {
        Ok(result) => result,
        Err(error) => Err(Error::Internal(format!("a read did not finish: {error}"))),
    }
}

fn mismatch(what: &str, applied: &Applied) -> Error {
    Error::Internal(format!("a {what} was answered with {applied:?}"))
}

/// Whether the read touches few enough keys to run on the thread that took the call.
fn is_small(store: &Store, request: &RangeRequest) -> bool {
    holds_few_keys(store, &request.key, &request.range_end, request.revision)
}

fn is_small_txn(store: &Store, request: &TxnRequest) -> bool {
    let ops = request.success.iter().chain(&request.failure);
    let compares = request.compare.iter();
    compares
        .map(|compare| (&compare.key, &compare.range_end, 0))
        .chain(ops.filter_map(|op| match &op.request {
            Some(request_op::Request::RequestRange(range)) => {
                Some((&range.key, &range.range_end, range.revision))
            }
            _ => None,
        }))
        .all(|(key, range_end, revision)| holds_few_keys(store, key, range_end, revision))
}

/// Looks into the index, and there no further than the answer needs.
fn holds_few_keys(store: &Store, key: &[u8], range_end: &[u8], revision: i64) -> bool {
    let few = limits::INLINE_RANGE_KEYS;
    if range_end.is_empty() || store.keys_count() <= few as u64 {
        return true;
    }
    let options = RangeOptions {
        revision,
        count_only: true,
        count_max: few + 1,
        ..RangeOptions::default()
    };
    match store.range(key, range_end, &options) {
        Ok(result) => result.count <= few as i64,
        // The read itself meets the error again, at once.
        Err(_) => true,
    }
}

#[tonic::async_trait]
impl Kv for KvService {
    async fn range(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<RangeResponse>, Status> {
        let (caller, request) = open(request);
        let range = self.range_inner(caller, request);
        Ok(Response::new(range.await?))
    }

    type RangeStreamStream = ResponseStream;

    async fn range_stream(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<ResponseStream>, Status> {
        let (caller, request) = open(request);
        let stream = self.range_stream_inner(caller, request);
        Ok(Response::new(stream.await?))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let (caller, request) = open(request);
        let put = self.put_inner(caller, request);
        Ok(Response::new(put.await?))
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        let (caller, request) = open(request);
        let delete = self.delete_range_inner(caller, request);
        Ok(Response::new(delete.await?))
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        let (caller, request) = open(request);
        let txn = self.txn_inner(caller, request);
        Ok(Response::new(txn.await?))
    }

    async fn compact(
        &self,
        request: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        let (caller, request) = open(request);
        let compact = self.compact_inner(caller, request);
        Ok(Response::new(compact.await?))
    }
}
