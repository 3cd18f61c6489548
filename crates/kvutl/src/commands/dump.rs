//! dump wal, dump store: what lies on the disk of a stopped member, line by line.

use std::io::Write;
use std::path::{Path, PathBuf};

use kvd_api::pb::kvdcommandpb::Command;
use kvd_api::pb::mvccpb::KeyValue;
use kvd_mvcc::{Options, RevKey};
use kvd_raft::Payload;
use kvd_raft::wal::{self, Record};
use kvd_server::identity;
use prost::Message;

use super::scratch::Scratch;
use crate::failure::{Failure, Outcome};

/// Shows each record of the log.
pub(crate) fn wal(data_dir: &Path, wal_dir: Option<&PathBuf>, out: &mut dyn Write) -> Outcome {
    let identity = identity::load(data_dir)?;
    let identity = identity.ok_or_else(|| {
        Failure::new(format!("{}: no member of kvd is there", data_dir.display()))
    })?;
    let own = data_dir.join("member").join("wal");
    let dir = wal_dir.unwrap_or(&own);
    let mut outcome = Ok(());
    let read = wal::inspect(
        dir,
        identity.cluster_id,
        identity.member_id,
        &mut |path, at, record| {
            if outcome.is_ok() {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                outcome = show(&name, at, record, out);
            }
        },
    );
    outcome?;
    read?;
    Ok(())
}

fn show(file: &str, at: u64, record: &Record, out: &mut dyn Write) -> Outcome {
    let place = |id: &wal::LogId| format!("term {} index {}", id.term, id.index);
    match record {
        Record::Vote(vote) => writeln!(
            out,
            "{file} {at:>9}  vote term {} for {:x}{}",
            vote.term,
            vote.node,
            if vote.committed { ", who won" } else { "" }
        )?,
        Record::Committed(id) => writeln!(out, "{file} {at:>9}  committed {}", place(id))?,
        Record::Purge(id) => writeln!(out, "{file} {at:>9}  purge up to {}", place(id))?,
        Record::Truncate(Some(id)) => writeln!(out, "{file} {at:>9}  cut after {}", place(id))?,
        Record::Truncate(None) => writeln!(out, "{file} {at:>9}  cut, all of it")?,
        Record::Entry(entry) => {
            writeln!(out, "{file} {at:>9}  entry {}", place(&entry.id))?;
            match kvd_raft::read_entry(entry.clone())? {
                Payload::Blank => writeln!(out, "    blank, of a new leader")?,
                Payload::Membership(members) => {
                    for member in members {
                        writeln!(
                            out,
                            "    member {:x} {:?} {} {}",
                            member.id,
                            member.name,
                            member.peer_urls.join(","),
                            if member.voter { "voter" } else { "learner" }
                        )?;
                    }
                }
                Payload::Commands(commands) => {
                    for (request_id, command) in &commands {
                        match Command::decode(command) {
                            // Values and the hashes of passwords are shown as their lengths.
                            Ok(command) => {
                                writeln!(out, "    request {request_id:x}: {:?}", command.request)?
                            }
                            Err(error) => writeln!(
                                out,
                                "    request {request_id:x}: cannot be read: {error}"
                            )?,
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

/// Shows each record of the store, then the small tables.
pub(crate) fn store(data_dir: &Path, out: &mut dyn Write) -> Outcome {
    let scratch = Scratch::of(data_dir)?;
    let engine = kvd_mvcc::engine_of(scratch.store())?.unwrap_or_default();
    let options = Options {
        engine,
        ..Options::default()
    };
    let (store, _writer) = kvd_mvcc::open(scratch.store(), options)?;
    let mut content = store.content()?;
    if let Ok(place) = kvd_raft::read_position(content.position().bytes.clone()) {
        writeln!(out, "applied term {} index {}", place.term, place.index)?;
    }
    writeln!(out, "compacted revision {}", store.compacted_revision())?;
    loop {
        let records = content.next_records()?;
        if records.is_empty() {
            break;
        }
        for (key, value) in records {
            record(&key, &KeyValue::decode(value)?, out)?;
        }
    }
    for (table, key, value) in content.tables() {
        writeln!(
            out,
            "{table:?} \"{}\" = \"{}\"",
            key.escape_ascii(),
            value.escape_ascii()
        )?;
    }
    drop(content);
    store.close();
    Ok(())
}

fn record(revision: &RevKey, pair: &KeyValue, out: &mut dyn Write) -> Outcome {
    let key = pair.key.escape_ascii();
    if revision.is_tombstone() {
        writeln!(out, "{} delete \"{key}\"", revision.revision())?;
    } else {
        writeln!(
            out,
            "{} put \"{key}\" = \"{}\" create {} version {} lease {:x}",
            revision.revision(),
            pair.value.escape_ascii(),
            pair.create_revision,
            pair.version,
            pair.lease
        )?;
    }
    Ok(())
}
