//! Making a member's data directory from a snapshot file.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use kvd_api::pb::etcdserverpb::{AlarmMember, Member};
use kvd_api::pb::kvdcommandpb::LeaseRecord;
use kvd_api::pb::mvccpb::KeyValue;
use kvd_bbolt::Reader;
use kvd_mvcc::{Builder, EngineKind, Position, RevKey, Revision, Table};
use prost::Message;

use super::SnapshotFile;
use crate::directories;
use crate::error::{Error, Result};
use crate::identity;

/// The engine's cache while a store is filled.
const CACHE_BYTES: usize = 32 << 20;
const SCHEDULED: &str = "scheduledCompactRev";
const FINISHED: &str = "finishedCompactRev";
/// The buckets that are taken over as they are.
const TABLES: [(&str, Table); 5] = [
    ("alarm", Table::Alarm),
    ("auth", Table::Auth),
    ("authRoles", Table::AuthRoles),
    ("authUsers", Table::AuthUsers),
    ("lease", Table::Lease),
];

type Entries = Vec<(Table, Bytes, Bytes)>;

/// What is asked of a restore. etcd: `etcdutl snapshot restore`.
#[derive(Clone, Debug)]
pub struct Restore {
    /// The snapshot file.
    pub snapshot: PathBuf,
    /// Whether to go on without looking at the file's hash, which a copied database lacks.
    pub skip_hash_check: bool,
    /// The member's directory: missing or empty.
    pub data_dir: PathBuf,
    /// The directory of the log, if it is to lie apart: missing.
    pub wal_dir: Option<PathBuf>,
    /// The member's name.
    pub name: String,
    /// The members of the new cluster: name to peer URLs.
    pub initial_cluster: BTreeMap<String, Vec<String>>,
    /// Tells the cluster from others with the same URLs.
    pub token: String,
    /// How far to raise the revision; what is up to there is then marked as compacted. Watchers of
    /// the old cluster that reconnect see that they missed something.
    pub bump_revision: u64,
    /// The store's engine.
    pub engine: EngineKind,
}

impl Restore {
    /// Makes the directory. What was made is removed again when that fails.
    ///
    /// Errors: [`Error::Backup`] when the file is damaged or something else, a directory is in use,
    /// or the members make no sense; [`Error::Io`].
    pub fn run(&self) -> Result<()> {
        let members = identity::first_members(&self.initial_cluster, &self.token)?;
        let own = identity::of_name(&members, &self.name, &self.token)?;
        if !is_empty(&self.data_dir)? {
            return Err(Error::Backup(format!(
                "data-dir {:?} not empty or could not be read",
                self.data_dir.display().to_string()
            )));
        }
        let own_wal = self.data_dir.join("member").join("wal");
        let wal_dir = match &self.wal_dir {
            Some(dir) if *dir != own_wal && dir.exists() => {
                let dir = dir.display().to_string();
                return Err(Error::Backup(format!("wal-dir {dir:?} exists")));
            }
            Some(dir) => dir,
            None => &own_wal,
        };
        let file = SnapshotFile::open(&self.snapshot)?;
        if !self.skip_hash_check {
            file.verify_hash()?;
        }
        let source = file.database()?;
        let made = self.make(&source, wal_dir, &members, own);
        if made.is_err() {
            // Half a member must not be started as if it were a new one.
            let dirs = [&self.data_dir.join("member"), wal_dir];
            for dir in dirs.into_iter().filter(|dir| dir.exists()) {
                if let Err(error) = fs::remove_dir_all(dir) {
                    tracing::error!(%error, dir = %dir.display(), "remove this directory");
                }
            }
        }
        made
    }

    fn make(
        &self,
        source: &Reader,
        wal_dir: &Path,
        members: &[kvd_raft::Member],
        own: identity::Identity,
    ) -> Result<()> {
        let member_dir = self.data_dir.join("member");
        directories::create(&[&self.data_dir, &member_dir, wal_dir], true)?;
        let position = kvd_raft::seed_log(wal_dir, own.cluster_id, own.member_id, members)?;
        for member in members {
            tracing::info!(
                cluster_id = format!("{:x}", own.cluster_id),
                added_peer_id = format!("{:x}", member.id),
                added_peer_peer_urls = member.peer_urls.join(","),
                "added member"
            );
        }
        let import = Import {
            bump_revision: self.bump_revision,
            engine: self.engine,
        };
        let kvd_raft::Position { index, bytes } = position;
        let position = Position { index, bytes };
        let entries = members.iter().map(member_entry).collect();
        import.run(source, &member_dir.join("store"), entries, position)?;
        // Last, since it makes a member of the directory.
        identity::write(&member_dir.join("identity"), &own)
    }
}

/// Makes a store from a database.
#[derive(Clone, Copy, Debug)]
pub struct Import {
    /// See [`Restore::bump_revision`].
    pub bump_revision: u64,
    /// The store's engine.
    pub engine: EngineKind,
}

impl Import {
    /// Fills the new store in `dir` with the keys, leases, alarms and users in `source`, with
    /// `entries` beside them, as the content of `position`.
    ///
    /// Errors: [`Error::Backup`] names what in `source` is damaged.
    pub fn run(
        &self,
        source: &Reader,
        dir: &Path,
        mut entries: Entries,
        position: Position,
    ) -> Result<()> {
        let mut builder = Builder::new(dir, self.engine, CACHE_BYTES)?;
        let mut newest = self.records(source, &mut builder)?;
        for (bucket, table) in TABLES {
            each(source, bucket, |key, value| {
                check(table, &key, &value)?;
                entries.push((table, key, value));
                Ok(())
            })?;
        }
        let mut compacted = [None, None];
        each(source, "meta", |key, value| {
            for (name, slot) in [SCHEDULED, FINISHED].into_iter().zip(&mut compacted) {
                if key == name {
                    *slot = Some(RevKey::decode(&value)?.revision().main);
                }
            }
            Ok(())
        })?;
        let [mut scheduled, finished] = compacted;
        if self.bump_revision > 0 {
            let bump = i64::try_from(self.bump_revision).ok();
            let bumped = bump.and_then(|bump| newest.max(scheduled.unwrap_or(0)).checked_add(bump));
            newest = bumped.ok_or_else(|| {
                Error::Backup(format!(
                    "the revision cannot be raised by {}",
                    self.bump_revision
                ))
            })?;
            // As in etcd: a record of no key holds the place of the new revision.
            builder.record(RevKey::new(Revision::new(newest, 0), false), &[])?;
            scheduled = Some(newest);
        }
        for (name, revision) in [(SCHEDULED, scheduled), (FINISHED, finished)] {
            if let Some(revision) = revision {
                let value = RevKey::new(Revision::new(revision, 0), false);
                let value = Bytes::copy_from_slice(value.as_bytes());
                entries.push((Table::Meta, name.into(), value));
            }
        }
        Ok(builder.finish(&entries, position)?)
    }

    /// Copies the records; returns the newest revision.
    fn records(&self, source: &Reader, builder: &mut Builder) -> Result<i64> {
        let mut newest = 0;
        if source.bucket(b"key")?.is_none() {
            return Err(Error::Backup(
                "the database has no bucket \"key\": it is not etcd's".to_owned(),
            ));
        }
        each(source, "key", |key, value| {
            let key = RevKey::decode(&key)?;
            KeyValue::decode(value.clone())
                .map_err(|error| damaged(&format!("the record of {key:?}"), &error))?;
            newest = key.revision().main;
            Ok(builder.record(key, &value)?)
        })?;
        Ok(newest)
    }
}

/// Calls `each` with the pairs of a bucket; a bucket that is not there has none.
fn each(
    source: &Reader,
    bucket: &str,
    mut each: impl FnMut(Bytes, Bytes) -> Result<()>,
) -> Result<()> {
    let Some(mut cursor) = source.bucket(bucket.as_bytes())? else {
        return Ok(());
    };
    while let Some((key, value)) = cursor.next_pair()? {
        each(key, value)?;
    }
    Ok(())
}

/// Refuses what a member could not read when it starts.
fn check(table: Table, key: &Bytes, value: &Bytes) -> Result<()> {
    let checked = match table {
        Table::Alarm => AlarmMember::decode(key.clone()).map(drop),
        Table::Lease => LeaseRecord::decode(value.clone()).map(drop),
        Table::AuthUsers => kvd_api::pb::authpb::User::decode(value.clone()).map(drop),
        Table::AuthRoles => kvd_api::pb::authpb::Role::decode(value.clone()).map(drop),
        _ => Ok(()),
    };
    checked.map_err(|error| damaged(&format!("an entry of {table:?}"), &error))
}

fn damaged(what: &str, error: &prost::DecodeError) -> Error {
    Error::Backup(format!("{what} cannot be read: {error}"))
}

fn member_entry(member: &kvd_raft::Member) -> (Table, Bytes, Bytes) {
    let record = Member {
        id: member.id,
        name: member.name.clone(),
        peer_ur_ls: member.peer_urls.clone(),
        is_learner: !member.voter,
        ..Member::default()
    };
    let key = Bytes::copy_from_slice(&member.id.to_be_bytes());
    (Table::Members, key, record.encode_to_vec().into())
}

fn is_empty(dir: &Path) -> Result<bool> {
    match fs::read_dir(dir) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(_) => Ok(false),
    }
}
