//! What a process that is no member yet shows: who it is, and what it waits for.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use kvd_autopilot::bootstrap::Answer;
use kvd_autopilot::status::{Phase, Seen, Status};
use kvd_gateway::{AutopilotPeer, Waiting};
use kvd_server::autopilot::Reading;
use parking_lot::Mutex;

/// Shared by whoever writes on it and the ports that show it.
#[derive(Debug, Default)]
pub struct Board {
    shown: Mutex<(Answer, Status)>,
}

impl Board {
    /// A board that shows who this process is.
    pub fn new(answer: Answer, status: Status) -> Arc<Board> {
        Arc::new(Board {
            shown: Mutex::new((answer, status)),
        })
    }

    /// Shows who this process is, from now on.
    pub fn set_answer(&self, change: impl FnOnce(&mut Answer)) {
        change(&mut self.shown.lock().0);
    }

    /// Shows what it waits for, and logs that when it is new.
    pub fn say(&self, phase: Phase, reason: &str) {
        let mut shown = self.shown.lock();
        let status = &mut shown.1;
        if status.reason == reason && status.phase == phase {
            return;
        }
        status.phase = phase;
        reason.clone_into(&mut status.reason);
        drop(shown);
        match phase {
            Phase::Refused => tracing::warn!(reason, "autopilot cannot go on"),
            _ => tracing::info!(?phase, reason, "autopilot waits"),
        }
    }

    /// Shows who was seen, and how many members are wanted.
    pub fn see(&self, seen: Vec<Seen>, reading: &Reading) {
        let status = &mut self.shown.lock().1;
        status.seen = seen;
        status.desired_replicas = reading.count;
        status.desired_error = reading.error.clone().unwrap_or_default();
    }

    fn json(value: &impl serde::Serialize) -> String {
        serde_json::to_string(value).unwrap_or_else(|error| {
            // Texts and numbers are always JSON; should they not be, the reader sees why.
            tracing::error!(%error, "an answer cannot be written");
            "{}".to_owned()
        })
    }
}

impl Waiting for Board {
    fn status(&self) -> String {
        Board::json(&self.shown.lock().1)
    }

    fn reason(&self) -> String {
        self.shown.lock().1.reason.clone()
    }
}

impl AutopilotPeer for Board {
    fn identity(&self) -> String {
        Board::json(&self.shown.lock().0)
    }

    fn join(&self, _request: Bytes) -> BoxFuture<'_, Result<String, String>> {
        Box::pin(async { Err("this process is no member yet".to_owned()) })
    }

    fn status(&self) -> String {
        Board::json(&self.shown.lock().1)
    }
}
