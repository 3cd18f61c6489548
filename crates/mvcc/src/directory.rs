//! The store's directory: who owns it, what format it has, and which generation is current.
//!
//! ```text
//! LOCK         locked (flock) as long as a process has the store open
//! CREATING     there while the directory is being laid out for the first time
//! FORMAT       "kvd-mvcc 1" and the engine's name
//! CURRENT      the number of the current generation
//! db/<n>/      a generation: the engine's files, and
//! db/<n>.clean there after an orderly close, gone while the store is open
//! ```
//!
//! A generation is the whole content of a store. Installing a snapshot builds the next one beside
//! the current one and then switches: `CURRENT` is replaced by a rename, so that a crash leaves the
//! old content or the new, and whatever is not current is removed at the next open. A damaged
//! directory is never changed or removed.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::options::EngineKind;

/// The newest directory format this release writes and reads.
const FORMAT: u32 = 1;
const FORMAT_NAME: &str = "kvd-mvcc";
const ADVICE: &str = "nothing was changed; move the directory away and let the member rebuild it \
                      from its peers, or restore a backup";
/// How long the lock is waited for: a process that is ending holds it a moment longer, and so does
/// one that was forked and has not yet become its program.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// An open, locked store directory.
#[derive(Debug)]
pub(crate) struct Directory {
    root: PathBuf,
    generation: u64,
    /// Dropping it releases the lock.
    _lock: File,
}

/// What [`Directory::open`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing: the current generation is empty.
    Fresh,
    /// A store that was closed in order.
    Clean,
    /// A store whose process died.
    Unclean,
}

impl Directory {
    /// Opens `root`, creating it with mode 0700 when it is missing.
    ///
    /// Errors: [`Error::Locked`], [`Error::NewerFormat`], [`Error::WrongEngine`],
    /// [`Error::ReadOnly`], [`Error::Corrupt`].
    pub(crate) fn open(root: &Path, engine: EngineKind) -> Result<(Self, Found)> {
        create_dir(root)?;
        let lock = lock(&root.join("LOCK"))?;
        let mut directory = Directory {
            root: root.to_owned(),
            generation: 0,
            _lock: lock,
        };
        let format = read(&directory.path("FORMAT"))?;
        let creating = read(&directory.path("CREATING"))?.is_some();
        match format {
            Some(text) if !creating => directory.check_format(&text, engine)?,
            None if !creating && directory.path("db").exists() => {
                return Err(directory.damaged("FORMAT", "missing"));
            }
            _ => {
                directory.create(engine)?;
                return Ok((directory, Found::Fresh));
            }
        }
        directory.generation = directory.read_current()?;
        if engine == EngineKind::Memory {
            directory.remove_others()?;
            return Ok((directory, Found::Fresh));
        }
        let files = directory.generation_dir();
        let empty = match fs::read_dir(&files) {
            Ok(mut entries) => entries.next().is_none(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => return Err(Error::io(files, error)),
        };
        if empty {
            let place = files.display().to_string();
            return Err(Error::corrupt(
                place,
                format!("the engine's files are missing; {ADVICE}"),
            ));
        }
        directory.remove_others()?;
        let clean = directory.clean_marker(directory.generation).exists();
        Ok((directory, if clean { Found::Clean } else { Found::Unclean }))
    }

    /// The directory of the current generation.
    pub(crate) fn generation_dir(&self) -> PathBuf {
        self.dir_of(self.generation)
    }

    /// Says that the fresh directory holds a store now: its engine's files are there.
    pub(crate) fn finish_creation(&self) -> Result<()> {
        sync_dir(&self.generation_dir())?;
        let marker = self.path("CREATING");
        if remove_file(&marker)? {
            sync_dir(&self.root)?;
        }
        Ok(())
    }

    /// Removes the mark of an orderly close, durably: from here on a crash is seen.
    pub(crate) fn clear_clean(&self) -> Result<()> {
        if remove_file(&self.clean_marker(self.generation))? {
            sync_dir(&self.path("db"))?;
        }
        Ok(())
    }

    /// Leaves the mark of an orderly close. The engine must be closed before.
    pub(crate) fn mark_clean(&self) -> Result<()> {
        let marker = self.clean_marker(self.generation);
        File::create(&marker)
            .and_then(|file| file.sync_all())
            .map_err(io_at(&marker))?;
        sync_dir(&self.path("db"))
    }

    /// Creates the directory of the next generation.
    pub(crate) fn next_generation(&self) -> Result<PathBuf> {
        let dir = self.dir_of(self.generation + 1);
        remove_dir(&dir)?;
        create_dir(&dir)?;
        Ok(dir)
    }

    /// Makes the next generation the current one, durably. Its content must be synced before.
    pub(crate) fn switch(&mut self) -> Result<()> {
        sync_dir(&self.dir_of(self.generation + 1))?;
        sync_dir(&self.path("db"))?;
        self.replace("CURRENT", &format!("{}\n", self.generation + 1))?;
        self.generation += 1;
        Ok(())
    }

    /// Removes every generation but the current one.
    pub(crate) fn remove_others(&self) -> Result<()> {
        let db = self.path("db");
        let entries = match fs::read_dir(&db) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(self.damaged("db", "missing"));
            }
            other => other.map_err(io_at(&db))?,
        };
        for entry in entries {
            let path = entry.map_err(io_at(&db))?.path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            let number = name.strip_suffix(".clean").unwrap_or(name).parse::<u64>();
            if number.is_ok_and(|number| number != self.generation) {
                tracing::info!(path = %path.display(), "removing a replaced generation");
                if name.ends_with(".clean") {
                    remove_file(&path)?;
                } else {
                    remove_dir(&path)?;
                }
            }
        }
        Ok(())
    }

    /// Lays out an empty store. `CREATING` is there first and goes last, so that an interrupted
    /// layout is started over, and a missing file later on is damage.
    fn create(&mut self, engine: EngineKind) -> Result<()> {
        self.generation = 1;
        if let Some(parent) = self
            .root
            .parent()
            .filter(|parent| parent.parent().is_some())
        {
            sync_dir(parent)?;
        }
        self.replace("CREATING", "")?;
        remove_dir(&self.path("db"))?;
        create_dir(&self.path("db"))?;
        create_dir(&self.generation_dir())?;
        sync_dir(&self.path("db"))?;
        self.replace("CURRENT", "1\n")?;
        self.replace(
            "FORMAT",
            &format!("{FORMAT_NAME} {FORMAT}\nengine {engine}\n"),
        )
    }

    fn check_format(&self, text: &str, engine: EngineKind) -> Result<()> {
        let mut lines = text.lines();
        let version = lines.next().and_then(|line| line.strip_prefix(FORMAT_NAME));
        let version = version.and_then(|version| version.trim().parse::<u32>().ok());
        let version = version.ok_or_else(|| self.damaged("FORMAT", "not a store's format"))?;
        if version > FORMAT {
            let place = self.root.display().to_string();
            return Err(Error::NewerFormat {
                place,
                found: version,
                supported: FORMAT,
            });
        }
        let found = lines.next().and_then(|line| line.strip_prefix("engine "));
        let found = found.ok_or_else(|| self.damaged("FORMAT", "names no engine"))?;
        if found != engine.to_string() {
            let (found, wanted) = (found.to_owned(), engine.to_string());
            return Err(Error::WrongEngine { found, wanted });
        }
        Ok(())
    }

    fn read_current(&self) -> Result<u64> {
        let text = read(&self.path("CURRENT"))?;
        let text = text.ok_or_else(|| self.damaged("CURRENT", "missing"))?;
        text.trim()
            .parse()
            .map_err(|_| self.damaged("CURRENT", "not the number of a generation"))
    }

    /// Replaces a small file by a synced new one.
    fn replace(&self, name: &str, content: &str) -> Result<()> {
        let (path, new) = (self.path(name), self.path(&format!("{name}.new")));
        let mut file = File::create(&new).map_err(io_at(&new))?;
        file.write_all(content.as_bytes()).map_err(io_at(&new))?;
        file.sync_all().map_err(io_at(&new))?;
        fs::rename(&new, &path).map_err(io_at(&path))?;
        sync_dir(&self.root)
    }

    fn damaged(&self, name: &str, problem: &str) -> Error {
        let place = self.path(name).display().to_string();
        Error::corrupt(place, format!("{problem}; {ADVICE}"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn dir_of(&self, generation: u64) -> PathBuf {
        self.path("db").join(generation.to_string())
    }

    fn clean_marker(&self, generation: u64) -> PathBuf {
        self.path("db").join(format!("{generation}.clean"))
    }
}

/// The engine that the store in `root` was made with; none when there is no store.
///
/// Errors: [`Error::Corrupt`] when the directory does not say, [`Error::Io`].
pub fn engine_of(root: &Path) -> Result<Option<EngineKind>> {
    let path = root.join("FORMAT");
    let Some(text) = read(&path)? else {
        return Ok(None);
    };
    let engine = text.lines().find_map(|line| line.strip_prefix("engine "));
    let engine = engine.and_then(|engine| engine.parse().ok());
    let place = path.display().to_string();
    engine
        .map(Some)
        .ok_or_else(|| Error::corrupt(place, "names no engine"))
}

/// Adds what an operator can do to an error about damage.
pub(crate) fn with_advice(error: Error) -> Error {
    match error {
        Error::Corrupt { place, problem } => Error::Corrupt {
            place,
            problem: format!("{problem}; {ADVICE}"),
        },
        other => other,
    }
}

fn lock(path: &Path) -> Result<File> {
    let options = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path);
    let file = options.map_err(io_at(path))?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                thread::sleep(LOCK_PAUSE);
            }
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Locked {
                    path: path.to_owned(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(Error::io(path, error)),
        }
    }
}

fn read(path: &Path) -> Result<Option<String>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(path, error)),
    }
}

fn create_dir(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(io_at(path))
}

fn remove_dir(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io(path, error)),
        _ => Ok(()),
    }
}

/// Returns whether there was a file.
fn remove_file(path: &Path) -> Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io(path, error)),
    }
}

fn sync_dir(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .map_err(io_at(path))
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |error| Error::io(path, error)
}

#[cfg(test)]
mod tests;
