//! A model of the disk: what is durable, and what was changed since.
//!
//! - A sync of a file makes what was changed in that file before the sync *began* durable when it
//!   ends; nothing else does.
//! - A sync of a directory does the same for its names. A new file whose directory was not synced
//!   may be gone, even when the file itself was synced.
//! - Of what is not durable, each block of 4 KiB of a file may hold any state that it went through
//!   since; the sizes set and the changes of one directory's names survive as far as some point,
//!   in order.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::trace::{Change, Event, Trace};

pub const BLOCK: u64 = 4096;

/// The content of a file. Blocks that are not there are zeros.
#[derive(Clone, Default)]
pub struct Content {
    pub size: u64,
    pub blocks: HashMap<u64, Box<[u8]>>,
}

#[derive(Clone, Debug)]
pub enum FileChange {
    Write {
        offset: u64,
        data: Option<Range<usize>>,
        length: u64,
    },
    Truncate(u64),
    Extend(u64),
}

#[derive(Clone, Debug)]
pub enum NameChange {
    Add(String, usize),
    Remove(String),
    Rename(String, String),
}

/// Something with what is durable of it and what is not, in order; each with its event's number.
pub struct Versions<Durable, Change> {
    pub durable: Durable,
    pub pending: Vec<(usize, Change)>,
}

pub type Names = BTreeMap<String, usize>;

pub enum Node {
    File(Versions<Content, FileChange>),
    Dir(Versions<Names, NameChange>),
}

/// Which syncs the disk lies about: it says that it has synced and has not.
pub type Lies = fn(path: &str) -> bool;

pub struct Disk<'a> {
    trace: &'a Trace,
    lies: Lies,
    /// Node 0 is the traced folder itself, which is durable.
    pub nodes: Vec<Node>,
    /// What processes see: the size of each file, the names of each directory.
    sizes: Vec<u64>,
    names: Vec<Names>,
    /// Where each was last.
    paths: Vec<String>,
    by_inode: HashMap<u64, usize>,
    /// Syncs that have begun: their number, the node, the event.
    syncs: HashMap<u64, (usize, usize)>,
}

impl Content {
    pub fn apply(&mut self, change: &FileChange, bytes: &[u8]) {
        match change {
            FileChange::Write {
                offset,
                data,
                length,
            } => {
                for (block, start, end) in blocks(*offset, *length) {
                    self.write_block(block, start, end, *offset, data.as_ref(), bytes);
                }
                self.size = self.size.max(offset + length);
            }
            FileChange::Truncate(size) => self.cut(*size),
            FileChange::Extend(size) => self.size = self.size.max(*size),
        }
    }

    /// Writes the part of a write that lies in one block, without changing the size.
    pub fn write_block(
        &mut self,
        block: u64,
        start: u64,
        end: u64,
        offset: u64,
        data: Option<&Range<usize>>,
        bytes: &[u8],
    ) {
        if data.is_none() && end - start == BLOCK {
            self.blocks.remove(&block);
            return;
        }
        let target = self
            .blocks
            .entry(block)
            .or_insert_with(|| vec![0; 4096].into());
        let within = (start - block * BLOCK) as usize..(end - block * BLOCK) as usize;
        match data {
            None => target[within].fill(0),
            Some(data) => {
                let from = data.start + (start - offset) as usize;
                target[within].copy_from_slice(&bytes[from..from + (end - start) as usize]);
            }
        }
    }

    pub fn cut(&mut self, size: u64) {
        if size < self.size {
            self.blocks.retain(|block, _| block * BLOCK < size);
            if let Some(last) = self.blocks.get_mut(&(size / BLOCK)) {
                last[(size % BLOCK) as usize..].fill(0);
            }
        }
        self.size = size;
    }
}

/// The blocks of a write: number, and the part of it as positions in the file.
pub fn blocks(offset: u64, length: u64) -> impl Iterator<Item = (u64, u64, u64)> {
    let end = offset + length;
    (offset / BLOCK..end.div_ceil(BLOCK)).map(move |block| {
        (
            block,
            offset.max(block * BLOCK),
            end.min((block + 1) * BLOCK),
        )
    })
}

pub fn apply_name(names: &mut Names, change: &NameChange) {
    match change {
        NameChange::Add(name, node) => {
            names.insert(name.clone(), *node);
        }
        NameChange::Remove(name) => {
            names.remove(name);
        }
        NameChange::Rename(from, to) => {
            if let Some(node) = names.remove(from) {
                names.insert(to.clone(), node);
            }
        }
    }
}

impl<'a> Disk<'a> {
    /// The disk after the first `count` events.
    ///
    /// Errors: when the trace does something that the model cannot follow.
    pub fn after(trace: &'a Trace, count: usize, lies: Lies) -> Result<Disk<'a>> {
        let root = Node::Dir(Versions {
            durable: Names::new(),
            pending: Vec::new(),
        });
        let mut disk = Disk {
            trace,
            lies,
            nodes: vec![root],
            sizes: vec![0],
            names: vec![Names::new()],
            paths: vec![String::new()],
            by_inode: HashMap::new(),
            syncs: HashMap::new(),
        };
        for (number, event) in trace.events[..count].iter().enumerate() {
            disk.follow(number, event)
                .with_context(|| format!("event {number}: {event:?}"))?;
        }
        Ok(disk)
    }

    /// The bytes of the trace, into which writes point.
    pub fn bytes(&self) -> &'a [u8] {
        &self.trace.bytes
    }

    fn follow(&mut self, number: usize, event: &Event) -> Result<()> {
        match &event.change {
            Change::Start => self.syncs.clear(),
            Change::Create(path) => {
                let content = Versions {
                    durable: Content::default(),
                    pending: Vec::new(),
                };
                self.add(number, path, event.inode, Node::File(content))?;
            }
            Change::MakeDir(path) => {
                let names = Versions {
                    durable: Names::new(),
                    pending: Vec::new(),
                };
                self.add(number, path, event.inode, Node::Dir(names))?;
            }
            Change::Write {
                offset,
                data,
                length,
            } => {
                let (offset, length, data) = (*offset, *length, data.clone());
                self.change(
                    number,
                    event,
                    FileChange::Write {
                        offset,
                        data,
                        length,
                    },
                )?;
            }
            Change::Truncate(size) => {
                let grows = *size > event.size;
                let kind = if grows {
                    FileChange::Extend
                } else {
                    FileChange::Truncate
                };
                self.change(number, event, kind(*size))?;
            }
            Change::Rename(from, to) => {
                let path = to.display().to_string();
                let (dir, from) = self.split(from)?;
                let (target, to) = self.split(to)?;
                ensure!(dir == target, "a rename from one directory to another");
                let node = *self.names[dir].get(&from).context("no such file")?;
                self.paths[node] = path;
                self.rename(number, dir, NameChange::Rename(from, to))?;
            }
            Change::Unlink(path) | Change::RemoveDir(path) => {
                let (dir, name) = self.split(path)?;
                self.rename(number, dir, NameChange::Remove(name))?;
            }
            Change::Link(from, to) => {
                let (dir, name) = self.split(from)?;
                let node = *self.names[dir].get(&name).context("no such file")?;
                let (dir, name) = self.split(to)?;
                self.rename(number, dir, NameChange::Add(name, node))?;
            }
            Change::SyncBegin(sync) => {
                // The folder itself is not in the trace; its inode comes by its first sync.
                let node = *self.by_inode.entry(event.inode).or_insert(0);
                self.notice_size(number, node, event.size);
                self.syncs.insert(*sync, (node, number));
            }
            Change::SyncEnd(sync) => {
                let (node, begun) = self.syncs.remove(sync).context("a sync that never began")?;
                if !(self.lies)(&self.paths[node]) {
                    self.sync(node, begun);
                }
            }
        }
        Ok(())
    }

    fn split(&self, path: &Path) -> Result<(usize, String)> {
        let mut names: Vec<&str> = path.iter().filter_map(|name| name.to_str()).collect();
        let last = names.pop().context("no name")?;
        let mut dir = 0;
        for name in names {
            dir = *self.names[dir]
                .get(name)
                .with_context(|| format!("no folder {name}"))?;
        }
        Ok((dir, last.to_owned()))
    }

    fn add(&mut self, number: usize, path: &Path, inode: u64, node: Node) -> Result<()> {
        let (dir, name) = self.split(path)?;
        let new = self.nodes.len();
        self.nodes.push(node);
        self.sizes.push(0);
        self.names.push(Names::new());
        self.paths.push(path.display().to_string());
        self.by_inode.insert(inode, new);
        self.rename(number, dir, NameChange::Add(name, new))
    }

    fn rename(&mut self, number: usize, dir: usize, change: NameChange) -> Result<()> {
        apply_name(&mut self.names[dir], &change);
        match &mut self.nodes[dir] {
            Node::Dir(names) => names.pending.push((number, change)),
            Node::File(_) => bail!("a name in a file"),
        }
        Ok(())
    }

    fn change(&mut self, number: usize, event: &Event, change: FileChange) -> Result<()> {
        let node = *self.by_inode.get(&event.inode).context("no such inode")?;
        self.notice_size(number, node, event.size);
        match &change {
            FileChange::Write { offset, length, .. } => {
                self.sizes[node] = self.sizes[node].max(offset + length);
            }
            FileChange::Truncate(size) | FileChange::Extend(size) => self.sizes[node] = *size,
        }
        match &mut self.nodes[node] {
            Node::File(file) => file.pending.push((number, change)),
            Node::Dir(_) => bail!("bytes in a directory"),
        }
        Ok(())
    }

    /// A file that is longer than expected was extended by a call that the trace does not have.
    fn notice_size(&mut self, number: usize, node: usize, size: u64) {
        if let Node::File(file) = &mut self.nodes[node]
            && size > self.sizes[node]
        {
            self.sizes[node] = size;
            file.pending.push((number, FileChange::Extend(size)));
        }
    }

    /// Makes what was done to `node` up to the event `begun` durable.
    fn sync(&mut self, node: usize, begun: usize) {
        match &mut self.nodes[node] {
            Node::File(file) => {
                let split = file.pending.partition_point(|(number, _)| *number <= begun);
                for (_, change) in file.pending.drain(..split) {
                    file.durable.apply(&change, &self.trace.bytes);
                }
            }
            Node::Dir(names) => {
                let split = names
                    .pending
                    .partition_point(|(number, _)| *number <= begun);
                for (_, change) in names.pending.drain(..split) {
                    apply_name(&mut names.durable, &change);
                }
            }
        }
    }
}
