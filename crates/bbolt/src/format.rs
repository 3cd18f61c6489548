//! Sizes, numbers and the parts of pages that have a fixed place.

use crate::error::{Error, Result};

/// The size of the pages that we write, and that etcd writes on the machines it is mostly run on.
pub(crate) const PAGE_BYTES: usize = 4096;
pub(crate) const PAGE_HEADER: usize = 16;
pub(crate) const LEAF_ELEMENT: usize = 16;
pub(crate) const BRANCH_ELEMENT: usize = 16;
pub(crate) const BUCKET_HEADER: usize = 16;
/// The longest leaf that is kept inside its parent.
pub(crate) const INLINE_BYTES_MAX: usize = PAGE_BYTES / 4;
/// The longest key that bbolt takes.
pub const KEY_BYTES_MAX: usize = 32768;
/// The longest value that bbolt takes.
pub(crate) const VALUE_BYTES_MAX: usize = (1 << 31) - 2;

pub(crate) const BRANCH: u16 = 0x01;
pub(crate) const LEAF: u16 = 0x02;
pub(crate) const META: u16 = 0x04;
pub(crate) const FREELIST: u16 = 0x10;
/// Set in a leaf's element whose value is a bucket.
pub(crate) const IS_BUCKET: u32 = 0x01;
/// What a meta page says when the freelist is not stored.
pub(crate) const NO_FREELIST: u64 = u64::MAX;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
const META_BYTES: usize = 64;

/// The head of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageHeader {
    pub(crate) id: u64,
    pub(crate) flags: u16,
    pub(crate) count: u16,
    /// Pages after this one that belong to it.
    pub(crate) overflow: u32,
}

impl PageHeader {
    pub(crate) fn encode(&self) -> [u8; PAGE_HEADER] {
        let mut bytes = [0; PAGE_HEADER];
        bytes[..8].copy_from_slice(&self.id.to_le_bytes());
        bytes[8..10].copy_from_slice(&self.flags.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.count.to_le_bytes());
        bytes[12..].copy_from_slice(&self.overflow.to_le_bytes());
        bytes
    }

    /// Reads the head of `page`; none when it is too short.
    pub(crate) fn decode(page: &[u8]) -> Option<PageHeader> {
        Some(PageHeader {
            id: u64_at(page, 0)?,
            flags: u16::from_le_bytes(page.get(8..10)?.try_into().ok()?),
            count: u16::from_le_bytes(page.get(10..12)?.try_into().ok()?),
            overflow: u32_at(page, 12)?,
        })
    }
}

/// The content of a meta page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) page_bytes: u32,
    pub(crate) root: u64,
    pub(crate) freelist: u64,
    /// How many pages the file has.
    pub(crate) pages: u64,
    pub(crate) txid: u64,
}

impl Meta {
    pub(crate) fn encode(&self) -> [u8; META_BYTES] {
        let mut bytes = [0; META_BYTES];
        bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..8].copy_from_slice(&VERSION.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.page_bytes.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.root.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.freelist.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.pages.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.txid.to_le_bytes());
        let checksum = fnv1a(&bytes[..56]);
        bytes[56..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads the meta in `page`, which begins with the page's head.
    ///
    /// Errors: [`Error::Format`] says what is not as it should be.
    pub(crate) fn decode(page: &[u8]) -> Result<Meta> {
        let bytes = page.get(PAGE_HEADER..PAGE_HEADER + META_BYTES);
        let bytes = bytes.ok_or(Error::Format("too short"))?;
        let short = || Error::Format("too short");
        if u32_at(bytes, 0) != Some(MAGIC) {
            return Err(Error::Format("the magic number is not there"));
        }
        if u32_at(bytes, 4) != Some(VERSION) {
            return Err(Error::Format("another version of the format"));
        }
        if u64_at(bytes, 56) != Some(fnv1a(&bytes[..56])) {
            return Err(Error::Format(
                "the checksum of its meta page does not match",
            ));
        }
        let meta = Meta {
            page_bytes: u32_at(bytes, 8).ok_or_else(short)?,
            root: u64_at(bytes, 16).ok_or_else(short)?,
            freelist: u64_at(bytes, 32).ok_or_else(short)?,
            pages: u64_at(bytes, 40).ok_or_else(short)?,
            txid: u64_at(bytes, 48).ok_or_else(short)?,
        };
        if !meta.page_bytes.is_power_of_two() || !(1024..=1 << 20).contains(&meta.page_bytes) {
            return Err(Error::Format("the page size makes no sense"));
        }
        Ok(meta)
    }
}

/// 64-bit FNV-1a.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meta_is_read_back_and_a_flipped_bit_is_found() {
        let meta = Meta {
            page_bytes: 4096,
            root: 3,
            freelist: 2,
            pages: 4,
            txid: 1,
        };
        let mut page = vec![0; PAGE_HEADER];
        page.extend(meta.encode());
        assert_eq!(Meta::decode(&page).unwrap(), meta);
        for at in PAGE_HEADER..page.len() {
            let mut flipped = page.clone();
            flipped[at] ^= 1;
            assert!(Meta::decode(&flipped).is_err(), "byte {at}");
        }
    }

    #[test]
    fn fnv_is_that_of_the_reference() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
    }
}
