//! Looking at everything a store's files hold, and telling all that is wrong rather than the first.

use std::path::Path;

use bytes::Bytes;

use crate::backend::schema::{self, DurablePosition};
use crate::backend::{self, Page};
use crate::directory::{self, Directory, Found};
use crate::error::{Error, Result};
use crate::options::{EngineKind, Position};
use crate::revision::Revision;

const PAGE: Page = Page {
    pairs: 1000,
    bytes: 4 << 20,
};
const CACHE_BYTES: usize = 16 << 20;
/// Most problems that are told.
const PROBLEMS_MAX: usize = 100;
/// All keys of an engine lie between these.
const FIRST: &[u8] = b"";
const END: &[u8] = &[0xff; 32];

/// What a store's files hold.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// The engine.
    pub engine: EngineKind,
    /// Whether the store was closed in order.
    pub is_clean: bool,
    /// The position that the content belongs to; none for a new store.
    pub position: Option<Position>,
    /// The newest revision with a record.
    pub revision: Revision,
    /// How many records there are up to that position.
    pub records: u64,
    /// The bytes of their keys and values.
    pub bytes: u64,
    /// What is damaged, each with its place.
    pub problems: Vec<String>,
}

impl Inspection {
    fn wrong(&mut self, problem: &Error) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem.to_string());
        }
    }
}

/// Reads everything in the store in `dir` and verifies every checksum. Opening a store repairs and
/// cleans up: give it a copy of what must stay as it is.
///
/// Errors: [`Error::Locked`], and [`Error::Corrupt`] when the files cannot be read at all.
pub fn inspect(dir: &Path) -> Result<Inspection> {
    let engine = directory::engine_of(dir)?;
    let engine =
        engine.ok_or_else(|| Error::corrupt(dir.display().to_string(), "there is no store"))?;
    let (directory, found) = Directory::open(dir, engine)?;
    let opened = backend::open(engine, &directory.generation_dir(), CACHE_BYTES)?;
    let mut inspection = Inspection {
        engine,
        is_clean: found == Found::Clean,
        position: None,
        revision: Revision::default(),
        records: 0,
        bytes: 0,
        problems: Vec::new(),
    };
    let key = schema::position_key();
    let durable = match opened.get(&key)? {
        Some(sealed) => {
            schema::unseal(&key, &sealed).and_then(|bytes| schema::decode_position(&bytes))
        }
        None => Ok(DurablePosition::default()),
    };
    let durable = match durable {
        Ok(durable) => Some(durable),
        Err(error) => {
            inspection.wrong(&error);
            None
        }
    };
    let mut from = Bytes::from_static(FIRST);
    loop {
        let page = opened.scan(&from, END, PAGE)?;
        let Some((last, _)) = page.last() else { break };
        let mut next = last.to_vec();
        next.push(0);
        from = next.into();
        for (key, sealed) in &page {
            pair(&mut inspection, key, sealed, durable.as_ref());
        }
    }
    if let Some(durable) = durable {
        compare(&mut inspection, durable);
    }
    opened.close()?;
    Ok(inspection)
}

fn pair(
    inspection: &mut Inspection,
    key: &Bytes,
    sealed: &Bytes,
    durable: Option<&DurablePosition>,
) {
    let checked = match key.first() {
        Some(b'k') => schema::open_record(key, sealed).map(|(record, value)| {
            // Records above the position belong to a unit that was not finished.
            if durable.is_none_or(|durable| record.revision() <= durable.revision) {
                inspection.records += 1;
                inspection.bytes += (record.as_bytes().len() + value.len()) as u64;
            }
        }),
        Some(b't') => schema::decode_table_key(key)
            .and_then(|_| schema::unseal(key, sealed))
            .map(drop),
        _ if *key == schema::position_key() => Ok(()),
        _ => Err(Error::corrupt(
            "the engine",
            format!("key {key:02x?} is nothing that this release writes"),
        )),
    };
    if let Err(error) = checked {
        inspection.wrong(&error);
    }
}

fn compare(inspection: &mut Inspection, durable: DurablePosition) {
    let found = (inspection.records, inspection.bytes);
    if found != (durable.records, durable.live_bytes) && inspection.problems.is_empty() {
        let problem = format!(
            "{} records of {} bytes where {} of {} were written",
            found.0, found.1, durable.records, durable.live_bytes
        );
        inspection.wrong(&Error::corrupt("the records", problem));
    }
    inspection.revision = durable.revision;
    if durable != DurablePosition::default() {
        inspection.position = Some(durable.position);
    }
}
