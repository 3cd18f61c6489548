//! A disk that stands still while a file exists: a seam for tests of stalled disks.
//!
//! Nothing else can make a real disk stall on demand. `kvd` puts it under the write-ahead log when
//! the variable `KVD_TEST_WAL_STALL` names such a file, and says so in its log.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::{Disk, DiskFile, DiskLock};

/// How often the switch is looked at.
const TICK: Duration = Duration::from_millis(5);

/// Another disk whose writes and syncs wait while `switch` exists.
#[derive(Debug, Clone)]
pub struct StallDisk {
    disk: Arc<dyn Disk>,
    switch: PathBuf,
}

impl StallDisk {
    /// `disk`, standing still while `switch` exists.
    pub fn new(disk: Arc<dyn Disk>, switch: PathBuf) -> StallDisk {
        StallDisk { disk, switch }
    }

    fn wrap(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(StallFile {
            file,
            switch: self.switch.clone(),
        })
    }
}

impl Disk for StallDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir_all(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.wrap(self.disk.create(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.wrap(self.disk.open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        self.disk.lock(path)
    }
}

#[derive(Debug)]
struct StallFile {
    file: Arc<dyn DiskFile>,
    switch: PathBuf,
}

impl StallFile {
    fn wait(&self) {
        while self.switch.exists() {
            thread::sleep(TICK);
        }
    }
}

impl DiskFile for StallFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.wait();
        self.file.write_at(bytes, offset)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.wait();
        self.file.sync_data()
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.file.truncate(bytes)
    }

    fn preallocate(&self, bytes: u64) -> io::Result<()> {
        self.file.preallocate(bytes)
    }

    fn drop_cache(&self) {
        self.file.drop_cache();
    }
}
