//! The operating system's disk.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::{Disk, DiskFile, DiskLock};

/// Files of the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

#[derive(Debug)]
struct RealFile(File);

#[derive(Debug)]
struct RealLock(#[expect(dead_code, reason = "held for its lock")] File);

impl DiskLock for RealLock {}

impl Disk for RealDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        std::fs::create_dir_all(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)?;
        Ok(Arc::new(RealFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(RealFile(
            OpenOptions::new().read(true).write(true).open(path)?,
        )))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            // A name that is not UTF-8 is not one of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        file.try_lock().map_err(io::Error::from)?;
        Ok(Box::new(RealLock(file)))
    }
}

/// Fills `buffer` from `offset`, or as much of it as the file has; returns how much that is.
pub(crate) fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

impl DiskFile for RealFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        read_up_to(&self.0, buffer, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }

    fn preallocate(&self, bytes: u64) -> io::Result<()> {
        let size = self.size()?;
        if size >= bytes {
            return Ok(());
        }
        #[cfg(target_os = "linux")]
        {
            use rustix::fs::{FallocateFlags, fallocate};
            use rustix::io::Errno;
            match fallocate(&self.0, FallocateFlags::empty(), size, bytes - size) {
                Ok(()) => return Ok(()),
                // Some file systems cannot reserve; they get a sparse file.
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        self.0.set_len(bytes)
    }

    fn drop_cache(&self) {
        // A hint: when the system refuses it, nothing is lost.
        #[cfg(target_os = "linux")]
        let _ = rustix::fs::fadvise(&self.0, 0, None, rustix::fs::Advice::DontNeed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_keeps_what_is_written_and_reserved() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let disk = RealDisk;
        let path = dir.path().join("a");
        let file = disk.create(&path).expect("create");
        file.write_at(b"hello", 3).expect("write");
        file.preallocate(100).expect("preallocate");
        assert_eq!(file.size().expect("size"), 100);
        let mut buffer = [9; 10];
        assert_eq!(file.read_at(&mut buffer, 0).expect("read"), 10);
        assert_eq!(&buffer, b"\0\0\0hello\0\0");
        assert_eq!(file.read_at(&mut buffer, 95).expect("read at the end"), 5);
        assert_eq!(
            disk.create(&path).expect_err("exists").kind(),
            io::ErrorKind::AlreadyExists
        );
        disk.rename(&path, &dir.path().join("b")).expect("rename");
        disk.sync_dir(dir.path()).expect("sync the directory");
        assert_eq!(disk.list(dir.path()).expect("list"), ["b"]);
    }

    #[test]
    fn a_second_lock_is_refused_until_the_first_ends() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("lock");
        let first = RealDisk.lock(&path).expect("first");
        let refused = RealDisk.lock(&path).expect_err("second");
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        drop(first);
        RealDisk.lock(&path).expect("after release");
    }
}
