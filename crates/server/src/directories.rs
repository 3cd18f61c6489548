//! The directories that a new member makes, so that a power cut does not take them back.
//!
//! A directory's name is durable once the directory *above* it was synced. Whoever syncs only what
//! is inside loses all of it when the name goes.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use crate::error::{Error, Result};

/// What the directories' mode should be: nobody else may read keys and values.
const MODE: u32 = 0o700;

/// Creates `dirs`, and what is missing above them, with mode 0700. Of one that exists with another
/// mode a warning says so, as in etcd (`fileutil.CheckDirPermission`).
///
/// With `durable`, their names are on the disk on return, all the way up; also of those that an
/// earlier start made before it was cut short.
///
/// Errors: [`Error::Io`].
pub(crate) fn create(dirs: &[&Path], durable: bool) -> Result<()> {
    for dir in dirs {
        let at = |source| Error::Io {
            path: dir.to_path_buf(),
            source,
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(MODE)
            .create(dir)
            .map_err(at)?;
        let mode = fs::metadata(dir).map_err(at)?.mode() & 0o777;
        if mode != MODE {
            tracing::warn!(
                directory = %dir.display(),
                permission = format!("{mode:03o}"),
                recommended = format!("{MODE:03o}"),
                "the directory exists with another permission than recommended to prevent \
                 possible unprivileged access to the data"
            );
        }
        if durable {
            sync_above(dir).map_err(at)?;
        }
    }
    Ok(())
}

/// Syncs every directory above `dir` on its file system. The first that may not be opened ends
/// it: where this user may not even read, an earlier start has made nothing either.
fn sync_above(dir: &Path) -> io::Result<()> {
    let dir = dir.canonicalize()?;
    let device = dir.metadata()?.dev();
    for above in dir.ancestors().skip(1) {
        if above.metadata()?.dev() != device {
            break;
        }
        match File::open(above) {
            Ok(above) => above.sync_all()?,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
