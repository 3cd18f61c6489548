//! A lock that sessions queue up for.
//!
//! Source: etcd `client/v3/concurrency/mutex.go`.

use bytes::Bytes;
use kvd_api::pb::etcdserverpb::ResponseHeader;
use kvd_api::pb::etcdserverpb::response_op::Response;
use kvd_api::pb::mvccpb::KeyValue;

use super::session::Session;
use super::wait;
use crate::error::{Error, Result};
use crate::kv::{DeleteOptions, GetOptions, PutOptions};
use crate::txn::{Compare, Op, Txn};

/// A lock under a name, for one session. The holder should release it with [`Mutex::unlock`];
/// otherwise it goes with the session's lease.
#[derive(Debug)]
pub struct Mutex<'s> {
    session: &'s Session,
    prefix: Bytes,
    held: Option<Held>,
}

/// This session's place in the queue, or its hold of the lock.
#[derive(Clone, Debug)]
struct Held {
    key: Bytes,
    /// When it was created.
    revision: i64,
    header: ResponseHeader,
}

impl<'s> Mutex<'s> {
    /// The lock with this name. Nothing is asked of a server yet.
    pub fn new(session: &'s Session, name: impl AsRef<[u8]>) -> Self {
        Mutex {
            session,
            prefix: [name.as_ref(), b"/"].concat().into(),
            held: None,
        }
    }

    /// Waits until this session holds the lock, and returns the fencing token.
    ///
    /// When this future is dropped before, the session keeps its place in the queue until
    /// [`Mutex::unlock`], or its lease, gives it up: see [`Mutex::lock_unless`].
    ///
    /// Errors: [`Error::SessionExpired`] when the place in the queue was lost while waiting.
    pub async fn lock(&mut self) -> Result<i64> {
        self.lock_unless(std::future::pending()).await
    }

    /// As [`Mutex::lock`], but gives up, and gives up the place in the queue, once `stop` is ready.
    ///
    /// Errors: [`Error::Canceled`] when it was.
    pub async fn lock_unless(&mut self, stop: impl Future<Output = ()>) -> Result<i64> {
        let (mine, owner) = tokio::select! {
            queued = enqueue(self.session, &self.prefix) => queued?,
            () = self.session.expired() => return Err(Error::SessionExpired),
        };
        let revision = mine.revision;
        let key = mine.key.clone();
        self.held = Some(mine);
        if owner.is_none_or(|owner| owner == revision) {
            return Ok(revision);
        }
        let client = self.session.client();
        let waited = tokio::select! {
            waited = wait::for_turn(client, &self.prefix, revision - 1) => waited,
            () = self.session.expired() => Err(Error::SessionExpired),
            () = stop => Err(Error::Canceled),
        };
        let found = match waited {
            Ok(()) => client.get(key, GetOptions::new()).await,
            Err(error) => Err(error),
        };
        match found {
            Ok(found) => {
                // The lease may have run out in the very moment in which all others went.
                let still = found.kvs.first().map(|kv| kv.create_revision);
                if still != Some(revision) {
                    self.held = None;
                    return Err(Error::SessionExpired);
                }
                if let (Some(held), Some(header)) = (&mut self.held, found.header) {
                    held.header = header;
                }
                Ok(revision)
            }
            Err(error) => {
                // What failed first says more than a failure to tidy up; the lease does the rest.
                drop(self.unlock().await);
                Err(error)
            }
        }
    }

    /// Takes the lock if it is free, and returns the fencing token.
    ///
    /// Errors: [`Error::Locked`] when another session holds it.
    pub async fn try_lock(&mut self) -> Result<i64> {
        let (mine, owner) = enqueue(self.session, &self.prefix).await?;
        let revision = mine.revision;
        self.held = Some(mine);
        if owner.is_none_or(|owner| owner == revision) {
            return Ok(revision);
        }
        self.unlock().await?;
        Err(Error::Locked)
    }

    /// Releases the lock.
    ///
    /// Errors: [`Error::NotLocked`] when it is not held.
    pub async fn unlock(&mut self) -> Result<()> {
        let key = self.held.as_ref().ok_or(Error::NotLocked)?.key.clone();
        let client = self.session.client();
        client.delete(key, DeleteOptions::new()).await?;
        self.held = None;
        Ok(())
    }

    /// The key that stands for this session's hold; `None` when there is none.
    pub fn key(&self) -> Option<&Bytes> {
        self.held.as_ref().map(|held| &held.key)
    }

    /// The create revision of [`Mutex::key`]: higher for each later holder of the lock, so that
    /// what the lock protects can refuse whoever comes with a lower one than was seen before.
    pub fn fencing_token(&self) -> Option<i64> {
        self.held.as_ref().map(|held| held.revision)
    }

    /// A condition that holds while this session holds the lock: a transaction with it writes
    /// nothing once the lock is lost, however late it arrives.
    pub fn is_owner(&self) -> Option<Compare> {
        let held = self.held.as_ref()?;
        Some(Compare::create_revision(held.key.clone()).equal(held.revision))
    }

    /// The header of the answer that gave the lock.
    pub fn header(&self) -> Option<&ResponseHeader> {
        self.held.as_ref().map(|held| &held.header)
    }
}

/// Puts this session's key, unless it is there already; and the create revision of the oldest key.
async fn enqueue(session: &Session, prefix: &Bytes) -> Result<(Held, Option<i64>)> {
    let key: Bytes = [prefix, format!("{:x}", session.lease()).as_bytes()]
        .concat()
        .into();
    let lease = PutOptions::new().lease(session.lease());
    let owner = Op::get(prefix.clone(), wait::oldest());
    let txn = Txn::new()
        .when([Compare::create_revision(key.clone()).equal(0)])
        .and_then([Op::put(key.clone(), "", lease), owner.clone()])
        .or_else([Op::get(key.clone(), GetOptions::new()), owner]);
    let answer = session.client().txn(txn).await?;
    let header = answer.header.unwrap_or_default();
    let mut found = Vec::new();
    for op in answer.responses {
        found.push(first_pair(op.response)?);
    }
    let owner = found.pop().flatten().map(|kv| kv.create_revision);
    let mine = found.pop().flatten().map(|kv| kv.create_revision);
    let held = Held {
        key,
        revision: mine.unwrap_or(header.revision),
        header,
    };
    Ok((held, owner))
}

/// The first pair of a get's answer; `None` for any other answer.
pub(super) fn first_pair(response: Option<Response>) -> Result<Option<KeyValue>> {
    match response {
        Some(Response::ResponseRange(range)) => Ok(range.decode_kvs()?.into_iter().next()),
        _ => Ok(None),
    }
}
