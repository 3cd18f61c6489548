//! Reading a log without changing it: for a tool that checks or shows it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::{Error, Result};
use super::record::{LogId, Record, Vote};
use super::recovery::recover_and_show;
use super::segment::Identity;
use crate::disk::{Disk, DiskFile, DiskLock, RealDisk, read_up_to};

/// What a log holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// The vote saved last.
    pub vote: Option<Vote>,
    /// The commit position saved last.
    pub committed: Option<LogId>,
    /// The last purged entry.
    pub purged: Option<LogId>,
    /// The last entry, or the purged one when none follows it.
    pub last: Option<LogId>,
    /// The segment files, in order.
    pub segments: Vec<PathBuf>,
    /// How many entries there are.
    pub entries: u64,
}

/// Reads the log of a member that does not run, and shows `visit` each record with its file and
/// offset, in the order in which they were written. Every checksum is verified.
///
/// Errors: those of [`Wal::open`](super::Wal::open), which would refuse the log for the same
/// reason; nothing is changed, not even what it would repair.
pub fn inspect(
    dir: &Path,
    cluster_id: u64,
    member_id: u64,
    visit: &mut dyn FnMut(&Path, u64, &Record),
) -> Result<Inspection> {
    let lock_path = dir.join("LOCK");
    let lock = File::open(&lock_path).map_err(|error| Error::io("open", &lock_path, error))?;
    if let Err(error) = lock.try_lock() {
        let error = io::Error::from(error);
        return Err(match error.kind() {
            io::ErrorKind::WouldBlock => Error::Locked {
                dir: dir.to_owned(),
            },
            _ => Error::io("lock", &lock_path, error),
        });
    }
    let identity = Identity {
        cluster_id,
        member_id,
    };
    let recovered = recover_and_show(&ReadOnly, dir, identity, visit)?;
    let range = recovered.log.range();
    Ok(Inspection {
        vote: recovered.log.vote,
        committed: recovered.log.committed,
        purged: recovered.log.purged,
        last: recovered.log.last(),
        segments: recovered
            .segments
            .iter()
            .map(|(segment, _)| segment.path.clone())
            .collect(),
        entries: range.end - range.start,
    })
}

/// The real disk, but nothing on it changes.
#[derive(Debug)]
struct ReadOnly;

#[derive(Debug)]
struct ReadOnlyFile(File);

fn refuse<T>() -> io::Result<T> {
    Err(io::ErrorKind::ReadOnlyFilesystem.into())
}

impl Disk for ReadOnly {
    fn create_dir_all(&self, _: &Path) -> io::Result<()> {
        refuse()
    }

    fn create(&self, _: &Path) -> io::Result<Arc<dyn DiskFile>> {
        refuse()
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(ReadOnlyFile(File::open(path)?)))
    }

    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        refuse()
    }

    /// A start would remove spare segments; they stay.
    fn remove(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(dir)
    }

    fn lock(&self, _: &Path) -> io::Result<Box<dyn DiskLock>> {
        refuse()
    }
}

impl DiskFile for ReadOnlyFile {
    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        refuse()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        read_up_to(&self.0, buffer, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn truncate(&self, _: u64) -> io::Result<()> {
        refuse()
    }

    fn preallocate(&self, _: u64) -> io::Result<()> {
        refuse()
    }
}
