//! How openraft tells what became of a proposed entry.

use openraft::raft::responder::Responder;

use crate::type_config::{LogId, TypeConfig};

type OnCommit = Box<dyn FnOnce() + Send>;
type OnComplete<T> = Box<dyn FnOnce(T) + Send>;

/// Calls back on openraft's own tasks: no channel and no task of ours is woken for an answer.
/// When openraft stops, it drops the callbacks without calling them; what they own notices.
pub(crate) struct Callback<T> {
    on_commit: Option<OnCommit>,
    on_complete: OnComplete<T>,
}

impl<T> Callback<T> {
    /// Called when the entry is applied on this member, or cannot be.
    pub(crate) fn on_complete(call: impl FnOnce(T) + Send + 'static) -> Callback<T> {
        Callback {
            on_commit: None,
            on_complete: Box::new(call),
        }
    }

    /// Called when a quorum has the entry, before it is applied.
    pub(crate) fn with_on_commit(mut self, call: impl FnOnce() + Send + 'static) -> Callback<T> {
        self.on_commit = Some(Box::new(call));
        self
    }
}

impl<T: Send + 'static> Responder<TypeConfig, T> for Callback<T> {
    fn on_commit(&mut self, _log_id: LogId) {
        if let Some(call) = self.on_commit.take() {
            call();
        }
    }

    fn on_complete(self, result: T) {
        (self.on_complete)(result);
    }
}
