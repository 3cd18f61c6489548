//! What a watch delivers, and joining it from fragments.

use std::collections::HashMap;

use kvd_api::pb::etcdserverpb::ResponseHeader;
use kvd_api::pb::mvccpb::Event;
use kvd_api::wire;

use crate::error::Result;

/// Events of whole revisions, in order; or, without any, a progress notification.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WatchResponse {
    /// Who answered, and a revision up to which nothing was missed.
    pub header: ResponseHeader,
    /// What happened, in order of revision.
    pub events: Vec<Event>,
}

impl WatchResponse {
    /// Whether this says only that nothing up to the header's revision was missed.
    pub fn is_progress_notify(&self) -> bool {
        self.events.is_empty()
    }

    /// The first revision that this response does not cover.
    pub(super) fn next_revision(&self) -> i64 {
        let last = match self.events.last() {
            Some(event) => event.kv.as_ref().map_or(0, |kv| kv.mod_revision),
            None => self.header.revision,
        };
        last + 1
    }
}

/// Fragments that wait for the rest of their response.
#[derive(Debug, Default)]
pub(super) struct Joiner {
    parts: HashMap<i64, Vec<Event>>,
}

impl Joiner {
    /// The response that `part` completes; `None` while more of it is to come.
    pub(super) fn join(&mut self, part: &wire::WatchResponse) -> Result<Option<WatchResponse>> {
        let mut events = part.decode_events()?;
        if let Some(mut earlier) = self.parts.remove(&part.watch_id) {
            earlier.append(&mut events);
            events = earlier;
        }
        if part.fragment {
            self.parts.insert(part.watch_id, events);
            return Ok(None);
        }
        Ok(Some(WatchResponse {
            header: part.header.unwrap_or_default(),
            events,
        }))
    }

    /// Drops what came of a watch that is over.
    pub(super) fn forget(&mut self, watch_id: i64) {
        self.parts.remove(&watch_id);
    }
}
