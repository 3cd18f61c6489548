//! A lease that is renewed while the session lives.

use std::time::Duration;

use kvd_api::error::WireError;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::client::Client;
use crate::error::{Error, Result};

/// A lease that is renewed in the background. Dropped without [`Session::close`], it is renewed no
/// longer and runs out.
#[derive(Debug)]
pub struct Session {
    client: Client,
    lease: i64,
    ttl: Duration,
    alive: watch::Receiver<bool>,
    renewal: JoinHandle<()>,
}

impl Session {
    /// Seconds that etcd's own client takes for the TTL when it is told none.
    pub const TTL_DEFAULT: i64 = 60;

    /// Grants a lease of `ttl_seconds` and begins to renew it.
    pub async fn new(client: &Client, ttl_seconds: i64) -> Result<Self> {
        let granted = client.lease_grant(ttl_seconds, 0).await?;
        Ok(Self::with_lease(client, granted.id, granted.ttl))
    }

    /// Begins to renew a lease that exists: a process that starts again takes up what it held.
    pub fn with_lease(client: &Client, lease: i64, ttl_seconds: i64) -> Self {
        let (state, alive) = watch::channel(true);
        let mut renewals = client.lease_keep_alive(lease);
        let renewal = tokio::spawn(async move {
            while renewals.next().await.is_some() {}
            state.send_replace(false);
        });
        Session {
            client: client.clone(),
            lease,
            ttl: Duration::from_secs(ttl_seconds.try_into().unwrap_or(0)),
            alive,
            renewal,
        }
    }

    /// The client that the session was made with.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The ID of the lease: keys put with it go when the session ends.
    pub fn lease(&self) -> i64 {
        self.lease
    }

    /// Whether the lease ran out, or could not be renewed while it lasted.
    pub fn is_expired(&self) -> bool {
        !*self.alive.borrow()
    }

    /// Waits until the lease ran out.
    pub async fn expired(&self) {
        let mut alive = self.alive.clone();
        // An error says that the renewal was stopped, and with it the session.
        drop(alive.wait_for(|alive| !alive).await);
    }

    /// Ends the session but leaves the lease to run out: for handing it to another process.
    pub fn orphan(self) -> i64 {
        self.renewal.abort();
        self.lease
    }

    /// Ends the session and revokes the lease, with everything put under it.
    pub async fn close(self) -> Result<()> {
        self.renewal.abort();
        // What takes longer than the TTL has happened by itself.
        let client = match self.ttl {
            Duration::ZERO => self.client.clone(),
            ttl => self.client.with_timeout(ttl),
        };
        match client.lease_revoke(self.lease).await {
            Err(error) if is_gone(&error) => Ok(()),
            other => other.map(drop),
        }
    }
}

fn is_gone(error: &Error) -> bool {
    error.wire() == Some(WireError::RequestedLeaseNotFound)
}

impl Drop for Session {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}
