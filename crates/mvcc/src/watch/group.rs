//! A set of watchers, asked who wants to hear of a key.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::intervals::Intervals;
use super::watcher::{Keys, Watcher};

/// Watchers by what they watch. A question costs what it finds, not what is registered.
#[derive(Debug, Default)]
pub(crate) struct Group {
    keys: HashMap<Bytes, Vec<Arc<Watcher>>>,
    ranges: Intervals<Vec<Arc<Watcher>>>,
    all: HashMap<u64, Arc<Watcher>>,
}

impl Group {
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn insert(&mut self, watcher: Arc<Watcher>) {
        self.all.insert(watcher.serial, Arc::clone(&watcher));
        match &watcher.keys {
            Keys::One(key) => place(self.keys.entry(key.clone()).or_default(), watcher),
            Keys::Range(start, end) => match self.ranges.get_mut(start, end) {
                Some(watchers) => place(watchers, watcher),
                None => self
                    .ranges
                    .insert(start.clone(), end.clone(), vec![Arc::clone(&watcher)]),
            },
        }
    }

    pub(crate) fn remove(&mut self, watcher: &Watcher) {
        if self.all.remove(&watcher.serial).is_none() {
            return;
        }
        match &watcher.keys {
            Keys::One(key) => {
                let emptied = self.keys.get_mut(key).is_some_and(|watchers| {
                    take_out(watchers, watcher.serial);
                    watchers.is_empty()
                });
                if emptied {
                    self.keys.remove(key);
                }
            }
            Keys::Range(start, end) => {
                let emptied = self.ranges.get_mut(start, end).is_some_and(|watchers| {
                    take_out(watchers, watcher.serial);
                    watchers.is_empty()
                });
                if emptied {
                    self.ranges.remove(start, end);
                }
            }
        }
    }

    /// Calls `each` with every watcher of `key`.
    pub(crate) fn each_watching(&self, key: &[u8], mut each: impl FnMut(&Arc<Watcher>)) {
        if let Some(watchers) = self.keys.get(key) {
            watchers.iter().for_each(&mut each);
        }
        self.ranges
            .each_holding(key, &mut |watchers: &Vec<Arc<Watcher>>| {
                watchers.iter().for_each(&mut each);
            });
    }

    /// Calls `each` with every watcher.
    pub(crate) fn each(&self, each: impl FnMut(&Arc<Watcher>)) {
        self.all.values().for_each(each);
    }

    /// The watchers that `wanted` picks.
    pub(crate) fn filtered(&self, wanted: impl Fn(&Watcher) -> bool) -> Vec<Arc<Watcher>> {
        let all = self.all.values().filter(|watcher| wanted(watcher));
        all.cloned().collect()
    }

    /// Takes all watchers out.
    pub(crate) fn take_all(&mut self) -> Vec<Arc<Watcher>> {
        std::mem::take(self).all.into_values().collect()
    }
}

/// Keeps the watchers in order of their creation.
fn place(watchers: &mut Vec<Arc<Watcher>>, watcher: Arc<Watcher>) {
    let at = watchers.partition_point(|other| other.serial < watcher.serial);
    watchers.insert(at, watcher);
}

fn take_out(watchers: &mut Vec<Arc<Watcher>>, serial: u64) {
    if let Ok(at) = watchers.binary_search_by_key(&serial, |watcher| watcher.serial) {
        watchers.remove(at);
    }
}
