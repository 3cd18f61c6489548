//! Ranges of keys, asked which of them hold a key.
//!
//! A treap in order of (start, end), each node knowing the furthest end below it: a question visits
//! the path to the key and what matches. Depth stays logarithmic because each node's rank is a
//! hash of a counter, whatever the order of insertions.

use bytes::Bytes;

use super::watcher::End;

type Link<T> = Option<Box<Node<T>>>;

#[derive(Debug)]
struct Node<T> {
    start: Bytes,
    end: End,
    value: T,
    rank: u64,
    /// The furthest end in this subtree.
    furthest: End,
    left: Link<T>,
    right: Link<T>,
}

impl<T> Node<T> {
    fn refresh(&mut self) {
        let mut furthest = &self.end;
        for child in [&self.left, &self.right].into_iter().flatten() {
            furthest = furthest.max(&child.furthest);
        }
        self.furthest = furthest.clone();
    }

    fn is_before(&self, start: &Bytes, end: &End) -> bool {
        (&self.start, &self.end) < (start, end)
    }
}

/// A map from ranges to values.
#[derive(Debug)]
pub(crate) struct Intervals<T> {
    root: Link<T>,
    inserted: u64,
}

impl<T> Default for Intervals<T> {
    fn default() -> Self {
        Intervals {
            root: None,
            inserted: 0,
        }
    }
}

impl<T> Intervals<T> {
    /// The value of exactly this range.
    pub(crate) fn get_mut(&mut self, start: &Bytes, end: &End) -> Option<&mut T> {
        let mut link = &mut self.root;
        while let Some(node) = link {
            if (&node.start, &node.end) == (start, end) {
                return Some(&mut node.value);
            }
            link = if node.is_before(start, end) {
                &mut node.right
            } else {
                &mut node.left
            };
        }
        None
    }

    /// Adds a range that is not there yet.
    pub(crate) fn insert(&mut self, start: Bytes, end: End, value: T) {
        self.inserted += 1;
        let (left, right) = split(self.root.take(), &start, &end);
        let node = Box::new(Node {
            start,
            furthest: end.clone(),
            end,
            value,
            rank: scatter(self.inserted),
            left: None,
            right: None,
        });
        self.root = merge(merge(left, Some(node)), right);
    }

    /// Takes exactly this range out.
    pub(crate) fn remove(&mut self, start: &Bytes, end: &End) -> Option<T> {
        remove(&mut self.root, start, end)
    }

    /// Calls `each` with the value of every range that holds `key`, in order of the ranges.
    pub(crate) fn each_holding(&self, key: &[u8], each: &mut impl FnMut(&T)) {
        visit(&self.root, key, each);
    }
}

/// Spreads a counter over all 64 bits: the finalizer of splitmix64.
fn scatter(counter: u64) -> u64 {
    let mut z = counter.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What is before (`start`, `end`), and the rest.
fn split<T>(link: Link<T>, start: &Bytes, end: &End) -> (Link<T>, Link<T>) {
    let Some(mut node) = link else {
        return (None, None);
    };
    if node.is_before(start, end) {
        let (left, right) = split(node.right.take(), start, end);
        node.right = left;
        node.refresh();
        (Some(node), right)
    } else {
        let (left, right) = split(node.left.take(), start, end);
        node.left = right;
        node.refresh();
        (left, Some(node))
    }
}

/// Joins two trees, everything in the first before everything in the second.
fn merge<T>(left: Link<T>, right: Link<T>) -> Link<T> {
    match (left, right) {
        (None, link) | (link, None) => link,
        (Some(mut left), Some(right)) if left.rank > right.rank => {
            left.right = merge(left.right.take(), Some(right));
            left.refresh();
            Some(left)
        }
        (left, Some(mut right)) => {
            right.left = merge(left, right.left.take());
            right.refresh();
            Some(right)
        }
    }
}

fn remove<T>(link: &mut Link<T>, start: &Bytes, end: &End) -> Option<T> {
    let node = link.as_mut()?;
    if (&node.start, &node.end) == (start, end) {
        let mut node = link.take()?;
        *link = merge(node.left.take(), node.right.take());
        return Some(node.value);
    }
    let child = if node.is_before(start, end) {
        &mut node.right
    } else {
        &mut node.left
    };
    let removed = remove(child, start, end);
    node.refresh();
    removed
}

fn visit<T>(link: &Link<T>, key: &[u8], each: &mut impl FnMut(&T)) {
    let Some(node) = link else { return };
    if !reaches(&node.furthest, key) {
        return;
    }
    visit(&node.left, key, each);
    if node.start[..] <= *key {
        if reaches(&node.end, key) {
            each(&node.value);
        }
        visit(&node.right, key, each);
    }
}

fn reaches(end: &End, key: &[u8]) -> bool {
    match end {
        End::Unbounded => true,
        End::Before(end) => *key < end[..],
    }
}
