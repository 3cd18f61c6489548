//! The traced run: processes one after another over one folder, driven by concurrent clients.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use kvd_api::pb::etcdserverpb::kv_client::KvClient;
use kvd_api::pb::etcdserverpb::request_op::Request;
use kvd_api::pb::etcdserverpb::response_op::Response;
use kvd_api::pb::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, PutRequest, RequestOp, TxnRequest,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tonic::transport::Channel;

use crate::disk::Disk;
use crate::history::{Change, Compaction, Hash, History, Model, Write, key_name, value_of};
use crate::image;
use crate::member::{Ports, Process, Tracing};
use crate::trace::{Trace, compile_shim};

const KEYS: u32 = 60;
/// Of [`Volume::Many`]: keys, and puts in a transaction.
const MANY_KEYS: u32 = 2000;
const MANY_PUTS: u32 = 100;
const CLIENTS: usize = 8;
const CLIENT_WRITES: usize = 8;
const ROUNDS: usize = 5;
/// How each process ends.
const ENDS: [End; 3] = [End::Kill, End::Terminate, End::Kill];

#[derive(Clone, Copy)]
enum End {
    Kill,
    Terminate,
}

/// How much is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Volume {
    /// Values of up to some KiB: many states of the engine.
    Small,
    /// Values of up to 250 kB: the log goes through several segments.
    Large,
    /// Transactions of many small puts: the engine's own metadata grow.
    Many,
}

/// Runs it all in `folder`, which then holds the trace and the history.
///
/// Errors: when kvd fails, or the trace is not what happened.
pub async fn run(engine: &str, seed: u64, volume: Volume, folder: &Path) -> Result<()> {
    let tracing = Tracing {
        library: compile_shim(folder)?,
        root: folder.join("disk"),
        file: folder.join("trace"),
        lock: folder.join("trace.lock"),
    };
    std::fs::create_dir(&tracing.root)?;
    let ports = Ports::reserve()?;
    let mut run = Run {
        random: StdRng::seed_from_u64(seed),
        history: History::default(),
        values: Arc::new(AtomicU64::new(0)),
        volume,
        tracing,
    };
    for (life, end) in ENDS.into_iter().enumerate() {
        let log = folder.join(format!("log.{life}"));
        let data_dir = run.tracing.root.join("data");
        let process = Process::start(engine, &data_dir, &ports, &log, Some(&run.tracing)).await?;
        if life == 0 {
            run.history.served = run.position()?;
        }
        for _ in 0..ROUNDS {
            run.round(&process).await?;
        }
        match end {
            End::Kill => process.kill(Some(&run.tracing))?,
            End::Terminate => process.terminate().await?,
        }
        let trace = Trace::read(&run.tracing.file, &run.tracing.root)?;
        let disk = Disk::after(&trace, trace.events.len(), |_| false)?;
        image::compare(&disk, &run.tracing.root)
            .context("the trace does not lead to the files that are there")?;
    }
    run.history.finish()?;
    for hash in &run.history.hashes {
        let model = Model::at(&run.history, hash.revision).hash(hash.compacted);
        ensure!(
            model == hash.hash,
            "the model has hash {model}, the member gave {hash:?}"
        );
    }
    std::fs::remove_dir_all(&run.tracing.root)?;
    run.history.save(&folder.join("history.json"))
}

struct Run {
    random: StdRng,
    history: History,
    values: Arc<AtomicU64>,
    volume: Volume,
    tracing: Tracing,
}

impl Run {
    fn position(&self) -> Result<u64> {
        Ok(std::fs::metadata(&self.tracing.file)?.len())
    }

    /// Concurrent writes, then a hash, then perhaps a compaction.
    async fn round(&mut self, process: &Process) -> Result<()> {
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            let client = Client {
                random: StdRng::seed_from_u64(self.random.random()),
                kv: process.kv().await?,
                values: Arc::clone(&self.values),
                volume: self.volume,
                trace: self.tracing.file.clone(),
            };
            clients.push(tokio::spawn(client.run()));
        }
        for client in clients {
            self.history.writes.extend(client.await??);
        }
        let hash = process.hash(0).await?;
        self.history.hashes.push(Hash {
            revision: hash.hash_revision,
            compacted: hash.compact_revision,
            hash: hash.hash,
        });
        let choice = self.random.random_range(0..4);
        if choice > 0 {
            let last = self
                .history
                .compactions
                .last()
                .map_or(1, |last| last.revision);
            let revision = self.random.random_range(last + 1..=hash.hash_revision);
            let asked = self.position()?;
            // A physical compaction also flushes the engine.
            let request = CompactionRequest {
                revision,
                physical: choice > 1,
            };
            process.kv().await?.compact(request).await?;
            let told = self.position()?;
            self.history.compactions.push(Compaction {
                revision,
                asked,
                told,
            });
        }
        Ok(())
    }
}

struct Client {
    random: StdRng,
    kv: KvClient<Channel>,
    values: Arc<AtomicU64>,
    volume: Volume,
    trace: std::path::PathBuf,
}

impl Client {
    async fn run(mut self) -> Result<Vec<Write>> {
        let mut writes = Vec::new();
        for _ in 0..CLIENT_WRITES {
            let changes = self.choose();
            let asked = std::fs::metadata(&self.trace)?.len();
            if let Some((revision, term)) = self.write(&changes).await? {
                let told = std::fs::metadata(&self.trace)?.len();
                writes.push(Write {
                    revision,
                    changes,
                    asked,
                    told,
                    term,
                });
            }
        }
        Ok(writes)
    }

    /// Key 0 is never deleted: a compaction that keeps nothing has another hash.
    fn choose(&mut self) -> Vec<Change> {
        if self.volume == Volume::Many {
            let from = self.random.random_range(0..MANY_KEYS - MANY_PUTS);
            return (from..from + MANY_PUTS)
                .map(|key| self.put(key..key + 1))
                .collect();
        }
        match self.random.random_range(0..10) {
            0..6 => vec![self.put(0..KEYS)],
            6 => {
                let from = self.random.random_range(1..KEYS);
                vec![Change::Delete {
                    from,
                    to: from + self.random.random_range(1..4),
                }]
            }
            _ => {
                let third = KEYS / 3;
                let from = self.random.random_range(third..2 * third - 2);
                vec![
                    self.put(0..third),
                    Change::Delete { from, to: from + 2 },
                    self.put(2 * third..KEYS),
                ]
            }
        }
    }

    fn put(&mut self, keys: std::ops::Range<u32>) -> Change {
        let id = self.values.fetch_add(1, Ordering::Relaxed);
        let length = match (self.volume, self.random.random_range(0..20)) {
            (_, 0..8) => self.random.random_range(0..200),
            (Volume::Many, _) => self.random.random_range(0..60),
            (Volume::Small, 8..19) => self.random.random_range(200..6000),
            (Volume::Small, _) => self.random.random_range(6000..80_000),
            (Volume::Large, _) => self.random.random_range(50_000..250_000),
        };
        Change::Put {
            key: self.random.random_range(keys),
            id,
            length,
        }
    }

    /// Returns the revision that the write took, if it changed anything, and the term.
    async fn write(&mut self, changes: &[Change]) -> Result<Option<(i64, u64)>> {
        if let [Change::Put { key, id, length }] = changes {
            let response = self.kv.put(put(*key, *id, *length)).await?.into_inner();
            let header = response.header.context("a header")?;
            return Ok(Some((header.revision, header.raft_term)));
        }
        if let [Change::Delete { from, to }] = changes {
            let response = self.kv.delete_range(delete(*from, *to)).await?.into_inner();
            let header = response.header.context("a header")?;
            return Ok((response.deleted > 0).then_some((header.revision, header.raft_term)));
        }
        let requests = changes.iter().map(|change| match change {
            Change::Put { key, id, length } => Request::RequestPut(put(*key, *id, *length)),
            Change::Delete { from, to } => Request::RequestDeleteRange(delete(*from, *to)),
        });
        let success = requests
            .map(|request| RequestOp {
                request: Some(request),
            })
            .collect();
        let response = self
            .kv
            .txn(TxnRequest {
                success,
                ..TxnRequest::default()
            })
            .await?;
        let response = response.into_inner();
        let is_put = |change: &&Change| matches!(change, Change::Put { .. });
        let expected = changes.iter().filter(is_put).count();
        let puts = response.responses.iter();
        let puts = puts.filter(|answer| matches!(answer.response, Some(Response::ResponsePut(_))));
        ensure!(
            puts.count() == expected,
            "a txn was not done as a whole: {response:?}"
        );
        let header = response.header.context("a header")?;
        Ok(Some((header.revision, header.raft_term)))
    }
}

fn put(key: u32, id: u64, length: usize) -> PutRequest {
    let (key, value) = (key_name(key), value_of(id, length));
    PutRequest {
        key,
        value,
        ..PutRequest::default()
    }
}

fn delete(from: u32, to: u32) -> DeleteRangeRequest {
    let (key, range_end): (Bytes, Bytes) = (key_name(from), key_name(to));
    DeleteRangeRequest {
        key,
        range_end,
        ..DeleteRangeRequest::default()
    }
}

/// What [`run`] left in `folder`.
///
/// Errors: when it cannot be read.
pub fn load(folder: &Path) -> Result<(Trace, History)> {
    let root = folder.join("disk");
    Ok((
        Trace::read(&folder.join("trace"), &root)?,
        History::load(&folder.join("history.json"))?,
    ))
}
