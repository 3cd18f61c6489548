//! Segment files: their names, their headers, and how a new one comes to be.
//!
//! ```text
//!  0        8        12   16           24          32       40           48         56    60
//!  ┌────────┬────────┬────┬────────────┬───────────┬────────┬────────────┬──────────┬─────┐
//!  │KVDWAL␍␊│ format │ 0  │ cluster id │ member id │ number │ segment id │ sequence │ crc │
//!  └────────┴────────┴────┴────────────┴───────────┴────────┴────────────┴──────────┴─────┘
//!   magic    u32      u32  u64          u64         u64      u64          u64        u32
//! ```
//! then four zero bytes, then frames. `number` is also the file's name (`0000000000000003.wal`)
//! and grows by one; `sequence` is that of the first frame; the segment id is random and, with
//! the number, gives the seed of the frames' checksums.
//!
//! A file gets its final name only after its header, and the frame that repeats vote, commit and
//! purge positions, are durable. So a damaged header is damage, never a torn write.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Buf;

use super::error::{Error, Result};
use crate::disk::{Disk, DiskFile};

/// Bytes before the first frame.
pub(crate) const SEGMENT_HEADER_BYTES: u64 = 64;

/// The format this version writes, and the newest it reads.
pub(crate) const FORMAT: u32 = 1;

const MAGIC: [u8; 8] = *b"KVDWAL\r\n";
const CRC_OFFSET: usize = 56;

/// Whose log it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) cluster_id: u64,
    pub(crate) member_id: u64,
}

/// What stands at the front of a segment file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) identity: Identity,
    pub(crate) number: u64,
    /// Random; never the same for two lives of a file.
    pub(crate) segment_id: u64,
    /// Sequence of the first frame.
    pub(crate) sequence: u64,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES as usize] {
        let mut bytes = [0; SEGMENT_HEADER_BYTES as usize];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.identity.cluster_id.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.identity.member_id.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.number.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.segment_id.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.sequence.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..CRC_OFFSET]);
        bytes[CRC_OFFSET..CRC_OFFSET + 4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the header of `file` and refuses what is damaged, newer or not ours.
    pub(crate) fn decode(bytes: &[u8], file: &Path, ours: Identity) -> Result<SegmentHeader> {
        let whole = bytes.get(..SEGMENT_HEADER_BYTES as usize);
        let bytes = whole.ok_or_else(|| Error::corrupt(file, 0, "the header is cut short"))?;
        let mut rest = bytes;
        if bytes[..8] != MAGIC {
            return Err(Error::corrupt(
                file,
                0,
                "the header does not begin as a log segment",
            ));
        }
        rest.advance(8);
        let found = rest.get_u32_le();
        if found > FORMAT {
            return Err(Error::NewerFormat {
                file: file.to_owned(),
                found,
                supported: FORMAT,
            });
        }
        rest.advance(4);
        let identity = Identity {
            cluster_id: rest.get_u64_le(),
            member_id: rest.get_u64_le(),
        };
        let header = SegmentHeader {
            identity,
            number: rest.get_u64_le(),
            segment_id: rest.get_u64_le(),
            sequence: rest.get_u64_le(),
        };
        if crc32c::crc32c(&bytes[..CRC_OFFSET]) != rest.get_u32_le() || found == 0 {
            return Err(Error::corrupt(
                file,
                0,
                "the header's checksum does not match",
            ));
        }
        if identity.cluster_id != ours.cluster_id {
            let (found, expected) = (identity.cluster_id, ours.cluster_id);
            return Err(Error::WrongCluster {
                file: file.to_owned(),
                found,
                expected,
            });
        }
        if identity.member_id != ours.member_id {
            let (found, expected) = (identity.member_id, ours.member_id);
            return Err(Error::WrongMember {
                file: file.to_owned(),
                found,
                expected,
            });
        }
        Ok(header)
    }

    /// What the frames' checksums start from.
    pub(crate) fn seed(&self) -> u32 {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.segment_id.to_le_bytes());
        bytes[8..].copy_from_slice(&self.number.to_le_bytes());
        crc32c::crc32c(&bytes)
    }
}

/// An open segment.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) number: u64,
    pub(crate) seed: u32,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn DiskFile>,
}

/// A file that waits to become a segment: of full length, its old content without meaning.
#[derive(Debug)]
pub(crate) struct Spare {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn DiskFile>,
}

/// The file name of a segment.
pub(crate) fn segment_name(number: u64) -> String {
    format!("{number:016x}.wal")
}

/// The number in a segment's file name; `None` for any other file.
pub(crate) fn segment_number(name: &str) -> Option<u64> {
    let number = name
        .strip_suffix(".wal")
        .filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(number, 16)
        .ok()
        .filter(|parsed| segment_name(*parsed) == name)
}

/// The file name of a spare.
pub(crate) fn spare_name(number: u64) -> String {
    format!("spare-{number:016x}.tmp")
}

/// Whether a file is a spare, finished or not.
pub(crate) fn is_spare(name: &str) -> bool {
    name.starts_with("spare-") && name.ends_with(".tmp")
}

/// Makes a spare of `bytes` at once: space reserved, nothing zeroed, no sync.
pub(crate) fn reserve_spare(disk: &dyn Disk, path: PathBuf, bytes: u64) -> Result<Spare> {
    let file = disk
        .create(&path)
        .map_err(|error| Error::io("create a segment", &path, error))?;
    if let Err(error) = file.preallocate(bytes) {
        // The half-reserved file would keep the space that is missing; spares left behind by a
        // failed removal are removed at the next start.
        let _ = disk.remove(&path);
        return Err(Error::io("reserve space for a segment", &path, error));
    }
    Ok(Spare { path, file })
}

/// Turns a spare into the segment `header` describes. On return header, `first_frame` and name
/// are durable.
pub(crate) fn activate(
    disk: &dyn Disk,
    dir: &Path,
    spare: Spare,
    header: SegmentHeader,
    first_frame: &[u8],
) -> Result<Segment> {
    let path = dir.join(segment_name(header.number));
    let mut bytes = header.encode().to_vec();
    bytes.extend_from_slice(first_frame);
    spare
        .file
        .write_at(&bytes, 0)
        .map_err(|error| Error::io("write a segment's header", &spare.path, error))?;
    spare
        .file
        .sync_data()
        .map_err(|error| Error::io("sync a segment's header", &spare.path, error))?;
    disk.rename(&spare.path, &path)
        .map_err(|error| Error::io("name a segment", &path, error))?;
    disk.sync_dir(dir)
        .map_err(|error| Error::io("sync the directory", dir, error))?;
    Ok(Segment {
        number: header.number,
        seed: header.seed(),
        path,
        file: spare.file,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Identity = Identity {
        cluster_id: 7,
        member_id: 8,
    };

    fn header() -> SegmentHeader {
        SegmentHeader {
            identity: OURS,
            number: 3,
            segment_id: 99,
            sequence: 12,
        }
    }

    #[test]
    fn a_header_reads_back() {
        let back = SegmentHeader::decode(&header().encode(), Path::new("x"), OURS);
        assert_eq!(back.expect("our own header"), header());
    }

    #[test]
    fn another_clusters_or_members_log_is_refused() {
        let theirs = Identity {
            cluster_id: 1,
            ..OURS
        };
        let error = SegmentHeader::decode(&header().encode(), Path::new("x"), theirs);
        assert!(matches!(
            error,
            Err(Error::WrongCluster {
                found: 7,
                expected: 1,
                ..
            })
        ));
        let theirs = Identity {
            member_id: 2,
            ..OURS
        };
        let error = SegmentHeader::decode(&header().encode(), Path::new("x"), theirs);
        assert!(matches!(
            error,
            Err(Error::WrongMember {
                found: 8,
                expected: 2,
                ..
            })
        ));
    }

    #[test]
    fn a_newer_format_is_refused_by_name() {
        let mut bytes = header().encode();
        bytes[8] = 2;
        let error = SegmentHeader::decode(&bytes, Path::new("x"), OURS).expect_err("newer");
        assert!(matches!(
            error,
            Error::NewerFormat {
                found: 2,
                supported: 1,
                ..
            }
        ));
        assert!(
            error.to_string().contains("start the newer version"),
            "{error}"
        );
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_noticed() {
        for bit in 0..(CRC_OFFSET + 4) * 8 {
            let mut bytes = header().encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(
                SegmentHeader::decode(&bytes, Path::new("x"), OURS).is_err(),
                "bit {bit}"
            );
        }
    }

    #[test]
    fn names_read_back_and_others_are_not_segments() {
        assert_eq!(segment_number(&segment_name(0xabc)), Some(0xabc));
        for name in [
            "abc.wal",
            "000000000000000G.wal",
            "spare-0000000000000001.tmp",
            "LOCK",
        ] {
            assert_eq!(segment_number(name), None, "{name}");
        }
        assert!(is_spare(&spare_name(1)));
    }
}
