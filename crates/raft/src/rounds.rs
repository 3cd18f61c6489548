//! One question at a time, shared by all who have it: who asks while a round is under way shares the
//! next one, because an answer to a question that was put earlier might be too old.
//!
//! Who finds no round under way runs one itself, without waking a task for it. Nobody else may
//! depend on that: it may be a stream whose client does not read, and is not polled again until it
//! does. So a task runs the rounds of all others.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::core::Core;

struct State<T> {
    /// Whether somebody runs a round for itself.
    alone: bool,
    /// Whether a task runs rounds.
    running: bool,
    /// Who shares the task's next round.
    waiting: Vec<oneshot::Sender<T>>,
}

/// Rounds whose answer is a `T`.
pub(crate) struct Rounds<T> {
    state: Arc<Mutex<State<T>>>,
}

impl<T> Default for Rounds<T> {
    fn default() -> Rounds<T> {
        let state = State {
            alone: false,
            running: false,
            waiting: Vec::new(),
        };
        Rounds {
            state: Arc::new(Mutex::new(state)),
        }
    }
}

impl<T: Copy + Send + 'static> Rounds<T> {
    /// The answer of a round of `ask` that begins after this call. All callers of one `Rounds` ask
    /// the same. `None`: this member is being stopped.
    pub(crate) async fn join<F, A>(&self, core: &Arc<Core>, ask: F) -> Option<T>
    where
        F: Fn(Arc<Core>) -> A + Copy + Send + 'static,
        A: Future<Output = T> + Send + 'static,
    {
        match self.part(core, ask) {
            Part::Alone(_alone) => Some(ask(core.clone()).await),
            Part::Shared(receiver) => receiver.await.ok(),
        }
    }

    fn part<F, A>(&self, core: &Arc<Core>, ask: F) -> Part<'_, T>
    where
        F: Fn(Arc<Core>) -> A + Copy + Send + 'static,
        A: Future<Output = T> + Send + 'static,
    {
        let mut state = self.state.lock();
        if !state.alone && !state.running {
            state.alone = true;
            return Part::Alone(Alone { state: &self.state });
        }
        let (sender, receiver) = oneshot::channel();
        state.waiting.push(sender);
        let is_served = std::mem::replace(&mut state.running, true);
        drop(state);
        if !is_served {
            let (rounds, asked) = (self.state.clone(), core.clone());
            core.runtime
                .spawn(async move { run(&rounds, &asked, ask).await });
        }
        Part::Shared(receiver)
    }
}

/// How somebody gets an answer.
enum Part<'r, T> {
    /// By a round of its own.
    Alone(Alone<'r, T>),
    /// By one that a task runs.
    Shared(oneshot::Receiver<T>),
}

/// A round that somebody runs for itself; it ends when this is dropped.
struct Alone<'r, T> {
    state: &'r Mutex<State<T>>,
}

impl<T> Drop for Alone<'_, T> {
    fn drop(&mut self) {
        self.state.lock().alone = false;
    }
}

/// Runs rounds until nobody waits.
async fn run<T, F, A>(state: &Mutex<State<T>>, core: &Arc<Core>, ask: F)
where
    T: Copy,
    F: Fn(Arc<Core>) -> A,
    A: Future<Output = T>,
{
    loop {
        let waiting = {
            let mut state = state.lock();
            if state.waiting.is_empty() {
                state.running = false;
                return;
            }
            std::mem::take(&mut state.waiting)
        };
        let answer = ask(core.clone()).await;
        for sender in waiting {
            // Who has stopped waiting does not need the answer.
            let _ = sender.send(answer);
        }
    }
}
