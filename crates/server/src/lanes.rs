//! Results on their way to the thread that waits for them, by the heap.
//!
//! Waking a task of another thread's runtime costs a system call when that runtime runs on one
//! thread, as those do that serve clients. One entry answers many callers on few threads: so each
//! such thread has one task that is woken for all of them, and wakes them itself, for nothing.

use std::cell::RefCell;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::runtime::{Handle, Id, RuntimeFlavor};
use tokio::sync::{Notify, oneshot};

use crate::apply::Applied;
use crate::error::Result;

/// Results and who gets them.
pub(crate) type Heap = Vec<(oneshot::Sender<Result<Applied>>, Result<Applied>)>;

/// The way to one thread.
pub(crate) struct Lane {
    /// None once the thread's runtime has ended.
    waiting: Mutex<Option<Heap>>,
    wake: Notify,
}

thread_local! {
    /// The lane of this thread, and the runtime that its task is on.
    static LANE: RefCell<Option<(Id, Arc<Lane>)>> = const { RefCell::new(None) };
}

impl Lane {
    /// The lane of the runtime that this thread runs; none when the runtime has other threads,
    /// or there is none.
    pub(crate) fn of_this_thread() -> Option<Arc<Lane>> {
        let runtime = Handle::try_current().ok()?;
        if runtime.runtime_flavor() != RuntimeFlavor::CurrentThread {
            return None;
        }
        LANE.with_borrow_mut(|known| {
            if let Some((id, lane)) = known
                && *id == runtime.id()
            {
                return Some(Arc::clone(lane));
            }
            let lane = Arc::new(Lane {
                waiting: Mutex::new(Some(Heap::new())),
                wake: Notify::new(),
            });
            let end = End(Arc::clone(&lane));
            runtime.spawn(async move { end.0.run().await });
            *known = Some((runtime.id(), Arc::clone(&lane)));
            Some(lane)
        })
    }

    /// Hands results over. They arrive also when the thread is about to end.
    pub(crate) fn deliver(&self, heap: Heap) {
        let mut waiting = self.waiting.lock();
        match &mut *waiting {
            Some(waiting) => waiting.extend(heap),
            None => {
                drop(waiting);
                return send(heap);
            }
        }
        drop(waiting);
        self.wake.notify_one();
    }

    async fn run(&self) {
        loop {
            self.wake.notified().await;
            let heap = self.waiting.lock().as_mut().map(std::mem::take);
            send(heap.unwrap_or_default());
        }
    }
}

/// A caller may have given up meanwhile; then there is nobody to tell.
fn send(heap: Heap) {
    for (sender, result) in heap {
        drop(sender.send(result));
    }
}

/// Closes the lane when its task ends with its runtime.
struct End(Arc<Lane>);

impl Drop for End {
    fn drop(&mut self) {
        let left = self.0.waiting.lock().take();
        send(left.unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    fn result() -> Result<Applied> {
        Err(Error::Internal("a result".into()))
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime")
    }

    #[test]
    fn results_arrive_from_another_thread() {
        runtime().block_on(async {
            let lane = Lane::of_this_thread().expect("a lane");
            let again = Lane::of_this_thread().expect("a lane");
            assert!(Arc::ptr_eq(&lane, &again));
            let (senders, receivers): (Vec<_>, Vec<_>) =
                (0..100).map(|_| oneshot::channel()).unzip();
            let sending = std::thread::spawn(move || {
                for sender in senders {
                    lane.deliver(vec![(sender, result())]);
                }
            });
            for receiver in receivers {
                assert!(receiver.await.expect("an answer").is_err());
            }
            sending.join().expect("the thread ends well");
        });
    }

    #[test]
    fn results_arrive_when_the_runtime_has_ended() {
        let first = runtime();
        let lane = first.block_on(async { Lane::of_this_thread().expect("a lane") });
        let (sender, mut before) = oneshot::channel();
        lane.deliver(vec![(sender, result())]);
        drop(first);
        let (sender, mut after) = oneshot::channel();
        lane.deliver(vec![(sender, result())]);
        assert!(before.try_recv().is_ok());
        assert!(after.try_recv().is_ok());
        // The next runtime on this thread has a lane of its own.
        let other = runtime().block_on(async { Lane::of_this_thread().expect("a lane") });
        assert!(!Arc::ptr_eq(&lane, &other));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_runtime_of_many_threads_has_no_lane() {
        assert!(
            tokio::spawn(async { Lane::of_this_thread().is_none() })
                .await
                .expect("the task")
        );
    }
}
