//! What changes the tree: set, create, update, compareAndSwap, delete, compareAndDelete, expire.

use bytes::Bytes;
use kvd_api::error::WireError;
use kvd_api::pb::kvdcommandpb::v2_reply::Outcome as ReplyOutcome;
use kvd_api::pb::kvdcommandpb::v2_request::Method;
use kvd_api::pb::kvdcommandpb::{LeaseRecord, V2Event, V2Node, V2Reply, V2Request};
use kvd_mvcc::{WriteTxn, Writer};
use prost::Message;

use super::tree::{self, Refusal, code, refused};
use super::{events, keys};
use crate::apply::lease;
use crate::apply::outcome::{Applied, Outcome};
use crate::lease::Leases;

/// Carries out one request at one revision.
///
/// Answers: a [`V2Reply`], also where the tree refuses; [`WireError::LeaseAlreadyExists`] when the
/// proposer has to choose another lease ID.
pub(in crate::apply) fn apply(
    writer: &mut Writer,
    leases: &Leases,
    request: V2Request,
) -> Outcome<Applied> {
    if request.ttl.is_some() && leases.contains(request.lease) {
        return Err(WireError::LeaseAlreadyExists.into());
    }
    let (lease, ttl) = (request.lease, request.ttl.unwrap_or_default());
    let mut txn = writer.txn();
    let action = Action {
        txn: &mut txn,
        request,
    };
    let outcome = match action.run() {
        Ok(event) => ReplyOutcome::Event(event),
        Err(Refusal::Refused(error)) => ReplyOutcome::Error(error),
        Err(Refusal::Store(error)) => return Err(error.into()),
    };
    let mut changes = txn.lease_changes().iter();
    let is_granted = changes.any(|change| change.to != 0);
    let grant = is_granted.then_some(LeaseRecord {
        id: lease,
        ttl,
        remaining_ttl: 0,
    });
    if let Some(grant) = &grant {
        leases.grant(grant.id, grant.ttl);
    }
    let ended = detach(&txn, leases);
    let index = txn.end();
    if let Some(grant) = &grant {
        lease::store(writer, grant);
    }
    for id in ended {
        lease::forget(writer, leases, id);
    }
    Ok(Applied::V2(V2Reply {
        outcome: Some(outcome),
        index: unsigned(index),
    }))
}

/// Removes the node whose lease has ended, and all below it.
///
/// Errors: this member's faults. Returns the leases of what was below.
pub(in crate::apply) fn expire(txn: &mut WriteTxn<'_>, key: &Bytes) -> Outcome<()> {
    let Some(path) = keys::node_path(key) else {
        txn.delete_range(key, &[], false)?;
        return Ok(());
    };
    let Some(node) = tree::find(txn, &path)? else {
        return Ok(());
    };
    let event = V2Event {
        action: "expire".to_owned(),
        node: Some(removed(&node, unsigned(txn.main()))),
        // At its expiration nothing is left of a TTL.
        prev_node: Some(tree::told(&node, node.expiration)),
        refresh: false,
    };
    remove(txn, &node)?;
    events::record(txn, &event)?;
    Ok(())
}

/// Tells `leases` which keys the transaction moved. Returns those that ended by it, as every lease
/// of a node has that node alone.
pub(in crate::apply) fn detach(txn: &WriteTxn<'_>, leases: &Leases) -> Vec<i64> {
    leases.change(txn.lease_changes());
    let changes = txn.lease_changes().iter();
    let ended = changes.filter(|change| change.from != 0 && keys::is_reserved(&change.key));
    ended.map(|change| change.from).collect()
}

/// What is told of a node that is gone.
fn removed(node: &V2Node, index: u64) -> V2Node {
    V2Node {
        key: node.key.clone(),
        dir: node.dir,
        modified_index: index,
        created_index: node.created_index,
        ..V2Node::default()
    }
}

/// Deletes a node and all below it.
fn remove(txn: &mut WriteTxn<'_>, node: &V2Node) -> Result<(), kvd_mvcc::Error> {
    txn.delete_range(&keys::node_key(&node.key), &[], false)?;
    if node.dir {
        for levels in 1.. {
            let (key, range_end) = keys::below(&node.key, levels);
            if txn.delete_range(&key, &range_end, false)?.0 == 0 {
                break;
            }
        }
    }
    Ok(())
}

fn unsigned(revision: i64) -> u64 {
    u64::try_from(revision).unwrap_or(0)
}

struct Action<'a, 'w> {
    txn: &'a mut WriteTxn<'w>,
    request: V2Request,
}

impl Action<'_, '_> {
    /// Chooses the action as etcd does. Nothing is written if it is refused.
    fn run(mut self) -> Result<V2Event, Refusal> {
        let request = &self.request;
        let path = keys::clean(&request.path);
        let compares = request.prev_index != 0 || !request.prev_value.is_empty();
        let event = match Method::try_from(request.method).unwrap_or(Method::Put) {
            Method::Post => {
                let name = format!("{:020}", self.txn.main());
                self.create("create", keys::join(&path, name.as_bytes()), false)?
            }
            Method::Put => match request.prev_exist {
                Some(false) => self.create("create", path, false)?,
                Some(true) if !compares => self.update(path)?,
                None if !compares => self.set(path)?,
                Some(true) | None => self.compare_and_swap(path)?,
            },
            Method::Delete if compares => self.compare_and_delete(&path)?,
            Method::Delete => self.delete(&path)?,
        };
        events::record(self.txn, &event)?;
        Ok(event)
    }

    fn index(&self) -> u64 {
        unsigned(self.txn.main())
    }

    fn now(&self) -> i64 {
        self.request.now
    }

    /// Writes a node with the request's TTL. Returns what is told of it.
    fn put(&mut self, path: Bytes, mut node: V2Node) -> Result<V2Node, Refusal> {
        node.expiration = match self.request.ttl {
            Some(ttl) => {
                let nanos = ttl.saturating_mul(1_000_000_000);
                self.now().saturating_add(nanos)
            }
            None => 0,
        };
        let lease = self.request.ttl.map_or(0, |_| self.request.lease);
        node.key = Bytes::new();
        let record = node.encode_to_vec().into();
        self.txn.put(keys::node_key(&path), record, lease)?;
        node.key = path;
        Ok(tree::told(&node, self.now()))
    }

    fn set(&mut self, path: Bytes) -> Result<V2Event, Refusal> {
        if self.request.refresh {
            // The value stays that of the node, which must be there.
            let node = tree::look_up(self.txn, &path)?;
            self.request.value = node.value;
        }
        self.create("set", path, true)
    }

    /// Makes a node, and the directories on the way to it.
    fn create(&mut self, action: &str, path: Bytes, replace: bool) -> Result<V2Event, Refusal> {
        if path.is_empty() {
            return Err(refused(code::ROOT_READ_ONLY, "/"));
        }
        let missing = self.missing_directories(&path)?;
        let existing = match missing.is_empty() {
            true => tree::find(self.txn, &path)?,
            false => None,
        };
        match &existing {
            Some(_) if !replace => return Err(refused(code::NODE_EXIST, path)),
            Some(existing) if existing.dir => return Err(refused(code::NOT_FILE, path)),
            Some(_) | None => {}
        }
        let index = self.index();
        let node = V2Node {
            modified_index: index,
            created_index: index,
            ..V2Node::default()
        };
        for directory in missing {
            let record = V2Node {
                dir: true,
                ..node.clone()
            };
            let record = record.encode_to_vec().into();
            self.txn.put(keys::node_key(&directory), record, 0)?;
        }
        let dir = self.request.dir;
        let value = if dir {
            Bytes::new()
        } else {
            self.request.value.clone()
        };
        let node = self.put(path, V2Node { dir, value, ..node })?;
        Ok(V2Event {
            action: action.to_owned(),
            node: Some(node),
            prev_node: existing.map(|existing| tree::told(&existing, self.now())),
            refresh: replace && self.request.refresh,
        })
    }

    /// The directories that lead to `path` and are not there, from the top.
    fn missing_directories(&self, path: &Bytes) -> Result<Vec<Bytes>, Refusal> {
        if let Some(parent) = keys::parent(path)
            && let Some(parent) = tree::find(self.txn, &parent)?
            && parent.dir
        {
            return Ok(Vec::new());
        }
        let mut missing = Vec::new();
        for ancestor in tree::ancestors(path) {
            // Below one that is missing there is nothing.
            let found = match missing.is_empty() {
                true => tree::find(self.txn, &ancestor)?,
                false => None,
            };
            match found {
                Some(found) if found.dir => {}
                Some(_) => return Err(refused(code::NOT_DIR, ancestor)),
                None => missing.push(ancestor),
            }
        }
        Ok(missing)
    }

    /// A new value or TTL for a node that must be there; a directory has only the TTL.
    fn update(&mut self, path: Bytes) -> Result<V2Event, Refusal> {
        if path.is_empty() {
            return Err(refused(code::ROOT_READ_ONLY, "/"));
        }
        let node = tree::look_up(self.txn, &path)?;
        if node.dir && !self.request.value.is_empty() {
            return Err(refused(code::NOT_FILE, path));
        }
        self.replace("update", path, node)
    }

    fn compare_and_swap(&mut self, path: Bytes) -> Result<V2Event, Refusal> {
        if path.is_empty() {
            return Err(refused(code::ROOT_READ_ONLY, "/"));
        }
        let node = self.compared(&path)?;
        self.replace("compareAndSwap", path, node)
    }

    /// Writes the request's value and TTL over a node, which keeps when it was created.
    fn replace(&mut self, action: &str, path: Bytes, previous: V2Node) -> Result<V2Event, Refusal> {
        let mut node = previous.clone();
        if !node.dir {
            // A directory keeps its own index: only a file is written, in etcd.
            node.modified_index = self.index();
            if !self.request.refresh {
                node.value = self.request.value.clone();
            }
        }
        let mut node = self.put(path, node)?;
        node.modified_index = self.index();
        Ok(V2Event {
            action: action.to_owned(),
            node: Some(node),
            prev_node: Some(tree::told(&previous, self.now())),
            refresh: self.request.refresh,
        })
    }

    fn delete(&mut self, path: &Bytes) -> Result<V2Event, Refusal> {
        if path.is_empty() {
            return Err(refused(code::ROOT_READ_ONLY, "/"));
        }
        let V2Request { dir, recursive, .. } = self.request;
        let node = tree::look_up(self.txn, path)?;
        if node.dir && !dir && !recursive {
            return Err(refused(code::NOT_FILE, path.clone()));
        }
        if node.dir && !recursive && !tree::is_empty(self.txn, path)? {
            return Err(refused(code::DIR_NOT_EMPTY, path.clone()));
        }
        self.remove("delete", &node)
    }

    fn compare_and_delete(&mut self, path: &Bytes) -> Result<V2Event, Refusal> {
        let node = self.compared(path)?;
        self.remove("compareAndDelete", &node)
    }

    fn remove(&mut self, action: &str, node: &V2Node) -> Result<V2Event, Refusal> {
        remove(self.txn, node)?;
        Ok(V2Event {
            action: action.to_owned(),
            node: Some(removed(node, self.index())),
            prev_node: Some(tree::told(node, self.now())),
            refresh: false,
        })
    }

    /// The file at `path`, if it is as the request wants it.
    fn compared(&self, path: &Bytes) -> Result<V2Node, Refusal> {
        let node = tree::look_up(self.txn, path)?;
        if node.dir {
            return Err(refused(code::NOT_FILE, path.clone()));
        }
        let V2Request {
            prev_index: wanted_index,
            prev_value: wanted,
            ..
        } = &self.request;
        let is_index = *wanted_index == 0 || *wanted_index == node.modified_index;
        let is_value = wanted.is_empty() || *wanted == node.value;
        let index = format!("[{wanted_index} != {}]", node.modified_index);
        let value = [b"[", &wanted[..], b" != ", &node.value[..], b"]"].concat();
        let cause = match (is_value, is_index) {
            (true, true) => return Ok(node),
            (true, false) => index.into_bytes(),
            (false, true) => value,
            (false, false) => [&value[..], b" ", index.as_bytes()].concat(),
        };
        Err(refused(code::TEST_FAILED, cause))
    }
}
