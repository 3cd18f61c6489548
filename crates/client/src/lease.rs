//! Leases: keys that go when nobody renews their lease.
//!
//! A renewal is a stream of its own with one message. It is repeated at another endpoint when a
//! member fails, which one long stream would leave to its user.
//!
//! Source: etcd `Lease` service; `client/v3/lease.go`.

use std::time::Duration;

use kvd_api::error::WireError;
use kvd_api::pb::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseLeasesRequest, LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use tokio::time::{Instant, sleep, timeout_at};

use crate::client::Client;
use crate::error::{Error, Result};
use crate::retry::{Rule, stream_error};

/// Time until a renewal that failed is tried again.
const RENEW_RETRY: Duration = Duration::from_millis(500);
/// How long a renewal is tried before the TTL is known, in seconds.
const FIRST_TTL: i64 = 5;

impl Client {
    /// Grants a lease that lasts `ttl` seconds after each renewal; the server raises what is too
    /// short. `id` zero lets the server choose.
    pub async fn lease_grant(&self, ttl: i64, id: i64) -> Result<LeaseGrantResponse> {
        let request = LeaseGrantRequest { ttl, id };
        self.unary(Rule::AtMostOnce, request, |channel, request| {
            let mut stub = self.lease_stub(channel);
            async move { stub.lease_grant(request).await }
        })
        .await
    }

    /// Ends a lease and deletes its keys.
    pub async fn lease_revoke(&self, id: i64) -> Result<LeaseRevokeResponse> {
        let request = LeaseRevokeRequest { id };
        self.unary(Rule::AtMostOnce, request, |channel, request| {
            let mut stub = self.lease_stub(channel);
            async move { stub.lease_revoke(request).await }
        })
        .await
    }

    /// What is left of a lease, with `keys` also its keys. The TTL of an unknown lease is -1.
    pub async fn lease_time_to_live(&self, id: i64, keys: bool) -> Result<LeaseTimeToLiveResponse> {
        let request = LeaseTimeToLiveRequest { id, keys };
        self.unary(Rule::Repeatable, request, |channel, request| {
            let mut stub = self.lease_stub(channel);
            async move { stub.lease_time_to_live(request).await }
        })
        .await
    }

    /// All leases that the member which answers knows.
    pub async fn leases(&self) -> Result<LeaseLeasesResponse> {
        self.unary(
            Rule::Repeatable,
            LeaseLeasesRequest {},
            |channel, request| {
                let mut stub = self.lease_stub(channel);
                async move { stub.lease_leases(request).await }
            },
        )
        .await
    }

    /// Renews a lease once. The TTL in the answer is zero when there is no such lease any more.
    pub async fn lease_renew(&self, id: i64) -> Result<LeaseKeepAliveResponse> {
        let request = LeaseKeepAliveRequest { id };
        let deadline = Instant::now() + self.request_timeout();
        let mut replies = self
            .unary(Rule::Repeatable, request, |channel, request| {
                let mut stub = self.lease_stub(channel);
                let request = request.map(|message| futures_util::stream::iter([message]));
                async move { stub.lease_keep_alive(request).await }
            })
            .await?;
        match timeout_at(deadline, replies.message()).await {
            Ok(Ok(Some(reply))) => Ok(reply),
            Ok(Ok(None)) => Err(Error::ConnectionLost {
                endpoint: self.endpoint_list(),
                reason: "the stream ended without an answer".to_owned(),
            }),
            Ok(Err(status)) => Err(stream_error(status, &self.endpoint_list(), deadline)),
            Err(_) => Err(Error::DeadlineExceeded),
        }
    }

    /// Renews a lease once, as etcd's `KeepAliveOnce`.
    ///
    /// Errors: `etcdserver: requested lease not found` when there is no such lease any more.
    pub async fn lease_keep_alive_once(&self, id: i64) -> Result<LeaseKeepAliveResponse> {
        let answer = self.lease_renew(id).await?;
        if answer.ttl <= 0 {
            let gone = WireError::RequestedLeaseNotFound;
            return Err(Error::Etcd {
                code: gone.code(),
                message: gone.message().to_owned(),
            });
        }
        Ok(answer)
    }

    /// Renews a lease from now on, until the returned value is dropped.
    pub fn lease_keep_alive(&self, id: i64) -> KeepAlive {
        KeepAlive {
            client: self.clone(),
            id,
            next: None,
            deadline: Instant::now() + seconds(FIRST_TTL),
        }
    }
}

/// Renews one lease each third of its TTL.
#[derive(Debug)]
pub struct KeepAlive {
    client: Client,
    id: i64,
    /// When to renew next; `None` before the first time.
    next: Option<Instant>,
    /// When the lease is given up.
    deadline: Instant,
}

impl KeepAlive {
    /// Waits for the time of the next renewal, renews, and returns the answer; `None` when the
    /// lease is gone, or no server could renew it while it lasted. Failures are tried again.
    pub async fn next(&mut self) -> Option<LeaseKeepAliveResponse> {
        if let Some(next) = self.next {
            tokio::time::sleep_until(next).await;
        }
        while Instant::now() < self.deadline {
            let sent = Instant::now();
            // A member that keeps silent must leave time to ask another one.
            let half = self.deadline.saturating_duration_since(sent) / 2;
            let most = self.client.request_timeout().min(half.max(RENEW_RETRY));
            let client = self.client.with_timeout(most);
            match timeout_at(self.deadline, client.lease_renew(self.id)).await {
                Ok(Ok(answer)) if answer.ttl <= 0 => return None,
                Ok(Ok(answer)) => {
                    // The server counts from a moment after it was asked.
                    self.deadline = sent + seconds(answer.ttl);
                    self.next = Some(Instant::now() + seconds(answer.ttl) / 3);
                    return Some(answer);
                }
                Ok(Err(_)) => sleep(RENEW_RETRY).await,
                Err(_) => return None,
            }
        }
        None
    }
}

fn seconds(ttl: i64) -> Duration {
    // As long as etcd grants; beyond it an instant might not hold the sum.
    Duration::from_secs(u64::try_from(ttl).unwrap_or(0).min(9_000_000_000))
}
