//! Porcupine's algorithm: is there one order of the operations that explains all answers and
//! respects real time?
//!
//! A search over the calls that may come next (those that no unexplained answer precedes), with a
//! memory of the pairs (set of explained operations, state) that have failed before. An operation
//! without an answer may take place at any time after its call, or after everything else. Each of
//! those doubles what there is to search, so what is known of them is used:
//!
//! - a write whose value somebody saw took place before that answer;
//! - a read says nothing;
//! - writes whose value nobody saw or expected can stand for one another, and so can deletions: only
//!   the one that was called first is tried, then the next.
//!
//! Most histories need none of the writes that nobody saw, so a search without them comes first.
//!
//! Source: Wing and Gong 1993; Lowe 2017; Athalye's Porcupine.

use std::collections::{HashMap, HashSet};

use crate::history::{Input, Operation, Output, step};

/// Searches one key's history. `Ok` when it is linearizable.
///
/// Errors: the operation that no order explains, with those around it.
pub fn check(history: &[Operation]) -> Result<(), String> {
    let history = prepared(history);
    let needed = |(operation, alike): &(Operation, Alike)| {
        operation.output != Output::Unknown || *alike == Alike::None && operation.answer != u64::MAX
    };
    let few: Vec<(Operation, Alike)> = history.iter().filter(|it| needed(it)).cloned().collect();
    search(&few).or_else(|_| search(&history))
}

/// Operations without an answer that can stand for one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Alike {
    /// It is like no other.
    None,
    Unseen,
    Deletion,
}

/// What is known of the operations without an answer.
fn prepared(history: &[Operation]) -> Vec<(Operation, Alike)> {
    let mut writers: HashMap<u64, usize> = HashMap::new();
    // When a value was first known to be there; never, for one that was only expected.
    let mut seen: HashMap<u64, u64> = HashMap::new();
    for operation in history {
        let (written, known) = match (&operation.input, &operation.output) {
            (Input::Get, Output::Value(Some(value))) => (None, Some((*value, operation.answer))),
            (Input::Get | Input::Delete, _) => (None, None),
            (Input::Put(value), _) => (Some(*value), None),
            (Input::Swap { expected, value }, output) => {
                let at = match output {
                    Output::Swapped(true) => operation.answer,
                    _ => u64::MAX,
                };
                (Some(*value), expected.map(|expected| (expected, at)))
            }
        };
        if let Some(value) = written {
            *writers.entry(value).or_default() += 1;
        }
        if let Some((value, at)) = known {
            let first = seen.entry(value).or_insert(u64::MAX);
            *first = at.min(*first);
        }
    }
    let known = |mut operation: Operation| {
        let mut alike = Alike::None;
        if operation.output == Output::Unknown {
            match operation.input {
                Input::Get => return None,
                Input::Delete => alike = Alike::Deletion,
                Input::Put(value) | Input::Swap { value, .. } => match seen.get(&value) {
                    Some(at) if writers[&value] == 1 => operation.answer = *at,
                    None if matches!(operation.input, Input::Put(_)) => alike = Alike::Unseen,
                    _ => {}
                },
            }
        }
        Some((operation, alike))
    };
    history.iter().cloned().filter_map(known).collect()
}

fn search(history: &[(Operation, Alike)]) -> Result<(), String> {
    let mut events = Events::new(history);
    let mut queues = Queues::new(history);
    let mut explained = vec![0_u64; history.len().div_ceil(64)];
    let mut failed: HashSet<(Vec<u64>, Option<u64>)> = HashSet::new();
    let mut path: Vec<(usize, Option<u64>)> = Vec::new();
    let mut state = None;
    let mut longest = 0;
    let mut at = events.first();
    while let Some(event) = at {
        let operation = events.operation[event];
        if events.is_call[event] {
            let (what, alike) = &history[operation];
            let next = match queues.is_next(*alike, operation) {
                true => step(state, what),
                false => None,
            };
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
                queues.take(*alike);
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
            queues.give_back(history[undone_operation].1);
            events.unlift(undone);
            at = events.next(undone);
        }
    }
    Ok(())
}

/// Which of the operations that can stand for one another is to be tried: in order of their calls.
struct Queues {
    unseen: (Vec<usize>, usize),
    deletions: (Vec<usize>, usize),
}

impl Queues {
    fn new(history: &[(Operation, Alike)]) -> Queues {
        let queue = |wanted: Alike| {
            let mut found: Vec<usize> = (0..history.len())
                .filter(|index| history[*index].1 == wanted)
                .collect();
            found.sort_by_key(|index| (history[*index].0.call, *index));
            (found, 0)
        };
        Queues {
            unseen: queue(Alike::Unseen),
            deletions: queue(Alike::Deletion),
        }
    }

    fn queue(&mut self, alike: Alike) -> Option<&mut (Vec<usize>, usize)> {
        match alike {
            Alike::None => None,
            Alike::Unseen => Some(&mut self.unseen),
            Alike::Deletion => Some(&mut self.deletions),
        }
    }

    fn is_next(&mut self, alike: Alike, operation: usize) -> bool {
        self.queue(alike)
            .is_none_or(|(order, taken)| order.get(*taken) == Some(&operation))
    }

    fn take(&mut self, alike: Alike) {
        if let Some((_, taken)) = self.queue(alike) {
            *taken += 1;
        }
    }

    fn give_back(&mut self, alike: Alike) {
        if let Some((_, taken)) = self.queue(alike) {
            *taken -= 1;
        }
    }
}

fn describe(history: &[(Operation, Alike)], operation: usize, longest: usize) -> String {
    let stuck = &history[operation].0;
    let near: Vec<String> = history
        .iter()
        .map(|(other, _)| other)
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
    fn new(history: &[(Operation, Alike)]) -> Events {
        let mut order: Vec<(u64, bool, usize)> = Vec::with_capacity(history.len() * 2);
        for (index, (operation, _)) in history.iter().enumerate() {
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

    #[test]
    fn many_writes_without_an_answer_are_searched_at_once() {
        let mut history = Vec::new();
        for at in 0..60 {
            history.push(operation(Input::Put(at), Output::Unknown, at, u64::MAX));
            history.push(operation(Input::Delete, Output::Unknown, at, u64::MAX));
        }
        history.push(operation(Input::Put(100), Output::Done, 100, 110));
        history.push(operation(Input::Get, Output::Value(Some(7)), 120, 130));
        history.push(operation(Input::Get, Output::Value(None), 140, 150));
        check(&history).expect("7 came late, and a deletion later");
        history.push(operation(Input::Get, Output::Value(Some(100)), 160, 170));
        check(&history).expect_err("100 does not come back");
    }

    /// Tries every order.
    fn any_order(history: &[Operation], done: &mut Vec<usize>, state: Option<u64>) -> bool {
        let left = |done: &[usize]| (0..history.len()).filter(|at| !done.contains(at)).collect();
        let left: Vec<usize> = left(done);
        let sure = |at: &&usize| history[**at].output != Output::Unknown;
        if left.iter().filter(sure).count() == 0 {
            return true;
        }
        let first_answer = left.iter().map(|at| history[*at].answer).min();
        for at in left {
            if first_answer.is_some_and(|answer| history[at].call > answer) {
                continue;
            }
            if let Some(next) = step(state, &history[at]) {
                done.push(at);
                if any_order(history, done, next) {
                    return true;
                }
                done.pop();
            }
        }
        false
    }

    #[test]
    fn it_says_what_trying_every_order_says() {
        use rand::rngs::StdRng;
        use rand::{Rng, SeedableRng};
        let mut random = StdRng::seed_from_u64(1);
        let mut linearizable = 0;
        let rounds = 3_000;
        for _ in 0..rounds {
            let some: [u64; 4] = std::array::from_fn(|_| random.random_range(0..3));
            let history: Vec<Operation> = (0..7)
                .map(|client| {
                    let call = random.random_range(0..40);
                    let pick = some[random.random_range(0..4)];
                    let seen = random.random_bool(0.6).then_some(pick);
                    let value = client + 1;
                    let (input, output) = match random.random_range(0..5) {
                        0 | 1 => (Input::Get, Output::Value(seen)),
                        2 => (Input::Put(value % 4), Output::Done),
                        3 => (Input::Delete, Output::Done),
                        _ => {
                            let expected = seen;
                            let output = Output::Swapped(random.random_bool(0.5));
                            (
                                Input::Swap {
                                    expected,
                                    value: value % 4,
                                },
                                output,
                            )
                        }
                    };
                    match random.random_bool(0.4) {
                        true => operation(input, Output::Unknown, call, u64::MAX),
                        false => operation(input, output, call, call + random.random_range(1..20)),
                    }
                })
                .collect();
            let expected = any_order(&history, &mut Vec::new(), None);
            linearizable += usize::from(expected);
            assert_eq!(check(&history).is_ok(), expected, "{history:#?}");
        }
        assert!(
            (rounds / 20..rounds).contains(&linearizable),
            "{linearizable}"
        );
    }
}
