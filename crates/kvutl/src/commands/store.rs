//! Opening the store of a stopped member.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use kvd_mvcc::{Error, Options, Store};

use crate::failure::{Failure, Outcome};

/// How often the lock is tried.
const LOCK_POLL: Duration = Duration::from_millis(100);

/// Where the store of a data directory lies.
pub(super) fn store_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("member").join("store")
}

/// Opens the store in `dir` with the engine it was made with, waiting up to `timeout` for a member
/// to let go of it; zero waits for ever.
pub(super) fn open(dir: &Path, timeout: Duration) -> Outcome<Store> {
    let engine = kvd_mvcc::engine_of(dir)?;
    let engine = engine
        .ok_or_else(|| Failure::new(format!("stat {}: no store of kvd is there", dir.display())))?;
    let started = Instant::now();
    loop {
        let options = Options {
            engine,
            ..Options::default()
        };
        match kvd_mvcc::open(dir, options) {
            // The writer is of no use here: nothing is changed.
            Ok((store, _)) => return Ok(store),
            Err(Error::Locked { .. }) if timeout.is_zero() || started.elapsed() < timeout => {
                thread::sleep(LOCK_POLL);
            }
            Err(error) => return Err(error.into()),
        }
    }
}
