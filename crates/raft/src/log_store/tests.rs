//! openraft's own storage suite over the log, beside a small state machine.

use std::sync::{Arc, Mutex};

use futures_util::{Stream, StreamExt, TryStreamExt};
use openraft::StorageError;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;

use super::*;
use crate::disk::{Fault, FaultPoint, SimDisk};
use crate::type_config::{Membership, SnapshotMeta, StoredMembership};

type Snapshot = openraft::storage::Snapshot<
    crate::type_config::CommittedLeaderId,
    u64,
    crate::type_config::PeerNode,
    (),
>;

/// Remembers positions only; clones share them.
#[derive(Clone, Default)]
struct Machine(Arc<Mutex<State>>);

#[derive(Clone, Default)]
struct State {
    applied: (Option<LogId>, StoredMembership),
    snapshot: Option<SnapshotMeta>,
}

impl RaftSnapshotBuilder<TypeConfig> for Machine {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let mut state = self.0.lock().expect("the state");
        let (last_log_id, last_membership) = state.applied.clone();
        let meta = SnapshotMeta {
            last_log_id,
            last_membership,
        };
        state.snapshot = Some(meta.clone());
        Ok(Snapshot { meta, snapshot: () })
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = ();
    type SnapshotBuilder = Machine;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok(self.0.lock().expect("the state").applied.clone())
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + Send,
    {
        while let Some((entry, _)) = entries.try_next().await? {
            let mut state = self.0.lock().expect("the state");
            state.applied.0 = Some(entry.log_id);
            if let EntryPayload::Membership(membership) = entry.payload {
                state.applied.1 = StoredMembership::new(Some(entry.log_id), membership);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Machine {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, _snapshot: ()) -> io::Result<()> {
        let mut state = self.0.lock().expect("the state");
        state.applied = (meta.last_log_id, meta.last_membership.clone());
        state.snapshot = Some(meta.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let state = self.0.lock().expect("the state");
        Ok(state
            .snapshot
            .clone()
            .map(|meta| Snapshot { meta, snapshot: () }))
    }
}

/// Builds stores on a disk in memory. `cached`: whether entries are read from memory or files.
struct Builder {
    cached: bool,
}

fn options(disk: &SimDisk) -> wal::Options {
    let mut options = wal::Options::new("/wal", 1, 2);
    options.disk = Arc::new(disk.clone());
    options.segment_bytes = 4096;
    options
}

impl StoreBuilder<TypeConfig, LogStore, Machine> for Builder {
    async fn build(&self) -> Result<((), LogStore, Machine), StorageError<TypeConfig>> {
        let mut options = options(&SimDisk::new());
        if !self.cached {
            options.cache_entries_max = 0;
        }
        let store = LogStore::open(options).expect("a log on an empty disk");
        Ok(((), store, Machine::default()))
    }
}

#[tokio::test]
async fn openrafts_suite_passes_with_entries_in_memory() {
    Suite::test_all(Builder { cached: true })
        .await
        .expect("the suite");
}

#[tokio::test]
async fn openrafts_suite_passes_with_entries_in_files() {
    Suite::test_all(Builder { cached: false })
        .await
        .expect("the suite");
}

fn commands(fill: u8, length: usize) -> EntryPayload {
    let mut framed = vec![0; 8];
    framed.extend_from_slice(&(length as u32).to_le_bytes());
    framed.resize(12 + length, fill);
    EntryPayload::Normal(Commands::decode(framed.into()).expect("one framed command"))
}

fn entry(term: u64, index: u64, payload: EntryPayload) -> Entry {
    Entry {
        log_id: log_id(term, index),
        payload,
    }
}

/// Appends and returns the outcome once the callback fired.
async fn append(store: &mut LogStore, entries: Vec<Entry>) -> io::Result<()> {
    let (done, durable) = TypeConfig::oneshot();
    store.append(entries, IOFlushed::signal(done)).await?;
    durable.await.expect("a callback")
}

#[tokio::test]
async fn every_kind_of_entry_and_the_vote_survive_a_restart() {
    let disk = SimDisk::new();
    let mut store = LogStore::open(options(&disk)).expect("a fresh log");
    let node = crate::type_config::PeerNode {
        name: "a".into(),
        peer_urls: vec!["http://a:2380".into(), "http://b:2380".into()],
        learner: false,
    };
    let nodes = std::collections::BTreeMap::from([(1, node.clone()), (2, node)]);
    let voters = std::collections::BTreeSet::from([1]);
    let membership = Membership::new(vec![voters], nodes).expect("a valid membership");
    let entries = vec![
        entry(1, 0, EntryPayload::Membership(membership)),
        entry(1, 1, EntryPayload::Blank),
        entry(2, 2, commands(7, 300)),
    ];
    append(&mut store, entries.clone()).await.expect("durable");
    let vote = Vote::new_committed(2, 9);
    store.save_vote(&vote).await.expect("durable");
    store
        .save_committed(Some(log_id(1, 1)))
        .await
        .expect("noted");
    store.close().expect("closed");

    let mut store = LogStore::open(options(&disk)).expect("the log again");
    assert_eq!(
        store.try_get_log_entries(..).await.expect("entries"),
        entries
    );
    assert_eq!(store.read_vote().await.expect("a vote"), Some(vote));
    assert_eq!(
        store.read_committed().await.expect("a position"),
        Some(log_id(1, 1))
    );
}

#[tokio::test]
async fn a_bounded_read_stops_at_its_bytes_and_a_stream_does_not() {
    let mut options = options(&SimDisk::new());
    options.read_bytes_max = 1000;
    let mut store = LogStore::open(options).expect("a fresh log");
    let entries: Vec<Entry> = (0..50)
        .map(|index| entry(1, index, commands(1, 300)))
        .collect();
    append(&mut store, entries.clone()).await.expect("durable");
    let read = store
        .limited_get_log_entries(10, 50)
        .await
        .expect("entries");
    assert_eq!(read, entries[10..13]);
    let streamed: Vec<Entry> = store
        .entries_stream(10..)
        .await
        .try_collect()
        .await
        .expect("entries");
    assert_eq!(streamed, entries[10..]);
}

#[tokio::test]
async fn a_stream_ends_with_an_error_when_the_leader_changes() {
    let mut options = options(&SimDisk::new());
    options.read_bytes_max = 1;
    let mut store = LogStore::open(options).expect("a fresh log");
    let vote = Vote::new_committed(1, 5);
    store.save_vote(&vote).await.expect("durable");
    append(
        &mut store,
        (0..3)
            .map(|index| entry(1, index, commands(1, 10)))
            .collect(),
    )
    .await
    .expect("durable");
    let mut reader = store.clone();
    let mut stream = reader.leader_bounded_stream(vote.leader_id, 0..3).await;
    assert_eq!(
        stream.next().await.expect("one").expect("an entry").log_id,
        log_id(1, 0)
    );
    store.save_vote(&Vote::new(2, 6)).await.expect("durable");
    let end = stream.next().await.expect("an end");
    assert!(
        matches!(end, Err(LeaderBoundedStreamError::LeaderChanged(_))),
        "{end:?}"
    );
}

#[tokio::test]
async fn after_a_failed_sync_everything_fails_and_the_fault_is_known() {
    let disk = SimDisk::new();
    let mut store = LogStore::open(options(&disk)).expect("a fresh log");
    append(&mut store, vec![entry(1, 0, EntryPayload::Blank)])
        .await
        .expect("durable");
    disk.inject(FaultPoint::Sync, 0, Fault::Errno(5));
    let error = append(&mut store, vec![entry(1, 1, EntryPayload::Blank)]).await;
    assert!(error.is_err());
    disk.heal();
    let error = append(&mut store, vec![entry(1, 2, EntryPayload::Blank)]).await;
    assert!(
        error
            .expect_err("still failed")
            .to_string()
            .contains("cannot sync")
    );
    assert!(store.save_vote(&Vote::new(2, 1)).await.is_err());
    assert!(store.fault().expect("a fault").contains("sync"));
    assert!(store.close().is_err());
    // The process ends, and recovers from what the file holds.
    let mut store = LogStore::open(options(&disk)).expect("the log again");
    let read = store.try_get_log_entries(..).await.expect("entries");
    assert_eq!(read[0], entry(1, 0, EntryPayload::Blank));
    assert!(read.len() <= 2, "{read:?}");
}

/// A log that a power cut took back to three entries of term 3, which other ones had replaced.
async fn log_of_term_3(disk: &SimDisk) -> LogStore {
    let mut store = LogStore::open(options(disk)).expect("a fresh log");
    let entries = (0..3).map(|index| entry(1 + index, index, EntryPayload::Blank));
    append(&mut store, entries.collect())
        .await
        .expect("durable");
    store
}

#[tokio::test]
async fn replaced_entries_that_came_back_give_way_to_what_the_store_has() {
    // The same place, later places of an older and of a newer term: the log lacks all of them.
    for applied in [log_id(4, 2), log_id(4, 9), log_id(2, 9), log_id(1, 1)] {
        let disk = SimDisk::new();
        let mut store = log_of_term_3(&disk).await;
        store.reconcile(Some(applied)).expect("the log goes on");
        let state = store.get_log_state().await.expect("a state");
        let at = (Some(applied), Some(applied));
        assert_eq!((state.last_purged_log_id, state.last_log_id), at);
        let next = entry(5, applied.index + 1, EntryPayload::Blank);
        append(&mut store, vec![next.clone()])
            .await
            .expect("durable");
        store.close().expect("closed");
        let mut store = LogStore::open(options(&disk)).expect("the log again");
        store.reconcile(Some(applied)).expect("nothing to do");
        let entries = store.try_get_log_entries(..).await.expect("entries");
        assert_eq!(entries, [next]);
    }
}

#[tokio::test]
async fn a_log_that_has_what_the_store_has_is_left_alone() {
    for applied in [None, Some(log_id(2, 1)), Some(log_id(3, 2))] {
        let mut store = log_of_term_3(&SimDisk::new()).await;
        store.reconcile(applied).expect("nothing to do");
        let entries = store.try_get_log_entries(..).await.expect("entries");
        assert_eq!(entries.len(), 3, "{applied:?}");
    }
}

#[tokio::test]
async fn a_log_that_lost_a_vote_is_refused() {
    let mut store = log_of_term_3(&SimDisk::new()).await;
    let leader_id = LeaderId {
        term: 3,
        voted_for: 1,
    };
    let vote = Vote {
        leader_id,
        committed: true,
    };
    store.save_vote(&vote).await.expect("durable");
    store
        .reconcile(Some(log_id(3, 2)))
        .expect("of the same term");
    let error = store.reconcile(Some(log_id(4, 9))).expect_err("refused");
    let error = error.to_string();
    assert!(error.contains("only votes up to term 3"), "{error}");
}

#[tokio::test]
async fn a_store_that_is_older_than_the_log_is_refused() {
    let mut store = log_of_term_3(&SimDisk::new()).await;
    store.purge(log_id(2, 1)).await.expect("purged");
    store.reconcile(Some(log_id(2, 1))).expect("both go on");
    for applied in [None, Some(log_id(1, 0))] {
        let error = store.reconcile(applied).expect_err("refused").to_string();
        assert!(error.contains("begins only after entry 1"), "{error}");
    }
}

#[tokio::test]
async fn appending_waits_while_too_much_is_queued() {
    let disk = SimDisk::new();
    let mut options = options(&disk);
    options.queue_bytes_max = 100;
    let mut store = LogStore::open(options).expect("a fresh log");
    disk.inject(
        FaultPoint::Sync,
        0,
        Fault::Stall(std::time::Duration::from_millis(100)),
    );
    let first = vec![entry(1, 0, commands(1, 500))];
    store
        .append(first, IOFlushed::noop())
        .await
        .expect("queued");
    let started = std::time::Instant::now();
    append(&mut store, vec![entry(1, 1, commands(1, 500))])
        .await
        .expect("durable");
    assert!(
        started.elapsed() >= std::time::Duration::from_millis(150),
        "it did not wait"
    );
}
