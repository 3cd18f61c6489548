//! What opening does before the store may be used: reading what the engine says of itself, and
//! taking back what a crash left half done.
//!
//! The engine holds everything up to its durable position and perhaps the first records of the unit
//! after it. The rule: records with a revision above the durable position's are removed when the
//! store is opened, and the log brings them again. After a crash every record is read and checked,
//! and their number is compared with the number that was written with the position.

use bytes::Bytes;

use crate::backend::schema::{self, DurablePosition};
use crate::backend::{Backend, Batch, Page};
use crate::error::{Error, Result};
use crate::ledger::Entries;
use crate::revision::Revision;

const PAGE: Page = Page {
    pairs: 1000,
    bytes: 4 << 20,
};
const LAST: Revision = Revision::new(i64::MAX, i64::MAX);

/// Reads the durable position and the tables, and every record if `check_all`.
pub(crate) fn read_content(
    engine: &dyn Backend,
    check_all: bool,
) -> Result<(Option<DurablePosition>, Entries)> {
    let key = schema::position_key();
    let durable = match engine.get(&key)? {
        Some(sealed) => Some(schema::decode_position(&schema::unseal(&key, &sealed)?)?),
        None => None,
    };
    let mut tables = Vec::new();
    let (from, to) = schema::table_bounds();
    for_each(engine, Bytes::from_static(from), to, |key, sealed| {
        let (table, name) = schema::decode_table_key(key)?;
        tables.push((table, name, schema::unseal(key, sealed)?));
        Ok(())
    })?;
    if check_all && let Some(durable) = &durable {
        check_records(engine, durable)?;
    }
    Ok((durable, tables))
}

/// Reads all records up to the durable position, and compares their number with what it says.
fn check_records(engine: &dyn Backend, durable: &DurablePosition) -> Result<()> {
    let (from, to) = schema::record_bounds(Revision::default(), durable.revision);
    let (mut records, mut bytes) = (0, 0);
    for_each(engine, from, &to, |key, sealed| {
        let (key, value) = schema::open_record(key, sealed)?;
        records += 1;
        bytes += (key.as_bytes().len() + value.len()) as u64;
        Ok(())
    })?;
    if (records, bytes) != (durable.records, durable.live_bytes) {
        let problem = format!(
            "{records} records of {bytes} bytes where {} of {} were written",
            durable.records, durable.live_bytes
        );
        return Err(Error::corrupt("the records", problem));
    }
    tracing::info!(records, bytes, "checked all records after an unclean stop");
    Ok(())
}

/// Removes the records above the durable position: the beginning of a unit that was not finished.
pub(crate) fn remove_above(engine: &dyn Backend, durable: Option<&DurablePosition>) -> Result<()> {
    let from = match durable {
        Some(durable) => match durable.revision.next() {
            Some(revision) => revision,
            None => return Ok(()),
        },
        None => Revision::default(),
    };
    let (from, to) = schema::record_bounds(from, LAST);
    let mut removed = 0;
    loop {
        let page = engine.scan(&from, &to, PAGE)?;
        if page.is_empty() {
            break;
        }
        let mut batch = Batch::default();
        removed += page.len();
        page.into_iter().for_each(|(key, _)| batch.delete(key));
        engine.write(&batch)?;
    }
    if removed > 0 {
        tracing::info!(removed, "removed the records of an unfinished unit");
        engine.flush()?;
    }
    Ok(())
}

/// Calls `each` with every pair of `from <= key < to`.
fn for_each(
    engine: &dyn Backend,
    mut from: Bytes,
    to: &[u8],
    mut each: impl FnMut(&Bytes, &Bytes) -> Result<()>,
) -> Result<()> {
    loop {
        let page = engine.scan(&from, to, PAGE)?;
        let Some((last, _)) = page.last() else {
            return Ok(());
        };
        let mut next = last.to_vec();
        next.push(0);
        from = next.into();
        page.iter().try_for_each(|(key, value)| each(key, value))?;
    }
}
