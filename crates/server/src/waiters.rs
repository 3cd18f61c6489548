//! Who waits for which request: finds the caller when its command has been applied here.
//!
//! A request ID is unique across the members and restarts of a cluster, so an entry that was
//! proposed before a restart never answers somebody else. Each start counts from a random number.
//! etcd counts from the time of the start behind 16 bits of the member's ID; but clocks go back,
//! and two members may share these bits.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kvd_mvcc::lanes::{Heaps, Lane, OfThread, Parcel};
use kvd_raft::ProposeFailure;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::apply::{Answers, Applied};
use crate::error::{Error, Result};

/// Shards of the table, so that handlers on different cores seldom meet.
const SHARDS: usize = 16;

type Shard = Mutex<HashMap<u64, Waiter, BuildHasherDefault<IdHasher>>>;

/// Where a result goes.
struct Waiter {
    sender: oneshot::Sender<Result<Applied>>,
    /// The thread that waits, if it takes results by the heap.
    lane: Option<Arc<Lane<Answer>>>,
}

/// A result and who gets it.
struct Answer(oneshot::Sender<Result<Applied>>, Result<Applied>);

impl Parcel for Answer {
    fn arrive(self) {
        // The caller may have given up meanwhile; then there is nobody to tell.
        drop(self.0.send(self.1));
    }
}

thread_local! {
    static LANE: OfThread<Answer> = const { RefCell::new(None) };
}

/// IDs are counted up: one multiplication spreads them well.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        // The table looks at the low bits first; the good ones are high.
        self.0.rotate_left(32)
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes
            .iter()
            .for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = (self.0.rotate_left(5) ^ id).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// The requests of this member that wait for their result.
pub struct Waiters {
    shards: [Shard; SHARDS],
    next: AtomicU64,
}

impl Default for Waiters {
    /// A table for a member that starts now.
    fn default() -> Waiters {
        Waiters {
            shards: std::array::from_fn(|_| Mutex::new(HashMap::default())),
            next: AtomicU64::new(RandomState::new().hash_one(std::process::id())),
        }
    }
}

impl Waiters {
    /// A new request ID and the place where its result arrives. Dropping the [`Waiting`] forgets
    /// the request; what was proposed may still be applied.
    pub fn register(&self) -> (u64, Waiting<'_>) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        let lane = Lane::of_this_thread(&LANE);
        self.shard(id).lock().insert(id, Waiter { sender, lane });
        (
            id,
            Waiting {
                id,
                receiver,
                done: false,
                waiters: self,
            },
        )
    }

    /// A new request ID that nobody waits for.
    pub fn next_id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// How many requests wait.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tells the callers of `ids` that their proposals did not come back. IDs that nobody waits
    /// for are skipped.
    pub fn fail(&self, ids: &[u64], failure: ProposeFailure) {
        for id in ids {
            if let Some(waiter) = self.shard(*id).lock().remove(id) {
                // The caller may have given up meanwhile; then there is nobody to tell.
                drop(waiter.sender.send(Err(Error::Proposal(failure))));
            }
        }
    }

    fn shard(&self, id: u64) -> &Shard {
        &self.shards[(id % SHARDS as u64) as usize]
    }
}

impl Answers for Waiters {
    fn answer(&self, results: &mut Vec<(u64, Result<Applied>)>) {
        let mut heaps = Heaps::default();
        for (id, result) in results.drain(..) {
            let waiter = self.shard(id).lock().remove(&id);
            if let Some(Waiter { sender, lane }) = waiter {
                heaps.add(lane, Answer(sender, result));
            }
        }
    }

    fn is_awaited(&self, request_id: u64) -> bool {
        self.shard(request_id).lock().contains_key(&request_id)
    }
}

/// One caller's wait for its result.
pub struct Waiting<'a> {
    id: u64,
    receiver: oneshot::Receiver<Result<Applied>>,
    /// Answered, and so no longer in the table.
    done: bool,
    waiters: &'a Waiters,
}

impl Waiting<'_> {
    /// The result of the request.
    ///
    /// Errors: what apply answered, or why the proposal did not come back.
    pub async fn result(&mut self) -> Result<Applied> {
        let result = (&mut self.receiver).await;
        self.done = true;
        match result {
            Ok(result) => result,
            Err(_) => Err(Error::Proposal(ProposeFailure::Stopped)),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.waiters.shard(self.id).lock().remove(&self.id);
        }
    }
}
