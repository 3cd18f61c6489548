//! A disk that nobody waits for: `--unsafe-no-fsync`.
//!
//! What is written is the system's, which keeps it when the process dies and may lose any part of
//! it when the machine does.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::{Disk, DiskFile, DiskLock};

/// Another disk, without its syncs.
#[derive(Debug, Clone)]
pub struct UnsyncedDisk(Arc<dyn Disk>);

impl UnsyncedDisk {
    /// `disk`, whose syncs return at once and do nothing.
    pub fn new(disk: Arc<dyn Disk>) -> UnsyncedDisk {
        UnsyncedDisk(disk)
    }
}

impl Disk for UnsyncedDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.0.create_dir_all(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(UnsyncedFile(self.0.create(path)?)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(UnsyncedFile(self.0.open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.0.list(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        self.0.lock(path)
    }
}

#[derive(Debug)]
struct UnsyncedFile(Arc<dyn DiskFile>);

impl DiskFile for UnsyncedFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(bytes, offset)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.0.truncate(bytes)
    }

    fn preallocate(&self, bytes: u64) -> io::Result<()> {
        self.0.preallocate(bytes)
    }

    fn drop_cache(&self) {
        self.0.drop_cache();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Fault, FaultPoint, SimDisk};

    #[test]
    fn nothing_is_synced_and_everything_is_kept() {
        let sim = SimDisk::new();
        sim.inject(FaultPoint::Sync, 0, Fault::Errno(5));
        sim.inject(FaultPoint::SyncDir, 0, Fault::Errno(5));
        let disk = UnsyncedDisk::new(Arc::new(sim.clone()));
        let path = Path::new("/d/a");
        let file = disk.create(path).expect("create");
        file.write_at(b"hello", 0).expect("write");
        file.sync_data().expect("reached the disk");
        disk.sync_dir(Path::new("/d")).expect("reached the disk");
        drop(file);
        let mut buffer = [0; 5];
        let file = disk.open(path).expect("open");
        assert_eq!(file.read_at(&mut buffer, 0).expect("read"), 5);
        assert_eq!(&buffer, b"hello");
        file.sync_data().expect("of an opened file, too");
        sim.open(path)
            .expect("open")
            .sync_data()
            .expect_err("the disk itself would have failed");
    }
}
