//! What a user may touch: key ranges, merged over all of the user's roles.
//!
//! A range that no single permission covers is covered when several do together: `[a, c)` by
//! `[a, b)` and `[b, d)`. So permissions are merged into spans that do not touch, and a request is
//! covered when one span holds all of it.
//!
//! Source: etcd `server/auth/range_perm_cache.go`, `pkg/adt/interval_tree.go` (`Contains`).

use std::cmp::Ordering;

use bytes::{BufMut, Bytes, BytesMut};
use kvd_api::pb::authpb::Permission;
use kvd_api::pb::authpb::permission::Type;

/// What is done with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Its pair is seen, or whether it exists.
    Read,
    /// Its pair is changed.
    Write,
}

/// The keys that a user may read and those that it may write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    read: Spans,
    write: Spans,
}

impl Permissions {
    /// Merges what roles permit.
    pub fn merge<'a>(permissions: impl Iterator<Item = &'a Permission>) -> Permissions {
        let (mut read, mut write) = (Vec::new(), Vec::new());
        for permission in permissions {
            let span = Span::of(permission);
            // As in etcd, a type that nobody knows permits nothing.
            match Type::try_from(permission.perm_type) {
                Ok(Type::Read) => read.push(span),
                Ok(Type::Write) => write.push(span),
                Ok(Type::Readwrite) => {
                    read.push(span.clone());
                    write.push(span);
                }
                Err(_) => {}
            }
        }
        Permissions {
            read: Spans::merge(read),
            write: Spans::merge(write),
        }
    }

    /// Whether `access` to the keys of a request is permitted, by the rules of `range_end`.
    pub fn allow(&self, access: Access, key: &[u8], range_end: &[u8]) -> bool {
        match access {
            Access::Read => &self.read,
            Access::Write => &self.write,
        }
        .cover(key, range_end)
    }
}

/// Whether etcd takes this for the range of a permission.
pub fn is_valid_range(key: &[u8], range_end: &[u8]) -> bool {
    !key.is_empty() && (range_end.is_empty() || is_open(range_end) || key < range_end)
}

/// Whether a range has no upper end.
fn is_open(range_end: &[u8]) -> bool {
    range_end == [0]
}

/// The keys in `begin ..`, below `end` if there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Span {
    begin: Bytes,
    end: Option<Bytes>,
}

impl Span {
    fn of(permission: &Permission) -> Span {
        let begin = permission.key.clone();
        let end = match &permission.range_end[..] {
            [] => Some(successor(&begin)),
            end if is_open(end) => None,
            _ => Some(permission.range_end.clone()),
        };
        Span { begin, end }
    }

    fn ends_before(&self, key: &[u8]) -> bool {
        self.end.as_ref().is_some_and(|end| &end[..] < key)
    }
}

/// The first key after `key`.
fn successor(key: &[u8]) -> Bytes {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.put_slice(key);
    next.put_u8(0);
    next.freeze()
}

/// Spans in order, with keys between each two.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Spans(Vec<Span>);

impl Spans {
    fn merge(mut spans: Vec<Span>) -> Spans {
        spans.sort_by(|a, b| a.begin.cmp(&b.begin));
        let mut merged: Vec<Span> = Vec::with_capacity(spans.len());
        for span in spans {
            match merged.last_mut() {
                Some(last) if !last.ends_before(&span.begin) => {
                    if compare_ends(&span.end, &last.end).is_gt() {
                        last.end = span.end;
                    }
                }
                _ => merged.push(span),
            }
        }
        Spans(merged)
    }

    fn cover(&self, key: &[u8], range_end: &[u8]) -> bool {
        let after = self.0.partition_point(|span| &span.begin[..] <= key);
        let Some(span) = after.checked_sub(1).and_then(|at| self.0.get(at)) else {
            return false;
        };
        let Some(end) = &span.end else {
            return true;
        };
        // A range that ends before it begins has no keys; as in etcd, it takes the permission for
        // its first one.
        key < &end[..] && !is_open(range_end) && range_end <= &end[..]
    }
}

/// Compares upper ends; none is above all.
fn compare_ends(a: &Option<Bytes>, b: &Option<Bytes>) -> Ordering {
    match (a, b) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
        (Some(a), Some(b)) => a.cmp(b),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn permission(kind: Type, key: &[u8], range_end: &[u8]) -> Permission {
        Permission {
            perm_type: kind as i32,
            key: Bytes::copy_from_slice(key),
            range_end: Bytes::copy_from_slice(range_end),
        }
    }

    fn readable(rows: &[(&str, &str)]) -> Permissions {
        let permissions: Vec<Permission> = rows
            .iter()
            .map(|(key, end)| permission(Type::Read, key.as_bytes(), end.as_bytes()))
            .collect();
        Permissions::merge(permissions.iter())
    }

    #[test]
    fn ranges_are_covered_by_several_permissions_together() {
        let permissions = readable(&[("a", "b"), ("b", "c"), ("d", ""), ("d\0", "f"), ("x", "\0")]);
        let may =
            |key: &str, end: &str| permissions.allow(Access::Read, key.as_bytes(), end.as_bytes());
        for (key, end) in [
            ("a", "c"),
            ("a", ""),
            ("bzz", ""),
            ("d", "f"),
            ("x", "\0"),
            ("y", "z"),
        ] {
            assert!(may(key, end), "{key:?} {end:?}");
        }
        for (key, end) in [
            ("a", "d"),
            ("c", ""),
            ("a", "\0"),
            ("\0", "\0"),
            ("d", "f\0"),
            ("w", "y"),
        ] {
            assert!(!may(key, end), "{key:?} {end:?}");
        }
        assert!(!permissions.allow(Access::Write, b"a", b""));
    }

    #[test]
    fn an_empty_range_takes_the_permission_for_its_first_key() {
        let permissions = readable(&[("b", "d")]);
        assert!(permissions.allow(Access::Read, b"c", b"a"));
        assert!(!permissions.allow(Access::Read, b"d", b"a"));
    }

    #[test]
    fn the_ranges_of_permissions_are_checked_as_in_etcd() {
        for (key, end, valid) in [
            ("", "", false),
            ("", "\0", false),
            ("a", "", true),
            ("a", "b", true),
            ("a", "a", false),
            ("b", "a", false),
            ("b", "\0", true),
            ("\0", "\0", true),
        ] {
            assert_eq!(
                is_valid_range(key.as_bytes(), end.as_bytes()),
                valid,
                "{key:?} {end:?}"
            );
        }
    }

    /// Keys of up to two letters out of three: few enough to try all of them.
    fn all_keys() -> Vec<Vec<u8>> {
        let letters = [0_u8, 1, 2];
        let mut keys: Vec<Vec<u8>> = letters.iter().map(|a| vec![*a]).collect();
        for a in letters {
            for b in letters {
                keys.push(vec![a, b]);
                for c in letters {
                    keys.push(vec![a, b, c]);
                }
            }
        }
        keys.sort();
        keys
    }

    fn holds(key: &[u8], begin: &[u8], end: &[u8]) -> bool {
        match end {
            [] => key == begin,
            [0] => key >= begin,
            end => begin <= key && key < end,
        }
    }

    fn key() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(0_u8..3, 1..3)
    }

    fn end() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(0_u8..3, 0..3)
    }

    proptest! {
        /// A request is allowed exactly if each single key that it can touch is.
        #[test]
        fn permissions_are_those_of_the_single_keys(
            rows in proptest::collection::vec((key(), end(), 0_i32..3), 0..6),
            wanted in (key(), end()),
        ) {
            let permissions: Vec<Permission> = rows
                .iter()
                .filter(|(key, end, _)| is_valid_range(key, end))
                .map(|(key, end, kind)| Permission {
                    perm_type: *kind,
                    key: key.clone().into(),
                    range_end: end.clone().into(),
                })
                .collect();
            let merged = Permissions::merge(permissions.iter());
            let (begin, end) = wanted;
            let touched: Vec<_> = all_keys()
                .into_iter()
                .filter(|key| holds(key, &begin, &end))
                .collect();
            prop_assume!(!touched.is_empty());
            for (access, types) in [(Access::Read, [0, 2]), (Access::Write, [1, 2])] {
                let permitted = |key: &[u8]| {
                    permissions
                        .iter()
                        .any(|p| types.contains(&p.perm_type) && holds(key, &p.key, &p.range_end))
                };
                // An open range holds keys beyond those tried: the largest stands for them.
                let beyond = [9_u8];
                let naive = touched.iter().all(|key| permitted(key))
                    && (end != [0] || permitted(&beyond));
                prop_assert_eq!(merged.allow(access, &begin, &end), naive);
            }
        }
    }
}
