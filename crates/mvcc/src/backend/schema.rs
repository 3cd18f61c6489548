//! What the engine's keys and values mean: every table is named here.
//!
//! ```text
//! key                         value
//! 'k' revision key (17, 18)   crc  encoded mvccpb.KeyValue            the records
//! 'p'                         crc  index main sub records live bytes…  the durable position
//! 't' table(1) name           crc  bytes                              small tables
//!
//! crc: CRC-32C of the engine's key and the bytes after the crc, 4 bytes
//! index, main, sub, records, live: 8 bytes each; all integers are big endian
//! ```
//!
//! The crc covers the key, so that a value found under a key that is not its own does not pass.

use bytes::{BufMut, Bytes, BytesMut};

use crate::error::{Error, Result};
use crate::options::Position;
use crate::revision::{RevKey, Revision};

const CRC: usize = 4;
const RECORD: u8 = b'k';
const POSITION: &[u8] = b"p";
const TABLE: u8 = b't';
/// The fixed part of the durable position.
const POSITION_LEN: usize = 40;

/// The small replicated tables: whole in memory, written behind with the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Table {
    /// What the store itself remembers: compacted revisions and the like.
    Meta = 1,
    /// Raised alarms.
    Alarm = 2,
    /// Members of the cluster.
    Members = 3,
    /// IDs of members that were removed, never to be used again.
    MembersRemoved = 4,
    /// The cluster's version and downgrade state.
    Cluster = 5,
    /// Leases.
    Lease = 6,
    /// Whether auth is on, and its revision.
    Auth = 7,
    /// Users.
    AuthUsers = 8,
    /// Roles.
    AuthRoles = 9,
}

impl Table {
    /// All tables, in the order of their stored numbers.
    pub const ALL: [Table; 9] = [
        Table::Meta,
        Table::Alarm,
        Table::Members,
        Table::MembersRemoved,
        Table::Cluster,
        Table::Lease,
        Table::Auth,
        Table::AuthUsers,
        Table::AuthRoles,
    ];

    /// The table stored under `number`.
    pub(crate) fn from_number(number: u8) -> Option<Table> {
        Table::ALL.into_iter().find(|table| *table as u8 == number)
    }
}

/// The engine's key of a record.
pub(crate) fn record_key(key: &RevKey) -> Bytes {
    prefixed(&[RECORD], key.as_bytes())
}

/// The bounds `from <= key < to` of all records with revisions in `from ..= to`.
pub(crate) fn record_bounds(from: Revision, to: Revision) -> (Bytes, Bytes) {
    let mut end = BytesMut::from(&prefixed(&[RECORD], RevKey::new(to, true).as_bytes())[..]);
    end.put_u8(0); // just after the tombstone of `to`
    (record_key(&RevKey::new(from, false)), end.freeze())
}

/// Reads a record's key.
pub(crate) fn decode_record_key(key: &[u8]) -> Result<RevKey> {
    match key.split_first() {
        Some((&RECORD, rest)) => RevKey::decode(rest),
        _ => Err(Error::corrupt(
            "the records",
            format!("key {key:02x?} is not a record's"),
        )),
    }
}

/// The engine's key of a table's entry.
pub(crate) fn table_key(table: Table, key: &[u8]) -> Bytes {
    prefixed(&[TABLE, table as u8], key)
}

/// The bounds of all tables' entries.
pub(crate) fn table_bounds() -> (&'static [u8], &'static [u8]) {
    (b"t", b"u")
}

/// Reads the key of a table's entry.
pub(crate) fn decode_table_key(key: &Bytes) -> Result<(Table, Bytes)> {
    let table = key.get(1).and_then(|&number| Table::from_number(number));
    let table = table.ok_or_else(|| {
        Error::corrupt(
            "the tables",
            format!("key {key:02x?} names no table of this release"),
        )
    })?;
    Ok((table, key.slice(2..)))
}

/// The engine's key of the durable position.
pub(crate) fn position_key() -> Bytes {
    Bytes::from_static(POSITION)
}

/// The position up to which the engine holds everything, and what it then holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DurablePosition {
    pub(crate) position: Position,
    /// The newest revision with a record. Newer records belong to a unit that was not finished.
    pub(crate) revision: Revision,
    /// How many records there are.
    pub(crate) records: u64,
    /// The bytes of their keys and values.
    pub(crate) live_bytes: u64,
}

/// Encodes the durable position, without the crc.
pub(crate) fn encode_position(durable: &DurablePosition) -> Bytes {
    let mut value = BytesMut::with_capacity(POSITION_LEN + durable.position.bytes.len());
    value.put_u64(durable.position.index);
    value.put_i64(durable.revision.main);
    value.put_i64(durable.revision.sub);
    value.put_u64(durable.records);
    value.put_u64(durable.live_bytes);
    value.put_slice(&durable.position.bytes);
    value.freeze()
}

/// Decodes the durable position.
pub(crate) fn decode_position(value: &Bytes) -> Result<DurablePosition> {
    let corrupt = || Error::corrupt("the durable position", format!("{} bytes", value.len()));
    let number = |at: usize| -> Result<u64> {
        let bytes = value.get(at..at + 8).ok_or_else(corrupt)?;
        Ok(u64::from_be_bytes(bytes.try_into().map_err(|_| corrupt())?))
    };
    Ok(DurablePosition {
        revision: Revision::new(number(8)? as i64, number(16)? as i64),
        records: number(24)?,
        live_bytes: number(32)?,
        position: Position {
            index: number(0)?,
            bytes: value.slice(POSITION_LEN..),
        },
    })
}

/// Puts the crc before `value`.
pub(crate) fn seal(key: &[u8], value: &[u8]) -> Bytes {
    let mut sealed = BytesMut::with_capacity(CRC + value.len());
    sealed.put_u32(checksum(key, value));
    sealed.put_slice(value);
    sealed.freeze()
}

/// Checks the crc and returns what it covers.
///
/// Errors: [`Error::Corrupt`], naming the key.
pub(crate) fn unseal(key: &[u8], sealed: &Bytes) -> Result<Bytes> {
    let stored = sealed
        .first_chunk::<CRC>()
        .map(|bytes| u32::from_be_bytes(*bytes));
    match stored {
        Some(crc) if crc == checksum(key, &sealed[CRC..]) => Ok(sealed.slice(CRC..)),
        Some(crc) => Err(Error::corrupt(
            describe(key),
            format!(
                "crc {:08x} where {crc:08x} was written",
                checksum(key, &sealed[CRC..])
            ),
        )),
        None => Err(Error::corrupt(
            describe(key),
            format!("only {} bytes", sealed.len()),
        )),
    }
}

fn checksum(key: &[u8], value: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), value)
}

/// Reads and checks a pair that is a record.
pub(crate) fn open_record(key: &Bytes, sealed: &Bytes) -> Result<(RevKey, Bytes)> {
    Ok((decode_record_key(key)?, unseal(key, sealed)?))
}

/// Names an engine key in an error.
fn describe(key: &[u8]) -> String {
    match key {
        [RECORD, rest @ ..] => match RevKey::decode(rest) {
            Ok(key) => format!("the record of revision {key:?}"),
            Err(_) => format!("the record under key {rest:02x?}"),
        },
        POSITION => "the durable position".into(),
        [TABLE, number, rest @ ..] => match Table::from_number(*number) {
            Some(table) => format!("table {table:?}, key {:?}", String::from_utf8_lossy(rest)),
            None => format!("table {number}, unknown to this release"),
        },
        _ => format!("the engine's key {key:02x?}"),
    }
}

fn prefixed(prefix: &[u8], key: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(prefix.len() + key.len());
    bytes.put_slice(prefix);
    bytes.put_slice(key);
    bytes.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_does_not_pass_under_another_key() {
        let sealed = seal(b"ka", b"value");
        assert_eq!(&unseal(b"ka", &sealed).expect("its own key")[..], b"value");
        assert!(matches!(unseal(b"kb", &sealed), Err(Error::Corrupt { .. })));
        assert!(matches!(
            unseal(b"ka", &sealed.slice(..3)),
            Err(Error::Corrupt { .. })
        ));
        let mut flipped = sealed.to_vec();
        flipped[6] ^= 1;
        assert!(matches!(
            unseal(b"ka", &flipped.into()),
            Err(Error::Corrupt { .. })
        ));
    }

    #[test]
    fn bounds_hold_both_records_of_a_revision() {
        let (from, to) = record_bounds(Revision::new(2, 0), Revision::new(3, 1));
        let within = |main, sub, mark| {
            let key = record_key(&RevKey::new(Revision::new(main, sub), mark));
            from <= key && key < to
        };
        assert!(within(2, 0, false) && within(3, 1, false) && within(3, 1, true));
        assert!(!within(1, 9, true) && !within(3, 2, false));
    }

    #[test]
    fn position_round_trip() {
        let durable = DurablePosition {
            position: Position {
                index: 7,
                bytes: Bytes::from_static(b"abc"),
            },
            revision: Revision::new(5, 1),
            records: 9,
            live_bytes: 1000,
        };
        assert_eq!(
            decode_position(&encode_position(&durable)).expect("valid"),
            durable
        );
        assert!(decode_position(&Bytes::from_static(b"short")).is_err());
    }

    #[test]
    fn every_table_has_its_number() {
        for table in Table::ALL {
            let key = table_key(table, b"name");
            let (found, name) = decode_table_key(&key).expect("valid");
            assert_eq!((found, &name[..]), (table, &b"name"[..]));
        }
        assert!(decode_table_key(&Bytes::from_static(b"t\xff")).is_err());
    }
}
