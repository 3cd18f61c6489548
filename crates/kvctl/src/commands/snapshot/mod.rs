//! snapshot save and status: files in etcd's own format, a bbolt database and its SHA-256.

use super::Session;
use crate::args::{Globals, SnapshotCommand};
use crate::failure::{Failure, Outcome};
use crate::print::{Streams, printer};

mod save;
mod status;

const HASH_BYTES: usize = 32;
/// A database is a whole number of pages, which are multiples of this.
const SECTOR_BYTES: u64 = 512;

/// Whether a file of this size has a hash at its end.
fn has_hash(bytes: u64) -> bool {
    bytes % SECTOR_BYTES == HASH_BYTES as u64
}

/// Two hashes that should be the same, as Go prints bytes.
fn mismatch(expected: &[u8], found: &[u8]) -> String {
    let shown = |bytes: &[u8]| {
        let bytes: Vec<String> = bytes.iter().map(u8::to_string).collect();
        bytes.join(" ")
    };
    format!(
        "expected sha256 [{}], got [{}]",
        shown(expected),
        shown(found)
    )
}

pub(super) async fn run(
    globals: &Globals,
    command: &SnapshotCommand,
    to: &mut Streams<'_>,
) -> Outcome {
    match command {
        SnapshotCommand::Save(args) => save::save(globals, &args.words, to).await,
        SnapshotCommand::Status(args) => {
            let [path] = &args.words[..] else {
                let message = "snapshot status requires exactly one argument";
                return Err(Failure::bad_args(message));
            };
            let printer = printer(&globals.write_out, globals.hex)?;
            let path = path.to_string_lossy().into_owned();
            let read = tokio::task::spawn_blocking(move || status::status(&path)).await;
            let status = read.map_err(|err| Failure::error(err.to_string()))??;
            printer.snapshot_status(to, &status)
        }
    }
}
