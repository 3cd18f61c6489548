//! An applier over a store in memory, fed as Raft feeds it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::{BufMut, Bytes, BytesMut};
use kvd_api::pb::kvdcommandpb::Command;
use kvd_api::pb::kvdcommandpb::command::Request;
use kvd_mvcc::{EngineKind, Options, Store};
use kvd_raft::{Commands, Committed, Payload, Position, StateMachine};
use prost::Message;
use tempfile::TempDir;

use crate::apply::{Alarms, Answers, Applied, Applier, Parts};
use crate::auth::{Auth, Settings};
use crate::error::Error;
use crate::lease::Leases;
use crate::metrics::{Level, Metrics};

/// Keeps results until a test looks at them.
#[derive(Default)]
pub(super) struct Kept {
    pub(super) results: Mutex<Vec<(u64, Result<Applied, Error>)>>,
    /// Requests with a higher ID are not awaited here, if set.
    pub(super) awaited_max: AtomicU64,
    pub(super) calls: AtomicU64,
}

impl Answers for Kept {
    fn answer(&self, results: &mut Vec<(u64, Result<Applied, Error>)>) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.results.lock().expect("not poisoned").append(results);
    }

    fn is_awaited(&self, request_id: u64) -> bool {
        let max = self.awaited_max.load(Ordering::Relaxed);
        max == 0 || request_id <= max
    }
}

pub(in crate::apply) struct Harness {
    pub(super) applier: Applier,
    pub(in crate::apply) store: Store,
    pub(super) alarms: Arc<Alarms>,
    pub(in crate::apply) leases: Arc<Leases>,
    pub(super) auth: Arc<Auth>,
    pub(super) kept: Arc<Kept>,
    pub(super) applied: Arc<AtomicU64>,
    pub(super) index: u64,
    // Held for its drop.
    _dir: TempDir,
}

impl Harness {
    pub(in crate::apply) fn new() -> Harness {
        let dir = tempfile::tempdir().expect("a directory");
        let options = Options {
            engine: EngineKind::Memory,
            ..Options::default()
        };
        let (store, writer) = kvd_mvcc::open(dir.path(), options).expect("opens");
        let alarms = Arc::new(Alarms::restore(&store).expect("no alarms"));
        let leases = Arc::new(Leases::restore(&store).expect("no leases"));
        let auth = Arc::new(Auth::restore(&store, &Settings::default()).expect("no users"));
        let kept = Arc::new(Kept::default());
        let applied = Arc::new(AtomicU64::new(0));
        let on_applied = Arc::clone(&applied);
        let answers: Arc<Kept> = Arc::clone(&kept);
        let applier = Applier::new(Parts {
            writer,
            store: store.clone(),
            alarms: Arc::clone(&alarms),
            leases: Arc::clone(&leases),
            auth: Arc::clone(&auth),
            answers,
            on_applied: Arc::new(move |index| on_applied.store(index, Ordering::Relaxed)),
            metrics: Arc::new(Metrics::new(Level::Basic, "test")),
        });
        Harness {
            applier,
            store,
            alarms,
            leases,
            auth,
            kept,
            applied,
            index: 0,
            _dir: dir,
        }
    }

    /// Applies payloads, one entry each, in one call.
    pub(super) fn entries(&mut self, payloads: Vec<Payload>) -> Result<(), kvd_raft::Fault> {
        let first = self.index + 1;
        self.index += payloads.len() as u64;
        let entries: Vec<Committed> = (first..)
            .zip(payloads)
            .map(|(index, payload)| Committed {
                index,
                term: 1,
                payload,
            })
            .collect();
        let bytes = Bytes::from(self.index.to_string());
        self.applier.apply(
            &entries,
            Position {
                index: self.index,
                bytes,
            },
        )
    }

    /// Applies one request in an entry of its own and returns its result.
    pub(in crate::apply) fn request(&mut self, request: Request) -> Result<Applied, Error> {
        let id = self.index + 1;
        self.entries(vec![commands(&[(id, request)])])
            .expect("no fault");
        let (answered, result) = self
            .kept
            .results
            .lock()
            .expect("not poisoned")
            .pop()
            .expect("a result");
        assert_eq!(answered, id);
        result
    }
}

/// The payload of one entry.
pub(super) fn commands(requests: &[(u64, Request)]) -> Payload {
    let encoded = requests.iter().map(|(id, request)| {
        let command = Command {
            request_id: *id,
            caller: None,
            request: Some(request.clone()),
        };
        (*id, command.encode_to_vec())
    });
    frame(encoded)
}

/// Frames encoded commands as the batcher does.
pub(super) fn frame(commands: impl IntoIterator<Item = (u64, Vec<u8>)>) -> Payload {
    let mut framed = BytesMut::new();
    for (id, command) in commands {
        framed.put_u64_le(id);
        framed.put_u32_le(u32::try_from(command.len()).expect("small"));
        framed.put_slice(&command);
    }
    Payload::Commands(Commands::decode(framed.freeze()).expect("whole frames"))
}
