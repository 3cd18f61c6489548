//! What is written is read back; what is damaged is told, never a panic.

#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};

use kvd_bbolt::{Error, Reader, Writer};
use proptest::prelude::*;

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

fn write(buckets: &[(&[u8], Pairs)]) -> File {
    let mut writer = Writer::new(tempfile::tempfile().unwrap()).unwrap();
    for (name, pairs) in buckets {
        writer.bucket(name).unwrap();
        for (key, value) in pairs {
            writer.put(key, value).unwrap();
        }
    }
    let (file, length) = writer.finish().unwrap();
    assert_eq!(file.metadata().unwrap().len(), length);
    file
}

fn read(reader: &Reader, name: &[u8]) -> Pairs {
    let mut cursor = reader.bucket(name).unwrap().unwrap();
    let mut pairs = Vec::new();
    while let Some((key, value)) = cursor.next_pair().unwrap() {
        pairs.push((key.to_vec(), value.to_vec()));
    }
    pairs
}

fn check(file: File, buckets: &[(&[u8], Pairs)]) {
    let reader = Reader::open(file).unwrap();
    let problems = reader.check();
    assert!(problems.is_empty(), "{problems:?}");
    let names: Vec<_> = buckets.iter().map(|(name, _)| *name).collect();
    assert_eq!(reader.buckets().unwrap(), names);
    for (name, pairs) in buckets {
        assert_eq!(&read(&reader, name), pairs);
    }
    assert!(reader.bucket(b"no such").unwrap().is_none());
}

fn numbered(count: u64, value_bytes: usize) -> Pairs {
    let key = |number: u64| number.to_be_bytes().to_vec();
    (0..count)
        .map(|number| (key(number), vec![number as u8; value_bytes]))
        .collect()
}

#[test]
fn buckets_of_every_size_are_read_back() {
    // Empty, inline, one leaf, two levels, three levels, values longer than a page.
    for (count, value_bytes) in [
        (0, 0),
        (3, 10),
        (40, 50),
        (1_000, 30),
        (150_000, 2),
        (300, 9_000),
        (2, 100_000),
    ] {
        let buckets: [(&[u8], Pairs); 3] = [
            (b"a", numbered(count, value_bytes)),
            (b"b", Vec::new()),
            (b"c", numbered(5, 1)),
        ];
        check(write(&buckets), &buckets);
    }
}

#[test]
fn long_keys_make_branches_of_two() {
    for count in 1..40_u64 {
        let long = |number: u64| {
            let mut key = number.to_be_bytes().to_vec();
            key.resize(3_000, b'x');
            key
        };
        let pairs: Pairs = (0..count)
            .map(|number| (long(number), Vec::new()))
            .collect();
        let buckets: [(&[u8], Pairs); 1] = [(b"long", pairs)];
        check(write(&buckets), &buckets);
    }
}

#[test]
fn order_and_length_of_keys_are_checked() {
    let mut writer = Writer::new(tempfile::tempfile().unwrap()).unwrap();
    assert!(matches!(writer.put(b"a", b""), Err(Error::Order)));
    writer.bucket(b"one").unwrap();
    writer.put(b"b", b"").unwrap();
    assert!(matches!(writer.put(b"b", b""), Err(Error::Order)));
    assert!(matches!(writer.put(b"", b""), Err(Error::KeyLength(0))));
    assert!(matches!(
        writer.put(&vec![b'z'; 40_000], b""),
        Err(Error::KeyLength(40_000))
    ));
    writer.bucket(b"a").unwrap();
    assert!(matches!(writer.finish(), Err(Error::Order)));
}

#[test]
fn a_file_that_is_cut_short_or_something_else_is_refused() {
    let file = write(&[(b"a", numbered(1_000, 100))]);
    let length = file.metadata().unwrap().len();
    file.set_len(length - 4096).unwrap();
    let error = Reader::open(file).unwrap_err().to_string();
    assert!(error.contains("cut short"), "{error}");
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[7; 10_000]).unwrap();
    assert!(matches!(Reader::open(file), Err(Error::Format(_))));
    let empty = tempfile::tempfile().unwrap();
    assert!(matches!(Reader::open(empty), Err(Error::Format(_))));
}

#[test]
fn the_second_meta_page_serves_when_the_first_is_damaged() {
    let buckets: [(&[u8], Pairs); 1] = [(b"a", numbered(100, 100))];
    let mut file = write(&buckets);
    file.seek(SeekFrom::Start(20)).unwrap();
    file.write_all(&[0xff; 8]).unwrap();
    check(file, &buckets);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_sorted_pairs_are_read_back(
        pairs in proptest::collection::btree_map(
            proptest::collection::vec(any::<u8>(), 1..200),
            proptest::collection::vec(any::<u8>(), 0..600),
            0..400,
        )
    ) {
        let pairs: Pairs = pairs.into_iter().collect();
        let buckets: [(&[u8], Pairs); 1] = [(b"bucket", pairs)];
        check(write(&buckets), &buckets);
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic(
        at in 0_usize..40_000,
        bytes in proptest::collection::vec(any::<u8>(), 1..16),
    ) {
        let mut file = write(&[(b"a", numbered(800, 20)), (b"b", numbered(3, 3))]);
        let mut content = Vec::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_end(&mut content).unwrap();
        let at = at % (content.len() - bytes.len());
        content[at..at + bytes.len()].copy_from_slice(&bytes);
        file.seek(SeekFrom::Start(0)).unwrap();
        file.write_all(&content).unwrap();
        if let Ok(reader) = Reader::open(file) {
            reader.check();
            for name in reader.buckets().unwrap_or_default() {
                if let Ok(Some(mut cursor)) = reader.bucket(&name) {
                    // A circle ends at the depth that is allowed; a damaged file has few pages.
                    let mut pairs = 0;
                    while let Ok(Some(_)) = cursor.next_pair() {
                        pairs += 1;
                        prop_assert!(pairs < 100_000_000);
                    }
                }
            }
        }
    }
}
