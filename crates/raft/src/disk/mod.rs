//! The seam between the write-ahead log and the disk.
//!
//! [`RealDisk`] is the operating system's. [`SimDisk`] lives in memory, records every write,
//! resize, rename and sync, and can rebuild what a power cut at any of these events might have
//! left: un-synced 4 KiB blocks and un-synced directory changes are kept or lost at random.
//!
//! What is durable, and when, follows POSIX and nothing more: a file's bytes and length after
//! [`DiskFile::sync_data`], a directory's names after [`Disk::sync_dir`].

mod real;
mod sim;
mod stall;
mod unsynced;

use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::sync::Arc;

pub use real::RealDisk;
pub(crate) use real::read_up_to;
pub use sim::{Fault, FaultPoint, SimDisk};
pub use stall::StallDisk;
pub use unsynced::UnsyncedDisk;

/// Names in directories, and files behind them.
pub trait Disk: Debug + Send + Sync + 'static {
    /// Makes a directory and its parents; nothing happens when it exists.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Makes an empty file. Errors: `AlreadyExists`. The name lasts after [`Disk::sync_dir`].
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens an existing file for reading and writing. Errors: `NotFound`.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Moves a file to another name of the same directory, replacing what was there.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a name. A file that is still open stays readable.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in `dir` durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// The file names in `dir`, in byte order.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Takes an exclusive lock that ends with the returned value or with the process.
    /// Errors: `WouldBlock` when another process holds it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>>;
}

/// An open file. All methods take positions, so one handle serves many threads.
pub trait DiskFile: Debug + Send + Sync + 'static {
    /// Writes all of `bytes` at `offset`, making the file longer where needed.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Fills `buffer` from `offset` on and returns how much; less only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Makes the bytes and the length durable (fdatasync).
    fn sync_data(&self) -> io::Result<()>;

    /// The length in bytes.
    fn size(&self) -> io::Result<u64>;

    /// Cuts the file, or makes it longer by zeros.
    fn truncate(&self, bytes: u64) -> io::Result<()>;

    /// Reserves space so that writes below `bytes` do not fail for lack of it. New space reads
    /// as zeros; the file never gets shorter.
    fn preallocate(&self, bytes: u64) -> io::Result<()>;

    /// Tells the system that the cached pages of this file are not needed any more.
    fn drop_cache(&self) {}
}

/// A held lock; dropping it releases.
pub trait DiskLock: Debug + Send + Sync {}
