//! Snapshot: the store as an etcd snapshot file, in pieces.
//!
//! Clients are told with each piece how much is to come, so the database is first written to a
//! file without a name in the member's directory. From then on it does not matter how slowly the
//! client reads: the store may compact again.
//!
//! Source: etcd `server/etcdserver/api/v3rpc/maintenance.go`.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use kvd_api::pb::etcdserverpb::SnapshotResponse;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::maintenance::storage_version;
use crate::backup;
use crate::core::Core;
use crate::error::{Error, Result};

/// Bytes of the database in a message.
const PIECE_BYTES: usize = 32 << 10;
/// Messages that wait for the client.
const PIECES_AHEAD: usize = 16;

/// The messages of one snapshot.
pub type SnapshotStream = ReceiverStream<Result<SnapshotResponse, Status>>;

/// Writes the snapshot to a file, then sends it.
pub(super) async fn stream(core: &Arc<Core>) -> Result<SnapshotStream> {
    let (sender, receiver) = mpsc::channel(PIECES_AHEAD);
    let version = storage_version(core.store());
    let made = Arc::clone(core);
    let made = tokio::task::spawn_blocking(move || make(&made)).await;
    let (file, length) =
        made.map_err(|error| Error::Internal(format!("a snapshot did not finish: {error}")))??;
    // Reads a file of this machine and waits for the client: neither is for an async thread.
    tokio::task::spawn_blocking(move || {
        let started = Instant::now();
        match send(file, length, &version, &sender) {
            Ok(true) => tracing::info!(
                total_bytes = length,
                took = ?started.elapsed(),
                storage_version = version,
                "successfully sent database snapshot to client"
            ),
            Ok(false) => tracing::warn!(
                total_bytes = length,
                "the client went away before it had the whole snapshot"
            ),
            Err(error) => {
                tracing::error!(%error, "a snapshot could not be read back");
                // Without room the client has gone, too.
                drop(sender.blocking_send(Err(error.into())));
            }
        }
    });
    Ok(ReceiverStream::new(receiver))
}

/// The database in a file that goes with its last handle, and its length.
fn make(core: &Core) -> Result<(File, u64)> {
    let started = Instant::now();
    let dir = core.config().member_dir().join("snap");
    let file = tempfile::tempfile_in(&dir).map_err(|source| Error::Io {
        path: dir.clone(),
        source,
    })?;
    let made = backup::export(core.store().content()?, file);
    let (file, length) = made.map_err(|error| {
        tracing::error!(%error, dir = %dir.display(), "a snapshot could not be written");
        Error::Backup(format!(
            "a snapshot could not be written to {}: {error}; it takes as much room there as the \
             store, until it is sent",
            dir.display()
        ))
    })?;
    let took = started.elapsed();
    core.metrics().backend_snapshot.observe(took.as_secs_f64());
    tracing::info!(
        total_bytes = length,
        ?took,
        "sending database snapshot to client"
    );
    Ok((file, length))
}

/// Sends the file and its hash; says whether the client took all of it.
fn send(
    file: File,
    length: u64,
    version: &str,
    sender: &mpsc::Sender<Result<SnapshotResponse, Status>>,
) -> Result<bool> {
    let failed = |error: std::io::Error| Error::Backup(format!("reading the snapshot: {error}"));
    let mut file = std::io::BufReader::with_capacity(1 << 20, file);
    std::io::Seek::rewind(&mut file).map_err(failed)?;
    let (mut hash, mut left) = (Sha256::new(), length);
    while left > 0 {
        let wanted = PIECE_BYTES.min(usize::try_from(left).unwrap_or(PIECE_BYTES));
        let mut piece = vec![0; wanted];
        file.read_exact(&mut piece).map_err(failed)?;
        hash.update(&piece);
        left -= wanted as u64;
        if sender
            .blocking_send(Ok(message(version, left, piece.into())))
            .is_err()
        {
            return Ok(false);
        }
    }
    let hash = Bytes::copy_from_slice(&hash.finalize());
    Ok(sender.blocking_send(Ok(message(version, 0, hash))).is_ok())
}

fn message(version: &str, remaining_bytes: u64, blob: Bytes) -> SnapshotResponse {
    SnapshotResponse {
        header: None,
        remaining_bytes,
        blob,
        version: version.to_owned(),
    }
}
