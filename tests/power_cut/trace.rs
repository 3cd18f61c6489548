//! The trace that the preloaded library writes: what was changed and synced, in order.
//!
//! `shim.c` draws the records.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

const SHIM: &str = include_str!("shim.c");
const HEADER: usize = 48;

/// Compiles the library into `folder`.
///
/// Errors: when there is no C compiler, or it fails.
pub fn compile_shim(folder: &Path) -> Result<PathBuf> {
    let (source, library) = (folder.join("shim.c"), folder.join("shim.so"));
    std::fs::write(&source, SHIM)?;
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let output = Command::new(&compiler)
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .args([&library, &source])
        .args(["-ldl", "-lpthread"])
        .output()
        .with_context(|| format!("running {compiler}; the test needs a C compiler"))?;
    ensure!(
        output.status.success(),
        "{compiler}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(library)
}

/// What one record says. Paths are relative to the traced folder.
#[derive(Clone, Debug)]
pub enum Change {
    /// A process begins; syncs that had not ended never will.
    Start,
    Create(PathBuf),
    Truncate(u64),
    Write {
        offset: u64,
        /// Where the bytes are in the trace; `None`: zeros.
        data: Option<Range<usize>>,
        length: u64,
    },
    Rename(PathBuf, PathBuf),
    Unlink(PathBuf),
    MakeDir(PathBuf),
    RemoveDir(PathBuf),
    Link(PathBuf, PathBuf),
    SyncBegin(u64),
    SyncEnd(u64),
}

#[derive(Clone, Debug)]
pub struct Event {
    pub change: Change,
    /// The file or directory, for changes that are made through a descriptor or make a file.
    pub inode: u64,
    /// The file's size before, for changes through a descriptor.
    pub size: u64,
    /// Where the record ends in the trace.
    pub end: u64,
}

/// A whole trace.
pub struct Trace {
    pub bytes: Vec<u8>,
    pub events: Vec<Event>,
}

impl Trace {
    /// Reads a trace of what happened under `root`.
    ///
    /// Errors: when it is damaged, or holds what the model does not know.
    pub fn read(file: &Path, root: &Path) -> Result<Trace> {
        let bytes = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
        let mut events = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let length = number(&bytes, at, 4)? as usize;
            ensure!(
                length >= HEADER && at + length <= bytes.len(),
                "a torn record at {at}"
            );
            events.push(event(&bytes, at, length, root)?);
            at += length;
        }
        Ok(Trace { bytes, events })
    }
}

fn number(bytes: &[u8], at: usize, length: usize) -> Result<u64> {
    let bytes = bytes
        .get(at..at + length)
        .context("the trace ends in a number")?;
    Ok(bytes
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

fn event(bytes: &[u8], at: usize, length: usize, root: &Path) -> Result<Event> {
    let (a, b) = (number(bytes, at + 16, 8)?, number(bytes, at + 24, 8)?);
    let path_end = at + HEADER + number(bytes, at + 40, 4)? as usize;
    let data_at = path_end + number(bytes, at + 44, 4)? as usize;
    let text = |range| Ok::<_, anyhow::Error>(std::str::from_utf8(&bytes[range])?);
    let relative = |range| Ok::<_, anyhow::Error>(Path::new(text(range)?).strip_prefix(root)?);
    let path = || relative(at + HEADER..path_end).map(Path::to_owned);
    let to = || relative(path_end..data_at).map(Path::to_owned);
    let change = match number(bytes, at + 4, 4)? {
        1 => Change::Start,
        2 => Change::Create(path()?),
        3 => Change::Truncate(a),
        4 => Change::Write {
            offset: a,
            data: Some(data_at..at + length),
            length: b,
        },
        5 => Change::Write {
            offset: a,
            data: None,
            length: b,
        },
        6 => Change::Rename(path()?, to()?),
        7 => Change::Unlink(path()?),
        8 => Change::MakeDir(path()?),
        9 => Change::RemoveDir(path()?),
        10 => Change::Link(path()?, to()?),
        11 => Change::SyncBegin(a),
        12 => Change::SyncEnd(a),
        13 => bail!(
            "the process did what the model does not know: {}",
            text(at + 48..path_end)?
        ),
        kind => bail!("a record of kind {kind} at {at}"),
    };
    Ok(Event {
        change,
        inode: number(bytes, at + 8, 8)?,
        size: number(bytes, at + 32, 8)?,
        end: (at + length) as u64,
    })
}
