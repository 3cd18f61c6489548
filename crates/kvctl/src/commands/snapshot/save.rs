//! snapshot save: one member's content as a file that etcd's tools read.
//!
//! The file is written beside its name, with `.part` at the end, and renamed once it is whole and
//! on disk: whatever fails, what was there before stays.
//!
//! Differs from etcd: the SHA-256 at the end is checked, of which etcdctl sees only that there is
//! room for it; and progress is a bar on a terminal, not JSON lines.
//!
//! Source: etcd `client/v3/snapshot/v3_snapshot.go`.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use kvd_client::{Client, Snapshot};
use sha2::{Digest as _, Sha256};
use tokio::fs::{self, File, OpenOptions};
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use super::{HASH_BYTES, Session, has_hash, mismatch};
use crate::args::Globals;
use crate::failure::{self, Failure, Outcome};
use crate::go_text::error::os_error;
use crate::print::Streams;

pub(super) async fn save(globals: &Globals, words: &[OsString], to: &mut Streams<'_>) -> Outcome {
    let [path] = words else {
        return Err(Failure::bad_args(
            "snapshot save expects one argument <filename>",
        ));
    };
    let session = Session::open(globals, to).await?;
    let endpoints: Vec<&str> = session.client.endpoints().collect();
    if endpoints.len() != 1 {
        let endpoints = endpoints.join(" ");
        let message =
            format!("snapshot must be requested to one selected node, not multiple [{endpoints}]");
        return Err(interrupted(message));
    }
    let mut part = path.clone();
    part.push(".part");
    let part = PathBuf::from(part);
    let saving = fetch(&session.client, path, &part);
    let saved = match globals.given_command_timeout() {
        None => saving.await,
        Some(limit) => timed(limit, saving).await,
    };
    let version = match saved {
        Ok(version) => version,
        Err(failure) => {
            return Err(match fs::remove_file(&part).await {
                Err(err) if err.kind() != io::ErrorKind::NotFound => {
                    let part = part.display();
                    let details = format!("{}and {part} is left ({err})\n", failure.details);
                    Failure { details, ..failure }
                }
                _ => failure,
            });
        }
    };
    writeln!(to.out, "Snapshot saved at {}", path.to_string_lossy())?;
    if !version.is_empty() {
        writeln!(to.out, "Server version {version}")?;
    }
    Ok(())
}

async fn timed(
    limit: Duration,
    saving: impl Future<Output = Result<String, Failure>>,
) -> Result<String, Failure> {
    let late = || interrupted("context deadline exceeded".to_owned());
    timeout(limit, saving).await.unwrap_or_else(|_| Err(late()))
}

/// Fetches into `part` and renames it to `path`; returns the version that the server tells.
async fn fetch(client: &Client, path: &OsStr, part: &PathBuf) -> Result<String, Failure> {
    let shown = part.display();
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let file = options.open(part).await;
    let file = file.map_err(|err| {
        let why = os_error(&err);
        interrupted(format!("could not open {shown} (open {shown}: {why})"))
    })?;
    let snapshot = client.snapshot().await.map_err(lost)?;
    let version = snapshot.version().to_owned();
    write(snapshot, file).await?;
    fs::rename(part, path).await.map_err(|err| {
        let path = path.to_string_lossy();
        interrupted(format!("could not rename {shown} to {path} ({err})"))
    })?;
    Ok(version)
}

/// Writes everything and checks the hash that ends it.
async fn write(mut snapshot: Snapshot, mut file: File) -> Outcome {
    let failed = |err: io::Error| interrupted(format!("could not write snapshot: {err}"));
    let bar = ProgressBar::new(snapshot.size()).with_style(bar_style());
    let mut hasher = Sha256::new();
    // What may be the hash is not hashed before more comes after it.
    let mut tail: Vec<u8> = Vec::new();
    let mut bytes = 0;
    while let Some(piece) = snapshot.next().await.map_err(lost)? {
        file.write_all(&piece).await.map_err(failed)?;
        bytes += piece.len() as u64;
        bar.set_position(bytes);
        tail.extend_from_slice(&piece);
        let content = tail.len().saturating_sub(HASH_BYTES);
        hasher.update(&tail[..content]);
        tail.drain(..content);
    }
    bar.finish_and_clear();
    if !has_hash(bytes) {
        let message = format!("sha256 checksum not found [bytes: {bytes}]");
        return Err(interrupted(message));
    }
    let hash = hasher.finalize();
    if hash[..] != tail[..] {
        let message = mismatch(&tail, &hash);
        return Err(interrupted(message));
    }
    let synced = file.sync_all().await;
    synced.map_err(|err| interrupted(format!("could not fsync snapshot: {err}")))
}

fn bar_style() -> ProgressStyle {
    // A template that does not parse costs the looks, not the snapshot.
    ProgressStyle::with_template("{bytes} / {total_bytes} [{bar:40}] {percent}% {bytes_per_sec}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn lost(error: kvd_client::Error) -> Failure {
    Failure {
        code: failure::INTERRUPTED,
        ..Failure::from(error)
    }
}

fn interrupted(message: String) -> Failure {
    Failure::new(failure::INTERRUPTED, message)
}
