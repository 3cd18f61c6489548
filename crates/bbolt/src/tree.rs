//! A tree of pages built from entries that come in ascending order.
//!
//! Each level holds back the page before its newest one: a page that would end with one child could
//! not be changed by bbolt later, so the last two of a level are evened out when the tree ends.

use std::io::Write;
use std::mem;

use crate::error::{Error, Result};
use crate::format::{
    BRANCH, BRANCH_ELEMENT, KEY_BYTES_MAX, LEAF, LEAF_ELEMENT, PAGE_BYTES, PAGE_HEADER, PageHeader,
    VALUE_BYTES_MAX,
};

/// Children that every branch page must have.
const BRANCH_CHILDREN_MIN: usize = 2;
/// A page's count is 16 bits.
const ENTRIES_MAX: usize = 0xFFF0;

/// Where pages go, one after the other.
pub(crate) struct Pages<W> {
    pub(crate) file: W,
    /// The number of the next page.
    pub(crate) next: u64,
}

impl<W: Write> Pages<W> {
    /// Writes a page; returns its number.
    fn write(&mut self, node: &Node) -> Result<u64> {
        let mut bytes = node.encode(self.next);
        let pages = bytes.len().div_ceil(PAGE_BYTES).max(1);
        bytes.resize(pages * PAGE_BYTES, 0);
        let overflow = u32::try_from(pages - 1).map_err(|_| Error::ValueLength(bytes.len()))?;
        bytes[12..PAGE_HEADER].copy_from_slice(&overflow.to_le_bytes());
        self.file.write_all(&bytes)?;
        let id = self.next;
        self.next += pages as u64;
        Ok(id)
    }
}

#[derive(Debug)]
struct Entry {
    key: Vec<u8>,
    /// A leaf's value; empty in a branch.
    value: Vec<u8>,
    flags: u32,
    /// A branch's child.
    child: u64,
}

/// A page in the making.
#[derive(Debug)]
pub(crate) struct Node {
    is_leaf: bool,
    entries: Vec<Entry>,
    bytes: usize,
}

impl Node {
    fn new(is_leaf: bool) -> Node {
        Node {
            is_leaf,
            entries: Vec::new(),
            bytes: PAGE_HEADER,
        }
    }

    fn cost(&self, entry: &Entry) -> usize {
        let element = match self.is_leaf {
            true => LEAF_ELEMENT,
            false => BRANCH_ELEMENT,
        };
        element + entry.key.len() + entry.value.len()
    }

    fn push(&mut self, entry: Entry) {
        self.bytes += self.cost(&entry);
        self.entries.push(entry);
    }

    fn pop(&mut self) -> Option<Entry> {
        let entry = self.entries.pop()?;
        self.bytes -= self.cost(&entry);
        Some(entry)
    }

    /// Whether `entry` has to go to the next page.
    fn is_full_for(&self, entry: &Entry) -> bool {
        let least = match self.is_leaf {
            true => 1,
            false => BRANCH_CHILDREN_MIN,
        };
        let fits = self.bytes + self.cost(entry) <= PAGE_BYTES;
        self.entries.len() >= ENTRIES_MAX || (!fits && self.entries.len() >= least)
    }

    /// Bytes of the page, without what fills it up.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The page as page `id`, not filled up.
    pub(crate) fn encode(&self, id: u64) -> Vec<u8> {
        let header = PageHeader {
            id,
            flags: if self.is_leaf { LEAF } else { BRANCH },
            count: self.entries.len() as u16, // at most ENTRIES_MAX
            overflow: 0,
        };
        let mut bytes = Vec::with_capacity(self.bytes);
        bytes.extend(header.encode());
        // Elements of both kinds have the same size.
        let mut data_at = PAGE_HEADER + LEAF_ELEMENT * self.entries.len();
        for entry in &self.entries {
            // A position counts from its element, and fits: keys and values are bounded.
            let position = ((data_at - bytes.len()) as u32).to_le_bytes();
            let key_length = (entry.key.len() as u32).to_le_bytes();
            if self.is_leaf {
                bytes.extend(entry.flags.to_le_bytes());
                bytes.extend(position);
                bytes.extend(key_length);
                bytes.extend((entry.value.len() as u32).to_le_bytes());
            } else {
                bytes.extend(position);
                bytes.extend(key_length);
                bytes.extend(entry.child.to_le_bytes());
            }
            data_at += entry.key.len() + entry.value.len();
        }
        for entry in &self.entries {
            bytes.extend_from_slice(&entry.key);
            bytes.extend_from_slice(&entry.value);
        }
        bytes
    }
}

/// A level of the tree: the page in the making, and the full one before it.
#[derive(Debug)]
struct Level {
    held: Option<Node>,
    current: Node,
}

/// A tree in the making.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    /// From the leaves up.
    levels: Vec<Level>,
    last_key: Option<Vec<u8>>,
}

/// What a finished tree is.
pub(crate) enum Finished {
    /// One leaf, not written.
    Leaf(Node),
    /// More than that: the number of its root page.
    Root(u64),
}

impl Tree {
    /// Adds an entry to the leaves.
    ///
    /// Errors: [`Error::Order`], [`Error::KeyLength`], [`Error::ValueLength`], [`Error::Io`].
    pub(crate) fn push<W: Write>(
        &mut self,
        pages: &mut Pages<W>,
        key: &[u8],
        value: &[u8],
        flags: u32,
    ) -> Result<()> {
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Err(Error::KeyLength(key.len()));
        }
        if value.len() > VALUE_BYTES_MAX {
            return Err(Error::ValueLength(value.len()));
        }
        if self
            .last_key
            .as_ref()
            .is_some_and(|last| last.as_slice() >= key)
        {
            return Err(Error::Order);
        }
        self.last_key = Some(key.to_vec());
        let entry = Entry {
            key: key.to_vec(),
            value: value.to_vec(),
            flags,
            child: 0,
        };
        self.add(pages, 0, entry)
    }

    fn add<W: Write>(&mut self, pages: &mut Pages<W>, depth: usize, entry: Entry) -> Result<()> {
        if depth == self.levels.len() {
            self.levels.push(Level {
                held: None,
                current: Node::new(depth == 0),
            });
        }
        let level = &mut self.levels[depth];
        let mut full = None;
        if level.current.is_full_for(&entry) {
            let node = mem::replace(&mut level.current, Node::new(depth == 0));
            full = level.held.replace(node);
        }
        level.current.push(entry);
        match full {
            Some(node) => self.write(pages, depth, &node),
            None => Ok(()),
        }
    }

    /// Writes a page and names it in the level above.
    fn write<W: Write>(&mut self, pages: &mut Pages<W>, depth: usize, node: &Node) -> Result<()> {
        let child = pages.write(node)?;
        let key = node.entries.first().map(|entry| entry.key.clone());
        let entry = Entry {
            key: key.unwrap_or_default(),
            value: Vec::new(),
            flags: 0,
            child,
        };
        self.add(pages, depth + 1, entry)
    }

    /// Writes what is left, unless all of it is one leaf.
    pub(crate) fn finish<W: Write>(mut self, pages: &mut Pages<W>) -> Result<Finished> {
        if self.levels.is_empty() {
            return Ok(Finished::Leaf(Node::new(true)));
        }
        let mut depth = 0;
        loop {
            let level = &mut self.levels[depth];
            let mut current = mem::replace(&mut level.current, Node::new(depth == 0));
            let mut held = level.held.take();
            let is_top = depth + 1 == self.levels.len();
            if held.is_none() && is_top {
                return match depth {
                    0 => Ok(Finished::Leaf(current)),
                    _ => Ok(Finished::Root(pages.write(&current)?)),
                };
            }
            if depth > 0
                && current.entries.len() < BRANCH_CHILDREN_MIN
                && let Some(before) = held.take()
            {
                let (first, second) = even_out(before, current);
                held = first;
                current = second;
            }
            if let Some(before) = held {
                self.write(pages, depth, &before)?;
            }
            self.write(pages, depth, &current)?;
            depth += 1;
        }
    }

    /// Writes `leaf` as a page; returns its number.
    pub(crate) fn write_leaf<W: Write>(pages: &mut Pages<W>, leaf: &Node) -> Result<u64> {
        pages.write(leaf)
    }
}

/// Two branch pages of which the second has one child: both get enough, or become one.
fn even_out(mut before: Node, mut last: Node) -> (Option<Node>, Node) {
    if before.entries.len() > BRANCH_CHILDREN_MIN
        && let Some(moved) = before.pop()
    {
        let rest = mem::replace(&mut last, Node::new(false));
        last.push(moved);
        rest.entries.into_iter().for_each(|entry| last.push(entry));
        return (Some(before), last);
    }
    last.entries
        .into_iter()
        .for_each(|entry| before.push(entry));
    (None, before)
}
