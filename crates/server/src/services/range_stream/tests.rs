use kvd_api::error::WireError;
use kvd_mvcc::{EngineKind, Options, Writer};
use tempfile::TempDir;

use super::*;

const CHUNK_BYTES: usize = 1000;

fn store_of(pairs: impl IntoIterator<Item = (String, usize)>) -> (Store, Writer, TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let options = Options {
        engine: EngineKind::Memory,
        ..Options::default()
    };
    let (store, mut writer) = kvd_mvcc::open(dir.path(), options).expect("opens");
    for (key, value_bytes) in pairs {
        put(&mut writer, key, value_bytes);
    }
    (store, writer, dir)
}

fn put(writer: &mut Writer, key: String, value_bytes: usize) {
    let mut txn = writer.txn();
    txn.put(key.into(), vec![b'v'; value_bytes].into(), 0)
        .expect("written");
    txn.end();
}

fn key(number: usize) -> String {
    format!("k{number:04}")
}

fn all() -> RangeRequest {
    RangeRequest {
        key: "k".into(),
        range_end: "\0".into(),
        ..Default::default()
    }
}

fn chunks(store: &Store, request: RangeRequest) -> Vec<RangeResponse> {
    let mut chunks = Vec::new();
    let mut next = Some(Cursor::new(request, CHUNK_BYTES));
    while let Some(cursor) = next {
        let (chunk, cursor) = cursor.chunk(store).expect("reads");
        chunks.push(chunk);
        next = cursor;
    }
    chunks
}

fn sizes(chunks: &[RangeResponse]) -> Vec<usize> {
    chunks.iter().map(|chunk| chunk.kvs.len()).collect()
}

#[test]
fn small_pairs_come_in_growing_chunks() {
    // About 25 bytes a pair: chunks double until they hold more than half of 1,000 bytes.
    let (store, ..) = store_of((0..200).map(|n| (key(n), 1)));
    let chunks = chunks(&store, all());
    assert_eq!(sizes(&chunks), [10, 20, 40, 40, 40, 40, 10]);
    let joined: Vec<_> = chunks.iter().flat_map(|chunk| chunk.kvs.clone()).collect();
    assert_eq!(joined, apply::range(&store, &all()).expect("reads").kvs);
}

#[test]
fn large_pairs_come_in_shrinking_chunks() {
    let (store, ..) = store_of((0..20).map(|n| (key(n), 900)));
    assert_eq!(sizes(&chunks(&store, all())), [10, 5, 2, 2, 1]);
}

#[test]
fn only_the_last_chunk_has_header_count_and_more() {
    let (store, ..) = store_of((0..50).map(|n| (key(n), 1)));
    let chunks = chunks(&store, all());
    let (last, others) = chunks.split_last().expect("chunks");
    for chunk in others {
        assert_eq!((chunk.header, chunk.count, chunk.more), (None, 0, false));
    }
    assert_eq!(last.header.expect("a header").revision, 51);
    assert_eq!((last.count, last.more), (50, false));
}

#[test]
fn the_limit_spans_chunks_and_count_ignores_it() {
    let (store, ..) = store_of((0..50).map(|n| (key(n), 1)));
    for (limit, expected, more) in [
        (3, vec![3], true),
        (10, vec![10], true),
        (25, vec![10, 15], true),
        (50, vec![10, 20, 20], false),
        (99, vec![10, 20, 20], false),
        (-1, vec![10, 20, 20], false),
    ] {
        let chunks = chunks(&store, RangeRequest { limit, ..all() });
        assert_eq!(sizes(&chunks), expected, "limit {limit}");
        let last = chunks.last().expect("a chunk");
        assert_eq!((last.count, last.more), (50, more), "limit {limit}");
    }
}

#[test]
fn a_stream_shows_the_revision_it_began_at() {
    let (store, mut writer, _dir) = store_of((0..30).map(|n| (key(n), 1)));
    let (first, cursor) = Cursor::new(all(), CHUNK_BYTES)
        .chunk(&store)
        .expect("reads");
    assert_eq!(first.kvs.len(), 10);
    put(&mut writer, "k9999".to_owned(), 1);
    put(&mut writer, key(29), 7);
    let (last, cursor) = cursor.expect("more").chunk(&store).expect("reads");
    assert!(cursor.is_none());
    assert_eq!(last.header.as_ref().expect("a header").revision, 31);
    assert_eq!((last.kvs.len(), last.count), (20, 30));
    assert_eq!(last.decode_kvs().expect("valid")[19].value.len(), 1);
}

#[test]
fn an_old_revision_keeps_the_current_one_in_the_header() {
    let (store, ..) = store_of((0..30).map(|n| (key(n), 1)));
    let chunks = chunks(
        &store,
        RangeRequest {
            revision: 13,
            ..all()
        },
    );
    assert_eq!(sizes(&chunks), [10, 2]);
    let last = chunks.last().expect("a chunk");
    assert_eq!(
        (last.header.as_ref().expect("a header").revision, last.count),
        (31, 12)
    );
}

#[test]
fn a_stream_that_compaction_overtakes_fails() {
    let (store, mut writer, _dir) = store_of((0..30).map(|n| (key(n), 1)));
    let request = RangeRequest {
        revision: 20,
        ..all()
    };
    let (_, cursor) = Cursor::new(request, CHUNK_BYTES)
        .chunk(&store)
        .expect("reads");
    writer.compact(25).expect("compacts");
    let error = cursor
        .expect("more")
        .chunk(&store)
        .err()
        .expect("compacted");
    assert_eq!(
        Status::from(error).message(),
        WireError::Compacted.message()
    );
}

#[test]
fn count_only_is_one_message() {
    let (store, ..) = store_of((0..30).map(|n| (key(n), 1)));
    let chunks = chunks(
        &store,
        RangeRequest {
            count_only: true,
            limit: 5,
            ..all()
        },
    );
    let [only] = chunks.as_slice() else {
        panic!("{chunks:?}")
    };
    assert_eq!((only.kvs.len(), only.count, only.more), (0, 30, false));
    assert_eq!(only.header.as_ref().expect("a header").revision, 31);
}

#[test]
fn nothing_is_one_empty_message() {
    let (store, ..) = store_of([]);
    let chunks = chunks(&store, all());
    let [only] = chunks.as_slice() else {
        panic!("{chunks:?}")
    };
    assert_eq!((only.kvs.len(), only.count, only.more), (0, 0, false));
    assert_eq!(only.header.as_ref().expect("a header").revision, 1);
}

#[test]
fn keys_only_streams_without_values() {
    let (store, ..) = store_of((0..15).map(|n| (key(n), 50)));
    let chunks = chunks(
        &store,
        RangeRequest {
            keys_only: true,
            ..all()
        },
    );
    assert_eq!(sizes(&chunks), [10, 5]);
    for kv in chunks
        .iter()
        .flat_map(|chunk| chunk.decode_kvs().expect("valid"))
    {
        assert!(kv.value.is_empty() && kv.version == 1);
    }
}
