//! What clients did and saw, as one history per key.

/// What a client asked of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Read the value.
    Get,
    /// Set the value.
    Put(u64),
    /// Set the value if it is as expected (`None`: if the key is absent).
    Swap {
        /// The value that must be there.
        expected: Option<u64>,
        /// The value to set.
        value: u64,
    },
    /// Remove the key.
    Delete,
}

/// What the client was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// The value read.
    Value(Option<u64>),
    /// The write took place.
    Done,
    /// Whether the swap took place.
    Swapped(bool),
    /// No answer: the operation may have taken place, or may yet.
    Unknown,
}

/// One operation, with the times of its call and its answer.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Which client.
    pub client: usize,
    /// What it asked.
    pub input: Input,
    /// What it was told.
    pub output: Output,
    /// When it asked, in nanoseconds since the start of the run.
    pub call: u64,
    /// When it was told; `u64::MAX` when never.
    pub answer: u64,
}

/// The state of one key after an operation, or `None` when the operation cannot have had that
/// answer in that state.
pub fn step(state: Option<u64>, operation: &Operation) -> Option<Option<u64>> {
    match (&operation.input, &operation.output) {
        (Input::Get, Output::Value(seen)) => (*seen == state).then_some(state),
        (Input::Get, Output::Unknown) => Some(state),
        (Input::Put(value), Output::Done | Output::Unknown) => Some(Some(*value)),
        (Input::Delete, Output::Done | Output::Unknown) => Some(None),
        (Input::Swap { expected, value }, Output::Swapped(swapped)) => {
            match (*expected == state, swapped) {
                (true, true) => Some(Some(*value)),
                (false, false) => Some(state),
                _ => None,
            }
        }
        (Input::Swap { expected, value }, Output::Unknown) => Some(if *expected == state {
            Some(*value)
        } else {
            state
        }),
        _ => None,
    }
}
