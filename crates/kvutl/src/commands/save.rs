//! snapshot save: a snapshot file out of the data directory of a stopped member, for a cluster that
//! cannot be started any more. `kvctl snapshot save` makes one of a member that runs.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use kvd_raft::wal;
use kvd_server::{backup, identity};
use sha2::{Digest, Sha256};

use super::store;
use crate::args::Save;
use crate::failure::{Failure, Outcome};

pub(crate) fn run(args: &Save, timeout: Duration, out: &mut dyn Write) -> Outcome {
    let store = store::open(&store::store_dir(&args.data_dir), timeout)?;
    let revision = store.current_revision();
    let applied = store.applied().map_or(0, |position| position.index);
    let saved = save(&store, &args.filename);
    store.close();
    saved?;
    warn_of_log(args, applied);
    writeln!(out, "Snapshot saved at {}", args.filename.display())?;
    writeln!(out, "Revision {revision}")?;
    Ok(())
}

/// Writes the database and its hash under another name first: half a file must not look whole.
fn save(store: &kvd_mvcc::Store, path: &Path) -> Outcome {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    let part = Path::new(&name);
    let written = write(store, part).and_then(|()| {
        fs::rename(part, path).with_context(|| path.display().to_string())?;
        Ok(())
    });
    if written.is_err() && part.exists() {
        fs::remove_file(part).with_context(|| part.display().to_string())?;
    }
    written
}

fn write(store: &kvd_mvcc::Store, part: &Path) -> Outcome {
    let named = || part.display().to_string();
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(true);
    let file = options.open(part).with_context(named)?;
    let (mut file, length) = backup::export(store.content()?, file)?;
    file.rewind().with_context(named)?;
    let mut hash = Hasher(Sha256::new());
    let mut reader = io::BufReader::with_capacity(1 << 20, &file);
    let hashed = io::copy(&mut reader.by_ref().take(length), &mut hash).with_context(named)?;
    if hashed != length {
        return Err(Failure::new(format!("{}: cut short", part.display())));
    }
    drop(reader);
    file.seek(io::SeekFrom::Start(length)).with_context(named)?;
    file.write_all(&hash.0.finalize()).with_context(named)?;
    file.sync_all().with_context(named)?;
    Ok(())
}

struct Hasher(Sha256);

impl Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A member that was killed has its last writes in its log alone.
fn warn_of_log(args: &Save, applied: u64) {
    let own = args.data_dir.join("member").join("wal");
    let dir = args.wal_dir.as_ref().unwrap_or(&own);
    let identity = match identity::load(&args.data_dir) {
        Ok(Some(identity)) => identity,
        Ok(None) => return tracing::warn!("no identity: the log was not looked at"),
        Err(error) => return tracing::warn!(%error, "the log was not looked at"),
    };
    let (cluster, member) = (identity.cluster_id, identity.member_id);
    match wal::inspect(dir, cluster, member, &mut |_, _, _| {}) {
        Ok(log) => {
            let last = log.last.map_or(0, |last| last.index);
            if last > applied {
                tracing::warn!(
                    entries = last - applied,
                    "the log goes on after what is in the store, and so in this file: the member \
                     did not stop in order; where it can be started once more, start it, and use \
                     kvctl snapshot save"
                );
            }
        }
        Err(error) => {
            tracing::warn!(%error, "the log cannot be read: it may go on after this file")
        }
    }
}
