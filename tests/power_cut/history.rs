//! What the clients did and were told, and a model of the store that replays it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use kvd_api::pb::mvccpb::KeyValue;
use prost::Message;
use serde::{Deserialize, Serialize};

/// One change of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// `id` and `length` determine the value.
    Put { key: u32, id: u64, length: usize },
    /// Removes the keys from `from` up to `to`, which is not among them.
    Delete { from: u32, to: u32 },
}

/// A write that was acknowledged and took a revision.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Write {
    pub revision: i64,
    pub changes: Vec<Change>,
    /// How long the trace was when the client asked, and when it was told.
    pub asked: u64,
    pub told: u64,
    /// The term it was told.
    pub term: u64,
}

/// A compaction that was acknowledged.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Compaction {
    pub revision: i64,
    pub asked: u64,
    pub told: u64,
}

/// A hash that the running member gave.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hash {
    pub revision: i64,
    pub compacted: i64,
    pub hash: u32,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct History {
    /// In order of revision, from revision 2 on.
    pub writes: Vec<Write>,
    pub compactions: Vec<Compaction>,
    pub hashes: Vec<Hash>,
    /// How long the trace was when the first member served.
    pub served: u64,
}

pub fn key_name(key: u32) -> Bytes {
    Bytes::from(format!("key/{key:04}"))
}

pub fn value_of(id: u64, length: usize) -> Bytes {
    let text = format!("value {id};");
    let mut value = Vec::with_capacity(length);
    while value.len() < length {
        // Differs along the value, so that a block in the wrong place shows.
        let at = value.len() as u64;
        value.extend_from_slice(text.as_bytes());
        value.extend_from_slice(&(at ^ id.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes());
    }
    value.truncate(length);
    value.into()
}

impl History {
    /// Sorts what several clients recorded.
    ///
    /// Errors: when revisions are missing or given twice.
    pub fn finish(&mut self) -> Result<()> {
        self.writes.sort_by_key(|write| write.revision);
        for (index, write) in self.writes.iter().enumerate() {
            let expected = index as i64 + 2;
            ensure!(
                write.revision == expected,
                "revision {expected} was given to nobody"
            );
        }
        Ok(())
    }

    pub fn save(&self, path: &Path) -> Result<()> {
        Ok(fs::write(path, serde_json::to_vec(self)?)?)
    }

    pub fn load(path: &Path) -> Result<History> {
        let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        Ok(serde_json::from_slice(&bytes)?)
    }
}

/// A record as the store keeps it.
struct Record {
    main: i64,
    sub: i64,
    tombstone: bool,
    pair: KeyValue,
}

/// A naive store.
#[derive(Default)]
pub struct Model {
    records: Vec<Record>,
    /// Where the record of each live key is.
    live: BTreeMap<Bytes, usize>,
    revision: i64,
}

impl Model {
    /// Replays the history up to `revision`.
    pub fn at(history: &History, revision: i64) -> Model {
        let mut model = Model {
            revision: 1,
            ..Model::default()
        };
        for write in history
            .writes
            .iter()
            .filter(|write| write.revision <= revision)
        {
            model.apply(&write.changes);
        }
        model
    }

    pub fn apply(&mut self, changes: &[Change]) {
        self.revision += 1;
        let mut sub = 0;
        for change in changes {
            match change {
                Change::Put { key, id, length } => {
                    let (key, value) = (key_name(*key), value_of(*id, *length));
                    let before = self.live.get(&key).map(|at| &self.records[*at].pair);
                    let pair = KeyValue {
                        create_revision: before.map_or(self.revision, |pair| pair.create_revision),
                        mod_revision: self.revision,
                        version: before.map_or(1, |pair| pair.version + 1),
                        value,
                        lease: 0,
                        key: key.clone(),
                    };
                    self.live.insert(key, self.records.len());
                    self.record(&mut sub, false, pair);
                }
                Change::Delete { from, to } => {
                    let gone = self.live.range(key_name(*from)..key_name(*to));
                    let gone: Vec<Bytes> = gone.map(|(key, _)| key.clone()).collect();
                    for key in gone {
                        self.live.remove(&key);
                        let pair = KeyValue {
                            key,
                            ..KeyValue::default()
                        };
                        self.record(&mut sub, true, pair);
                    }
                }
            }
        }
    }

    fn record(&mut self, sub: &mut i64, tombstone: bool, pair: KeyValue) {
        self.records.push(Record {
            main: self.revision,
            sub: *sub,
            tombstone,
            pair,
        });
        *sub += 1;
    }

    /// The pairs that are live at `revision`.
    pub fn pairs(&self, revision: i64) -> BTreeMap<Bytes, &KeyValue> {
        let mut pairs = BTreeMap::new();
        for record in self
            .records
            .iter()
            .take_while(|record| record.main <= revision)
        {
            if record.tombstone {
                pairs.remove(&record.pair.key);
            } else {
                pairs.insert(record.pair.key.clone(), &record.pair);
            }
        }
        pairs
    }

    /// `HashKV` at the model's revision, after a compaction at `compacted` (none: -1 or 0). Of what
    /// the compaction may have removed, only what is still live counts.
    ///
    /// Source: etcd `server/storage/mvcc/hash.go`.
    pub fn hash(&self, compacted: i64) -> u32 {
        let live = self.pairs(self.revision);
        let kept: BTreeSet<(i64, &Bytes)> = live
            .values()
            .map(|pair| (pair.mod_revision, &pair.key))
            .collect();
        let mut hash = crc32c::crc32c(b"key");
        for record in &self.records {
            let old = record.main <= compacted && !kept.is_empty();
            let visible = !record.tombstone && kept.contains(&(record.main, &record.pair.key));
            if (old && !visible) || (record.main == compacted && record.tombstone) {
                continue;
            }
            let mut name = Vec::with_capacity(18);
            name.extend_from_slice(&record.main.to_be_bytes());
            name.push(b'_');
            name.extend_from_slice(&record.sub.to_be_bytes());
            if record.tombstone {
                name.push(b't');
            }
            hash = crc32c::crc32c_append(hash, &name);
            hash = crc32c::crc32c_append(hash, &record.pair.encode_to_vec());
        }
        hash
    }
}
