//! The whole content as it stood at one commit, piece by piece: for snapshots and backups.
//!
//! The engine's scan is not a snapshot, but records never change: it is enough to stop at the
//! pinned revision and to hold compaction back.

use std::sync::atomic::Ordering;

use bytes::Bytes;

use crate::backend::schema::Table;
use crate::error::{Error, Result};
use crate::ledger::Entries;
use crate::options::Position;
use crate::records::{HoldGuard, Records};
use crate::revision::{RevKey, Revision};

/// Records read from the store at once.
const RECORDS_AT_ONCE: usize = 500;

/// Reads the store's content as it stood when this was made.
///
/// Holds the physical part of compaction back while it lives. Blocks on the disk: not for async
/// threads.
pub struct Content {
    records: Records,
    position: Position,
    /// All records up to this revision belong to the content.
    revision: Revision,
    tables: Entries,
    /// Where to go on in the records; none after the last.
    next: Option<Revision>,
    size_hint: u64,
    /// How often the content had been replaced when the tables were read.
    installs: u64,
    _hold: HoldGuard,
}

impl Content {
    /// What [`new`](Content::new) wants to know from before the tables were read.
    pub(crate) fn installs(records: &Records) -> u64 {
        records.shared.installs.load(Ordering::Acquire)
    }

    /// The content at `position`: these tables, and all records up to `revision`. The caller took
    /// `hold` before it read them, so that none of the records can be removed.
    pub(crate) fn new(
        records: Records,
        hold: HoldGuard,
        installs: u64,
        tables: Entries,
        revision: i64,
        position: Position,
    ) -> Result<Self> {
        // Deletions that were asked for before the hold are carried out, not half seen.
        records.shared.write_out()?;
        let size_hint = records.size_in_use();
        Ok(Content {
            records,
            position,
            revision: Revision::new(revision, i64::MAX),
            tables,
            next: Some(Revision::default()),
            size_hint,
            installs,
            _hold: hold,
        })
    }

    /// The position that the content belongs to.
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// The current revision at that position.
    pub fn revision(&self) -> i64 {
        self.revision.main
    }

    /// The newest revision that a record can have.
    pub(crate) fn last(&self) -> Revision {
        self.revision
    }

    /// All entries of the small tables, by table and key.
    pub fn tables(&self) -> &[(Table, Bytes, Bytes)] {
        &self.tables
    }

    /// [`tables`](Content::tables), given away.
    pub(crate) fn take_tables(&mut self) -> Entries {
        std::mem::take(&mut self.tables)
    }

    /// About how many bytes the content has.
    pub fn size_hint(&self) -> u64 {
        self.size_hint
    }

    /// The next records in order of revision, some MiB at most; none after the last.
    ///
    /// Errors: [`Error::Corrupt`] when a record is damaged; [`Error::Engine`] when the content was
    /// replaced by another member's meanwhile, so that the rest of this one is gone.
    pub fn next_records(&mut self) -> Result<Vec<(RevKey, Bytes)>> {
        let Some(from) = self.next else {
            return Ok(Vec::new());
        };
        let page = self
            .records
            .scan_page(from, self.revision, RECORDS_AT_ONCE)?;
        if Content::installs(&self.records) != self.installs {
            return Err(Error::Engine {
                action: "read the content to its end",
                message: "a snapshot of another member took its place: try again".to_owned(),
            });
        }
        self.next = page.last().and_then(|(key, _)| key.revision().next());
        Ok(page)
    }
}
