//! The engine that keeps nothing: a map in memory, for tests and benchmarks.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use parking_lot::RwLock;

use super::{Backend, Batch, Page};
use crate::error::{Error, Result};

/// A [`Backend`] that forgets everything when it is dropped.
#[derive(Debug)]
pub struct Memory {
    /// None once closed.
    state: RwLock<Option<State>>,
}

#[derive(Debug, Default)]
struct State {
    pairs: BTreeMap<Bytes, Bytes>,
    bytes: u64,
}

impl Default for Memory {
    fn default() -> Self {
        Memory {
            state: RwLock::new(Some(State::default())),
        }
    }
}

impl Backend for Memory {
    fn write(&self, batch: &Batch) -> Result<()> {
        let mut guard = self.state.write();
        let state = guard.as_mut().ok_or(Error::Closed)?;
        for change in batch.changes() {
            let (old, added) = match &change.value {
                Some(value) => {
                    let old = state.pairs.insert(change.key.clone(), value.clone());
                    (old, change.key.len() + value.len())
                }
                None => (state.pairs.remove(&change.key), 0),
            };
            let removed = old.map_or(0, |value| change.key.len() + value.len());
            state.bytes = state.bytes + added as u64 - removed as u64;
        }
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        self.state.read().as_ref().map(|_| ()).ok_or(Error::Closed)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self
            .state
            .read()
            .as_ref()
            .ok_or(Error::Closed)?
            .pairs
            .get(key)
            .cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], page: Page) -> Result<Vec<(Bytes, Bytes)>> {
        if from >= to {
            return Ok(Vec::new());
        }
        let guard = self.state.read();
        let pairs = &guard.as_ref().ok_or(Error::Closed)?.pairs;
        let (mut found, mut bytes) = (Vec::new(), 0);
        for (key, value) in pairs.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to))) {
            if !page.has_room(found.len(), bytes) {
                break;
            }
            bytes += value.len();
            found.push((key.clone(), value.clone()));
        }
        Ok(found)
    }

    fn size(&self) -> Result<u64> {
        Ok(self.state.read().as_ref().ok_or(Error::Closed)?.bytes)
    }

    fn close(&self) -> Result<()> {
        *self.state.write() = None;
        Ok(())
    }
}
