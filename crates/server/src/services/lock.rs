//! etcd's lock service: a lock is the oldest key of a queue.
//!
//! The key lives as long as the caller's lease, so a lock cannot outlive its holder by more than
//! the lease's TTL. What the holder does with the lock is not stopped by that: see the fencing token
//! in `docs/locks.md`.
//!
//! Source: etcd `server/etcdserver/api/v3lock/lock.go`, `client/v3/concurrency/mutex.go`.

use std::sync::Arc;

use bytes::Bytes;
use kvd_api::error::WireError;
use kvd_api::pb::etcdserverpb::{DeleteRangeRequest, ResponseHeader};
use kvd_api::pb::v3lockpb::lock_server::Lock;
use kvd_api::pb::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};
use tonic::{Request, Response, Status};

use super::on_behalf::{Inner, OnBehalf, pairs_of};
use super::queue::{self, Place, Waiting};
use crate::core::Core;

/// The service.
#[derive(Clone)]
pub struct LockService {
    inner: Inner,
}

impl LockService {
    /// The service of the member `core`.
    pub fn new(core: Arc<Core>) -> LockService {
        LockService {
            inner: Inner::new(core),
        }
    }
}

async fn take(caller: &OnBehalf, request: LockRequest) -> Result<LockResponse, Status> {
    let LockRequest { name, lease } = request;
    let lease = caller.session(lease).await?;
    let oldest = queue::oldest(&name);
    let (place, entered) = queue::enter(caller, (&name, lease), Bytes::new(), Some(oldest)).await?;
    let owner = pairs_of(&entered, 1)?.pop();
    if owner.is_none_or(|owner| owner.create_revision == place.revision) {
        return Ok(locked(place, entered.header));
    }
    let waiting = Waiting::new(caller, &place);
    match queue::wait_for_turn(caller, &name, &place).await {
        Ok(Some(header)) => {
            waiting.keep();
            Ok(locked(place, Some(header)))
        }
        Ok(None) => {
            waiting.keep();
            Err(WireError::MutexSessionExpired.into())
        }
        Err(error) => {
            waiting.leave().await;
            Err(error)
        }
    }
}

fn locked(place: Place, header: Option<ResponseHeader>) -> LockResponse {
    LockResponse {
        header,
        key: place.key,
        fencing_token: place.revision,
    }
}

async fn release(caller: &OnBehalf, request: UnlockRequest) -> Result<UnlockResponse, Status> {
    let delete = DeleteRangeRequest {
        key: request.key,
        ..DeleteRangeRequest::default()
    };
    let answer = caller.delete(delete).await?;
    Ok(UnlockResponse {
        header: answer.header,
    })
}

#[tonic::async_trait]
impl Lock for LockService {
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        let (caller, request) = OnBehalf::of(&self.inner, request);
        let taken = caller.in_time(take(&caller, request)).await?;
        Ok(Response::new(taken))
    }

    async fn unlock(
        &self,
        request: Request<UnlockRequest>,
    ) -> Result<Response<UnlockResponse>, Status> {
        let (caller, request) = OnBehalf::of(&self.inner, request);
        let released = caller.in_time(release(&caller, request)).await?;
        Ok(Response::new(released))
    }
}
