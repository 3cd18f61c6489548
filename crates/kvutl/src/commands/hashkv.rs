//! hashkv: the number by which members compare their history, of a snapshot file or of the data
//! directory of a stopped member.
//!
//! Differs from etcd: `etcdutl hashkv` changes the file it reads, so that its hash does not match
//! any more; here a file is read into a store of its own, in the system's temporary directory.

use std::path::Path;
use std::time::Duration;

use kvd_mvcc::{EngineKind, Error, Position, Store};
use kvd_server::backup::{Import, SnapshotFile};
use serde::Serialize;

use super::store;
use crate::failure::{Failure, Outcome};

/// A hash as etcdutl prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HashKv {
    pub(crate) hash: u32,
    pub(crate) hash_revision: i64,
    pub(crate) compact_revision: i64,
}

pub(crate) fn hash(path: &Path, revision: i64, timeout: Duration) -> Outcome<HashKv> {
    if path.is_dir() {
        return hash_of(store::open(&store::store_dir(path), timeout)?, revision);
    }
    let file = SnapshotFile::open(path)?;
    let scratch = tempfile::tempdir()?;
    let dir = scratch.path().join("store");
    let import = Import {
        bump_revision: 0,
        engine: EngineKind::default(),
    };
    import.run(&file.database()?, &dir, Vec::new(), Position::default())?;
    hash_of(store::open(&dir, timeout)?, revision)
}

fn hash_of(store: Store, revision: i64) -> Outcome<HashKv> {
    let hashed = store.hash_kv(revision);
    store.close();
    match hashed {
        Ok(hash) => Ok(HashKv {
            hash: hash.hash,
            hash_revision: hash.revision,
            compact_revision: hash.compact_revision,
        }),
        Err(Error::Compacted { .. }) => {
            Err(Failure::new("mvcc: required revision has been compacted"))
        }
        Err(Error::FutureRevision { .. }) => {
            Err(Failure::new("mvcc: required revision is a future revision"))
        }
        Err(error) => Err(error.into()),
    }
}
