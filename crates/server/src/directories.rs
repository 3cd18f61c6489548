//! The directories that a new member makes, so that a power cut does not take them back.
//!
//! A directory's name is durable once the directory *above* it was synced. Whoever syncs only what
//! is inside loses all of it when the name goes.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::identity;

/// What the directories' mode should be: nobody else may read keys and values.
const MODE: u32 = 0o700;

/// Makes a member's directories, durably for one that is new.
///
/// Errors: [`Error::Io`]; [`Error::Identity`] where a new member would begin in etcd's data.
pub(crate) fn prepare(config: &Config) -> Result<()> {
    let (member_dir, wal_dir) = (config.member_dir(), config.wal_path());
    let is_new = !identity::path(config).exists();
    if is_new {
        refuse_etcds(&member_dir)?;
    }
    create(&[&config.data_dir, &member_dir, &wal_dir], is_new)
}

/// Creates `dirs`, and what is missing above them, with mode 0700. Of one that exists with another
/// mode a warning says so, as in etcd (`fileutil.CheckDirPermission`).
///
/// With `durable`, their names are on the disk on return, all the way up; also of those that an
/// earlier start made before it was cut short.
///
/// Errors: [`Error::Io`].
pub fn create(dirs: &[&Path], durable: bool) -> Result<()> {
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

/// Refuses to begin anew where etcd has kept its data: a member would come up empty, with all that
/// the user wants to have in the same directory.
///
/// Errors: [`Error::Identity`].
fn refuse_etcds(member_dir: &Path) -> Result<()> {
    let database = member_dir.join("snap").join("db");
    if !database.exists() {
        return Ok(());
    }
    let what = format!(
        "this is the data of an etcd, which kvd does not use as it is. Put another directory into \
         --data-dir that `kvutl snapshot restore` fills: from a snapshot (`etcdctl snapshot \
         save`), or from this file of a stopped etcd (kvutl snapshot restore {} \
         --skip-hash-check --data-dir OTHER)",
        database.display()
    );
    Err(Error::Identity {
        path: database,
        what,
    })
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
