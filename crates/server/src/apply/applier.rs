//! The state machine: takes committed entries, answers who waits.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use kvd_api::pb::etcdserverpb::ResponseOp;
use kvd_api::pb::etcdserverpb::response_op::Response;
use kvd_api::pb::kvdcommandpb::Command;
use kvd_api::pb::kvdcommandpb::command::Request;
use kvd_api::pb::kvdcommandpb::v2_reply::Outcome as V2Outcome;
use kvd_mvcc::{SnapshotReader, Store, Writer};
use kvd_raft::{Committed, Fault, Payload, Position, SnapshotSource, StateMachine};
use prost::Message;

use super::alarm::Alarms;
use super::kind::{Durations, Kind};
use super::outcome::{Applied, Failure, Outcome};
use super::{auth, cluster, downgrade, kv, lease, txn, v2};
use crate::auth::{Auth, Verdict};
use crate::error::Error;
use crate::lease::Leases;
use crate::metrics::Metrics;

/// Who waits for the results of commands.
pub trait Answers: Send + Sync {
    /// Hands results to whoever waits for them, by request ID; takes all of them out.
    ///
    /// Called once for each call of [`StateMachine::apply`] that has results, after the changes
    /// can be read.
    fn answer(&self, results: &mut Vec<(u64, Result<Applied, Error>)>);

    /// Whether anybody may wait for this request here. Results that nobody waits for are not made
    /// in full: what a transaction would have read is left out.
    fn is_awaited(&self, request_id: u64) -> bool {
        let _ = request_id;
        true
    }
}

/// What an [`Applier`] is made of.
pub struct Parts {
    /// The one writer of the store.
    pub writer: Writer,
    /// The read side of the same store.
    pub store: Store,
    /// The active alarms; changed here alone.
    pub alarms: Arc<Alarms>,
    /// The leases; what there is of them is changed here alone.
    pub leases: Arc<Leases>,
    /// Users and roles; changed here alone.
    pub auth: Arc<Auth>,
    /// Who waits for results.
    pub answers: Arc<dyn Answers>,
    /// Told the log index up to which everything can be read, after each change of it.
    pub on_applied: Arc<dyn Fn(u64) + Send + Sync>,
    /// Where durations are counted. The only clock that is read here; no result depends on it.
    pub metrics: Arc<Metrics>,
}

/// The replicated state: everything that changes it comes through here, in the order of the log.
pub struct Applier {
    pub(super) parts: Parts,
    durations: Durations,
    /// Results of the entries of one call; kept for its capacity.
    results: Vec<(u64, Result<Applied, Error>)>,
}

impl Applier {
    /// An applier that goes on where the store stands, and says so through `on_applied`.
    pub fn new(parts: Parts) -> Applier {
        if let Some(position) = parts.store.applied() {
            (parts.on_applied)(position.index);
        }
        let durations = Durations::new(|name| parts.metrics.apply_outcomes(name));
        Applier {
            parts,
            durations,
            results: Vec::new(),
        }
    }

    /// Applies one command and keeps its result for who waits for it.
    fn command(&mut self, entry: &Committed, request_id: u64, command: Bytes) -> Result<(), Fault> {
        let index = entry.index;
        let command = Command::decode(command).map_err(|error| {
            Fault::with_source(
                format!("a command of log entry {index} cannot be decoded"),
                error,
            )
        })?;
        let Some(request) = command.request else {
            return Err(Fault::new(format!(
                "log entry {index} holds a command that this version does not know"
            )));
        };
        let is_awaited = request_id != 0 && self.parts.answers.is_awaited(request_id);
        let started = Instant::now();
        let kind = Kind::of(&request);
        let Parts { auth, leases, .. } = &self.parts;
        let admitted = auth::admit(auth, leases, &request, command.caller);
        let result = match self.request(request, admitted, entry, is_awaited) {
            Ok(applied) => Ok(applied),
            Err(Failure::Answer(error)) => Err(error),
            Err(Failure::Fault(fault)) => return Err(fault),
        };
        let took = started.elapsed();
        let compacted = matches!(result, Err(Error::Store(kvd_mvcc::Error::Compacted { .. })));
        // As in etcd, a compaction that came too late counts as done.
        self.durations
            .observe(kind, result.is_ok() || compacted, took);
        self.parts.metrics.applied(kind.name(), index, took);
        if let Ok(applied) = &result {
            count(&self.parts.metrics, applied);
        }
        if is_awaited {
            self.results.push((request_id, result));
        }
        Ok(())
    }

    fn request(
        &mut self,
        request: Request,
        admitted: Verdict,
        entry: &Committed,
        is_awaited: bool,
    ) -> Outcome<Applied> {
        let term = entry.term;
        let Parts {
            writer,
            store,
            alarms,
            leases,
            auth,
            metrics,
            ..
        } = &mut self.parts;
        alarms.admit(&request)?;
        admitted?;
        match request {
            Request::Put(mut put) => {
                put.prev_kv &= is_awaited;
                kv::put(writer, store, leases, put)
            }
            Request::DeleteRange(mut delete) => {
                delete.prev_kv &= is_awaited;
                kv::delete_range(writer, leases, &delete)
            }
            Request::Txn(txn) => txn::txn(writer, store, leases, txn, is_awaited),
            Request::Compaction(compaction) => kv::compact(writer, store, &compaction),
            Request::Alarm(alarm) => Ok(Applied::Alarm(alarms.apply(writer, &alarm))),
            Request::LeaseGrant(grant) => lease::grant(writer, leases, &grant),
            Request::LeaseRevoke(revoke) => lease::revoke(writer, leases, revoke.id),
            Request::LeaseExpire(expire) => lease::expire(writer, leases, metrics, &expire, term),
            Request::LeaseCheckpoint(checkpoint) => {
                lease::checkpoint(writer, leases, &checkpoint, term)
            }
            Request::PublishMember(publish) => {
                cluster::publish(writer, store, publish).map_err(Failure::fault)
            }
            Request::SetClusterVersion(version) => Ok(cluster::set_version(writer, version)),
            Request::DowngradeInfoSet(job) => downgrade::set(writer, job).map_err(Failure::fault),
            Request::Authenticate(request) => auth::authenticate(auth, &request, entry.index),
            change @ (Request::AuthEnable(_)
            | Request::AuthDisable(_)
            | Request::AuthUserAdd(_)
            | Request::AuthUserDelete(_)
            | Request::AuthUserChangePassword(_)
            | Request::AuthUserGrantRole(_)
            | Request::AuthUserRevokeRole(_)
            | Request::AuthRoleAdd(_)
            | Request::AuthRoleDelete(_)
            | Request::AuthRoleGrantPermission(_)
            | Request::AuthRoleRevokePermission(_)) => auth::change(writer, auth, change),
            Request::V2(request) => {
                let kind = crate::v2::Kind::of(&request);
                let applied = v2::apply(writer, leases, request)?;
                if let Applied::V2(reply) = &applied {
                    let went_well = matches!(reply.outcome, Some(V2Outcome::Event(_)));
                    metrics.v2.count(kind, went_well);
                }
                Ok(applied)
            }
        }
    }

    fn entry(&mut self, entry: &Committed) -> Result<(), Fault> {
        match &entry.payload {
            Payload::Blank => Ok(()),
            Payload::Commands(commands) => {
                for (request_id, command) in commands {
                    self.command(entry, request_id, command)?;
                }
                Ok(())
            }
            Payload::Membership(members) => {
                cluster::set_members(&mut self.parts.writer, &self.parts.store, members)
                    .map_err(|error| Fault::with_source("setting the members failed", error))
            }
        }
    }
}

impl StateMachine for Applier {
    fn position(&self) -> Option<Bytes> {
        self.parts.store.applied().map(|position| position.bytes)
    }

    fn apply(&mut self, entries: &[Committed], position: Position) -> Result<(), Fault> {
        for entry in entries {
            self.entry(entry)?;
        }
        let Position { index, bytes } = position;
        self.parts
            .writer
            .commit(kvd_mvcc::Position { index, bytes });
        (self.parts.on_applied)(index);
        if !self.results.is_empty() {
            self.parts.answers.answer(&mut self.results);
            self.results.clear();
        }
        Ok(())
    }

    fn is_behind(&self) -> bool {
        self.parts.store.is_behind()
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, Fault> {
        let reader = self.parts.store.snapshot();
        let reader =
            reader.map_err(|error| Fault::with_source("reading a snapshot failed", error))?;
        Ok(Box::new(Snapshot(reader)))
    }

    fn install(&mut self, file: &Path, position: Position) -> Result<(), Fault> {
        let Position { index, bytes } = position;
        let Parts {
            writer,
            store,
            alarms,
            leases,
            auth,
            on_applied,
            ..
        } = &mut self.parts;
        writer
            .install(file, kvd_mvcc::Position { index, bytes })
            .map_err(|error| Fault::with_source("installing a snapshot failed", error))?;
        // First: whoever reads without waiting for the position sees the new content already. The
        // leases take a look at all keys.
        auth.reload(store)
            .map_err(|error| Fault::with_source("reading an installed snapshot failed", error))?;
        alarms
            .reload(store)
            .map_err(|error| Fault::with_source("reading an installed snapshot failed", error))?;
        leases
            .reload(store)
            .map_err(|error| Fault::with_source("reading an installed snapshot failed", error))?;
        on_applied(index);
        Ok(())
    }
}

/// Counts what was done to the store. As in etcd, a transaction counts by its operations, and as
/// one more when it has several.
fn count(metrics: &Metrics, applied: &Applied) {
    match applied {
        Applied::Put(_) => metrics.mvcc_put.inc(),
        Applied::DeleteRange(_) => metrics.mvcc_delete.inc(),
        Applied::Txn(txn) => {
            if txn.responses.len() > 1 {
                metrics.mvcc_txn.inc();
            }
            count_operations(metrics, &txn.responses);
        }
        Applied::LeaseGranted { ttl, .. } => {
            metrics.lease_granted.inc();
            // A count of seconds: what a float cannot hold exactly does not matter.
            metrics.lease_ttl.observe(*ttl as f64);
        }
        Applied::LeaseRevoked => metrics.lease_revoked.inc(),
        Applied::Compacted { .. }
        | Applied::LeasesCheckpointed
        | Applied::Alarm(_)
        | Applied::AuthChanged
        | Applied::TokenAssigned { .. }
        | Applied::Published
        | Applied::ClusterVersionSet
        | Applied::DowngradeSet
        | Applied::V2(_) => {}
    }
}

fn count_operations(metrics: &Metrics, responses: &[ResponseOp]) {
    for response in responses {
        match &response.response {
            Some(Response::ResponsePut(_)) => metrics.mvcc_put.inc(),
            Some(Response::ResponseDeleteRange(_)) => metrics.mvcc_delete.inc(),
            Some(Response::ResponseRange(_)) => metrics.mvcc_range.inc(),
            Some(Response::ResponseTxn(txn)) => count_operations(metrics, &txn.responses),
            None => {}
        }
    }
}

/// The store's snapshot as Raft sends it.
struct Snapshot(SnapshotReader);

impl SnapshotSource for Snapshot {
    fn next_chunk(&mut self) -> Result<Option<Bytes>, Fault> {
        self.0
            .next_chunk()
            .map_err(|error| Fault::with_source("reading a snapshot failed", error))
    }

    fn size_hint(&self) -> u64 {
        self.0.size_hint()
    }
}
