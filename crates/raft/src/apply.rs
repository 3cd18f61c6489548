//! Between openraft and the application's [`StateMachine`]: entries in, snapshots both ways.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use futures_util::{FutureExt, Stream, StreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use parking_lot::Mutex;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::watch;

use crate::error::{Error, Result};
use crate::events::Events;
use crate::membership;
use crate::snapshot::{Snapshot, SnapshotData};
use crate::state_machine::{Committed, Fault, Payload, Position, StateMachine};
use crate::status::Status;
use crate::transport::codec::{self, PositionEncoder};
use crate::type_config::{EntryPayload, LogId, SnapshotMeta, StoredMembership, TypeConfig};

/// Most entries given to the state machine in one call.
const ENTRIES_MAX: usize = 64;

/// How far the state machine is, to be read without a lock.
#[derive(Default)]
pub(crate) struct Progress {
    index: AtomicU64,
    term: AtomicU64,
}

impl Progress {
    fn advance(&self, applied: &LogId) {
        self.index.store(applied.index, Ordering::Release);
        self.term.store(applied.leader_id.term, Ordering::Release);
    }

    /// The index up to which entries are applied, if one of `term` is among them.
    pub(crate) fn in_term(&self, term: u64) -> Option<u64> {
        (self.term.load(Ordering::Acquire) == term).then(|| self.index.load(Ordering::Acquire))
    }
}

/// openraft's state machine: keeps the position, passes everything else on.
pub(crate) struct Applier {
    /// Only openraft's apply task takes this lock, and the thread that installs for it.
    machine: Arc<Mutex<Box<dyn StateMachine>>>,
    applied: Option<LogId>,
    membership: StoredMembership,
    encoder: PositionEncoder,
    status: Arc<watch::Sender<Status>>,
    progress: Arc<Progress>,
    events: Arc<dyn Events>,
    /// Whether peers may ask for snapshots; before that only the position is of interest.
    serving: bool,
}

impl Applier {
    /// Takes over a state machine at the position that it stored.
    pub(crate) fn new(
        machine: Box<dyn StateMachine>,
        status: Arc<watch::Sender<Status>>,
        progress: Arc<Progress>,
        events: Arc<dyn Events>,
    ) -> Result<Applier> {
        let (applied, membership) = match machine.position() {
            Some(bytes) => {
                codec::decode_position(bytes).map_err(|error| Error::Position(error.to_string()))?
            }
            None => (None, StoredMembership::default()),
        };
        let encoder = PositionEncoder::new(&membership);
        let machine = Arc::new(Mutex::new(machine));
        let applier = Applier {
            machine,
            applied,
            membership,
            encoder,
            status,
            progress,
            events,
            serving: false,
        };
        applier.publish();
        Ok(applier)
    }

    /// Tells that start-up is over.
    pub(crate) fn serve(&mut self) {
        self.serving = true;
    }

    /// The last entry that the state machine has.
    pub(crate) fn applied(&self) -> Option<LogId> {
        self.applied
    }

    /// The members as of that entry.
    pub(crate) fn membership(&self) -> &StoredMembership {
        &self.membership
    }

    fn meta(&self) -> SnapshotMeta {
        let last_membership = self.membership.clone();
        SnapshotMeta {
            last_log_id: self.applied,
            last_membership,
        }
    }

    /// Applies a run of entries with one call.
    fn apply_run(&mut self, run: &mut Run) -> io::Result<()> {
        let Some(last) = run.last else { return Ok(()) };
        if let Some(membership) = run.membership.take() {
            self.membership = membership;
            self.encoder = PositionEncoder::new(&self.membership);
        }
        let position = Position {
            index: last.index,
            bytes: self.encoder.encode(&last),
        };
        let mut machine = self.machine.lock();
        let applied = match machine.is_behind() {
            true => let_others_run(|| machine.apply(&run.entries, position)),
            false => machine.apply(&run.entries, position),
        };
        drop(machine);
        applied.map_err(|fault| self.fault(&fault))?;
        self.applied = Some(last);
        self.publish();
        for responder in run.responders.drain(..) {
            responder.send(());
        }
        run.entries.clear();
        run.last = None;
        Ok(())
    }

    /// Nothing may be applied twice or left out: whatever goes wrong, better stop than diverge.
    fn check_follows(&self, last: Option<LogId>, index: u64) -> io::Result<()> {
        let expected = last.map_or(0, |last| last.index.saturating_add(1));
        if index == expected {
            return Ok(());
        }
        let what = format!("entry {index} is to be applied where entry {expected} is due");
        Err(self.fault(&Fault::new(what)))
    }

    fn publish(&self) {
        let Some(applied) = self.applied else { return };
        self.progress.advance(&applied);
        self.status.send_if_modified(|status| {
            status.applied_index = applied.index;
            status.commit_index = status.commit_index.max(applied.index);
            status.last_index = status.last_index.max(applied.index);
            true
        });
    }

    /// Publishes a fault; openraft stops when it gets the error.
    fn fault(&self, fault: &Fault) -> io::Error {
        tracing::error!(%fault, "the state machine has failed: this member stops");
        self.status.send_modify(|status| {
            status.fault.get_or_insert_with(|| fault.to_string());
            status.running = false;
        });
        io::Error::other(fault.to_string())
    }
}

/// Entries that are applied together.
#[derive(Default)]
struct Run {
    entries: Vec<Committed>,
    responders: Vec<ApplyResponder<TypeConfig>>,
    membership: Option<StoredMembership>,
    last: Option<LogId>,
}

impl Run {
    fn push(&mut self, (entry, responder): EntryResponder<TypeConfig>) {
        let log_id = entry.log_id;
        let payload = match entry.payload {
            EntryPayload::Blank => Payload::Blank,
            EntryPayload::Normal(commands) => Payload::Commands(commands),
            EntryPayload::Membership(membership) => {
                let members = membership::to_members(&membership);
                self.membership = Some(StoredMembership::new(Some(log_id), membership));
                Payload::Membership(members)
            }
        };
        self.entries.push(Committed {
            index: log_id.index,
            term: log_id.leader_id.term,
            payload,
        });
        self.responders.extend(responder);
        self.last = Some(log_id);
    }
}

impl RaftStateMachine<TypeConfig> for Applier {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = PositionBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied, self.membership.clone()))
    }

    /// Applies whatever is ready with one call of the state machine; waits only when nothing is.
    async fn apply<Entries>(&mut self, mut entries: Entries) -> io::Result<()>
    where
        Entries: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + Send,
    {
        let mut run = Run::default();
        loop {
            let next = match entries.next().now_or_never() {
                Some(next) => next,
                None => {
                    self.apply_run(&mut run)?;
                    entries.next().await
                }
            };
            let Some(entry) = next else {
                return self.apply_run(&mut run);
            };
            let entry = entry?;
            self.check_follows(run.last.or(self.applied), entry.0.log_id.index)?;
            run.push(entry);
            if run.entries.len() >= ENTRIES_MAX {
                self.apply_run(&mut run)?;
            }
        }
    }

    async fn get_snapshot_builder(&mut self) -> PositionBuilder {
        PositionBuilder { meta: self.meta() }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotData,
    ) -> io::Result<()> {
        let (SnapshotData::Received(file), Some(last)) = (snapshot, meta.last_log_id) else {
            return Err(io::Error::other("a snapshot without content or position"));
        };
        let encoder = PositionEncoder::new(&meta.last_membership);
        let position = Position {
            index: last.index,
            bytes: encoder.encode(&last),
        };
        let machine = self.machine.clone();
        let started = Instant::now();
        tracing::info!(index = last.index, "installing a snapshot");
        self.events.snapshot_installing(true);
        let installed =
            tokio::task::spawn_blocking(move || machine.lock().install(file.path(), position));
        let installed = installed.await;
        self.events.snapshot_installing(false);
        installed
            .map_err(io::Error::other)?
            .map_err(|fault| self.fault(&fault))?;
        tracing::info!(index = last.index, took = ?started.elapsed(), "installed a snapshot");
        self.applied = Some(last);
        self.membership = meta.last_membership.clone();
        self.encoder = encoder;
        self.publish();
        Ok(())
    }

    /// A fresh snapshot. It may be newer than the one that openraft knows of: the member that
    /// gets it continues from where it stands.
    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        if self.applied.is_none() {
            return Ok(None);
        }
        let snapshot = match self.serving {
            true => {
                let source = let_others_run(|| self.machine.lock().snapshot());
                SnapshotData::Source(source.map_err(|fault| self.fault(&fault))?)
            }
            false => SnapshotData::PositionOnly,
        };
        Ok(Some(Snapshot {
            meta: self.meta(),
            snapshot,
        }))
    }
}

/// Makes a call that waits for the disk. Another thread takes this one's tasks over meanwhile: one
/// that was just woken here, such as openraft's own, could not be taken by an idle thread.
fn let_others_run<T>(call: impl FnOnce() -> T) -> T {
    let flavor = Handle::try_current().map(|handle| handle.runtime_flavor());
    match flavor {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(call),
        _ => call(),
    }
}

/// "Builds" a snapshot: the state machine is durable on its own, so that a snapshot is no more
/// than the position up to which the log may be purged.
pub(crate) struct PositionBuilder {
    meta: SnapshotMeta,
}

impl RaftSnapshotBuilder<TypeConfig> for PositionBuilder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        Ok(Snapshot {
            meta: self.meta.clone(),
            snapshot: SnapshotData::PositionOnly,
        })
    }
}
