//! Golden scripts over the log: `testscripts/*`. To update them after a change, run
//! `UPDATE_GOLDENFILES=1 cargo test -p kvd-raft scripts` and read the diff.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;

use bytes::Bytes;
use goldenscript::{ArgumentConsumer, Command};

use super::record::{FRAME_HEADER_BYTES, FrameHeader};
use super::segment::{Identity, SEGMENT_HEADER_BYTES, SegmentHeader, segment_number};
use super::*;
use crate::disk::SimDisk;

const DIR: &str = "/wal";

type Outcome = std::result::Result<String, Box<dyn Error>>;

struct Runner {
    disk: SimDisk,
    wal: Option<Wal>,
}

macro_rules! scripts {
    ($($name:ident)*) => {
        mod scripts {
            $(
                #[test]
                fn $name() {
                    let mut runner = super::Runner { disk: super::SimDisk::new(), wal: None };
                    let path = concat!("src/wal/testscripts/", stringify!($name));
                    goldenscript::run(&mut runner, path).expect("the script's output");
                }
            )*
        }
    };
}

scripts! { append segments torn_tail damage purge refusals commit }

impl goldenscript::Runner for Runner {
    fn run(&mut self, command: &Command) -> Outcome {
        let mut args = command.consume_args();
        let output = match command.name.as_str() {
            "open" => self.open(&mut args)?,
            "append" => self.append(&mut args)?,
            "vote" => {
                let term = args.lookup_parse("term")?.unwrap_or(0);
                let node = args.lookup_parse("node")?.unwrap_or(0);
                let committed = args.lookup_parse("won")?.unwrap_or(false);
                let (done, outcome) = mpsc::channel();
                let done = Box::new(move |result| done.send(result).expect("a listener"));
                self.wal()?.save_vote(
                    Vote {
                        term,
                        node,
                        committed,
                    },
                    done,
                )?;
                outcome.recv()??;
                String::new()
            }
            "commit" => {
                let id = id(&args.next_pos().ok_or("which id")?.value)?;
                self.wal()?.save_committed(id);
                String::new()
            }
            "truncate" => {
                let id = id(&args.next_pos().ok_or("which id")?.value)?;
                self.wal()?.truncate_after(id)?;
                self.settle()?
            }
            "purge" => {
                let id = id(&args.next_pos().ok_or("which id")?.value)?;
                self.wal()?.purge(id.ok_or("an id")?)?;
                self.settle()?
            }
            "read" => self.read(&mut args)?,
            "state" => self.state()?,
            "close" => {
                self.wal.take().ok_or("not open")?.close()?;
                String::new()
            }
            // What the files hold at this moment, as after a kill.
            "kill" => {
                let files = self.disk.files();
                self.wal = None;
                self.disk = SimDisk::with_files(files);
                String::new()
            }
            "dump" => self.dump()?,
            "flip" => self.edit(&mut args, |content, at| content[at] ^= 1)?,
            "tear" => self.edit(&mut args, |content, at| content[at..].fill(0))?,
            "remove" => {
                let mut files = self.disk.files();
                let number: u64 = args.next_pos().ok_or("which segment")?.parse()?;
                files.remove(&path(number)).ok_or("no such segment")?;
                self.disk = SimDisk::with_files(files);
                String::new()
            }
            other => return Err(format!("unknown command {other}").into()),
        };
        args.reject_rest()?;
        Ok(output)
    }
}

fn path(number: u64) -> PathBuf {
    Path::new(DIR).join(super::segment::segment_name(number))
}

/// `term.index`, or `none`.
fn id(text: &str) -> std::result::Result<Option<LogId>, Box<dyn Error>> {
    if text == "none" {
        return Ok(None);
    }
    let (term, index) = text.split_once('.').ok_or("not term.index")?;
    Ok(Some(LogId {
        term: term.parse()?,
        index: index.parse()?,
    }))
}

fn show(id: Option<LogId>) -> String {
    id.map_or("none".into(), |id| format!("{}.{}", id.term, id.index))
}

impl Runner {
    fn wal(&self) -> std::result::Result<&Wal, Box<dyn Error>> {
        self.wal.as_ref().ok_or_else(|| "not open".into())
    }

    fn open(&mut self, args: &mut ArgumentConsumer<'_>) -> Outcome {
        let cluster = args.lookup_parse("cluster")?.unwrap_or(1);
        let member = args.lookup_parse("member")?.unwrap_or(2);
        let mut options = Options::new(DIR, cluster, member);
        options.segment_bytes = args.lookup_parse("segment")?.unwrap_or(1024);
        options.cache_entries_max = args.lookup_parse("cache")?.unwrap_or(100);
        options.disk = Arc::new(self.disk.clone());
        self.wal = Some(Wal::open(options)?);
        self.state()
    }

    /// `append 1.5 1.6=text size=100`: one batch.
    fn append(&mut self, args: &mut ArgumentConsumer<'_>) -> Outcome {
        let size: usize = args.lookup_parse("size")?.unwrap_or(0);
        let mut entries = Vec::new();
        for arg in args.rest() {
            let (position, text) = match &arg.key {
                Some(key) => (key, arg.value.as_str()),
                None => (&arg.value, ""),
            };
            let mut data = text.as_bytes().to_vec();
            data.resize(data.len().max(size), b'.');
            let id = id(position)?.ok_or("an id")?;
            entries.push(Entry {
                id,
                kind: 0,
                data: data.into(),
            });
        }
        let (done, outcome) = mpsc::channel();
        let done = Box::new(move |result| done.send(result).expect("a listener"));
        self.wal()?.append(entries, done)?;
        outcome.recv()??;
        Ok(String::new())
    }

    /// Waits until what was queued is durable, so that the frames do not depend on timing.
    fn settle(&self) -> Outcome {
        let (done, outcome) = mpsc::channel();
        let done = Box::new(move |result| done.send(result).expect("a listener"));
        self.wal()?.append(Vec::new(), done)?;
        outcome.recv()??;
        Ok(String::new())
    }

    fn read(&mut self, args: &mut ArgumentConsumer<'_>) -> Outcome {
        let bytes = args.lookup_parse("bytes")?.unwrap_or(usize::MAX);
        let first = args.next_pos().ok_or("from where")?.parse()?;
        let end = args.next_pos().ok_or("to where")?.parse()?;
        let mut output = String::new();
        for entry in self.wal()?.read(first..end, bytes)? {
            let text = String::from_utf8_lossy(&entry.data).into_owned();
            let text = if text.len() > 20 {
                format!("{} bytes", text.len())
            } else {
                text
            };
            writeln!(output, "{} {text}", show(Some(entry.id)))?;
        }
        Ok(output)
    }

    fn state(&self) -> Outcome {
        let wal = self.wal()?;
        let (purged, last) = wal.bounds();
        let vote = wal.vote().map_or("none".into(), |vote| {
            let won = if vote.committed { " won" } else { "" };
            format!("term {} for {}{won}", vote.term, vote.node)
        });
        let (committed, purged, last) = (show(wal.committed()), show(purged), show(last));
        Ok(format!(
            "vote={vote} committed={committed} purged={purged} last={last}"
        ))
    }

    fn edit(&mut self, args: &mut ArgumentConsumer<'_>, edit: fn(&mut [u8], usize)) -> Outcome {
        let number = args.next_pos().ok_or("which segment")?.parse()?;
        let at = args.next_pos().ok_or("which byte")?.parse()?;
        let mut files: BTreeMap<PathBuf, Vec<u8>> = self.disk.files();
        let content = files.get_mut(&path(number)).ok_or("no such segment")?;
        edit(content, at);
        self.disk = SimDisk::with_files(files);
        Ok(String::new())
    }

    /// The frames of every segment, as long as they pass.
    fn dump(&self) -> Outcome {
        let mut output = String::new();
        for (path, content) in self.disk.files() {
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            let Some(number) = segment_number(name) else {
                continue;
            };
            let identity = |at: usize| u64::from_le_bytes(content[at..at + 8].try_into().unwrap());
            let ours = Identity {
                cluster_id: identity(16),
                member_id: identity(24),
            };
            let header = SegmentHeader::decode(&content, &path, ours)?;
            writeln!(output, "segment {number}, from frame {}", header.sequence)?;
            let mut at = SEGMENT_HEADER_BYTES as usize;
            while let Some(frame) = FrameHeader::decode(&content[at..], header.seed()) {
                let start = at + FRAME_HEADER_BYTES;
                let end = start + frame.length as usize;
                let payload = content.get(start..end).unwrap_or_default();
                if !frame.matches(payload, header.seed()) {
                    writeln!(output, "  {at}: frame {} does not pass", frame.sequence)?;
                    break;
                }
                write!(output, "  {at}: frame {}:", frame.sequence)?;
                let mut rest = Bytes::copy_from_slice(payload);
                while let Some(record) = Record::decode(&mut rest) {
                    write!(output, " {}", describe(&record))?;
                }
                writeln!(output)?;
                at = end;
            }
        }
        Ok(output)
    }
}

fn describe(record: &Record) -> String {
    match record {
        Record::Entry(entry) => format!("entry({} {}B)", show(Some(entry.id)), entry.data.len()),
        Record::Vote(vote) => format!("vote({} for {})", vote.term, vote.node),
        Record::Committed(id) => format!("committed({})", show(Some(*id))),
        Record::Truncate(id) => format!("truncate({})", show(*id)),
        Record::Purge(id) => format!("purge({})", show(Some(*id))),
    }
}
