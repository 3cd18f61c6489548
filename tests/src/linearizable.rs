//! Porcupine's algorithm: is there one order of the operations that explains all answers and
//! respects real time?
//!
//! A search over the calls that may come next (those that no unexplained answer precedes), with a
//! memory of the pairs (set of explained operations, state) that have failed before. An operation
//! without an answer may take place at any time after its call, or after everything else.
//!
//! Source: Wing and Gong 1993; Lowe 2017; Athalye's Porcupine.

use std::collections::HashSet;

use crate::history::{Operation, step};

/// Searches one key's history. `Ok` when it is linearizable.
///
/// Errors: the operation that no order explains, with those around it.
pub fn check(history: &[Operation]) -> Result<(), String> {
    let mut events = Events::new(history);
    let mut explained = vec![0_u64; history.len().div_ceil(64)];
    let mut failed: HashSet<(Vec<u64>, Option<u64>)> = HashSet::new();
    let mut path: Vec<(usize, Option<u64>)> = Vec::new();
    let mut state = None;
    let mut longest = 0;
    let mut at = events.first();
    while let Some(event) = at {
        let operation = events.operation[event];
        if events.is_call[event] {
            let next = step(state, &history[operation]);
            let fresh = next.is_some_and(|next| {
                explained[operation / 64] |= 1 << (operation % 64);
                let fresh = failed.insert((explained.clone(), next));
                if !fresh {
                    explained[operation / 64] &= !(1 << (operation % 64));
                }
                fresh
            });
            if let (true, Some(next)) = (fresh, next) {
                path.push((event, state));
                longest = longest.max(path.len());
                state = next;
                events.lift(event);
                at = events.first();
            } else {
                at = events.next(event);
            }
        } else {
            let Some((undone, before)) = path.pop() else {
                return Err(describe(history, operation, longest));
            };
            state = before;
            let undone_operation = events.operation[undone];
            explained[undone_operation / 64] &= !(1 << (undone_operation % 64));
            events.unlift(undone);
            at = events.next(undone);
        }
    }
    Ok(())
}

fn describe(history: &[Operation], operation: usize, longest: usize) -> String {
    let stuck = &history[operation];
    let near: Vec<String> = history
        .iter()
        .filter(|other| other.call <= stuck.answer && other.answer >= stuck.call)
        .map(|other| format!("  {other:?}"))
        .collect();
    format!(
        "no order explains the history of {} operations (at most {longest} explained); first \
         stuck at {stuck:?}, beside\n{}",
        history.len(),
        near.join("\n")
    )
}

/// Calls and answers in order of time, as a list from which pairs can be lifted and put back.
struct Events {
    operation: Vec<usize>,
    is_call: Vec<bool>,
    answer_of: Vec<usize>,
    next: Vec<usize>,
    previous: Vec<usize>,
}

impl Events {
    /// Index 0 is the head of the list; events start at 1.
    fn new(history: &[Operation]) -> Events {
        let mut order: Vec<(u64, bool, usize)> = Vec::with_capacity(history.len() * 2);
        for (index, operation) in history.iter().enumerate() {
            order.push((operation.call, false, index));
            order.push((operation.answer, true, index));
        }
        // At the same instant calls come before answers: they may have overlapped.
        order.sort_unstable();
        let length = order.len() + 1;
        let mut events = Events {
            operation: vec![usize::MAX; length],
            is_call: vec![false; length],
            answer_of: vec![0; length],
            next: (1..=length).collect(),
            previous: (0..length).map(|index| index.saturating_sub(1)).collect(),
        };
        events.next[length - 1] = 0;
        let mut call_of = vec![0; history.len()];
        for (position, (_, is_answer, operation)) in order.into_iter().enumerate() {
            let event = position + 1;
            events.operation[event] = operation;
            events.is_call[event] = !is_answer;
            if is_answer {
                events.answer_of[call_of[operation]] = event;
            } else {
                call_of[operation] = event;
            }
        }
        events
    }

    fn first(&self) -> Option<usize> {
        self.next(0)
    }

    fn next(&self, event: usize) -> Option<usize> {
        match self.next[event] {
            0 => None,
            next => Some(next),
        }
    }

    fn lift(&mut self, call: usize) {
        for event in [call, self.answer_of[call]] {
            let (previous, next) = (self.previous[event], self.next[event]);
            self.next[previous] = next;
            if next != 0 {
                self.previous[next] = previous;
            }
        }
    }

    fn unlift(&mut self, call: usize) {
        for event in [self.answer_of[call], call] {
            let (previous, next) = (self.previous[event], self.next[event]);
            self.next[previous] = event;
            if next != 0 {
                self.previous[next] = event;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Input, Output};

    fn operation(input: Input, output: Output, call: u64, answer: u64) -> Operation {
        Operation {
            client: 0,
            input,
            output,
            call,
            answer,
        }
    }

    #[test]
    fn reads_that_overlap_a_write_may_see_either_value() {
        let history = [
            operation(Input::Put(1), Output::Done, 0, 10),
            operation(Input::Put(2), Output::Done, 20, 40),
            operation(Input::Get, Output::Value(Some(1)), 22, 25),
            operation(Input::Get, Output::Value(Some(2)), 26, 30),
        ];
        check(&history).expect("linearizable");
    }

    #[test]
    fn a_stale_read_is_found() {
        let history = [
            operation(Input::Put(1), Output::Done, 0, 10),
            operation(Input::Put(2), Output::Done, 20, 30),
            operation(Input::Get, Output::Value(Some(1)), 40, 50),
        ];
        let error = check(&history).expect_err("a stale read");
        assert!(error.contains("no order explains"), "{error}");
    }

    #[test]
    fn a_read_may_not_go_back_in_time() {
        let history = [
            operation(Input::Put(1), Output::Done, 0, 10),
            operation(Input::Put(2), Output::Done, 20, 60),
            operation(Input::Get, Output::Value(Some(2)), 22, 25),
            operation(Input::Get, Output::Value(Some(1)), 26, 30),
        ];
        check(&history).expect_err("the second read is older than the first");
    }

    #[test]
    fn a_lost_write_is_found() {
        let history = [
            operation(Input::Put(1), Output::Done, 0, 10),
            operation(Input::Get, Output::Value(None), 20, 30),
        ];
        check(&history).expect_err("the write is gone");
    }

    #[test]
    fn a_write_without_an_answer_may_take_place_late_or_never() {
        let mut history = vec![
            operation(Input::Put(1), Output::Done, 0, 10),
            operation(Input::Put(2), Output::Unknown, 20, u64::MAX),
            operation(Input::Get, Output::Value(Some(1)), 30, 40),
        ];
        check(&history).expect("not yet");
        history.push(operation(Input::Get, Output::Value(Some(2)), 50, 60));
        check(&history).expect("later");
        history.push(operation(Input::Get, Output::Value(Some(1)), 70, 80));
        check(&history).expect_err("never back");
    }

    #[test]
    fn swaps_are_checked_against_the_state() {
        let swap = |expected, value, done, call, answer| {
            operation(
                Input::Swap { expected, value },
                Output::Swapped(done),
                call,
                answer,
            )
        };
        check(&[swap(None, 1, true, 0, 10), swap(Some(1), 2, true, 20, 30)]).expect("in order");
        check(&[swap(None, 1, true, 0, 10), swap(None, 2, true, 20, 30)])
            .expect_err("both cannot have created the key");
    }
}
