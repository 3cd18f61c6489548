//! check: whether a stopped member's data directory is whole, and if not, what is wrong and where.
//!
//! In order: the identity; the log, every frame and record; the store, every record's checksum and
//! how many there are; whether log and store belong together; the hash of the history. The store is
//! copied first, since opening one repairs it.

use std::io::Write;
use std::path::{Path, PathBuf};

use kvd_raft::wal::{self, Inspection};
use kvd_server::identity::{self, Identity};

use super::scratch::Scratch;
use crate::failure::{Failure, Outcome};

pub(crate) fn run(data_dir: &Path, wal_dir: Option<&PathBuf>, out: &mut dyn Write) -> Outcome {
    let mut report = Report { out, problems: 0 };
    let own_wal = data_dir.join("member").join("wal");
    let wal_dir = wal_dir.unwrap_or(&own_wal);
    let identity = match identity::load(data_dir) {
        Ok(Some(identity)) => Some(identity),
        Ok(None) => {
            return Err(Failure::new(format!(
                "{}: no member of kvd is there",
                data_dir.display()
            )));
        }
        Err(error) => {
            report.wrong("identity", &error)?;
            None
        }
    };
    let mut log = None;
    if let Some(identity) = &identity {
        report.good(
            "identity",
            &format!(
                "member {:x} of cluster {:x}",
                identity.member_id, identity.cluster_id
            ),
        )?;
        log = check_log(wal_dir, identity, &mut report)?;
    }
    check_store(data_dir, log.as_ref(), &mut report)?;
    match report.problems {
        0 => Ok(()),
        1 => Err(Failure::new("1 problem was found")),
        problems => Err(Failure::new(format!("{problems} problems were found"))),
    }
}

/// Lines of what was looked at.
struct Report<'a> {
    out: &'a mut dyn Write,
    problems: usize,
}

impl Report<'_> {
    fn good(&mut self, what: &str, text: &str) -> Outcome {
        writeln!(self.out, "{what}: ok, {text}")?;
        Ok(())
    }

    fn wrong(&mut self, what: &str, error: &dyn std::fmt::Display) -> Outcome {
        self.problems += 1;
        writeln!(self.out, "{what}: DAMAGED, {error}")?;
        Ok(())
    }
}

fn check_log(
    dir: &Path,
    identity: &Identity,
    report: &mut Report<'_>,
) -> Outcome<Option<Inspection>> {
    let mut unreadable = Vec::new();
    let read = wal::inspect(
        dir,
        identity.cluster_id,
        identity.member_id,
        &mut |path, at, record| {
            if let wal::Record::Entry(entry) = record
                && let Err(error) = kvd_raft::read_entry(entry.clone())
            {
                unreadable.push(format!("{}: byte {at}: {error}", path.display()));
            }
        },
    );
    for problem in &unreadable {
        report.wrong("log", problem)?;
    }
    match read {
        Ok(log) => {
            let index = |id: Option<wal::LogId>| id.map_or(0, |id| id.index);
            let text = format!(
                "{} entries after {} up to {}, term {}, committed {}, {} segments",
                log.entries,
                index(log.purged),
                index(log.last),
                log.vote.map_or(0, |vote| vote.term),
                index(log.committed),
                log.segments.len()
            );
            report.good("log", &text)?;
            Ok(Some(log))
        }
        Err(error) => {
            report.wrong("log", &error)?;
            Ok(None)
        }
    }
}

fn check_store(data_dir: &Path, log: Option<&Inspection>, report: &mut Report<'_>) -> Outcome {
    let scratch = Scratch::of(data_dir)?;
    let found = match kvd_mvcc::inspect(scratch.store()) {
        Ok(found) => found,
        Err(error) => return report.wrong("store", &error),
    };
    for problem in &found.problems {
        report.wrong("store", problem)?;
    }
    if !found.problems.is_empty() {
        return Ok(());
    }
    let text = format!(
        "{} records of {} bytes, revision {}, engine {}, {}",
        found.records,
        found.bytes,
        found.revision.main,
        found.engine,
        if found.is_clean {
            "closed in order"
        } else {
            "not closed in order"
        }
    );
    report.good("store", &text)?;
    check_position(found.position.as_ref(), log, report)?;
    let options = kvd_mvcc::Options {
        engine: found.engine,
        ..kvd_mvcc::Options::default()
    };
    let opened = kvd_mvcc::open(scratch.store(), options);
    let hashed = opened.and_then(|(store, _writer)| {
        let hash = store.hash_kv(0);
        store.close();
        hash
    });
    match hashed {
        Ok(hash) => report.good(
            "hash",
            &format!(
                "{} at revision {}, compacted {}",
                hash.hash, hash.revision, hash.compact_revision
            ),
        ),
        Err(error) => report.wrong("hash", &error),
    }
}

/// What the store has applied must be in the log, or purged from it.
fn check_position(
    position: Option<&kvd_mvcc::Position>,
    log: Option<&Inspection>,
    report: &mut Report<'_>,
) -> Outcome {
    let applied = match position {
        None => None,
        Some(position) => match kvd_raft::read_position(position.bytes.clone()) {
            Ok(place) => Some(place),
            Err(error) => return report.wrong("applied index", &error),
        },
    };
    let (index, term) = applied.map_or((0, 0), |place| (place.index, place.term));
    let Some(log) = log else {
        return report.good("applied index", &format!("{index}, term {term}"));
    };
    let purged = log.purged.map_or(0, |id| id.index);
    if purged > index {
        return report.wrong(
            "applied index",
            &format!(
                "the store stands at entry {index}, but the log begins only after entry {purged}: \
                 the store's files are gone or older than the log"
            ),
        );
    }
    if log.vote.is_some_and(|vote| vote.term < term) {
        return report.wrong(
            "applied index",
            &format!("the store has entries of term {term}, of which the log knows nothing"),
        );
    }
    let last = log.last.map_or(0, |id| id.index);
    let more = match last.checked_sub(index) {
        Some(0) => "all of the log".to_owned(),
        Some(left) => format!("{left} entries of the log follow"),
        None => "the log ends before it and goes on after it".to_owned(),
    };
    report.good("applied index", &format!("{index}, term {term}: {more}"))
}
