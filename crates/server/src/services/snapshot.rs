//! Snapshot: the store as an etcd snapshot file, in pieces.
//!
//! Clients are told with each piece how much is to come, so the database is first written to a
//! file without a name in the member's directory. From then on it does not matter how slowly the
//! client reads: the store may compact again.
//!
//! Source: etcd `server/etcdserver/api/v3rpc/maintenance.go`.

use std::fs::File;
use std::io::{Read, Seek};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::{Stream, stream};
use kvd_api::pb::etcdserverpb::SnapshotResponse;
use sha2::{Digest, Sha256};
use tonic::Status;

use super::maintenance::storage_version;
use crate::backup;
use crate::core::Core;
use crate::error::{Error, Result};

/// Bytes of the database in a message.
const PIECE_BYTES: usize = 32 << 10;
/// Bytes that are read at once.
const READ_BYTES: usize = 1 << 20;

/// The messages of one snapshot.
pub type SnapshotStream = Pin<Box<dyn Stream<Item = Result<SnapshotResponse, Status>> + Send>>;

/// Writes the snapshot to a file, then sends it.
pub(super) async fn stream(core: &Arc<Core>) -> Result<SnapshotStream> {
    let version = storage_version(core.store());
    let made = Arc::clone(core);
    let made = tokio::task::spawn_blocking(move || make(&made)).await;
    let (file, length) = made.map_err(|error| unfinished(&error))??;
    Ok(pieces(file, length, version))
}

fn unfinished(error: &tokio::task::JoinError) -> Error {
    Error::Internal(format!("a snapshot did not finish: {error}"))
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

/// The file in pieces, then its hash. Nothing is read before the client has room for it, so one
/// that does not read holds no thread.
fn pieces(file: File, length: u64, version: String) -> SnapshotStream {
    let sending = Sending {
        file,
        length,
        unread: length,
        unsent: length,
        read: Bytes::new(),
        hash: Some(Sha256::new()),
        version,
        started: Instant::now(),
    };
    Box::pin(stream::try_unfold(sending, |sending| async move {
        sending.next().await.map_err(Status::from)
    }))
}

/// A snapshot on its way.
struct Sending {
    file: File,
    length: u64,
    unread: u64,
    unsent: u64,
    /// What was read and not sent yet.
    read: Bytes,
    /// Of what was read; none once it is sent, or there is nothing more to send.
    hash: Option<Sha256>,
    version: String,
    started: Instant,
}

impl Sending {
    /// The next message; none after the hash.
    async fn next(mut self) -> Result<Option<(SnapshotResponse, Sending)>> {
        if self.read.is_empty() && self.unread > 0 {
            let read = tokio::task::spawn_blocking(move || {
                let read = self.read_on();
                (self, read)
            });
            let (sending, read) = read.await.map_err(|error| unfinished(&error))?;
            self = sending;
            if let Err(error) = read {
                tracing::error!(%error, "a snapshot could not be read back");
                self.hash = None;
                return Err(Error::Backup(format!("reading the snapshot: {error}")));
            }
        }
        if !self.read.is_empty() {
            let piece = self.read.split_to(PIECE_BYTES.min(self.read.len()));
            self.unsent -= piece.len() as u64;
            return Ok(Some((message(&self.version, self.unsent, piece), self)));
        }
        let Some(hash) = self.hash.take() else {
            return Ok(None);
        };
        let hash = Bytes::copy_from_slice(&hash.finalize());
        tracing::info!(
            total_bytes = self.length,
            took = ?self.started.elapsed(),
            storage_version = self.version,
            "successfully sent database snapshot to client"
        );
        Ok(Some((message(&self.version, 0, hash), self)))
    }

    fn read_on(&mut self) -> std::io::Result<()> {
        if self.unread == self.length {
            self.file.rewind()?;
        }
        let wanted = READ_BYTES.min(usize::try_from(self.unread).unwrap_or(READ_BYTES));
        let mut read = vec![0; wanted];
        self.file.read_exact(&mut read)?;
        if let Some(hash) = &mut self.hash {
            hash.update(&read);
        }
        self.unread -= wanted as u64;
        self.read = read.into();
        Ok(())
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if self.hash.is_some() {
            tracing::warn!(
                total_bytes = self.length,
                "the client went away before it had the whole snapshot"
            );
        }
    }
}

fn message(version: &str, remaining_bytes: u64, blob: Bytes) -> SnapshotResponse {
    SnapshotResponse {
        header: None,
        remaining_bytes,
        blob,
        version: version.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use futures_util::StreamExt;

    use super::*;

    #[test]
    fn a_client_that_does_not_read_its_snapshot_holds_no_thread() {
        let content: Vec<u8> = (0..=250).cycle().take(2 * READ_BYTES + 7).collect();
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&content).expect("written");
        let length = content.len() as u64;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(1)
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let mut stream = pieces(file, length, "3.7.0".to_owned());
            let first = stream.next().await.expect("a message").expect("sent");
            assert_eq!(first.remaining_bytes, length - PIECE_BYTES as u64);
            let other = tokio::task::spawn_blocking(|| ());
            other.await.expect("the only thread is free");
            let mut sent = first.blob.to_vec();
            let mut left = first.remaining_bytes;
            while let Some(message) = stream.next().await {
                let message = message.expect("sent");
                left = message.remaining_bytes;
                sent.extend_from_slice(&message.blob);
            }
            let hash = sent.split_off(content.len());
            assert_eq!(hash, Sha256::digest(&content).to_vec());
            assert!(sent == content && left == 0);
        });
    }
}
