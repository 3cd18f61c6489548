//! `HashKV` against numbers that etcd expects of itself.

use std::error::Error;

use bytes::Bytes;
use kvd_mvcc::{EngineKind, Options, Position, Store, Writer};

const CYCLE: i64 = 71;
const REVISIONS: i64 = 1210;

/// Hash, compacted revision and revision, of etcd 3.7.1's `TestHashByRevValue`.
const HALFWAY: [(u32, i64, i64); 19] = [
    (4082599214, -1, 35),
    (2279933401, 35, 106),
    (3284231217, 106, 177),
    (126286495, 177, 248),
    (900108730, 248, 319),
    (2475485232, 319, 390),
    (1226296507, 390, 461),
    (2503661030, 461, 532),
    (4155130747, 532, 603),
    (106915399, 603, 674),
    (406914006, 674, 745),
    (1882211381, 745, 816),
    (806177088, 816, 887),
    (664311366, 887, 958),
    (1496914449, 958, 1029),
    (2434525091, 1029, 1100),
    (3988652253, 1100, 1171),
    (1122462288, 1171, 1242),
    (724436716, 1242, 1883),
];

/// The same of `TestHashByRevValueLastRevision`.
const LATEST: [(u32, i64, i64); 19] = [
    (1913897190, -1, 73),
    (224860069, 73, 145),
    (1565167519, 145, 217),
    (1566261620, 217, 289),
    (2037173024, 289, 361),
    (691659396, 361, 433),
    (2713730748, 433, 505),
    (3919322507, 505, 577),
    (769967540, 577, 649),
    (2909194793, 649, 721),
    (1576921157, 721, 793),
    (4067701532, 793, 865),
    (2226384237, 865, 937),
    (2923408134, 937, 1009),
    (2680329256, 1009, 1081),
    (1546717673, 1081, 1153),
    (2713657846, 1153, 1225),
    (1046575299, 1225, 1297),
    (2017735779, 1297, 2508),
];

fn key(i: i64) -> &'static str {
    match i {
        i if i % (CYCLE * 2) == 30 => "zenek",
        i if i % CYCLE == 30 => "xavery",
        i => [
            "alice",
            "bob",
            "celine",
            "dominik",
            "eve",
            "frederica",
            "gorge",
        ][(i % 7) as usize],
    }
}

fn put_all(writer: &mut Writer, from: i64, count: i64) -> Result<(), Box<dyn Error>> {
    for i in from..=from + count {
        let mut txn = writer.txn();
        txn.put(Bytes::from(key(i)), Bytes::from(i.to_string()), 0)?;
        let revision = txn.end();
        writer.commit(Position {
            index: revision.unsigned_abs(),
            bytes: Bytes::new(),
        });
    }
    Ok(())
}

fn hash_and_compact(
    store: &Store,
    writer: &mut Writer,
    revision: i64,
) -> Result<(u32, i64, i64), Box<dyn Error>> {
    let hash = store.hash_kv(revision)?;
    writer.compact(hash.revision)?;
    let index = hash.current_revision.unsigned_abs();
    writer.commit(Position {
        index,
        bytes: Bytes::new(),
    });
    Ok((hash.hash, hash.compact_revision, hash.revision))
}

/// `revision(first, count)` is what to hash after `count` puts from `first` on.
fn check(
    expected: &[(u32, i64, i64)],
    revision: impl Fn(i64, i64) -> i64,
) -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let options = Options {
        engine: EngineKind::Memory,
        ..Options::default()
    };
    let (store, mut writer) = kvd_mvcc::open(dir.path(), options)?;
    let mut hashes = Vec::new();
    let mut first = 0;
    while first < REVISIONS {
        put_all(&mut writer, first, CYCLE)?;
        hashes.push(hash_and_compact(
            &store,
            &mut writer,
            revision(first, CYCLE),
        )?);
        first += CYCLE;
    }
    put_all(&mut writer, first, REVISIONS)?;
    hashes.push(hash_and_compact(
        &store,
        &mut writer,
        revision(first, REVISIONS),
    )?);
    assert_eq!(hashes, expected);
    store.close();
    Ok(())
}

#[test]
fn hashes_at_a_revision_between_compactions_are_etcds() -> Result<(), Box<dyn Error>> {
    check(&HALFWAY, |first, count| first + count / 2)
}

#[test]
fn hashes_at_the_current_revision_are_etcds() -> Result<(), Box<dyn Error>> {
    check(&LATEST, |_, _| 0)
}
