//! One question at a time, shared by all who have it: who asks while a round is under way shares the
//! next one, because an answer to a question that was put earlier might be too old.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::core::Core;

struct State<T> {
    /// Whether somebody runs a round.
    running: bool,
    /// Who shares the next round.
    waiting: Vec<oneshot::Sender<T>>,
}

/// Rounds whose answer is a `T`.
pub(crate) struct Rounds<T> {
    state: Arc<Mutex<State<T>>>,
}

impl<T> Default for Rounds<T> {
    fn default() -> Rounds<T> {
        let state = State {
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
        A: Future<Output = T> + Send,
    {
        let receiver = {
            let mut state = self.state.lock();
            if state.running {
                let (sender, receiver) = oneshot::channel();
                state.waiting.push(sender);
                Some(receiver)
            } else {
                state.running = true;
                None
            }
        };
        match receiver {
            Some(receiver) => receiver.await.ok(),
            None => {
                // Whoever finds no round under way runs one, without waking a task for it. When
                // it is dropped half-way, or others came meanwhile, a task takes over.
                let _turn = Turn {
                    state: &self.state,
                    core,
                    ask,
                };
                Some(ask(core.clone()).await)
            }
        }
    }
}

/// The right to run rounds. Passes to a task when it ends and others wait.
struct Turn<'r, T, F, A>
where
    T: Copy + Send + 'static,
    F: Fn(Arc<Core>) -> A + Copy + Send + 'static,
    A: Future<Output = T> + Send,
{
    state: &'r Arc<Mutex<State<T>>>,
    core: &'r Arc<Core>,
    ask: F,
}

impl<T, F, A> Drop for Turn<'_, T, F, A>
where
    T: Copy + Send + 'static,
    F: Fn(Arc<Core>) -> A + Copy + Send + 'static,
    A: Future<Output = T> + Send,
{
    fn drop(&mut self) {
        let mut state = self.state.lock();
        if state.waiting.is_empty() {
            state.running = false;
            return;
        }
        drop(state);
        let (state, core, ask) = (self.state.clone(), self.core.clone(), self.ask);
        self.core
            .runtime
            .spawn(async move { run(&state, &core, ask).await });
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
