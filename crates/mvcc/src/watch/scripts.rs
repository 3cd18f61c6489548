//! Golden scripts over groups of watchers and the hub. Update with `UPDATE_GOLDENFILES=1`, then
//! read the diff.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::group::Group;
use super::outbox::Outbox;
use super::watcher::{End, Keys, Watcher};
use super::{Delivery, Event, WatchOptions, WatchStream};
use crate::{EngineKind, Options, Position, Store, Writer};

const DEADLINE: Duration = Duration::from_secs(30);

fn bytes(text: Option<&str>) -> Bytes {
    match text {
        // A zero byte, which a script cannot write well.
        Some("<zero>") => Bytes::from_static(b"\0"),
        text => Bytes::copy_from_slice(text.unwrap_or_default().as_bytes()),
    }
}

/// One group, and the watchers that were ever in it.
#[derive(Default)]
struct GroupRunner {
    group: Group,
    watchers: BTreeMap<u64, Arc<Watcher>>,
}

impl goldenscript::Runner for GroupRunner {
    fn run(&mut self, command: &goldenscript::Command) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        let end = args.lookup("end").map(|arg| arg.value.clone());
        let first = args.next_pos().map(|arg| arg.value.clone());
        let second = args.next_pos().map(|arg| arg.value.clone());
        args.reject_rest()?;
        let first = first.ok_or("an argument is missing")?;
        let mut output = String::new();
        match command.name.as_str() {
            "insert" => {
                let serial: u64 = first.parse()?;
                let key = bytes(second.as_deref());
                let keys = match end.as_deref() {
                    None => Keys::One(key),
                    Some("<zero>") => Keys::Range(key, End::Unbounded),
                    end => Keys::Range(key, End::Before(bytes(end))),
                };
                let outbox = Arc::new(Outbox::default());
                let id = i64::try_from(serial)?;
                let watcher = Watcher::new((serial, id), keys, (false, false), (0, 1), outbox);
                let watcher = Arc::new(watcher);
                self.watchers.insert(serial, Arc::clone(&watcher));
                self.group.insert(watcher);
            }
            "remove" => {
                let watcher = self
                    .watchers
                    .get(&first.parse()?)
                    .ok_or("no such watcher")?;
                self.group.remove(watcher);
            }
            "who" => {
                let mut found = Vec::new();
                let each = |watcher: &Arc<Watcher>| found.push(watcher.serial);
                self.group.each_watching(&bytes(Some(&first)), each);
                writeln!(output, "{found:?} of {}", self.group.len())?;
            }
            name => return Err(format!("unknown command {name}").into()),
        }
        Ok(output)
    }
}

/// A store with one client.
struct HubRunner {
    store: Store,
    writer: Writer,
    stream: WatchStream,
    units: u64,
    _dir: tempfile::TempDir,
}

impl HubRunner {
    fn new() -> HubRunner {
        let dir = tempfile::tempdir().expect("a directory");
        let options = Options {
            engine: EngineKind::Memory,
            flush_interval: Duration::from_millis(1),
            compaction_sleep: Duration::ZERO,
            ..Options::default()
        };
        let (store, writer) = crate::open(&dir.path().join("store"), options).expect("opens");
        HubRunner {
            stream: store.watch_stream(),
            store,
            writer,
            units: 0,
            _dir: dir,
        }
    }

    /// The next delivery; `None` when there is none within the deadline.
    fn next(&self) -> Option<Delivery> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let next = tokio::time::timeout(DEADLINE, self.stream.next());
            next.await.ok().flatten()
        })
    }

    /// `KEY=VALUE` puts, `-KEY` deletes.
    fn change(&mut self, steps: &[goldenscript::Argument]) -> Result<i64, Box<dyn Error>> {
        let mut txn = self.writer.txn();
        for step in steps {
            match (&step.key, step.value.strip_prefix('-')) {
                (Some(key), _) => {
                    txn.put(bytes(Some(key)), bytes(Some(&step.value)), 0)?;
                }
                (None, Some(key)) => drop(txn.delete_range(key.as_bytes(), b"", false)?),
                (None, None) => return Err(format!("neither put nor deletion: {step:?}").into()),
            }
        }
        Ok(txn.end())
    }

    fn compact(&mut self, revision: i64) -> Result<(), Box<dyn Error>> {
        self.writer.compact(revision)?;
        self.units += 1;
        self.writer.commit(Position {
            index: self.units,
            bytes: Bytes::new(),
        });
        self.store.wait_compacted(revision);
        Ok(())
    }
}

fn show(event: &Event) -> String {
    let key = String::from_utf8_lossy(&event.key()).into_owned();
    let mark = if event.is_delete() { "-" } else { "+" };
    format!("{}{mark}{key}", event.mod_revision())
}

fn tell(delivery: Option<Delivery>) -> String {
    match delivery {
        None => "nothing".to_owned(),
        Some(Delivery::Events {
            id,
            revision,
            events,
        }) => {
            let events: Vec<String> = events.iter().map(|event| show(event)).collect();
            format!("{id}: {} (revision {revision})", events.join(" "))
        }
        Some(Delivery::Compacted {
            id,
            compact_revision,
        }) => format!("{id}: over, compacted at {compact_revision}"),
        Some(Delivery::Progress { id, revision }) => format!("progress of {id:?}: {revision}"),
    }
}

impl goldenscript::Runner for HubRunner {
    fn run(&mut self, command: &goldenscript::Command) -> Result<String, Box<dyn Error>> {
        if command.name == "change" {
            return Ok(format!("revision {}\n", self.change(&command.args)?));
        }
        let mut args = command.consume_args();
        let id: i64 = args.lookup_parse("id")?.unwrap_or(0);
        let start_revision: i64 = args.lookup_parse("rev")?.unwrap_or(0);
        let end = args.lookup("end").map(|arg| arg.value.clone());
        let mut words = Vec::new();
        while let Some(arg) = args.next_pos() {
            words.push(arg.value.clone());
        }
        args.reject_rest()?;
        let first = words.first().map(String::as_str);
        let mut output = String::new();
        match command.name.as_str() {
            "watch" => {
                let made = self.stream.watch(WatchOptions {
                    key: bytes(first),
                    range_end: bytes(end.as_deref()),
                    start_revision,
                    id,
                    no_put: words.iter().any(|word| word == "noput"),
                    no_delete: words.iter().any(|word| word == "nodelete"),
                });
                match made {
                    Ok(made) => writeln!(output, "{} from {}", made.id, made.revision)?,
                    Err(error) => writeln!(output, "{error}")?,
                }
            }
            "cancel" => writeln!(output, "{}", self.stream.cancel(id))?,
            "compact" => self.compact(first.ok_or("which revision?")?.parse()?)?,
            "progress" => match first {
                Some(id) => self.stream.request_progress(id.parse()?),
                None => self.stream.request_progress_all(),
            },
            "next" => {
                let times: usize = first.unwrap_or("1").parse()?;
                let mut told: Vec<_> = (0..times).map(|_| self.next()).collect();
                // Within a revision the order of the watchers is no one's business.
                let place = |delivery: &Option<Delivery>| match delivery {
                    Some(Delivery::Events { id, revision, .. }) => (*revision, Some(*id)),
                    _ => (i64::MAX, None),
                };
                told.sort_by_key(place);
                for delivery in told {
                    writeln!(output, "{}", tell(delivery))?;
                }
            }
            "stats" => {
                let stats = self.store.watch_stats();
                writeln!(
                    output,
                    "watchers={} pending={}",
                    stats.watchers, stats.pending
                )?;
            }
            name => return Err(format!("unknown command {name}").into()),
        }
        Ok(output)
    }
}

fn scripts(folder: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/testscripts")
        .join(folder);
    let entries = std::fs::read_dir(dir).expect("the scripts are there");
    entries
        .map(|entry| entry.expect("readable").path())
        .collect()
}

#[test]
fn group_scripts() {
    for path in scripts("watch_group") {
        goldenscript::run(&mut GroupRunner::default(), path).expect("the script runs");
    }
}

#[test]
fn hub_scripts() {
    for path in scripts("watch_hub") {
        goldenscript::run(&mut HubRunner::new(), path).expect("the script runs");
    }
}
