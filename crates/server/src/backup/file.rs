//! A snapshot file: a database, and perhaps the hash of it.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use kvd_bbolt::Reader;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// Bytes of the hash that follows a database.
pub const HASH_BYTES: u64 = 32;
/// A database is a multiple of this, so a hash after it shows in the length.
const SECTOR_BYTES: u64 = 512;

/// A snapshot file, open for reading.
#[derive(Debug)]
pub struct SnapshotFile {
    path: PathBuf,
    file: File,
    length: u64,
}

impl SnapshotFile {
    /// Opens `path`.
    ///
    /// Errors: [`Error::Io`].
    pub fn open(path: &Path) -> Result<SnapshotFile> {
        let at = |source| Error::Io {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(at)?;
        let metadata = file.metadata().map_err(at)?;
        if metadata.is_dir() {
            let source = std::io::Error::from(std::io::ErrorKind::IsADirectory);
            return Err(at(source));
        }
        Ok(SnapshotFile {
            path: path.to_owned(),
            file,
            length: metadata.len(),
        })
    }

    /// Whether a hash follows the database: as in etcd, that is seen from the length alone.
    pub fn has_hash(&self) -> bool {
        self.length % SECTOR_BYTES == HASH_BYTES
    }

    /// Reads the whole file and compares its hash with the one at its end.
    ///
    /// Errors: [`Error::Backup`] when there is none, or another one: then the file was changed.
    pub fn verify_hash(&self) -> Result<()> {
        if !self.has_hash() {
            return Err(Error::Backup(
                "snapshot missing hash but --skip-hash-check=false".to_owned(),
            ));
        }
        let at = |source| Error::Io {
            path: self.path.clone(),
            source,
        };
        let mut file = File::open(&self.path).map_err(at)?;
        let (mut hash, mut left) = (Sha256::new(), self.length - HASH_BYTES);
        let mut buffer = vec![0; 256 << 10];
        while left > 0 {
            let wanted = buffer
                .len()
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            file.read_exact(&mut buffer[..wanted]).map_err(at)?;
            hash.update(&buffer[..wanted]);
            left -= wanted as u64;
        }
        let (mut expected, found) = ([0; HASH_BYTES as usize], hash.finalize());
        file.read_exact(&mut expected).map_err(at)?;
        if expected[..] == found[..] {
            return Ok(());
        }
        Err(Error::Backup(format!(
            "expected sha256 {}, got {}",
            go_bytes(&expected),
            go_bytes(&found)
        )))
    }

    /// The database in the file.
    ///
    /// Errors: [`Error::Backup`] when it is none.
    pub fn database(&self) -> Result<Reader> {
        let file = self.file.try_clone().map_err(|source| Error::Io {
            path: self.path.clone(),
            source,
        })?;
        Ok(Reader::open(file)?)
    }
}

/// Bytes as Go prints them.
fn go_bytes(bytes: &[u8]) -> String {
    let numbers: Vec<String> = bytes.iter().map(u8::to_string).collect();
    format!("[{}]", numbers.join(" "))
}
