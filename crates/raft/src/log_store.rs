//! The write-ahead log as openraft's log storage.
//!
//! openraft appends without waiting: entries are readable at once, and the callback fires on the
//! log's own thread after the sync. Votes are waited for. Truncation and purge only take their
//! place in the queue: what is acknowledged later lies behind them in the same file.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds, RangeInclusive};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream;
use openraft::RaftTypeConfig;
use openraft::entry::RaftEntry;
use openraft::storage::{
    IOFlushed, LeaderBoundedStreamError, LeaderBoundedStreamResult, LogState, RaftLogReader,
    RaftLogStorage,
};
use prost::Message;

use crate::commands::Commands;
use crate::error::Error;
use crate::transport::codec::{membership_in, membership_out};
use crate::type_config::{Entry, EntryPayload, LeaderId, LogId, TypeConfig, Vote, log_id};
use crate::wal::{self, Found, Wal};

/// Kinds of entries in the log's files.
const BLANK: u8 = 0;
const COMMANDS: u8 = 1;
const MEMBERSHIP: u8 = 2;

/// openraft's view of a member's log; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct LogStore {
    wal: Wal,
}

impl LogStore {
    /// Opens the log: see [`Wal::open`]. Blocks while it reads the log back.
    pub(crate) fn open(options: wal::Options) -> wal::Result<LogStore> {
        Ok(LogStore {
            wal: Wal::open(options)?,
        })
    }

    /// Brings the log in line with `applied`, up to which the state machine is durable.
    ///
    /// What a quorum has may be applied here before it is durable in this log. If a power cut takes
    /// the log's end then, together with a truncation before it, the log holds entries that were
    /// replaced, and openraft refuses it or, worse, counts them as the newest of all. The state
    /// machine has everything up to `applied`, and nothing after a replaced entry was ever
    /// committed: so the log goes on empty from there.
    ///
    /// Errors: [`Error::Position`] when the log begins only after what the state machine has, or
    /// has lost a vote, which is durable before anything of its term: it cannot be trusted then.
    pub(crate) fn reconcile(&self, applied: Option<LogId>) -> crate::error::Result<()> {
        let (purged, last) = self.wal.bounds();
        let applied = applied.map(id_out);
        if let Some(purged) =
            purged.filter(|purged| Some(purged.index) > applied.map(|id| id.index))
        {
            let stands = applied.map_or("empty".into(), |id| format!("at entry {}", id.index));
            return Err(Error::Position(format!(
                "the store is {stands}, but the log begins only after entry {}: the store's files \
                 are gone or older than the log; restore them, or start the member anew",
                purged.index
            )));
        }
        let Some(applied) = applied else {
            return Ok(());
        };
        if let Some(vote) = self.wal.vote().filter(|vote| vote.term < applied.term) {
            return Err(Error::Position(format!(
                "the store has entries of term {}, but the log has only votes up to term {}: the \
                 log is older than the store, or its disk lost what it had synced; restore both, \
                 or start the member anew",
                applied.term, vote.term
            )));
        }
        let held = self.wal.last_of_each_term(applied.index, applied.index);
        if held.first() != Some(&applied) && last.is_some() {
            tracing::warn!(
                applied = applied.index,
                last = last.map(|id| id.index),
                "the log lacks entries that the store has: it goes on after them"
            );
            self.wal.truncate_after(None)?;
            self.wal.purge(applied)?;
        }
        Ok(())
    }

    /// Whether an append would not have to wait for the disk.
    pub(crate) fn has_room(&self) -> bool {
        self.wal.has_room()
    }

    /// Waits for [`LogStore::has_room`].
    pub(crate) async fn half_room(&self) {
        self.wal.half_room().await;
    }

    /// For how long the disk has been busy with what is being written.
    pub(crate) fn busy_for(&self) -> Duration {
        self.wal.busy_for()
    }

    /// The failure that ended all writing, if any.
    pub(crate) fn fault(&self) -> Option<String> {
        self.wal.fault()
    }

    /// Appends an entry after `last`, of the newest term there is, and waits until it is durable.
    pub(crate) async fn append_and_sync(
        &self,
        last: LogId,
        payload: EntryPayload,
    ) -> io::Result<()> {
        let term = self.wal.vote().map_or(0, |vote| vote.term);
        let id = log_id(term.max(last.leader_id.term), last.index + 1);
        let (done, durable) = tokio::sync::oneshot::channel();
        let done = Box::new(move |outcome| {
            let _ = done.send(outcome);
        });
        let entry = entry_out(Entry::new(id, payload));
        self.wal
            .append(vec![entry], done)
            .map_err(wal::Error::into_io)?;
        durable.await.map_err(|_| wal::Error::Closed.into_io())?
    }

    /// Writes what is queued and stops the log's thread. Blocks until done.
    pub(crate) fn close(&self) -> wal::Result<()> {
        self.wal.close()
    }

    async fn entries(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let found = self.wal.find(range, bytes_max);
        let on_disk = found.iter().any(|found| matches!(found, Found::In(..)));
        let entries = if on_disk {
            let read = tokio::task::spawn_blocking(move || wal::load(found));
            read.await.map_err(io::Error::other)?
        } else {
            wal::load(found)
        };
        entries
            .map_err(wal::Error::into_io)?
            .into_iter()
            .map(entry_in)
            .collect()
    }

    /// The next piece of a stream: entries from the front of `range`, bounded in bytes.
    async fn piece(&self, range: &mut Range<u64>) -> io::Result<Vec<Entry>> {
        let bytes_max = self.wal.options().read_bytes_max;
        let entries = self.entries(range.clone(), bytes_max).await?;
        range.start = entries
            .last()
            .map_or(range.end, |last| last.log_id.index + 1);
        Ok(entries)
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        self.entries(bounds(&range), usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.entries(start..end, self.wal.options().read_bytes_max)
            .await
    }

    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = io::Result<Entry>> + Send
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        // Piece by piece, so that a long replay after a restart is never in memory as a whole.
        let state = (self.clone(), bounds(&range), Vec::new().into_iter());
        Box::pin(stream::try_unfold(
            state,
            |(store, mut range, mut ready)| async move {
                loop {
                    if let Some(entry) = ready.next() {
                        return Ok(Some((entry, (store, range, ready))));
                    }
                    if range.is_empty() {
                        return Ok(None);
                    }
                    ready = store.piece(&mut range).await?.into_iter();
                }
            },
        ))
    }

    async fn leader_bounded_stream<RB>(
        &mut self,
        leader: LeaderId,
        range: RB,
    ) -> impl Stream<Item = LeaderBoundedStreamResult<TypeConfig>> + Send
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        // The vote is looked at after each piece is read: what was read before it changed is the
        // leader's.
        let state = (self.clone(), Some(bounds(&range)), Vec::new().into_iter());
        Box::pin(stream::try_unfold(
            state,
            move |(store, range, mut ready)| async move {
                let mut range = range;
                loop {
                    if let Some(entry) = ready.next() {
                        return Ok(Some((entry, (store, range, ready))));
                    }
                    let Some(mut rest) = range.take() else {
                        return Ok(None);
                    };
                    let entries = store.piece(&mut rest).await?;
                    let vote = store.wal.vote().map(vote_in);
                    if vote
                        != Some(Vote {
                            leader_id: leader,
                            committed: true,
                        })
                    {
                        let changed = openraft::errors::LeaderChanged::new(leader, vote);
                        return Err(LeaderBoundedStreamError::LeaderChanged(changed));
                    }
                    range = (!rest.is_empty()).then_some(rest);
                    ready = entries.into_iter();
                }
            },
        ))
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.wal.vote().map(vote_in))
    }

    async fn get_key_log_ids(&mut self, range: RangeInclusive<LogId>) -> io::Result<Vec<LogId>> {
        // openraft's text asks for the first of each leader; its code, and its suite, for the last.
        let last = self
            .wal
            .last_of_each_term(range.start().index, range.end().index);
        Ok(last.into_iter().map(id_in).collect())
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let (purged, last) = self.wal.bounds();
        Ok(LogState {
            last_purged_log_id: purged.map(id_in),
            last_log_id: last.map(id_in),
        })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let (done, durable) = tokio::sync::oneshot::channel();
        let done = Box::new(move |outcome| {
            let _ = done.send(outcome);
        });
        self.wal
            .save_vote(vote_out(vote), done)
            .map_err(wal::Error::into_io)?;
        durable.await.map_err(|_| wal::Error::Closed.into_io())?
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.wal.save_committed(committed.map(id_out));
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.wal.committed().map(id_in))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = <TypeConfig as RaftTypeConfig>::Entry> + Send,
        I::IntoIter: Send,
    {
        let entries: Vec<_> = entries.into_iter().map(entry_out).collect();
        self.wal.room().await;
        let done = Box::new(move |outcome| callback.io_completed(outcome));
        self.wal.append(entries, done).map_err(wal::Error::into_io)
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        self.wal
            .truncate_after(last.map(id_out))
            .map_err(wal::Error::into_io)
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.wal.purge(id_out(upto)).map_err(wal::Error::into_io)
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

fn id_in(id: wal::LogId) -> LogId {
    log_id(id.term, id.index)
}

fn id_out(id: LogId) -> wal::LogId {
    wal::LogId {
        term: id.leader_id.term,
        index: id.index,
    }
}

fn vote_in(vote: wal::Vote) -> Vote {
    let leader_id = LeaderId {
        term: vote.term,
        voted_for: vote.node,
    };
    Vote {
        leader_id,
        committed: vote.committed,
    }
}

fn vote_out(vote: &Vote) -> wal::Vote {
    let leader = vote.leader_id;
    wal::Vote {
        term: leader.term,
        node: leader.voted_for,
        committed: vote.committed,
    }
}

fn entry_out(entry: Entry) -> wal::Entry {
    let (kind, data) = match &entry.payload {
        EntryPayload::Blank => (BLANK, Bytes::new()),
        EntryPayload::Normal(commands) => (COMMANDS, commands.as_bytes().clone()),
        EntryPayload::Membership(membership) => (
            MEMBERSHIP,
            membership_out(membership).encode_to_vec().into(),
        ),
    };
    wal::Entry {
        id: id_out(entry.log_id),
        kind,
        data,
    }
}

/// Reads an entry as it is stored.
pub(crate) fn entry_in(entry: wal::Entry) -> io::Result<Entry> {
    let malformed = || {
        let what = format!("entry {} in the log is of unknown form", entry.id.index);
        io::Error::new(io::ErrorKind::InvalidData, what)
    };
    let payload = match entry.kind {
        BLANK => EntryPayload::Blank,
        COMMANDS => {
            EntryPayload::Normal(Commands::decode(entry.data.clone()).ok_or_else(malformed)?)
        }
        MEMBERSHIP => {
            let pb = kvd_api::pb::kvdpeerpb::Membership::decode(entry.data.clone());
            let membership = pb.ok().and_then(|pb| membership_in(pb).ok());
            EntryPayload::Membership(membership.ok_or_else(malformed)?)
        }
        _ => return Err(malformed()),
    };
    Ok(Entry::new(id_in(entry.id), payload))
}

#[cfg(test)]
mod tests;
