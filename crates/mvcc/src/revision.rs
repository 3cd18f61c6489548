//! Revisions and the bytes they are stored under.
//!
//! ```text
//! byte  0        8   9        17  18
//!       ├ main ──┤'_'├ sub ───┤'t'┤     integers big endian; 't' only on a tombstone
//! ```
//!
//! The byte order is the order of the revisions. It is etcd's encoding, since `HashKV` covers it.

use std::fmt;

use crate::error::{Error, Result};

const LEN: usize = 17;
const MARKED_LEN: usize = 18;
const SEPARATOR: u8 = b'_';
const TOMBSTONE: u8 = b't';

/// The place of one change in the store's history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    /// The store-wide counter: the same for all changes of one transaction.
    pub main: i64,
    /// The place inside the transaction, from 0.
    pub sub: i64,
}

impl Revision {
    /// The revision `main.sub`.
    pub const fn new(main: i64, sub: i64) -> Self {
        Revision { main, sub }
    }

    /// The revision right after this one; none after the last.
    pub(crate) fn next(self) -> Option<Self> {
        match self.sub.checked_add(1) {
            Some(sub) => Some(Revision::new(self.main, sub)),
            None => self.main.checked_add(1).map(|main| Revision::new(main, 0)),
        }
    }

    /// The stored key of a put at this revision.
    pub(crate) fn key(self) -> RevKey {
        RevKey::new(self, false)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.main, self.sub)
    }
}

/// The stored key of one record: an encoded revision with the tombstone mark, if it is one.
///
/// Ordered as its bytes are: a revision's tombstone key follows its plain key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RevKey([u8; MARKED_LEN]);

impl RevKey {
    /// Encodes `revision`.
    pub fn new(revision: Revision, tombstone: bool) -> Self {
        let mut bytes = [0; MARKED_LEN];
        bytes[..8].copy_from_slice(&revision.main.to_be_bytes());
        bytes[8] = SEPARATOR;
        bytes[9..LEN].copy_from_slice(&revision.sub.to_be_bytes());
        if tombstone {
            bytes[LEN] = TOMBSTONE;
        }
        RevKey(bytes)
    }

    /// Reads a stored key.
    ///
    /// Errors: [`Error::Corrupt`] when the bytes are not an encoded revision.
    pub fn decode(key: &[u8]) -> Result<Self> {
        let tombstone = match key.len() {
            LEN => false,
            MARKED_LEN if key[LEN] == TOMBSTONE => true,
            _ => return Err(Self::malformed(key)),
        };
        let (main, sub) = (integer(&key[..8]), integer(&key[9..LEN]));
        if key[8] != SEPARATOR || main < 0 || sub < 0 {
            return Err(Self::malformed(key));
        }
        Ok(RevKey::new(Revision::new(main, sub), tombstone))
    }

    fn malformed(key: &[u8]) -> Error {
        Error::corrupt("the records' keys", format!("{key:02x?} is not a revision"))
    }

    /// The stored bytes.
    pub fn as_bytes(&self) -> &[u8] {
        if self.is_tombstone() {
            &self.0
        } else {
            &self.0[..LEN]
        }
    }

    /// The revision without the mark.
    pub fn revision(&self) -> Revision {
        Revision::new(integer(&self.0[..8]), integer(&self.0[9..LEN]))
    }

    /// Whether the record is a deletion.
    pub fn is_tombstone(&self) -> bool {
        self.0[LEN] == TOMBSTONE
    }
}

impl fmt::Debug for RevKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.is_tombstone() { "t" } else { "" };
        write!(f, "{}{mark}", self.revision())
    }
}

fn integer(bytes: &[u8]) -> i64 {
    i64::from_be_bytes(bytes.try_into().expect("the callers pass eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_etcds() {
        let key = RevKey::new(Revision::new(258, 3), false);
        assert_eq!(key.as_bytes(), b"\0\0\0\0\0\0\x01\x02_\0\0\0\0\0\0\0\x03");
        let mark = RevKey::new(Revision::new(258, 3), true);
        assert_eq!(mark.as_bytes(), b"\0\0\0\0\0\0\x01\x02_\0\0\0\0\0\0\0\x03t");
        assert_eq!(RevKey::decode(mark.as_bytes()).expect("valid"), mark);
        assert_eq!(mark.revision(), key.revision());
    }

    #[test]
    fn byte_order_is_revision_order() {
        let keys = [
            (1, 0, false),
            (1, 0, true),
            (1, 1, false),
            (2, 0, false),
            (300, 0, true),
        ]
        .map(|(main, sub, mark)| RevKey::new(Revision::new(main, sub), mark));
        assert!(keys.is_sorted_by(|a, b| a < b && a.as_bytes() < b.as_bytes()));
    }

    #[test]
    fn foreign_bytes_are_refused() {
        for bytes in [
            &b""[..],
            b"short",
            &[0; 17],
            &[0xff; 17],
            b"\0\0\0\0\0\0\0\x01_\0\0\0\0\0\0\0\x03x",
        ] {
            assert!(
                matches!(RevKey::decode(bytes), Err(Error::Corrupt { .. })),
                "{bytes:?}"
            );
        }
    }
}
