//! What is on its way to the thread that waits for it, by the heap.
//!
//! Waking a task of another thread's runtime costs a lock, and a system call when that runtime runs on
//! one thread, as those do that serve clients. One entry answers many callers on few threads, and one
//! change is heard by many watchers: so each such thread has one task that is woken for all of them, and
//! wakes them itself, for nothing.

use std::cell::RefCell;
use std::sync::Arc;
use std::task::Waker;
use std::thread::LocalKey;

use parking_lot::Mutex;
use tokio::runtime::{Handle, Id, RuntimeFlavor};
use tokio::sync::Notify;

/// Something for one task.
pub trait Parcel: Send + 'static {
    /// Gives it to the task, and wakes that.
    fn arrive(self);
}

impl Parcel for Waker {
    fn arrive(self) {
        self.wake();
    }
}

/// The lane of a thread, and the runtime that its task is on. A thread-local of this type for each
/// type of parcel begins with `None`.
pub type OfThread<T> = RefCell<Option<(Id, Arc<Lane<T>>)>>;

/// The way to one thread.
#[derive(Debug)]
pub struct Lane<T> {
    /// None once the thread's runtime has ended.
    waiting: Mutex<Option<Vec<T>>>,
    wake: Notify,
}

impl<T: Parcel> Lane<T> {
    /// The lane of the runtime that this thread runs; none when the runtime has other threads,
    /// or there is none.
    pub fn of_this_thread(known: &'static LocalKey<OfThread<T>>) -> Option<Arc<Lane<T>>> {
        let runtime = Handle::try_current().ok()?;
        if runtime.runtime_flavor() != RuntimeFlavor::CurrentThread {
            return None;
        }
        known.with_borrow_mut(|known| {
            if let Some((id, lane)) = known
                && *id == runtime.id()
            {
                return Some(Arc::clone(lane));
            }
            let lane = Arc::new(Lane {
                waiting: Mutex::new(Some(Vec::new())),
                wake: Notify::new(),
            });
            let end = End(Arc::clone(&lane));
            runtime.spawn(async move { end.0.run().await });
            *known = Some((runtime.id(), Arc::clone(&lane)));
            Some(lane)
        })
    }

    /// Hands parcels over. They arrive also when the thread is about to end.
    fn deliver(&self, heap: Vec<T>) {
        let mut waiting = self.waiting.lock();
        match &mut *waiting {
            Some(waiting) if waiting.is_empty() => *waiting = heap,
            Some(waiting) => waiting.extend(heap),
            None => {
                drop(waiting);
                return arrive(heap);
            }
        }
        drop(waiting);
        self.wake.notify_one();
    }

    async fn run(&self) {
        loop {
            self.wake.notified().await;
            let heap = self.waiting.lock().as_mut().map(std::mem::take);
            arrive(heap.unwrap_or_default());
        }
    }
}

fn arrive<T: Parcel>(heap: Vec<T>) {
    heap.into_iter().for_each(Parcel::arrive);
}

/// Closes the lane when its task ends with its runtime.
struct End<T: Parcel>(Arc<Lane<T>>);

impl<T: Parcel> Drop for End<T> {
    fn drop(&mut self) {
        let left = self.0.waiting.lock().take();
        arrive(left.unwrap_or_default());
    }
}

/// Parcels sorted by their lanes. They leave when it is dropped.
#[derive(Debug)]
pub struct Heaps<T: Parcel> {
    heaps: Vec<(Arc<Lane<T>>, Vec<T>)>,
}

impl<T: Parcel> Default for Heaps<T> {
    fn default() -> Heaps<T> {
        Heaps { heaps: Vec::new() }
    }
}

impl<T: Parcel> Heaps<T> {
    /// Adds a parcel for a task on `lane`'s thread. Without a lane it arrives at once.
    pub fn add(&mut self, lane: Option<Arc<Lane<T>>>, parcel: T) {
        let Some(lane) = lane else {
            return parcel.arrive();
        };
        let known = |(other, _): &&mut (Arc<Lane<T>>, Vec<T>)| Arc::ptr_eq(other, &lane);
        match self.heaps.iter_mut().find(known) {
            Some((_, heap)) => heap.push(parcel),
            None => self.heaps.push((lane, vec![parcel])),
        }
    }
}

impl<T: Parcel> Drop for Heaps<T> {
    fn drop(&mut self) {
        for (lane, heap) in self.heaps.drain(..) {
            if heap.len() == 1 {
                // The other task would be woken for this one alone.
                arrive(heap);
            } else {
                lane.deliver(heap);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    struct Letter(oneshot::Sender<()>);

    impl Parcel for Letter {
        fn arrive(self) {
            self.0.send(()).expect("somebody waits");
        }
    }

    thread_local! {
        static LANE: OfThread<Letter> = const { RefCell::new(None) };
    }

    fn lane() -> Option<Arc<Lane<Letter>>> {
        Lane::of_this_thread(&LANE)
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime")
    }

    fn letters(count: usize) -> (Vec<Letter>, Vec<oneshot::Receiver<()>>) {
        (0..count)
            .map(|_| oneshot::channel())
            .map(|(sender, receiver)| (Letter(sender), receiver))
            .unzip()
    }

    #[test]
    fn parcels_arrive_from_another_thread() {
        runtime().block_on(async {
            let known = lane().expect("a lane");
            assert!(Arc::ptr_eq(&known, &lane().expect("a lane")));
            let (sent, received) = letters(100);
            let sending = std::thread::spawn(move || {
                // Heaps of one, two and more.
                let mut heaps = Heaps::default();
                for (number, letter) in sent.into_iter().enumerate() {
                    heaps.add(Some(Arc::clone(&known)), letter);
                    if number < 10 || number % 7 == 0 {
                        heaps = Heaps::default();
                    }
                }
            });
            for letter in received {
                letter.await.expect("a letter");
            }
            sending.join().expect("the thread ends well");
        });
    }

    #[test]
    fn parcels_arrive_when_the_runtime_has_ended() {
        let first = runtime();
        let known = first.block_on(async { lane().expect("a lane") });
        let (sent, mut before) = letters(2);
        known.deliver(sent);
        drop(first);
        let (sent, mut after) = letters(2);
        known.deliver(sent);
        for letter in before.iter_mut().chain(&mut after) {
            assert!(letter.try_recv().is_ok());
        }
        // The next runtime on this thread has a lane of its own.
        let other = runtime().block_on(async { lane().expect("a lane") });
        assert!(!Arc::ptr_eq(&known, &other));
    }

    #[test]
    fn parcels_without_a_lane_arrive_at_once() {
        assert!(lane().is_none(), "no runtime, no lane");
        let (sent, mut received) = letters(3);
        let mut heaps = Heaps::default();
        for letter in sent {
            heaps.add(None, letter);
        }
        assert!(received.iter_mut().all(|it| it.try_recv().is_ok()));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_runtime_of_many_threads_has_no_lane() {
        assert!(
            tokio::spawn(async { lane().is_none() })
                .await
                .expect("the task")
        );
    }
}
