//! A state machine that remembers every command, and keeps its content over restarts.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kvd_raft::{Committed, Fault, Member, Payload, Position, SnapshotSource, StateMachine};
use parking_lot::Mutex;

/// What lies on the toy's "disk".
#[derive(Default)]
pub(crate) struct ToyState {
    pub(crate) content: Mutex<Content>,
    /// Told to the node as the durable index.
    pub(crate) purgeable: Arc<AtomicU64>,
    pub(crate) installs: AtomicU64,
    /// The next apply fails.
    pub(crate) broken: AtomicBool,
    /// Members that this one believes to have been removed.
    pub(crate) removed: Mutex<HashSet<u64>>,
    /// How long each apply waits for a slow disk, in milliseconds.
    pub(crate) stall: AtomicU64,
}

#[derive(Default, Clone)]
pub(crate) struct Content {
    pub(crate) position: Option<Position>,
    /// Request ids and commands in the order in which they were applied.
    pub(crate) commands: Vec<(u64, Bytes)>,
    pub(crate) members: Vec<Member>,
}

impl ToyState {
    pub(crate) fn has(&self, request_id: u64) -> bool {
        self.content
            .lock()
            .commands
            .iter()
            .any(|(id, _)| *id == request_id)
    }

    pub(crate) fn count(&self) -> usize {
        self.content.lock().commands.len()
    }

    pub(crate) fn ids(&self) -> Vec<u64> {
        self.content
            .lock()
            .commands
            .iter()
            .map(|(id, _)| *id)
            .collect()
    }

    pub(crate) fn applied(&self) -> u64 {
        self.content
            .lock()
            .position
            .as_ref()
            .map_or(0, |position| position.index)
    }

    /// How often each id was applied.
    pub(crate) fn tally(&self) -> HashMap<u64, usize> {
        let mut tally = HashMap::new();
        for id in self.ids() {
            *tally.entry(id).or_default() += 1;
        }
        tally
    }
}

/// The state machine over it; one for each life of the member.
pub(crate) struct Toy(pub(crate) Arc<ToyState>);

impl StateMachine for Toy {
    fn position(&self) -> Option<Bytes> {
        self.0
            .content
            .lock()
            .position
            .as_ref()
            .map(|position| position.bytes.clone())
    }

    fn apply(&mut self, entries: &[Committed], position: Position) -> Result<(), Fault> {
        if self.0.broken.load(Ordering::SeqCst) {
            return Err(Fault::new("broken on purpose"));
        }
        let stall = self.0.stall.load(Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(stall));
        let mut content = self.0.content.lock();
        let mut next = content.position.as_ref().map(|position| position.index + 1);
        for entry in entries {
            assert_eq!(
                entry.index,
                *next.get_or_insert(entry.index),
                "entries are dense"
            );
            next = Some(entry.index + 1);
            match &entry.payload {
                Payload::Blank => {}
                Payload::Commands(commands) => content.commands.extend(commands),
                Payload::Membership(members) => content.members = members.clone(),
            }
        }
        assert_eq!(
            Some(position.index + 1),
            next,
            "the position is that of the last entry"
        );
        self.0.purgeable.store(position.index, Ordering::SeqCst);
        content.position = Some(position);
        Ok(())
    }

    fn is_behind(&self) -> bool {
        self.0.stall.load(Ordering::SeqCst) > 0
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, Fault> {
        let content = self.0.content.lock().clone();
        let chunks = content.commands.into_iter().map(|(id, command)| {
            let mut chunk = BytesMut::new();
            chunk.put_u64(id);
            chunk.put_u32(command.len() as u32);
            chunk.put_slice(&command);
            chunk.freeze()
        });
        Ok(Box::new(ToySnapshot {
            chunks: chunks.collect::<Vec<_>>().into_iter(),
        }))
    }

    fn install(&mut self, file: &Path, position: Position) -> Result<(), Fault> {
        let bytes = std::fs::read(file).map_err(|error| Fault::with_source("read", error))?;
        let mut bytes = Bytes::from(bytes);
        let mut commands = Vec::new();
        while bytes.has_remaining() {
            let id = bytes.get_u64();
            let len = bytes.get_u32() as usize;
            commands.push((id, bytes.split_to(len)));
        }
        let mut content = self.0.content.lock();
        self.0.purgeable.store(position.index, Ordering::SeqCst);
        content.commands = commands;
        content.position = Some(position);
        self.0.installs.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

struct ToySnapshot {
    chunks: std::vec::IntoIter<Bytes>,
}

impl SnapshotSource for ToySnapshot {
    fn next_chunk(&mut self) -> Result<Option<Bytes>, Fault> {
        Ok(self.chunks.next())
    }

    fn size_hint(&self) -> u64 {
        self.chunks
            .as_slice()
            .iter()
            .map(|chunk| chunk.len() as u64)
            .sum()
    }
}
