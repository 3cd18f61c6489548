//! Which keys of the store the v2 tree is kept under, and who may see them.

use bytes::{BufMut, Bytes, BytesMut};

/// What every key of the v2 tree begins with. It sorts behind whatever v3 clients use: they may
/// neither read nor write from here on.
pub const PREFIX: &[u8] =
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xffkvd-v2/";

/// Most elements of a path. Each missing one becomes a directory whose key holds the whole path so
/// far, so that their number has to have a bound. Differs from etcd, which has none.
pub const DEPTH_MAX: usize = 256;

/// Whether only the v2 API may use `key`.
pub fn is_reserved(key: &[u8]) -> bool {
    key >= PREFIX
}

/// Cuts a range, in etcd's notation, down to what the v3 API may see. A range that has nothing left
/// becomes an empty one.
pub fn hide(key: &Bytes, range_end: &mut Bytes) {
    if range_end.is_empty() {
        if is_reserved(key) {
            range_end.clone_from(key);
        }
    } else if range_end[..] == [0] || range_end[..] > *PREFIX {
        *range_end = Bytes::from_static(PREFIX);
    }
}

/// Makes a path canonical: each element behind one slash; empty for the root.
///
/// `.` and empty elements go, `..` takes the one before it away, as in Go's `path.Clean`.
pub fn clean(path: &[u8]) -> Bytes {
    let mut elements: Vec<&[u8]> = Vec::new();
    for element in path.split(|byte| *byte == b'/') {
        match element {
            b"" | b"." => {}
            b".." => drop(elements.pop()),
            element => elements.push(element),
        }
    }
    let mut cleaned = BytesMut::with_capacity(path.len() + 1);
    for element in elements {
        cleaned.put_u8(b'/');
        cleaned.put_slice(element);
    }
    cleaned.freeze()
}

/// Number of elements of a clean path.
pub fn depth(path: &[u8]) -> usize {
    path.iter().filter(|byte| **byte == b'/').count()
}

/// The path of a child.
pub fn join(directory: &[u8], name: &[u8]) -> Bytes {
    [directory, b"/", name].concat().into()
}

/// The path of the directory that a clean path is in; none for the root.
pub(super) fn parent(path: &Bytes) -> Option<Bytes> {
    let slash = path.iter().rposition(|byte| *byte == b'/')?;
    Some(path.slice(..slash))
}

/// The key of a node.
pub(super) fn node_key(path: &[u8]) -> Bytes {
    key_at(depth(path), path)
}

fn key_at(depth: usize, path: &[u8]) -> Bytes {
    let mut key = BytesMut::with_capacity(PREFIX.len() + 5 + path.len());
    key.put_slice(PREFIX);
    key.put_u8(b'n');
    // A path is far shorter than 4 GiB.
    key.put_u32(u32::try_from(depth).unwrap_or(u32::MAX));
    key.put_slice(path);
    key.freeze()
}

/// The path of a node's key; none for another key.
pub(super) fn node_path(key: &Bytes) -> Option<Bytes> {
    let start = PREFIX.len() + 5;
    let is_node = key.starts_with(PREFIX) && key.get(PREFIX.len()) == Some(&b'n');
    (is_node && key.len() >= start).then(|| key.slice(start..))
}

/// The keys of everything `levels` below a directory, children being one level below: first one,
/// and the one behind the last.
pub(super) fn below(directory: &[u8], levels: usize) -> (Bytes, Bytes) {
    let level = depth(directory) + levels;
    let first = [directory, b"/"].concat();
    // The byte after the slash.
    let end = [directory, b"0"].concat();
    (key_at(level, &first), key_at(level, &end))
}

/// The key of a slot of the ring of events.
pub(super) fn event_key(slot: u16) -> Bytes {
    let mut key = BytesMut::with_capacity(PREFIX.len() + 3);
    key.put_slice(PREFIX);
    key.put_u8(b'e');
    key.put_u16(slot);
    key.freeze()
}

/// The key whose version counts the events.
pub(super) fn head_key() -> Bytes {
    [PREFIX, b"h"].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_as_go_does() {
        for (path, want) in [
            ("", ""),
            ("/", ""),
            ("//", ""),
            ("a", "/a"),
            ("/a/", "/a"),
            ("/a//b/./c", "/a/b/c"),
            ("/a/../../b", "/b"),
            ("/..", ""),
        ] {
            let cleaned = clean(path.as_bytes());
            assert_eq!(cleaned, want, "{path}");
            assert_eq!(clean(&cleaned), cleaned, "{path}");
        }
    }

    #[test]
    fn children_are_one_range_without_what_is_below_them() {
        let (first, end) = below(b"/a", 1);
        let is_inside = |path: &str| {
            let key = node_key(path.as_bytes());
            key >= first && key < end
        };
        assert!(is_inside("/a/b") && is_inside("/a/\u{ff}"));
        assert!(!is_inside("/a") && !is_inside("/a/b/c"));
        assert!(!is_inside("/a-/b") && !is_inside("/a0/b") && !is_inside("/b/a"));
        let key = node_key(b"/a/b");
        assert_eq!(node_path(&key).unwrap(), "/a/b");
        assert_eq!(node_path(&event_key(3)), None);
    }

    #[test]
    fn ranges_end_where_the_v2_tree_begins() {
        let inside = [PREFIX, b"n"].concat();
        for (key, range_end, want) in [
            (&b"a"[..], &b""[..], &b""[..]),
            (b"a", b"b", b"b"),
            (b"a", b"\0", PREFIX),
            (b"\0", b"\0", PREFIX),
            (b"a", b"\xff", b"\xff"),
            (b"a", &inside, PREFIX),
            (b"\xff", b"\0", PREFIX),
            (&inside, b"", &inside),
            (&inside, b"\0", PREFIX),
        ] {
            let mut end = Bytes::copy_from_slice(range_end);
            hide(&Bytes::copy_from_slice(key), &mut end);
            assert_eq!(end, want, "{key:?} {range_end:?}");
        }
        assert!(is_reserved(&inside) && is_reserved(PREFIX) && !is_reserved(&[0xff; 16]));
    }
}
