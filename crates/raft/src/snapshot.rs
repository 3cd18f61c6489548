//! Whole snapshots: made fresh for a member that needs one, sent in chunks, received into a file.
//!
//! ```text
//!  header (vote, position) │ chunk │ chunk │ … │ CRC-32C of all chunks
//! ```
//! The content is the application's. Nothing is held in memory but a few chunks on either side. A
//! stream that ends without its checksum, or with a wrong one, leaves nothing behind: the leader
//! sends another.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures_util::StreamExt;
use kvd_api::pb::kvdpeerpb as pb;
use openraft::errors::{NetworkError, RPCError};
use openraft::raft::SnapshotResponse;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::error::{Error, Result};
use crate::events::Events;
use crate::pace::Pace;
use crate::state_machine::{Fault, SnapshotSource};
use crate::transport::client::{Peer, Purpose, unreachable};
use crate::transport::codec;
use crate::type_config::{CommittedLeaderId, PeerNode, SnapshotMeta, TypeConfig, Vote};

/// openraft's snapshot with our content.
pub(crate) type Snapshot = openraft::Snapshot<CommittedLeaderId, u64, PeerNode, SnapshotData>;

/// What a snapshot holds besides its position.
pub(crate) enum SnapshotData {
    /// Nothing: openraft only wants to know the position. The state itself is made when a member
    /// needs it.
    PositionOnly,
    /// A view of this member's state, to be sent.
    Source(Box<dyn SnapshotSource>),
    /// A peer's state, to be installed.
    Received(ReceivedFile),
}

/// Chunks between the disk and the network, on either side.
const CHUNKS_AHEAD: usize = 4;

/// Suffix of files that are being received.
const PART: &str = "part";

/// Streams `snapshot` to `peer` and waits until it is installed there.
pub(crate) async fn send(
    peer: &Arc<Peer>,
    vote: &Vote,
    snapshot: Snapshot,
) -> std::result::Result<SnapshotResponse<TypeConfig>, RPCError<TypeConfig>> {
    let SnapshotData::Source(source) = snapshot.snapshot else {
        return Err(NetworkError::from_string("a snapshot without content").into());
    };
    let meta = &snapshot.meta;
    let header = pb::SnapshotHeader {
        vote: Some(codec::vote_out(vote)),
        position: Some(codec::position_out(
            meta.last_log_id.as_ref(),
            &meta.last_membership,
        )),
        size_hint: source.size_hint(),
    };
    let (parts, outgoing) = mpsc::channel(CHUNKS_AHEAD);
    let peer_id = peer.id;
    let reader = peer.clone();
    let reading = tokio::task::spawn_blocking(move || read_source(source, header, &parts, &reader));
    let mut client = peer.client(Purpose::Snapshot);
    let transfer = Arc::new(OnceLock::new());
    let (begun, transfers) = (transfer.clone(), peer.transfers.clone());
    let outgoing = ReceiverStream::new(outgoing).inspect(move |_| {
        begun.get_or_init(|| transfers.begin());
    });
    let reply = client.snapshot(peer.request(outgoing)).await;
    let read = reading
        .await
        .unwrap_or_else(|error| Err(Fault::new(error.to_string())));
    match (reply, read) {
        (Ok(reply), _) => {
            peer.answered();
            peer.transfers.installed();
            let vote = codec::vote_in(reply.into_inner().vote);
            let vote = vote.map_err(|error| NetworkError::new(&error))?;
            Ok(SnapshotResponse::new(vote))
        }
        (Err(_), Err(fault)) => {
            tracing::error!(peer = format!("{peer_id:x}"), %fault, "cannot read a snapshot");
            Err(NetworkError::new(&fault).into())
        }
        (Err(status), Ok(())) => {
            peer.failed(&status);
            Err(unreachable(&status))
        }
    }
}

/// Feeds the parts of a snapshot into the channel; stops early when nobody takes them any more.
/// After a fault the checksum is missing, so that the receiver refuses what it got.
fn read_source(
    mut source: Box<dyn SnapshotSource>,
    header: pb::SnapshotHeader,
    parts: &mpsc::Sender<pb::SnapshotPart>,
    peer: &Peer,
) -> std::result::Result<(), Fault> {
    use pb::snapshot_part::Part;
    let mut pace = Pace::begin("sending a snapshot", peer.id, header.size_hint);
    let send = |part| {
        parts
            .blocking_send(pb::SnapshotPart { part: Some(part) })
            .is_ok()
    };
    if !send(Part::Header(header)) {
        return Ok(());
    }
    let mut crc = 0;
    while let Some(chunk) = source.next_chunk()? {
        crc = crc32c::crc32c_append(crc, &chunk);
        let bytes = chunk.len();
        if !send(Part::Chunk(chunk)) {
            return Ok(());
        }
        pace.advance(bytes);
        peer.events()
            .snapshot_sent_bytes(peer.id, pace.bytes(), pace.total());
    }
    if send(Part::Crc(crc)) {
        pace.complete();
    }
    Ok(())
}

/// A complete, checked and synced file that is removed when it is no longer needed.
#[derive(Debug)]
pub(crate) struct ReceivedFile {
    path: PathBuf,
}

impl ReceivedFile {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ReceivedFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove a snapshot file");
        }
    }
}

/// What a peer sent.
pub(crate) struct Incoming {
    pub(crate) vote: Vote,
    pub(crate) meta: SnapshotMeta,
    pub(crate) file: ReceivedFile,
}

/// Receives snapshots into a folder.
pub(crate) struct Receiver {
    dir: PathBuf,
    next: AtomicU64,
}

impl Receiver {
    /// Makes the folder and removes what interrupted transfers left in it.
    pub(crate) fn open(dir: PathBuf) -> Result<Receiver> {
        let failed = |what: &str| {
            let what = format!("{what} {}", dir.display());
            move |error| Error::io(what, error)
        };
        fs::create_dir_all(&dir).map_err(failed("make"))?;
        for entry in fs::read_dir(&dir).map_err(failed("list"))? {
            let path = entry.map_err(failed("list"))?.path();
            if path.extension().is_some_and(|extension| extension == PART) {
                fs::remove_file(&path).map_err(failed("clean"))?;
            }
        }
        Ok(Receiver {
            dir,
            next: AtomicU64::new(0),
        })
    }

    /// Refuses what would fill the disk: it is needed for a file, and for the store that is made of
    /// it while the old one is still there. On a full disk the old one could not be written either.
    fn check_room(&self, bytes: u64) -> std::result::Result<(), String> {
        let Ok(disk) = rustix::fs::statvfs(&self.dir) else {
            return Ok(());
        };
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let wanted = bytes.saturating_mul(2);
        if free >= wanted {
            return Ok(());
        }
        tracing::error!(
            dir = %self.dir.display(),
            free,
            wanted,
            "a snapshot cannot be received: its disk is too full; free some space; nothing is lost, \
             and the leader tries again"
        );
        Err(format!(
            "snapshot: it takes {wanted} bytes of the disk, and {free} are free"
        ))
    }

    /// Takes a whole snapshot from the stream.
    pub(crate) async fn receive(
        &self,
        mut parts: Streaming<pb::SnapshotPart>,
        from: u64,
        events: &dyn Events,
    ) -> std::result::Result<Incoming, Status> {
        use pb::snapshot_part::Part;
        let malformed = kvd_api::error::peer_malformed;
        let Some(Part::Header(header)) = parts.message().await?.and_then(|part| part.part) else {
            return Err(malformed("a snapshot begins with its header"));
        };
        self.check_room(header.size_hint)
            .map_err(kvd_api::error::internal)?;
        let refuse = |error: codec::Malformed| malformed(error.0);
        let vote = codec::vote_in(header.vote).map_err(refuse)?;
        let meta = codec::meta_in(header.position.unwrap_or_default()).map_err(refuse)?;

        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self
            .dir
            .join(format!("{}-{number}.{PART}", std::process::id()));
        let (chunks, incoming) = mpsc::channel(CHUNKS_AHEAD);
        let mut pace = Pace::begin("receiving a snapshot", from, header.size_hint);
        let writing = tokio::task::spawn_blocking(move || write_file(path, incoming));
        let mut announced = None;
        while let Some(part) = parts.message().await? {
            match part.part {
                Some(Part::Chunk(chunk)) if announced.is_none() => {
                    let bytes = chunk.len();
                    if chunks.send(chunk).await.is_err() {
                        break; // The writer has failed; it says how below.
                    }
                    pace.advance(bytes);
                    events.snapshot_received_bytes(from, pace.bytes(), pace.total());
                }
                Some(Part::Crc(crc)) if announced.is_none() => announced = Some(crc),
                _ => return Err(malformed("a part of the snapshot is out of place")),
            }
        }
        drop(chunks);
        let failed = |what: String| kvd_api::error::internal(format!("snapshot: {what}"));
        let written = writing.await.map_err(|error| failed(error.to_string()))?;
        let (file, crc) = written.map_err(|error| {
            tracing::error!(
                %error,
                "a snapshot cannot be received: free some space if the disk is full; nothing is \
                 lost, and the leader sends it again"
            );
            failed(error.to_string())
        })?;
        if announced != Some(crc) {
            return Err(malformed("the snapshot's checksum is missing or wrong"));
        }
        pace.complete();
        Ok(Incoming { vote, meta, file })
    }
}

/// Writes the chunks to a new file and syncs it; returns it with the checksum of its content.
fn write_file(path: PathBuf, mut chunks: mpsc::Receiver<Bytes>) -> Result<(ReceivedFile, u32)> {
    let failed = |path: &Path| {
        let what = format!("write {}", path.display());
        move |error| Error::io(what, error)
    };
    let mut file = File::create_new(&path).map_err(failed(&path))?;
    let received = ReceivedFile { path };
    let mut crc = 0;
    while let Some(chunk) = chunks.blocking_recv() {
        crc = crc32c::crc32c_append(crc, &chunk);
        file.write_all(&chunk).map_err(failed(received.path()))?;
    }
    file.sync_all().map_err(failed(received.path()))?;
    Ok((received, crc))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_of_interrupted_transfers_are_removed_at_start() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        fs::write(dir.path().join("1-0.part"), b"half").expect("write");
        fs::write(dir.path().join("keep.me"), b"x").expect("write");
        Receiver::open(dir.path().to_owned()).expect("open");
        assert!(!dir.path().join("1-0.part").exists());
        assert!(dir.path().join("keep.me").exists());
    }

    #[test]
    fn a_received_file_is_gone_when_nobody_needs_it() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("a.part");
        let (chunks, incoming) = mpsc::channel(2);
        chunks.try_send(Bytes::from_static(b"ab")).expect("room");
        chunks.try_send(Bytes::from_static(b"c")).expect("room");
        drop(chunks);
        let (file, crc) = write_file(path.clone(), incoming).expect("written");
        assert_eq!(fs::read(&path).expect("there"), b"abc");
        assert_eq!(crc, crc32c::crc32c(b"abc"));
        drop(file);
        assert!(!path.exists());
    }
}
