//! A copy of a stopped member's store to look at: opening a store repairs and cleans up, and what is
//! looked at must stay as it was found.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::Context;
use tempfile::TempDir;

use super::store::store_dir;
use crate::failure::{Failure, Outcome};

/// A copied store; gone with this value.
pub(super) struct Scratch {
    _folder: TempDir,
    store: PathBuf,
}

impl Scratch {
    /// Copies the store of `data_dir` into the system's temporary directory.
    ///
    /// Errors: when a member runs there.
    pub(super) fn of(data_dir: &Path) -> Outcome<Scratch> {
        let source = store_dir(data_dir);
        let path = source.join("LOCK");
        let lock = File::open(&path)
            .with_context(|| format!("{}: no store of kvd is there", path.display()))?;
        if lock.try_lock().is_err() {
            return Err(Failure::new(format!(
                "{} is in use by another process: stop the member first",
                path.display()
            )));
        }
        let folder = tempfile::tempdir()?;
        let store = folder.path().join("store");
        copy(&source, &store)?;
        Ok(Scratch {
            _folder: folder,
            store,
        })
    }

    /// Where the copy lies.
    pub(super) fn store(&self) -> &Path {
        &self.store
    }
}

fn copy(from: &Path, to: &Path) -> Outcome {
    fs::create_dir(to).with_context(|| to.display().to_string())?;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry.with_context(|| from.display().to_string())?;
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy(&path, &target)?;
        } else {
            fs::copy(&path, &target).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}
