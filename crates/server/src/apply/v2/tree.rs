//! Reading nodes, in a transaction or from the store.

use std::collections::BTreeMap;

use bytes::Bytes;
use kvd_api::pb::kvdcommandpb::{V2Error, V2Event, V2Node};
use kvd_mvcc::{Error, RangeOptions, Store};
use prost::Message;

use super::keys;
use crate::apply::range::{View, decode};

/// Why there is no answer: one for the caller, or the store cannot be read.
#[derive(Debug)]
pub enum Refusal {
    /// The same on every member.
    Refused(V2Error),
    /// The store's own.
    Store(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        Refusal::Store(error)
    }
}

/// The codes that an operation on the tree is refused with. Source: etcd 3.4 `v2error`.
pub(super) mod code {
    pub(in super::super) const KEY_NOT_FOUND: u32 = 100;
    pub(in super::super) const TEST_FAILED: u32 = 101;
    pub(in super::super) const NOT_FILE: u32 = 102;
    pub(in super::super) const NOT_DIR: u32 = 104;
    pub(in super::super) const NODE_EXIST: u32 = 105;
    pub(in super::super) const ROOT_READ_ONLY: u32 = 107;
    pub(in super::super) const DIR_NOT_EMPTY: u32 = 108;
}

pub(super) fn refused(code: u32, cause: impl Into<Bytes>) -> Refusal {
    let cause = cause.into();
    Refusal::Refused(V2Error { code, cause })
}

/// The node at a clean path, if there is one. The root always is.
pub(super) fn find(view: &(impl View + ?Sized), path: &Bytes) -> Result<Option<V2Node>, Error> {
    if path.is_empty() {
        let node = V2Node {
            dir: true,
            ..V2Node::default()
        };
        return Ok(Some(node));
    }
    let found = view.range(&keys::node_key(path), &[], &RangeOptions::default())?;
    found.kvs.first().map(stored).transpose()
}

fn stored(encoded: &Bytes) -> Result<V2Node, Error> {
    let pair = decode(encoded)?;
    let damaged = |problem: String| Error::Corrupt {
        place: "a stored node of the v2 tree".to_owned(),
        problem,
    };
    let mut node =
        V2Node::decode(pair.value.clone()).map_err(|error| damaged(error.to_string()))?;
    node.key =
        keys::node_path(&pair.key).ok_or_else(|| damaged("its key holds no path".to_owned()))?;
    Ok(node)
}

/// The node at a clean path.
///
/// Refused: 100 with the first path that is missing, 104 with the file that is in the way.
pub(super) fn look_up(view: &(impl View + ?Sized), path: &Bytes) -> Result<V2Node, Refusal> {
    if let Some(found) = find(view, path)? {
        return Ok(found);
    }
    for ancestor in ancestors(path) {
        match find(view, &ancestor)? {
            Some(found) if found.dir => {}
            Some(_) => return Err(refused(code::NOT_DIR, ancestor)),
            None => return Err(refused(code::KEY_NOT_FOUND, ancestor)),
        }
    }
    Err(refused(code::KEY_NOT_FOUND, path.clone()))
}

/// The directories that a clean path leads through, the root left out, from the top.
pub(super) fn ancestors(path: &Bytes) -> impl Iterator<Item = Bytes> {
    let slashes = path.iter().enumerate().skip(1);
    let ends = slashes.filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    ends.map(|end| path.slice(..end))
}

/// Whether there was a node at a clean path at a revision.
///
/// Errors: [`Error::Compacted`]; the store's.
pub fn existed(store: &Store, path: &Bytes, revision: i64) -> Result<bool, Error> {
    let options = RangeOptions {
        revision,
        keys_only: true,
        ..RangeOptions::default()
    };
    let found = store.range(&keys::node_key(path), &[], &options)?;
    Ok(!found.kvs.is_empty())
}

/// Whether a directory has anything in it, hidden nodes included.
pub(super) fn is_empty(view: &(impl View + ?Sized), directory: &[u8]) -> Result<bool, Error> {
    let (key, range_end) = keys::below(directory, 1);
    let options = RangeOptions {
        keys_only: true,
        limit: 1,
        count_max: 1,
        ..RangeOptions::default()
    };
    Ok(view.range(&key, &range_end, &options)?.kvs.is_empty())
}

/// What a GET of a clean path says: the node, and for a directory its children, with all that is
/// below them if `recursive`. Hidden nodes are left out, and children are in order of key.
///
/// `now`: wall time in nanoseconds, for the TTLs. Refused: as [`look_up`].
pub fn get(
    view: &(impl View + ?Sized),
    path: &Bytes,
    recursive: bool,
    now: i64,
) -> Result<V2Event, Refusal> {
    let found = look_up(view, path)?;
    let mut node = told(&found, now);
    if node.dir {
        node.nodes = children(view, path, recursive, now)?;
    }
    Ok(V2Event {
        action: "get".to_owned(),
        node: Some(node),
        ..V2Event::default()
    })
}

fn children(
    view: &(impl View + ?Sized),
    directory: &Bytes,
    recursive: bool,
    now: i64,
) -> Result<Vec<V2Node>, Refusal> {
    let mut levels: Vec<BTreeMap<Bytes, V2Node>> = Vec::new();
    loop {
        let (key, range_end) = keys::below(directory, levels.len() + 1);
        let found = view.range(&key, &range_end, &RangeOptions::default())?;
        let mut level = BTreeMap::new();
        for encoded in &found.kvs {
            let node = stored(encoded)?;
            let below = node.key.get(directory.len()..).unwrap_or_default();
            if !below.windows(2).any(|bytes| bytes == b"/_") {
                level.insert(node.key.clone(), told(&node, now));
            }
        }
        let ends = found.kvs.is_empty() || !recursive;
        levels.push(level);
        if ends {
            break;
        }
    }
    // From the lowest level up, each node goes to its parent.
    let mut lower = BTreeMap::new();
    while let Some(mut level) = levels.pop() {
        for (path, node) in lower {
            let parent = keys::parent(&path).and_then(|parent| level.get_mut(&parent));
            if let Some(parent) = parent {
                parent.nodes.push(node);
            }
        }
        lower = level;
    }
    Ok(lower.into_values().collect())
}

/// A stored node as it is told at `now`.
pub(super) fn told(node: &V2Node, now: i64) -> V2Node {
    V2Node {
        ttl: ttl(node.expiration, now),
        has_value: !node.dir,
        ..node.clone()
    }
}

/// Seconds from `now` to `expiration`, rounded up; zero for none.
fn ttl(expiration: i64, now: i64) -> i64 {
    const SECOND: i64 = 1_000_000_000;
    if expiration == 0 {
        return 0;
    }
    let left = expiration.saturating_sub(now);
    left / SECOND + i64::from(left % SECOND > 0)
}
